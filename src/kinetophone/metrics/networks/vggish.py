"""VGGish (Hershey et al. 2017, "CNN Architectures for Large-Scale Audio Classification")."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

# Channels of the convolutions; "pool" halves time and frequency.
_LAYERS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")
_HIDDEN, _EMBEDDING = 4096, 128


class VGGish(nn.Module):
    """Maps log-mel examples (N, 1, 96, 64) of 0.96 s at 16 kHz to embeddings (N, 128).

    The embedding is the last layer before its activation, without PCA and quantisation. Parameters have the
    names of the published PyTorch weights (``vggish-10086976.pth``).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for layer in _LAYERS:
            if isinstance(layer, int):
                layers += [nn.Conv2d(channels, layer, 3, padding=1), nn.ReLU()]
                channels = layer
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(6 * 4 * channels, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _EMBEDDING),
        )

    def forward(self, examples: Tensor) -> Tensor:
        # The weights come from TensorFlow, where the channels are the last dimension.
        return self.embeddings(self.features(examples).permute(0, 2, 3, 1).flatten(1))

    @staticmethod
    def select(tensors: dict[str, Any]) -> dict[str, Any]:
        """Select the weights used here from a state dict: those of the PCA are dropped."""
        return {name: x for name, x in tensors.items() if not name.startswith("pproc.")}
