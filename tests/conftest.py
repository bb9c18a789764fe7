"""Fixtures shared by the tests: small synthetic clips whose events are known."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

from kinetophone.media import Clip, ClipTime

if TYPE_CHECKING:
    from standin_hub import Elsewhere

# The machines that run the tests are slow and shared: a deadline would only measure that. Derandomised, so
# that a commit that passes once passes always.
settings.register_profile("kinetophone", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("kinetophone")

# Files that take longest, in that order. They run first, so that no process is left alone with one of them.
SLOWEST = (
    "training/test_stages.py",
    "app/test_server.py",
    "test_docs.py",
    "test_pipeline.py",
    "reference/test_convert.py",
    "study/test_experiment.py",
    "media/test_librosa_loading.py",
    "metrics/test_evaluate.py",
    "bases/test_transformers.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(SLOWEST)}
    assert all(path.is_file() for path in ranks)
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))  # a stable sort


@pytest.fixture(autouse=True)
def threads_are_left_alone() -> Iterator[None]:
    """Nothing changes how many threads torch takes: everything after it would be slower, or less exact."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if before is not None:
        assert sys.modules["torch"].get_num_threads() == before


SHARED = Path(__file__).parents[1] / ".." / "shared"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny bases of every family (``tiny.save_all``), made once: to be read; to be copied before a change."""
    import tiny

    return tiny.save_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """A process that knows a stand-in Hub."""
    import standin_hub

    process = standin_hub.Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    yield process
    process.close()


@pytest.fixture
def real_clips() -> Path:
    """The folder of real sounding clips that lies beside the repository where it is developed."""
    folder = SHARED / "clips"
    if not (folder / "av_align.json").is_file():
        pytest.skip("the real clips (../shared/clips) are not on this machine")
    return folder


def struck_clip(
    strikes_s: Sequence[float], *, fps: float = 8, frames: int = 32, size: int = 32, sample_rate: int = 16_000
) -> Clip:
    """A square on a textured ground jumps at each strike, and a decaying tone sounds."""
    time = ClipTime(fps, frames, sample_rate)
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 120, (size, size, 3), dtype=np.uint8)
    video = np.repeat(ground[None], frames, axis=0)
    audio = rng.normal(0, 1e-4, time.samples)
    ring = np.arange(time.samples) / sample_rate
    for strike in strikes_s:
        start = round(strike * sample_rate)
        tail = ring[: time.samples - start]
        audio[start:] += 0.3 * np.exp(-12 * tail) * np.sin(2 * np.pi * 900 * tail)
    edge = size // 3
    for frame in range(frames):
        struck = sum(strike <= time.frame_time_s(frame) + 1e-9 for strike in strikes_s)
        left = 2 + (size // 8) * (struck % 3)
        video[frame, edge : 2 * edge, left : left + edge] = (230, 40, 30)
    return Clip(video, time.fps, np.clip(audio, -1, 1).astype(np.float32), sample_rate)


@pytest.fixture
def make_struck_clip() -> Callable[..., Clip]:
    return struck_clip
