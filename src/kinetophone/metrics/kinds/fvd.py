"""FVD: Fréchet distance of I3D features, of 16 frames as in StyleGAN-V and of entire clips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kinetophone.metrics.registry import Consent, Metric, Sample, Scores

if TYPE_CHECKING:
    import numpy as np

    from kinetophone.media.clip import Clip, Frames

FVD_FRAMES, FVD_SIDE = 16, 224
NAMES = {"fvd": "FVD (16 frames)", "fvd_whole": "FVD (whole clip)"}


def i3d_features(frames: Frames, path: str, allow_torchscript: bool = False) -> dict[str, np.ndarray]:
    """I3D features of 16 frames at 224 x 224, as in StyleGAN-V's ``fvd2048_16f``, and of the entire clip.

    The entire clip is cut into windows of 16 frames, the last of which ends with the clip. A clip with fewer
    than 16 frames has no features.
    """
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    from kinetophone.metrics.networks.load import load
    from kinetophone.metrics.networks.transformer import as_array

    if len(frames) < FVD_FRAMES:
        return {"fvd": np.zeros((0, 0), np.float32), "fvd_whole": np.zeros((0, 0), np.float32)}
    last = len(frames) - FVD_FRAMES
    starts = sorted({*range(0, last + 1, FVD_FRAMES), last})
    network, rows = load(path, "i3d", allow_torchscript=allow_torchscript), []
    # The TorchScript file has options for this; the network defined here always does it.
    scripted = isinstance(network, torch.jit.ScriptModule)
    options = {"rescale": False, "resize": False, "return_features": True} if scripted else {}
    with torch.no_grad():
        for start in starts:
            window = torch.from_numpy(frames[start : start + FVD_FRAMES]).permute(0, 3, 1, 2).float()
            window = interpolate(window, (FVD_SIDE, FVD_SIDE), mode="bilinear", align_corners=False)
            batch = window.div(127.5).sub(1).transpose(0, 1)[None]
            rows.append(as_array(network(batch, **options)))
    whole = np.concatenate(rows)
    return {"fvd": whole[:1], "fvd_whole": whole}


def _load(source: str, consent: Consent, texts: bool) -> Any:
    from kinetophone.metrics.networks.load import load

    return load(source, "i3d", allow_torchscript=consent.torchscript)


def _extract(clip: Clip, source: str, consent: Consent) -> dict[str, np.ndarray]:
    return i3d_features(clip.video, source, consent.torchscript)


def _score(sample: Sample) -> Scores:
    from kinetophone.metrics.quality import distances

    return Scores(distances=distances(sample, NAMES))


METRIC = Metric(
    name="fvd",
    source="i3d",
    source_help="I3D for fvd: a file written by convert metric, or TorchScript; on the Hub "
    "owner/name@COMMIT/file.pt.",
    load=_load,
    extract=_extract,
    score=_score,
    needs="reference",
)
