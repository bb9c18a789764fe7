"""The Gradio page: one tab per task, and one for measuring clips.

All events that run the model share the concurrency id "model", so that one queue serves all tabs and users.
"""

from __future__ import annotations

import errno
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from kinetophone.app.examples import PROMPTS
from kinetophone.app.jobs import Done, Jobs, Waiting
from kinetophone.app.reading import Reader
from kinetophone.app.tasks import (
    SCORES,
    Part,
    Result,
    Settings,
    Step,
    perform,
)
from kinetophone.app.tasks import measure as measure_clip
from kinetophone.app.uploads import Limits
from kinetophone.app.view import DETECTORS, preview_html, progress_html, result_html, waiting_html
from kinetophone.diffusion.settings import CLOCKS, each
from kinetophone.errors import UserError, reason
from kinetophone.tasks.task import Task, all_tasks

if TYPE_CHECKING:
    from kinetophone.media.clip import Clip
    from kinetophone.pipeline import Kinetophone

_LABELS = {
    "seconds": "Seconds",
    "keep": "Keep (seconds)",
    "steps": "Steps",
    "gamma": "γ",
    "clock": "Clock",
    "guidance": "Guidance",
    "guidance_sync": "Cross-modal guidance",
}
# No concurrency limit in Gradio: the jobs have their own queue with time limits.
_COMPUTES: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": None, "show_progress": "minimal"}
_CURABLE = (UserError, FloatingPointError)
_FAILED = "the server failed; see its log"
# Hide Gradio's "Error" overlay, which would cover the error message.
CSS = ".view svg { width: 100%; min-width: 20rem } .view { overflow-x: auto } .view .error { display: none }"


@dataclass(frozen=True, slots=True)
class _Shared:
    """Objects shared by all tabs."""

    pipe: Kinetophone
    jobs: Jobs
    reader: Reader
    limits: Limits
    folder: Path
    examples: dict[str, list[tuple[str, str]]]


class _Page(gr.Blocks):
    async def preprocess_data(self, *given: Any, **more: Any) -> Any:
        """Like the method of Gradio, but with a one-line error without paths for an invalid value."""
        try:
            return await super().preprocess_data(*given, **more)
        except Exception as error:
            said = reason(error).partition(" of the event handler")[0]
            raise gr.Error(f"{said}; give a valid value", print_exception=False) from None


def build_page(
    pipe: Kinetophone, limits: Limits, folder: Path, examples: dict[str, list[tuple[str, str]]]
) -> gr.Blocks:
    """Build the page.

    Args:
        pipe: the model.
        limits: limits for a single user.
        folder: folder for results until Gradio has copied them to its own folder.
        examples: from :func:`kinetophone.app.examples.write_examples`.
    """
    jobs = Jobs(limits.job_s, limits.waiting_s, limits.waiting)
    shared = _Shared(pipe, jobs, Reader(limits), limits, folder, examples)
    with _Page(title="kinetophone", analytics_enabled=False) as page:
        gr.Markdown(
            f"# kinetophone\nAudio and video generated together, by `{pipe.spec.name}`. Uploads: at most "
            f"{limits.upload_mb} MB and {limits.longest_s:g} s; images and frames are scaled down to "
            f"{limits.side_px} pixels. Uploads and results are deleted after "
            f"{limits.kept_s / 60:g} minutes."
        )
        for task in all_tasks().values():
            with gr.Tab(task.title, id=task.name):
                _task_tab(shared, task)
        with gr.Tab("Measure", id="measure"):
            _measure_tab(shared)
    page.queue(default_concurrency_limit=limits.waiting + 1)
    return page


