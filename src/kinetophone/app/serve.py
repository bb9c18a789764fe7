"""Serving the page from a temporary folder, which is deleted when the server ends."""

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
    """Check that Gradio is installed.

    Raises:
        UserError: It is not installed; the message says how to install it.
    """
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise UserError("the app needs Gradio: pip install 'kinetophone[app]'")


def serve(load: Callable[[], Kinetophone], limits: Limits, host: str, port: int) -> None:
    """Serve the page until interrupted (Ctrl-C, SIGTERM).

    Args:
        load: loads the model; called after ``TMPDIR`` is set, for libraries that write temporary files.
        limits: limits for a single user.
        host: address to listen on.
        port: port to listen on; 0 picks a free one.

    Raises:
        UserError: The address is not available.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("loading the page and the model", file=sys.stderr, flush=True)
    with server_folder() as folder:
        # Gradio reads these on import. They keep all files in the folder and disable telemetry.
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
        # The first measurement compiles code for seconds; do it before the first request.
        measure(read_clip(examples["clip"][0][0]), "example")
        pipe = load()
        # Messages and saved settings contain the bundle's name; do not expose its folder.
        pipe.spec = replace(pipe.spec, name=Path(pipe.spec.name).name)
        page = build_page(pipe, limits, results, examples)
        fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
        try:
            _, url, _ = page.launch(
                server_name=host,
                server_port=port or None,
                max_file_size=limits.upload_mb * 1_000_000,
                max_threads=limits.waiting + 16,  # each waiting job needs a thread
                app_kwargs={"middleware": [Middleware(OwnOrigin, host=host)]},
                show_error=True,  # all messages are meant for users
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
