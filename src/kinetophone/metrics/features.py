"""Features of networks, for distances between sets and agreement with captions.

Nothing is downloaded by itself: each network is named by the user, as a file, a folder or a Hub id. The one
exception ships with the bundle: the classifiers of the ``hits`` world.

A worker process calls ``Extractor`` on each clip it decodes, and loads each network once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kinetophone.errors import RequestError
from kinetophone.metrics.registry import Consent, Metric, Sample, Scores, all_metrics, merged

if TYPE_CHECKING:
    import numpy as np

    from kinetophone.media.clip import Clip
    from kinetophone.metrics.evaluate import ClipEvents


class Extractor:
    """What to compute of each clip.

    Args:
        texts: Whether captions will be compared: tokenizers are then checked, too.
        allow_torchscript: Load TorchScript, which can run code.
        allow_pickle: Read pickled weights of CLAP and CLIP, as tensors only.
        **sources: Where the network of each measure is, by the measure's ``source``: a bundle's folder for
            ``hits``; ``i3d``, ``vggish``, ``synchformer``, safetensors or TorchScript; ``clap``, ``clip``,
            folders or Hub ids; ``imagebind``, ``languagebind``, folders. None leaves a measure out.
    """

    def __init__(
        self,
        *,
        texts: bool = False,
        allow_torchscript: bool = False,
        allow_pickle: bool = False,
        **sources: str | None,
    ) -> None:
        known = {metric.source for metric in all_metrics().values()}
        if unknown := sources.keys() - known:
            raise TypeError(f"there is no network {', '.join(unknown)}; there are {', '.join(known)}")
        self.sources = {name: source for name, source in sources.items() if source is not None}
        self.texts, self.consent = texts, Consent(allow_torchscript, allow_pickle)

    @property
    def metrics(self) -> list[Metric]:
        """Those that have a source."""
        return [metric for metric in all_metrics().values() if metric.source in self.sources]

    def check(self) -> None:
        """Raise a RequestError with every network that cannot be loaded, before any clip is read."""
        problems: list[str] = []
        for metric in self.metrics:
            source = self.sources[metric.source]
            try:
                metric.load(source, self.consent, self.texts)
            except (OSError, ValueError, RuntimeError) as error:
                found = error.problems if isinstance(error, RequestError) else (str(error).strip(),)
                lines = [line.splitlines()[0] for line in found if line] or [type(error).__name__]
                named = f"'{source}' cannot be loaded for its features: "
                for line in lines:
                    says_which = line.startswith(source) or f"'{source}" in line
                    problems.append(line if says_which else named + line)
        if problems:
            raise RequestError(dict.fromkeys(problems))

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:
        """Features by name, float32 (windows, dimension); a clip too short for a window has (0, 0)."""
        found: dict[str, np.ndarray] = {}
        for metric in self.metrics:
            found |= metric.extract(clip, self.sources[metric.source], self.consent)
        return found

    def score(
        self,
        clips: Sequence[ClipEvents],
        reference: Sequence[ClipEvents] | None = None,
        captions: Mapping[str, str] | None = None,
        *,
        seed: int = 0,
    ) -> Scores:
        """Everything that can be scored of clips whose features these are.

        Args:
            clips: With their features.
            reference: Those that distances are from.
            captions: By file name or stem.
            seed: Of the shuffles and the bootstrap.

        Raises:
            UserError: A set has fewer than 4 vectors.
            MediaError: No clip has a caption, and there are captions.
        """
        return merged(
            [
                metric.score(
                    Sample(clips, reference, captions or {}, self.sources[metric.source], self.consent, seed)
                )
                for metric in self.metrics
            ]
        )


def to_dict(scores: Scores) -> dict[str, Any]:
    """Plain numbers, lists and dictionaries, ready for JSON."""
    return asdict(scores)
