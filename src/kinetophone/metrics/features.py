"""Network features, for distances between sets and agreement with captions.

Nothing is downloaded automatically: the user names each network as a file, a folder or a Hub id. The only
exception are the classifiers of the ``hits`` domain, which ship with the bundle.

Each worker process calls ``Extractor`` on the clips it decodes, and loads each network once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kinetophone.errors import RequestError
from kinetophone.metrics.registry import Consent, Metric, Sample, Scores, all_metrics, merged

if TYPE_CHECKING:
    import numpy as np

    from kinetophone.media.clip import Clip
    from kinetophone.metrics.evaluate import ClipEvents


class Extractor:
    """Computes the features of clips that the selected metrics need.

    Args:
        texts: Whether captions will be compared; if so, tokenizers are checked too.
        allow_torchscript: Allow TorchScript, which can run code.
        allow_pickle: Allow pickled weights of CLAP and CLIP, read as tensors only.
        **sources: Location of each metric's network, by the metric's ``source``: a bundle's folder for
            ``hits``; safetensors or TorchScript files for ``i3d``, ``vggish`` and ``synchformer``; folders
            or Hub ids for ``clap`` and ``clip``; folders for ``imagebind`` and ``languagebind``. None
            leaves a metric out.
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
            raise TypeError(f"there is no network {', '.join(unknown)}; choose from {', '.join(known)}")
        self.sources = {name: source for name, source in sources.items() if source is not None}
        self.texts, self.consent = texts, Consent(allow_torchscript, allow_pickle)

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that have a source."""
        return [metric for metric in all_metrics().values() if metric.source in self.sources]

    def check(self) -> None:
        """Load all networks, to find problems before any clip is read.

        Raises:
            RequestError: Networks cannot be loaded; the error lists all of them.
        """
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
        """Features by name, float32 (windows, dimension); (0, 0) if the clip is shorter than a window."""
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
        """Compute all scores that the given data allows.

        Args:
            clips: Clips with their features.
            reference: Reference clips for distances.
            captions: Captions by file name or stem.
            seed: Seed of the shuffles and the bootstrap.

        Raises:
            UserError: A set has fewer than 4 vectors.
            MediaError: Captions were given, but none belongs to a clip.
        """
        return merged(
            [
                metric.score(
                    Sample(clips, reference, captions or {}, self.sources[metric.source], self.consent, seed)
                )
                for metric in self.metrics
            ]
        )