def _task_tab(shared: _Shared, task: Task) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            upload = _upload(task.takes)
            prompt = gr.Textbox(label="Prompt", lines=2, placeholder=PROMPTS[0])
            inputs: dict[str, Any] = {"upload": upload} if upload else {}
            inputs |= {"prompt": prompt, "seed": gr.Number(label="Seed", value=0, precision=0, minimum=0)}
            with gr.Accordion("Settings (empty: defaults of the model)", open=task.seconds == "required"):
                with gr.Row():
                    inputs |= {name: _field(shared, task, name) for name in _fields(task)}
                inputs["negative_prompt"] = gr.Textbox(label="Avoid")
                if task.name == "generate":
                    inputs["script"] = gr.Textbox(
                        label="Script",
                        lines=2,
                        placeholder="instead of a prompt: lines such as\n0 a drum is hit\n4 a bell rings",
                    )
                    inputs["stream"] = gr.Checkbox(
                        label="Show a long clip while it is generated", value=False
                    )
                load = gr.UploadButton("Load saved settings", file_types=[".json"], size="sm")
            with gr.Row():
                start = gr.Button(task.title, variant="primary", min_width=120)
                cancel = gr.Button("Cancel", min_width=120)
        with gr.Column(min_width=300):
            video_file = gr.Video(label="Result", interactive=False, height=320)
            view = gr.HTML(label="Progress and sync strip", elem_classes="view")
            files = gr.File(label="Downloads", file_count="multiple", interactive=False, height=190)
            with gr.Accordion("Numbers", open=False):
                scores = gr.JSON(label="Scores and events")
    if task.takes is None:
        _examples([[text] for text in PROMPTS], [prompt], start)
    else:
        _examples([list(pair) for pair in shared.examples[task.takes]], [upload, prompt], start)
    event = start.click(
        _named(partial(_run, shared, task), inputs, view),
        inputs_kwargs=inputs,
        outputs=[video_file, files, view, scores],
        api_name=task.name,
        api_description=f"{task.title}: a video, its files, the strip as HTML, and its scores.",
        show_progress_on=view,
        **_COMPUTES,
    )
    _cancelling(cancel, event, view)
    named = {name: part for name, part in inputs.items() if name != "upload"}
    load.upload(
        partial(_loaded, task.name, tuple(named)),
        load,
        list(named.values()),
        api_visibility="private",
        queue=False,
    )


def _fields(task: Task) -> list[str]:
    """Settings of a task in display order, without prompt, negative prompt and seed."""
    has = {
        "seconds": task.seconds != "no",
        "keep": task.keeps,
        "gamma": task.clocks,
        "clock": task.clocks,
    }
    return [name for name in _LABELS if has.get(name, True)]


def _measure_tab(shared: _Shared) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            upload = _upload("clip")
            choices = [(about, name) for name, (_, _, _, about) in DETECTORS.items()]
            detector = gr.Radio(choices, value="contacts", label="Events in the video")
            with gr.Row():
                start = gr.Button("Measure", variant="primary", min_width=120)
                cancel = gr.Button("Cancel", min_width=120)
        with gr.Column(min_width=300):
            view = gr.HTML(label="Sync strip", elem_classes="view")
            with gr.Accordion("Numbers", open=False):
                scores = gr.JSON(label="Scores and events")
    _examples([[file] for file, _ in shared.examples["clip"]], [upload], start)
    inputs = {"upload": upload, "detector": detector}
    event = start.click(
        _named(partial(_run_measure, shared), inputs, view),
        inputs_kwargs=inputs,
        outputs=[view, scores],
        api_name="measure",
        api_description="Measure a clip: the strip as HTML, and its scores.",
        **_COMPUTES,
    )
    _cancelling(cancel, event, view)


def _upload(kind: str | None) -> Any:
    if kind == "audio":
        return gr.Audio(label="Audio", sources=["upload"], type="filepath", buttons=[])
    if kind == "image":
        # Not gr.Image, which decodes uploads in the server process.
        return gr.File(label="Image", file_types=["image"], type="filepath", height=160)
    label = "Clip" if kind == "clip" else "Video"
    return gr.Video(label=label, sources=["upload"], height=320) if kind else None


def _field(shared: _Shared, task: Task, name: str) -> Any:
    """The input field of a setting. Text fields, because an empty number field shows 0."""
    label, shown = _LABELS[name], {"max_lines": 1, "min_width": 130}
    if name == "keep":
        return gr.Textbox(label=label, placeholder="all; or 0-1.5", **shown)
    if task.seconds == "required" and name == "seconds":
        return gr.Textbox(label=label, value="8", **shown)
    if name == "clock":
        return gr.Dropdown([("by γ", ""), *CLOCKS], value="", label=label, min_width=130)
    spec = shared.pipe.spec
    own = float(spec.frames / spec.fps) if name == "seconds" else spec.defaults[name]
    said = str(own)
    if name in ("guidance", "guidance_sync"):
        scales = each(own)
        said = ",".join(f"{scale:g}" for scale in dict.fromkeys((scales.audio, scales.video)))
    elif not isinstance(own, str):
        said = f"{own:g}"
    more = {"guidance_sync": "; or 6,4"} | ({} if spec.auto_gamma is None else {"gamma": "; or auto"})
    return gr.Textbox(label=label, placeholder=said + more.get(name, ""), **shown)


def _examples(samples: list[list[str]], inputs: list[Any], start: Any) -> None:
    """Examples to click on.

    The server fills in the inputs. An earlier click on ``start`` would send the old values, so the button is
    disabled until then. ``gr.Examples`` has no event before the inputs are filled in.
    """
    shown = gr.Dataset(components=inputs, samples=samples, label="Examples")
    shut, opened = (f"() => ({{__type__: 'update', interactive: {on}}})" for on in ("false", "true"))
    private: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    shown.click(None, js=shut, outputs=start, **private).then(
        lambda sample: sample if len(inputs) > 1 else sample[0], shown, inputs, **private
    ).then(None, js=opened, outputs=start, **private)


