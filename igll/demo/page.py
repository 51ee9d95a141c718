"""Layout and wiring of the page."""

from __future__ import annotations

import html
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from igll.demo.fill import (
    EXAMPLES,
    MAX_GROWTH,
    MAX_PIXELS,
    SUFFIXES,
    Hole,
    Method,
    fill_upload,
    marked,
    open_mask,
    open_upload,
    rgb_of,
    write_example,
)
from igll.errors import InputError, OutputError

THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    radius_size="md",
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
)
CSS = """
.gradio-container { width: 100% !important; max-width: 1240px !important; margin: 0 auto !important; }
#title h1 { margin: 0 0 4px; font-size: 1.7rem; }
#title p { margin: 0 0 4px; max-width: 56rem; }
#title .method { color: var(--body-text-color-subdued); }
.step h3 { margin: 4px 0 0; }
#title, #title .html-container, #status, #status .html-container { padding: 0; }
.status { margin: 0; min-height: 1.5em; }
"""

_PINK = ("#eb408c", 0.75)  # that of marked holes, see-through while painting
_WAITING = "The result appears here."


@dataclass(frozen=True)
class Parts:
    """The components that events read and write."""

    image: gr.File
    examples: list[gr.Button]
    editor: gr.ImageEditor
    mask: gr.File
    growth: gr.Slider
    start: gr.Button
    compare: gr.ImageSlider
    status: gr.HTML
    filled: gr.DownloadButton
    filled_mask: gr.DownloadButton


def build_page(method: Method, folder: Path) -> gr.Blocks:
    """Lay the page out and wire it.

    Args:
        method: What fills.
        folder: For examples and results, until they are handed out.
    """
    # Every hour, files of visitors that are older than a day go.
    with gr.Blocks(title="igll: fill holes", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.HTML(_title(method), elem_id="title")
        parts = _lay_out()
        _wire(parts, method, folder)
    # Filling takes memory and all cores: one at a time, the others wait in line.
    return page.queue(max_size=32, default_concurrency_limit=1)


def _lay_out() -> Parts:
    with gr.Row():
        with gr.Column(min_width=320):
            _step("1 · Image")
            image = gr.File(
                label=f"PNG, JPEG, TIFF or WebP, up to {MAX_PIXELS:,} pixels",
                file_types=list(SUFFIXES),
                height=160,
                elem_id="image",
            )
            with gr.Row():
                examples = [gr.Button(f"Example: {title}", size="sm", min_width=90) for title in EXAMPLES]
            _step("2 · Hole: paint over what is to be filled")
            editor = _editor()
            with gr.Row():
                mask = gr.File(
                    label="Or a mask file, white = fill",
                    file_types=list(SUFFIXES),
                    height=160,
                    min_width=200,
                    elem_id="mask",
                )
                growth = gr.Slider(0, MAX_GROWTH, 0, step=1, label="Grow hole (pixels)", min_width=200)
        with gr.Column(min_width=320):
            _step("3 · Result")
            start = gr.Button("Fill", variant="primary", size="lg", elem_id="fill")
            compare = gr.ImageSlider(
                label="Before | after",
                format="png",
                interactive=False,
                buttons=["fullscreen"],
                max_height=620,
            )
            status = gr.HTML(_line(_WAITING), elem_id="status")
            with gr.Row():
                filled = gr.DownloadButton("Download image (PNG)", interactive=False, elem_id="filled")
                filled_mask = gr.DownloadButton(
                    "Download mask (PNG)", interactive=False, elem_id="filled-mask"
                )
    return Parts(image, examples, editor, mask, growth, start, compare, status, filled, filled_mask)


def _editor() -> gr.ImageEditor:
    return gr.ImageEditor(
        type="numpy",
        format="png",
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=24, colors=[_PINK], default_color=_PINK, color_mode="fixed"),
        buttons=["fullscreen"],
        show_label=False,
        height=420,
        visible=False,  # nothing to paint on yet
        elem_id="editor",
    )


