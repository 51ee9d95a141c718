"""Picture sheets and loss curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from igll.errors import InputError
from igll.report.canvas import check_ending, new_figure, save_figure
from igll.storage import replacing

_PAPER, _INK, _FAINT = (255, 255, 255), (34, 34, 34), (110, 110, 110)
_GUTTER, _MARGIN, _TITLE, _SMALL = 4, 16, 15, 12
_HOLE = (235, 64, 140)  # a pink that neither land, water nor cloud has

Series = dict[tuple[str, str], tuple[list[int], list[float]]]
"""(split, name) → (steps, values)."""


def paint_hole(
    image_HWC: np.ndarray, mask_HW: np.ndarray, colour: tuple[int, int, int] = _HOLE
) -> np.ndarray:
    """A copy of an image with its missing pixels in one colour, so that a person sees the hole.

    Args:
        image_HWC: uint8 RGB.
        mask_HW: Not 0 where pixels are missing.
        colour: RGB, 0 to 255.
    """
    painted_HWC = image_HWC.copy()
    painted_HWC[np.asarray(mask_HW) > 0] = colour
    return painted_HWC


def picture_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    path: Path | None = None,
    cell: int = 192,
    caption: str = "",
) -> Image.Image:
    """Lay pictures out in a grid with titles, and save it as PNG if a path is given.

    Args:
        rows: Pictures, uint8 (H, W, 3), (H, W, 1) or (H, W); any size, fitted into the cells.
        column_titles: One per column.
        row_titles: One per row, set above the row's first picture; "" for none.
        path: The PNG file, or None; its folder is created.
        cell: Side of a cell in pixels.
        caption: Small print below the pictures, wrapped to the sheet's width.

    Returns:
        The sheet, RGB.

    Raises:
        InputError: The titles do not match the rows and columns.
        OutputError: The file cannot be written.
    """
    _check_grid(rows, column_titles, row_titles)
    title_font, small_font = ImageFont.load_default(_TITLE), ImageFont.load_default(_SMALL)
    width = 2 * _MARGIN + len(column_titles) * (cell + _GUTTER) - _GUTTER
    label = _SMALL + 12 if any(row_titles) else 0
    footer = _wrapped(caption, small_font, width - 2 * _MARGIN)
    top = _MARGIN + _TITLE + 8
    bottom = top + len(rows) * (label + cell + _GUTTER)
    height = bottom - _GUTTER + _MARGIN + (len(footer) * (_SMALL + 5) + 8 if footer else 0)

    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(column_titles):
        x = _MARGIN + column * (cell + _GUTTER) + cell / 2
        draw.text((x, top - 8), _shortened(title, title_font, cell), _INK, title_font, anchor="ms")
    for row, (pictures, title) in enumerate(zip(rows, row_titles, strict=True)):
        y = top + row * (label + cell + _GUTTER) + label
        text = _shortened(title, small_font, width - 2 * _MARGIN)
        draw.text((_MARGIN, y - 6), text, _FAINT, small_font, anchor="ls")
        for column, picture in enumerate(pictures):
            tile = _fitted(picture, cell)
            x = _MARGIN + column * (cell + _GUTTER)
            sheet.paste(tile, (x + (cell - tile.width) // 2, y + (cell - tile.height) // 2))
    for line, text in enumerate(footer):
        draw.text((_MARGIN, bottom + 8 + line * (_SMALL + 5)), text, _FAINT, small_font)
    if path is not None:
        save_picture(sheet, path)
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """Save a picture as PNG; its folder is created.

    Raises:
        OutputError: The file cannot be written.
    """
    with replacing(path) as temporary:
        picture.save(temporary, "PNG", optimize=True)


def _check_grid(
    rows: Sequence[Sequence[np.ndarray]], column_titles: Sequence[str], row_titles: Sequence[str]
) -> None:
    """Refuse pictures that do not fill the grid that the titles span."""
    if not rows or len(rows) != len(row_titles):
        raise InputError(f"picture sheet: {len(rows)} rows of pictures for {len(row_titles)} row titles")
    for pictures in rows:
        if len(pictures) != len(column_titles):
            raise InputError(
                f"picture sheet: {len(pictures)} pictures in a row for {len(column_titles)} column titles"
            )


def loss_curves(metrics_jsonl: Path, path: Path) -> None:
    """Draw a run's losses and validation scores over the steps as small multiples, and save them.

    Panels: the generator's total, its terms, the discriminator, and one per validation score.

    Args:
        metrics_jsonl: One JSON object a line with ``step``, ``split`` ("train" or "val") and
            numbers: ``generator/total``, ``generator/<term>``, ``discriminator/<term>``, and scores
            without a slash, such as ``psnr_hole``. ``time`` is ignored. Where a step occurs
            again, as after resuming, its last value counts.
        path: A PNG file; or a PDF file, and a PNG of the same name is written beside it. Its folder
            is created.

    Raises:
        InputError: matplotlib is not installed, the file is missing or holds nothing to draw, or
            the path ends in something else.
        OutputError: The picture cannot be written.
    """
    check_ending(path)
    panels = _panels(_read_series(metrics_jsonl))
    if not panels:
        raise InputError(f"{metrics_jsonl}: holds no losses or scores to draw")
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(4.6 * columns, 3.1 * lines)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (title, series) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, title, series)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    save_figure(figure, path)


def _read_series(metrics_jsonl: Path) -> Series:
    """Every number of the file by split and name, in the order of the steps."""
    values: dict[tuple[str, str], dict[int, float]] = {}
    try:
        lines = metrics_jsonl.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{metrics_jsonl}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            step, split = int(record["step"]), str(record["split"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # a run that is writing, or was killed while it wrote
            raise InputError(f"{metrics_jsonl}, line {number}: has no step and split") from error
        for name, value in record.items():
            if name not in ("step", "split", "time") and isinstance(value, (int, float)):
                values.setdefault((split, name), {})[step] = float(value)
    return {
        key: (sorted(points), [points[step] for step in sorted(points)]) for key, points in values.items()
    }


def _panels(series: Series) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Curves grouped into panels, in the order they are drawn."""
    panels: dict[str, dict[str, tuple[list[int], list[float]]]] = {
        "Generator": {},
        "Generator, terms": {},
        "Discriminator": {},
    }
    for (split, name), curve in series.items():
        part, _, term = name.partition("/")
        label = term if split == "train" else f"{term} (val)"
        if part == "generator" and term:
            panels["Generator" if term == "total" else "Generator, terms"][label] = curve
        elif part == "discriminator" and term:
            panels["Discriminator"][label] = curve
        elif split == "val" and not term:
            panels[_SCORES.get(name, name)] = {"": curve}
    return {title: curves for title, curves in panels.items() if curves}