def _cancelling(button: Any, event: Any, view: Any) -> None:
    # Shown only after the event has ended; otherwise its last report would overwrite the message.
    button.click(lambda: None, cancels=[event], queue=False, api_visibility="private").then(
        lambda: waiting_html("cancelled"), None, view, queue=False, api_visibility="private"
    )


def _loaded(task: str, names: tuple[str, ...], file: str) -> list[Any]:
    try:
        saved = Settings.read(Path(file), task)
    except UserError as error:
        raise _shown(error) from None
    return [getattr(saved, name) for name in names]


def _run(shared: _Shared, task: Task, **values: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Run one request; yields the values of its outputs while it waits and runs, and at the end."""
    yield None, None, waiting_html("waiting"), None
    # Gradio copies yielded files to its own folder before it resumes the iterator.
    with tempfile.TemporaryDirectory(dir=shared.folder) as folder:
        upload = values.pop("upload", None)
        settings = Settings.of({"task": task.name, **values})

        def work(report: Any) -> tuple[Result, str, dict[str, Any] | None]:
            file = Path(upload) if upload else None
            read = partial(shared.reader.read, report=report)
            made = perform(shared.pipe, settings, file, shared.limits, Path(folder), report, read)
            report(None)
            try:
                found = measure_clip(made.clip, "the clip")
            except UserError as error:  # such as a silent clip, which is still a valid result
                return made, waiting_html(str(error)), None
            return made, result_html(made.clip, found, "strikes"), _numbers(found)

        picture = ""
        for said in shared.jobs.run(work):
            if isinstance(said, Done):
                made, strip, numbers = said.result
                files = [str(file) for file in made.files]
                yield files[0], files, strip, numbers
            elif isinstance(said, Waiting):
                yield gr.skip(), gr.skip(), waiting_html(_place(said)), gr.skip()
            elif isinstance(said, Part):
                yield str(said.video_file), gr.skip(), gr.skip(), gr.skip()
            elif isinstance(said, Step):
                picture = picture if said.preview is None else preview_html(said.preview)
                yield gr.skip(), gr.skip(), progress_html(said, picture), gr.skip()
            else:
                yield gr.skip(), gr.skip(), gr.skip(), gr.skip()


def _run_measure(shared: _Shared, **values: Any) -> Iterator[tuple[Any, Any]]:
    yield waiting_html("waiting"), None
    if not values["upload"]:
        raise UserError("there is no file; upload a clip first")
    if values["detector"] not in DETECTORS:
        raise UserError(f"detector is not one of {', '.join(DETECTORS)}")
    file = Path(values["upload"])

    def work(report: Any) -> tuple[Clip, dict[str, Any]]:
        clip = shared.reader.read(file, "clip", report)
        return clip, measure_clip(clip, file.name)

    for said in shared.jobs.run(work):
        if isinstance(said, Done):
            clip, found = said.result
            yield result_html(clip, found, values["detector"]), _numbers(found)
        elif isinstance(said, Waiting):
            yield waiting_html(_place(said)), gr.skip()
        else:
            yield gr.skip(), gr.skip()


def _place(waiting: Waiting) -> str:
    return f"waiting, {waiting.before} before you" if waiting.before > 1 else "waiting"


def _named(function: Callable[..., Any], names: Iterable[str], view: Any) -> Callable[..., Any]:
    """``function`` with optional keyword arguments ``names``, the parameters of the HTTP interface.

    Errors are also shown in ``view``: Gradio's message disappears after seconds, and "waiting" would remain.
    """

    def named(**values: Any) -> Iterator[Any]:
        try:
            yield from function(**values)
        except _CURABLE as error:
            yield {view: waiting_html(_line(error))}
            raise _shown(error) from None
        except OSError as error:
            full = error.errno == errno.ENOSPC
            said = "the server's disk is full; try again later" if full else _FAILED
            yield {view: waiting_html(said)}
            raise _shown(UserError(said)) from error
        except Exception as error:
            traceback.print_exc()
            yield {view: waiting_html(_FAILED)}
            raise _shown(UserError(_FAILED)) from error

    kind = Parameter.KEYWORD_ONLY
    named.__signature__ = Signature([Parameter(name, kind, default=None) for name in names])  # type: ignore[attr-defined]
    return named


def _numbers(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in (*SCORES, "fps", "onsets_s", "strikes_s", "contacts_s")}


def _shown(error: Exception) -> gr.Error:
    """A ``gr.Error`` with the message; Gradio hides the messages of other exceptions."""
    return gr.Error(_line(error), duration=5, print_exception=False)


def _line(error: Exception) -> str:
    return "; ".join(str(error).splitlines())
