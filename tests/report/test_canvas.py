"""What is written is read back: PNG by Pillow, the picture inside a PDF from its own bytes."""

from __future__ import annotations

import re
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igll.errors import InputError
from igll.report.canvas import check_ending, new_figure, save_figure, sheet_as_pdf


def picture_in(pdf: bytes) -> np.ndarray:
    """The one image of a PDF: its stream is what a PNG would hold, without the PNG's frame."""
    found = re.findall(rb"<<([^>]*/Subtype /Image.*?)>>\s*stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    ((header, data),) = found
    assert b"/FlateDecode" in header and b"/Predictor 10" in header
    width, height = (int(re.search(rb"/%s (\d+)" % key, header)[1]) for key in (b"Width", b"Height"))
    assert b"/DeviceRGB" in header

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    frame = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", frame) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    stored = np.asarray(Image.open(BytesIO(png)))
    page = next(filter(None, map(drawn, re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL))))
    matrix = [float(number) for number in re.findall(rb"([-\d. ]+) cm /I1 Do", page)[0].split()]
    across, _, _, up, left, bottom = matrix
    assert across > 0 and left == 0 and bottom == (0 if up > 0 else -up)
    return stored if up > 0 else stored[::-1]


def drawn(stream: bytes) -> bytes:
    """A page's drawing commands, or nothing if the stream holds something else."""
    try:
        content = zlib.decompress(stream)
    except zlib.error:
        return b""
    return content if b"/I1 Do" in content else b""


def test_a_sheet_in_a_pdf_keeps_every_pixel(tmp_path: Path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (61, 83, 3), dtype=np.uint8)
    path = tmp_path / "new" / "sheet.pdf"
    sheet_as_pdf(Image.fromarray(pixels), path)
    content = path.read_bytes()
    assert content.startswith(b"%PDF") and content.count(b"/Type /Page ") == 1
    assert np.array_equal(picture_in(content), pixels)
    box = re.search(rb"/MediaBox \[([^\]]*)\]", content)
    assert [float(part) for part in box[1].split()] == pytest.approx([0, 0, 83 / 2, 61 / 2])


def test_equal_figures_are_equal_files(tmp_path: Path):
    for name in ("a.pdf", "b.pdf"):
        figure = new_figure(2, 1)
        figure.subplots().plot([1, 2, 4])
        save_figure(figure, tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert Image.open(tmp_path / "a.png").size == (240, 120)


def test_png_alone(tmp_path: Path):
    save_figure(new_figure(1, 1), tmp_path / "only.png")
    assert [path.name for path in tmp_path.iterdir()] == ["only.png"]


@pytest.mark.parametrize("name", ["figure.jpg", "figure"])
def test_other_formats_are_refused(name: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"end in \.png or \.pdf"):
        check_ending(tmp_path / name)


def test_without_matplotlib(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install \"igll\[figures\]\""):
        sheet_as_pdf(Image.new("RGB", (4, 4)), tmp_path / "sheet.pdf")
    assert not (tmp_path / "sheet.pdf").exists()
