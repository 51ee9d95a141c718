"""Sheets are looked at pixel by pixel, curves through what matplotlib was told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igll.errors import InputError
from igll.report import figures, loss_curves, paint_hole, picture_sheet


def test_paint_hole_marks_the_hole_only():
    image = np.full((6, 8, 3), 50, np.uint8)
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:5] = True
    painted = paint_hole(image, mask, (1, 2, 3))
    assert (painted[mask] == (1, 2, 3)).all() and (painted[~mask] == 50).all()
    assert (image == 50).all()


def test_sheet_holds_every_picture_in_its_place(tmp_path):
    red, green, blue = (
        np.full((16, 16, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))
    )
    grey = np.full((16, 8), 90, np.uint8)
    path = tmp_path / "new" / "sheet.png"
    sheet = picture_sheet([[red, green], [blue, grey]], ["input", "filled"], ["one", "two"], path, cell=64)
    stored = Image.open(path)
    assert stored.format == "PNG" and stored.mode == "RGB"
    pixels = np.asarray(stored)
    assert np.array_equal(pixels, np.asarray(sheet))
    boxes = []
    for colour, area in (
        ((200, 0, 0), 64 * 64),
        ((0, 200, 0), 64 * 64),
        ((0, 0, 200), 64 * 64),
        ((90,) * 3, 64 * 32),
    ):
        ys, xs = np.nonzero((pixels == colour).all(axis=2))
        boxes.append((xs.min(), ys.min(), xs.max(), ys.max()))
        assert (xs.max() - xs.min() + 1) * (ys.max() - ys.min() + 1) == area
        assert len(xs) >= area  # solid, nothing drawn over it
    assert boxes[0][1] == boxes[1][1] < boxes[2][1] == boxes[3][1]
    assert boxes[0][0] == boxes[2][0] < boxes[1][0] < boxes[3][0]  # the narrow one is centred
    assert (pixels[0] == 255).all() and (pixels[-1] == 255).all()
    assert (pixels[: boxes[0][1]] < 100).any(), "titles are drawn above the pictures"


def test_enlarged_pixels_stay_pixels(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    sheet = np.asarray(picture_sheet([[small]], ["t"], [""], tmp_path / "s.png", cell=64))
    expected = small.repeat(8, axis=0).repeat(8, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (64, 64, 3))
    assert (windows == expected).all(axis=(2, 3, 4, 5)).any()


def test_long_titles_and_captions_fit(tmp_path):
    picture = np.zeros((32, 32, 3), np.uint8)
    arguments = (
        [[picture, picture]],
        ["an endless title " * 5, "b"],
        ["a/very/long/path/" * 9],
        tmp_path / "s.png",
    )
    plain = picture_sheet(*arguments, cell=64)
    sheet = picture_sheet(*arguments, cell=64, caption="some words that need several lines to be told " * 3)
    assert sheet.width == plain.width and sheet.height > plain.height + 30
    pixels = np.asarray(sheet)
    assert (pixels[:, :10] == 255).all() and (pixels[:, -10:] == 255).all(), "text runs into the margin"
    assert (pixels[plain.height :] < 200).any()


@pytest.mark.parametrize(
    ("rows", "columns", "titles", "message"),
    [
        (1, 2, 2, "1 rows of pictures for 2 row titles"),
        (2, 1, 2, "1 pictures in a row for 2"),
        (0, 2, 0, "0 rows"),
    ],
)
def test_a_grid_that_does_not_fit(rows, columns, titles, message, tmp_path):
    pictures = [[np.zeros((4, 4, 3), np.uint8)] * columns] * rows
    with pytest.raises(InputError, match=message):
        picture_sheet(pictures, ["a", "b"], ["t"] * titles, tmp_path / "s.png")


def _log(path: Path, tail: str = "") -> Path:
    records = []
    for step in range(1, 81):
        records.append({"step": step, "split": "train", "time": 0.5, "lr": 1e-3})
        records[-1] |= {
            "generator/total": 3 / step,
            "generator/local": 1 / step,
            "generator/svd": 1e-3 / step,
        }
        records[-1] |= {"discriminator/total": 1.4}
        if step % 20 == 0:
            records.append(
                {"step": step, "split": "val", "time": 1.0, "psnr_hole": 20 + step / 20, "lpips": None}
            )
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return path


def test_curves_are_grouped_and_read_back(tmp_path):
    panels = figures._panels(figures._read_series(_log(tmp_path / "metrics.jsonl")))
    assert list(panels) == [
        "Generator",
        "Generator, terms",
        "Discriminator",
        "Validation PSNR in the hole (dB)",
    ]
    assert list(panels["Generator, terms"]) == ["local", "svd"]
    assert panels["Generator"]["total"] == (list(range(1, 81)), [3 / step for step in range(1, 81)])
    assert panels["Validation PSNR in the hole (dB)"][""] == ([20, 40, 60, 80], [21.0, 22.0, 23.0, 24.0])


def test_curves_after_a_kill_and_a_resume(tmp_path):
    again = json.dumps({"step": 80, "split": "train", "generator/total": 99.0}) + "\n"
    earlier = json.dumps({"step": 0, "split": "train", "generator/total": 5.0}) + "\n"
    series = figures._read_series(_log(tmp_path / "m.jsonl", again + earlier + '{"step": 81, "spl'))
    steps, values = series["train", "generator/total"]
    assert steps == list(range(81)) and values[0] == 5.0 and values[-1] == 99.0


def test_curves_are_drawn(tmp_path):
    path = tmp_path / "new" / "curves.png"
    loss_curves(_log(tmp_path / "metrics.jsonl"), path)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert pixels.shape[0] > 500 and pixels.shape[1] > 1200
    blue = (abs(pixels - (31, 119, 180)).sum(axis=2) < 12).sum()
    orange = (abs(pixels - (255, 127, 14)).sum(axis=2) < 12).sum()
    assert blue > 500 and orange > 200  # first curves of all panels; second curve of the terms


def test_smoothing_keeps_length_level_and_gaps():
    values = np.sin(np.arange(200) / 30) + np.where(np.arange(200) % 2, 0.5, -0.5)
    values[100] = np.nan
    smooth = figures._smoothed(list(values))
    assert len(smooth) == 200 and np.isfinite(smooth).all()
    assert abs(smooth - np.sin(np.arange(200) / 30)).max() < 0.3
    assert (figures._smoothed([2.0] * 50) == 2.0).all()


def test_logs_that_cannot_be_drawn(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read"):
        loss_curves(tmp_path / "none.jsonl", tmp_path / "c.png")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no losses or scores"):
        loss_curves(tmp_path / "empty.jsonl", tmp_path / "c.png")
    (tmp_path / "bad.jsonl").write_text('{"step": 1}\n{"step": 1, "split": "train"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl, line 1: has no step"):
        loss_curves(tmp_path / "bad.jsonl", tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install \"igll\[figures\]\""):
        loss_curves(_log(tmp_path / "metrics.jsonl"), tmp_path / "c.png")


def test_curves_need_no_screen_and_leave_pyplot_alone(tmp_path):
    log = _log(tmp_path / "metrics.jsonl")
    code = (
        "import sys; from pathlib import Path; from igll.report import loss_curves; "
        f"loss_curves(Path({str(log)!r}), Path({str(tmp_path / 'c.png')!r})); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": "TkAgg"})
    assert (tmp_path / "c.png").stat().st_size > 10_000


def test_curves_as_pdf_come_with_a_png(tmp_path):
    loss_curves(_log(tmp_path / "metrics.jsonl"), tmp_path / "curves.pdf")
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert Image.open(tmp_path / "curves.png").format == "PNG"
    with pytest.raises(InputError, match=r"end in \.png or \.pdf"):
        loss_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.svg")
