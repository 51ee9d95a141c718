"""Figures by matplotlib, drawn without a screen and saved as PNG and PDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from igll.errors import InputError
from igll.storage import replacing

_FORMATS = (".png", ".pdf")
_SHEET_DPI = 144


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Any:
    """An empty matplotlib figure that needs no screen.

    Args:
        width: In inches.
        height: In inches.
        layout: matplotlib's layout engine; None for none.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError('figures need the package matplotlib; pip install "igll[figures]"') from error
    figure = Figure(figsize=(width, height), dpi=120, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Save a figure as PNG and, if the path ends in ``.pdf``, as PDF of the same name beside it.

    Raises:
        InputError: The path ends in neither.
        OutputError: A file cannot be written.
    """
    check_ending(path)
    with replacing(path.with_suffix(".png")) as temporary:
        figure.savefig(temporary, format="png")
    if path.suffix.lower() == ".pdf":
        # Without the date, equal figures are equal files.
        with replacing(path) as temporary:
            figure.savefig(temporary, format="pdf", dpi=300, metadata={"CreationDate": None})


def check_ending(path: Path) -> None:
    """Refuse a figure's path that names another format, before hours are spent on it.

    Raises:
        InputError: It ends in neither ``.png`` nor ``.pdf``.
    """
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"{path}: a figure is written as PNG or PDF; let the name end in .png or .pdf")


def sheet_as_pdf(sheet: Image.Image, path: Path) -> None:
    """Save a picture sheet as a PDF of one page, pixel by pixel and without loss.

    Pillow's own PDF would store it as JPEG, which differs from what is compared.

    Raises:
        InputError: matplotlib is not installed.
        OutputError: It cannot be written.
    """
    figure = new_figure(sheet.width / _SHEET_DPI, sheet.height / _SHEET_DPI, layout=None)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.imshow(np.asarray(sheet.convert("RGB")), aspect="auto", interpolation="none")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="pdf", dpi=_SHEET_DPI, metadata={"CreationDate": None})
