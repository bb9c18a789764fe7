"""Progress of a training run: lines or a bar on the terminal, ``log.jsonl``, TensorBoard scalars."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinetophone.files import replacing
from kinetophone.training.recipe import LoopConfig


class Monitor:
    """Averages losses between reports and shows them with throughput and time left.

    Each report adds a row to ``out/log.jsonl``. When a run resumes, rows after its checkpoint are dropped,
    because those steps are repeated.
    """

    def __init__(self, out: Path, config: LoopConfig, start: int) -> None:
        self.out, self.config = out, config
        self.log = out / "log.jsonl"
        _drop_rows_after(self.log, start)
        self.writer = _tensorboard(out, start)
        self.bar = _bar(out.name, config.steps, start)
        self.sums: dict[str, float] = {}
        self.seen, self.clock = 0, time.monotonic()

    def step(self, losses: dict[str, float]) -> None:
        """Add a step's losses; they are empty for a skipped step."""
        for key, value in losses.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        self.seen += bool(losses)
        if self.bar:
            self.bar.advance(self.bar.task_ids[0])

    def report(self, done: int, skipped: int) -> None:
        """Write means and rates since the last report; ``skipped`` is the total of skipped steps so far."""
        now = time.monotonic()
        seen = max(1, self.seen)
        rate = seen / max(now - self.clock, 1e-9)
        row = {key: round(value / seen, 6) for key, value in self.sums.items()}
        if skipped:
            row["skipped"] = skipped
        clips = rate * self.config.batch_size
        with self.log.open("a") as log:
            record = {"step": done, "time": round(time.time(), 1), "clips_per_s": round(clips, 2), **row}
            log.write(json.dumps(record) + "\n")
        if self.writer:
            for key, value in {**row, "clips_per_s": clips}.items():
                self.writer.add_scalar(key, value, done)
        text = " ".join(f"{k} {v:.4f}" for k, v in row.items())
        if self.bar:
            self.bar.update(self.bar.task_ids[0], what=f"{text}  {clips:.1f} clips/s")
        else:
            left = (self.config.steps - done) / rate / 60
            self.say(f"{done}/{self.config.steps}  {text}  {clips:.1f} clips/s  {left:.1f} min left")
        self.sums, self.seen, self.clock = {}, 0, now

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Show metrics of a step's samples on the terminal and in TensorBoard."""
        self.say(f"{step}/{self.config.steps}  " + "  ".join(f"{k} {v:.3f}" for k, v in values.items()))
        if self.writer:
            for key, value in values.items():
                self.writer.add_scalar(key, value, step)

    def say(self, text: str) -> None:
        """Print one line on the terminal, above the bar if there is one."""
        print_line = self.bar.console.print if self.bar else print
        print_line(f"{self.out.name} {text}")
        sys.stdout.flush()

    def close(self) -> None:
        """Stop the bar and close the TensorBoard file."""
        if self.bar:
            self.bar.stop()
        if self.writer:
            self.writer.close()


def _drop_rows_after(log: Path, step: int) -> None:
    if not log.exists():
        return
    kept = []
    for line in log.read_text().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a row cut short by a kill
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    with replacing(log) as partial:
        Path(partial).write_text("".join(kept))


def _tensorboard(out: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:  # optional: log.jsonl has the same numbers
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=start)


def _bar(name: str, steps: int, start: int) -> Any:
    """A rich progress bar, or None if there is no terminal or rich is not installed."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    bar = Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
    )
    bar.add_task(name, total=steps, completed=start, what="")
    bar.start()
    return bar
