"""Serving the page: from a temporary folder of its own, which goes when the server ends."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinetophone.app.folder import Sweeper, server_folder
from kinetophone.app.origins import OwnOrigin
from kinetophone.errors import UserError

if TYPE_CHECKING:
    from kinetophone.app.uploads import Limits
    from kinetophone.pipeline import Kinetophone


def check_installed() -> None:
    """Raise unless Gradio can be imported.

    Raises:
        UserError: It is not installed; the message says how to.
    """
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise UserError("the app needs Gradio: pip install 'kinetophone[app]'")


def serve(load: Callable[[], Kinetophone], limits: Limits, host: str, port: int) -> None:
    """Serve the page until interrupted (Ctrl-C, SIGTERM).

    Args:
        load: makes the model; called when the temporary folder is there, for libraries that write to one.
        limits: what one user may ask for.
        host: address to listen on.
        port: 0 takes any free one.

    Raises:
        UserError: The address cannot be listened on.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with server_folder() as folder:
        # Gradio reads these when it is imported: nothing is written elsewhere, nothing is sent anywhere.
        tempfile.tempdir = str(folder)
        os.environ |= {
            "TMPDIR": str(folder),
            "GRADIO_TEMP_DIR": str(folder / "files"),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_EXAMPLES_CACHE": str(folder / "examples-cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        import gradio as gr
        from starlette.middleware import Middleware

        from kinetophone.app.examples import write_examples
        from kinetophone.app.page import CSS, build_page
        from kinetophone.app.tasks import measure
        from kinetophone.media.read import read_clip

        results = folder / "results"
        results.mkdir()
        examples = write_examples(folder / "examples")
        # The first measuring compiles for seconds: better now than for the first user.
        measure(read_clip(examples["clip"][0][0]), "example")
        pipe = load()
        # Messages and saved settings name the bundle; the folder it lies in is nobody's business.
        pipe.spec = replace(pipe.spec, name=Path(pipe.spec.name).name)
        page = build_page(pipe, limits, results, examples)
        fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
        try:
            _, url, _ = page.launch(
                server_name=host,
                server_port=port or None,
                max_file_size=limits.upload_mb * 1_000_000,
                max_threads=limits.waiting + 16,  # each job that waits has one
                app_kwargs={"middleware": [Middleware(OwnOrigin, host=host)]},
                show_error=True,  # ours are lines for users; Gradio's say which value was wrong
                prevent_thread_lock=True,
                share=False,
                quiet=True,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                run_history=False,
                enable_monitoring=False,
                footer_links=["api"],
                theme=gr.themes.Default(**fonts),
                css=CSS,
            )
        except OSError as error:
            raise UserError(f"cannot listen on {host}:{port}: {error}; choose another --port") from error
        print(f"kinetophone app on {url}", flush=True)
        sweeper = Sweeper((folder / "files", results), limits.kept_s)
        try:
            page.block_thread()
        finally:
            sweeper.stop()
            page.close(verbose=False)
