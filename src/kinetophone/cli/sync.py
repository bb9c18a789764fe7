"""The command ``sync``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinetophone.cli.shared import quiet_libraries
from kinetophone.errors import RequestError

OUT_OF_SYNC = 3  # exit status


def sync(
    file: Annotated[Path, typer.Argument(help="A video with audio, at most 120 s.", show_default=False)],
    max_lag: Annotated[
        float | None,
        typer.Option(
            help="Exit with status 3 if the audio is early or late by more seconds, and the interval "
            "leaves out 0."
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            help="File to write with the audio shifted by the lag, if the interval leaves out 0. Streams are "
            "copied, not encoded again."
        ),
    ] = None,
    strip: Annotated[
        Path | None, typer.Option(help="SVG file for a picture of the frames, the audio and the events.")
    ] = None,
) -> None:
    """Measure how early or late the audio of a video is, and shift it if asked."""
    problems = []
    if max_lag is not None and not max_lag >= 0:
        problems.append(f"max-lag is {max_lag:g}; it must be at least 0 seconds")
    if strip is not None and strip.suffix.lower() != ".svg":
        problems.append(f"strip is '{strip}'; the picture is an .svg file")
    if fix is not None and fix.resolve() == file.resolve():
        problems.append("fix is the file itself; give another name")
    if problems:
        raise RequestError(problems)
    from kinetophone.files import replacing
    from kinetophone.media.remux import check_container, shift_audio
    from kinetophone.tasks.request import check_writable

    if fix is not None:
        check_container(fix)
    for path in (fix, strip):
        if path is not None:
            check_writable(path)
    from kinetophone.metrics.sync import measure_file

    quiet_libraries()
    found = measure_file(file)
    typer.echo(
        f"{len(found.onsets_s)} events heard, {len(found.contacts_s)} seen, {found.matched} of them within "
        f"one frame ({1000 / float(found.clip.fps):.0f} ms)"
    )
    if strip is not None:
        with replacing(strip) as partial:
            Path(partial).write_text(found.svg(), encoding="utf-8")
        typer.echo(f"wrote {strip}")
    if found.lag is None:
        typer.echo("no lag: audio and video have nothing in common")
        return
    lag_s, interval = found.lag.lag_s, found.lag.interval
    said = f"{abs(1000 * lag_s):.0f} ms {'late' if lag_s > 0 else 'early'}"
    typer.echo(
        f"the audio is {said} (95 % interval {1000 * interval.low:+.0f} to {1000 * interval.high:+.0f} ms; "
        "positive is late)"
    )
    if not found.certain:
        typer.echo("this can't be told from 0" + ("; nothing was written" if fix is not None else ""))
        return
    if fix is not None:
        shift_audio(file, fix, -lag_s)
        moved = "earlier" if lag_s > 0 else "later"
        typer.echo(f"wrote {fix}, with the audio {abs(1000 * lag_s):.0f} ms {moved}")
    if max_lag is not None and abs(lag_s) > max_lag:
        raise typer.Exit(OUT_OF_SYNC)
