"""Work divided between two cores: the same clips, and torch's threads as before."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from kinetophone import Kinetophone
from kinetophone.tasks.common import cores
from kinetophone.tasks.common.cores import divided

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def hits() -> Kinetophone:
    return Kinetophone.from_pretrained("hits", device="cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


needs_cores = pytest.mark.skipif(cores.cores() < 2, reason="this machine has one core")


@needs_cores
@pytest.mark.usefixtures("two_threads")
def test_two_threads_make_the_clip_of_one(hits: Kinetophone) -> None:
    two = hits("a hammer hits a drum", steps=2, seed=1)[0]
    torch.set_num_threads(1)
    one = hits("a hammer hits a drum", steps=2, seed=1)[0]
    assert np.array_equal(two.video, one.video)
    assert np.array_equal(two.audio, one.audio)


@needs_cores
@pytest.mark.usefixtures("two_threads")
def test_the_parts_run_at_the_same_time_and_torch_has_its_threads_back() -> None:
    together = threading.Barrier(2)

    def part() -> tuple[int, int, bool]:
        return together.wait(60), torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad(), divided(CPU) as run:
        assert run is not None
        with divided(CPU) as inner:
            assert inner is None
        assert sorted(run([part, part])) == [(0, 1, False), (1, 1, False)]
    assert torch.get_num_threads() == 2

    def fail() -> None:
        raise ValueError("of this part")

    def failing() -> None:
        with divided(CPU) as run:
            assert run is not None
            run([fail, fail])

    with pytest.raises(ValueError, match="of this part"):
        failing()
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_one_thread_and_a_gpu_are_left_alone() -> None:
    with divided(torch.device("cuda")) as run:
        assert run is None
    torch.set_num_threads(1)
    with divided(CPU) as run:
        assert run is None
