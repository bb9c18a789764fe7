"""The command ``app``."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any

import typer

from kinetophone.cli.make import load_pipeline
from kinetophone.cli.options import MODEL, takes
from kinetophone.cli.shared import check_at_least_one
from kinetophone.errors import RequestError


@takes(model=MODEL)
def app(
    model: dict[str, Any],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 allows access from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one.")] = 7860,
    upload_mb: Annotated[int, typer.Option(help="Largest file that can be uploaded, in MB.")] = 50,
    longest: Annotated[
        float, typer.Option(help="Longest upload and longest generated clip, in seconds.")
    ] = 30,
    job_limit: Annotated[float, typer.Option(help="Longest run time of a job, in seconds.")] = 300,
    wait_limit: Annotated[
        float, typer.Option(help="Longest time a job waits in the queue, in seconds.")
    ] = 1800,
    keep_files: Annotated[
        float, typer.Option(help="Delete uploads and results after this many seconds.")
    ] = 3600,
) -> None:
    """Serve a web page and an HTTP interface for all tasks; needs the extra "app"."""
    from kinetophone.app.serve import check_installed, serve
    from kinetophone.app.uploads import Limits

    check_installed()
    check_at_least_one("upload-mb", upload_mb)
    for name, value in {
        "longest": longest, "job-limit": job_limit, "wait-limit": wait_limit, "keep-files": keep_files
    }.items():  # fmt: skip
        if not 0 < value < math.inf:
            raise RequestError([f"{name} is {value:g}; it must be a number of seconds above 0"])
    limits = Limits(
        upload_mb=upload_mb, longest_s=longest, job_s=job_limit, waiting_s=wait_limit, kept_s=keep_files
    )
    serve(partial(load_pipeline, **model), limits, host, port)