_SCORES = {
    "psnr": "Validation PSNR (dB)",
    "psnr_hole": "Validation PSNR in the hole (dB)",
    "l1_hole": "Validation L1 in the hole",
    "ssim": "Validation SSIM",
    "ms_ssim": "Validation MS-SSIM",
    "lpips": "Validation LPIPS",
}


def _draw_panel(axis: Any, title: str, curves: dict[str, tuple[list[int], list[float]]]) -> None:
    """One panel: noisy curves thin with a smooth one over them, sparse ones with points."""
    for index, (label, (steps, values)) in enumerate(curves.items()):
        colour = f"C{index}"
        if len(steps) > 40:
            axis.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
            axis.plot(steps, _smoothed(values), color=colour, linewidth=1.6, label=label)
        else:
            axis.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3, label=label)
    everything = [value for _, values in curves.values() for value in values if math.isfinite(value)]
    if len(curves) > 1 and everything and min(everything) > 0 and max(everything) > 30 * min(everything):
        axis.set_yscale("log")
    axis.set_title(title, fontsize=10, loc="left", color="#222222", pad=20)
    axis.set_xlabel("step", fontsize=8, color="#6e6e6e")
    axis.tick_params(labelsize=8, colors="#6e6e6e")
    axis.grid(color="#e6e6e6", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#b4b4b4")
    if len(curves) > 1:
        # Between title and curves, where it hides nothing.
        axis.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 0.98),
            ncols=len(curves),
            fontsize=7,
            frameon=False,
            labelcolor="#222222",
            handlelength=1.2,
            columnspacing=1.0,
        )


def _smoothed(values: Sequence[float]) -> np.ndarray:
    """Centred moving mean over a twentieth of the curve; narrower at its ends, blind to NaN."""
    half = max(1, len(values) // 40)
    padded = np.asarray(values, dtype=np.float64)
    return np.array([np.nanmean(padded[max(0, i - half) : i + half + 1]) for i in range(len(padded))])


def _fitted(picture: np.ndarray, cell: int) -> Image.Image:
    """A picture as RGB, as large as the cell allows."""
    array = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    image = Image.fromarray(array).convert("RGB")
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Whole-number enlargement shows the pixels as they are.
    whole = scale >= 1 and float(scale).is_integer()
    return image.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def _shortened(text: str, font: Any, width: int) -> str:
    """The text, its end cut off if it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """The text broken into lines of at most ``width`` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