def _wire(parts: Parts, method: Method, folder: Path) -> None:
    results = [parts.compare, parts.status, parts.filled, parts.filled_mask]
    scene = [parts.image, parts.mask, parts.editor, *results]
    quick: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 4, "api_visibility": "private"}

    parts.image.upload(_show_upload, parts.image, scene, **quick)
    parts.image.clear(lambda: (None, None, _no_drawing(), *_no_result()), None, scene, **quick)
    for title, button in zip(EXAMPLES, parts.examples, strict=True):
        button.click(lambda title=title: _show_example(title, folder), None, scene, **quick)
    for change in (parts.mask.upload, parts.mask.clear):
        change(_show_mask, [parts.image, parts.mask, parts.editor], [parts.mask, parts.editor], **quick)
    # The editor's bin takes the picture away with what is painted on it; only the latter is meant.
    parts.editor.clear(
        lambda image, mask: _show_mask(image, mask, None),
        [parts.image, parts.mask],
        [parts.mask, parts.editor],
        **quick,
    )

    def fill(image: str | None, mask: str | None, drawing: dict[str, Any] | None, growth: float) -> Any:
        try:
            if image is None:
                raise InputError("no image yet; choose a file or an example")
            hole = Hole(_layers(drawing), None if mask is None else Path(mask), int(growth))
            # One visitor is served at a time, so the last one's files have been handed out.
            shutil.rmtree(folder / "results", ignore_errors=True)
            done = fill_upload(method, Path(image), hole, folder / "results")
        except (InputError, OutputError) as error:
            _warn(error)
            return gr.skip(), _line(f"Nothing was filled: {error}."), gr.skip(), gr.skip()
        pictures = (done.before_HWC, done.after_HWC)
        return pictures, _line(done.status), _download(done.picture), _download(done.mask)

    parts.start.click(
        fill,
        [parts.image, parts.mask, parts.editor, parts.growth],
        results,
        show_progress_on=parts.compare,
        concurrency_limit=1,
        api_visibility="private",
    )


def _show_upload(path: str) -> Any:
    """A new image: the last one's hole and result go."""
    try:
        image = open_upload(Path(path)).image
    except InputError as error:
        _warn(error)
        return None, None, _no_drawing(), *_no_result()
    return gr.skip(), None, _drawing(rgb_of(image)), *_no_result()


def _show_example(title: str, folder: Path) -> Any:
    path, mask = write_example(title, folder / "examples")
    image = open_upload(path).image
    return str(path), str(mask), _drawing(marked(image, open_mask(mask, image.size))), *_no_result()


def _show_mask(path: str | None, mask: str | None, drawing: dict[str, Any] | None) -> Any:
    """Mark the mask's hole below what is painted."""
    if path is None:
        if mask is not None:
            _warn(InputError("no image yet; choose the image first, then its mask"))
        return None, gr.skip()
    image = open_upload(Path(path)).image
    try:
        background_HWC = rgb_of(image) if mask is None else marked(image, open_mask(Path(mask), image.size))
    except InputError as error:
        _warn(error)
        return None, gr.skip()
    return gr.skip(), _drawing(background_HWC, _layers(drawing))


def _layers(drawing: dict[str, Any] | None) -> list[NDArray[np.uint8]]:
    """What is painted, as the editor tells it."""
    return drawing["layers"] if drawing else []


def _drawing(background_HWC: NDArray[np.uint8], layers: Sequence[NDArray[np.uint8]] = ()) -> gr.ImageEditor:
    """The editor with a picture to paint on, and with what is painted."""
    value = {"background": background_HWC, "layers": list(layers), "composite": None}
    return gr.ImageEditor(value, visible=True)


def _no_drawing() -> gr.ImageEditor:
    return gr.ImageEditor(None, visible=False)


def _no_result() -> tuple[Any, ...]:
    waiting = gr.DownloadButton(value=None, interactive=False)
    return None, _line(_WAITING), waiting, waiting


def _download(path: Path) -> gr.DownloadButton:
    return gr.DownloadButton(value=str(path), interactive=True)


def _warn(error: Exception) -> None:
    gr.Warning(html.escape(str(error)))


def _line(text: str) -> str:
    return f'<p class="status">{html.escape(text)}</p>'


def _step(title: str) -> None:
    gr.Markdown(f"### {title}", elem_classes="step")


def _title(method: Method) -> str:
    return (
        "<h1>Fill holes in remote-sensing images</h1>"
        "<p>Paint over clouds, gaps or seams, and they are filled from what is known around them. Known "
        "pixels come back bit for bit; what stands in a hole afterwards is plausible, not measured.</p>"
        f'<p class="method">Filled by: <b>{html.escape(method.title)}</b>. '
        "Images stay on the machine that serves this page.</p>"
    )
