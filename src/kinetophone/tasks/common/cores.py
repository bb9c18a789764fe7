"""The work of a clip divided between two cores, above the operators of torch.

torch divides each operator among its threads. Small maps do not divide well, and on a busy machine the
threads wait for each other. Two threads with an independent part of the work each meet once a step instead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from kinetophone.diffusion.guidance import Run

_DIVIDED = threading.Lock()  # the number of torch's threads is one for all threads of the process


@contextmanager
def divided(device: torch.device) -> Iterator[Run | None]:
    """A context that yields a function that runs independent parts in two threads; None: run them in one.

    It is None on a GPU, if torch or the process has one core, and while another thread is in this context.
    In the context torch takes half of its threads for each part.

    Args:
        device: where the networks run.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or min(threads, cores()) < 2 or not _DIVIDED.acquire(blocking=False):
        yield None
        return
    try:
        torch.set_num_threads(threads // 2)
        with ThreadPoolExecutor(2, "kinetophone") as pool:

            def run(parts: Sequence[Callable[[], Any]]) -> list[Any]:
                graded = torch.is_grad_enabled()  # belongs to a thread
                return [made.result() for made in [pool.submit(_at, graded, part) for part in parts]]

            yield run
    finally:
        torch.set_num_threads(threads)
        _DIVIDED.release()


def cores() -> int:
    """Number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _at(graded: bool, part: Callable[[], Any]) -> Any:
    with torch.set_grad_enabled(graded):
        return part()
