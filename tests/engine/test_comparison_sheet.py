"""Sheets of several tiny trained networks, looked at cell by cell."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igll.baselines import harmonic, nearest
from igll.data.datasets import build_dataset
from igll.engine.comparison_sheet import SheetRequest, comparison_sheet
from igll.engine.train import train
from igll.engine.trained import load_generator
from igll.engine.validate import to_picture, to_unit
from igll.errors import InputError

CELL, GUTTER, MARGIN, TITLE, LABEL = 192, 4, 16, 39, 24  # of a sheet, in pixels


def cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    """One picture of a sheet, at its own size again."""
    top = TITLE + row * (LABEL + CELL + GUTTER) + LABEL
    left = MARGIN + column * (CELL + GUTTER)
    return np.asarray(sheet)[top : top + CELL, left : left + CELL][3::6, 3::6]


@pytest.fixture
def run(small, tmp_path: Path):
    def make(prior: str) -> str:
        out = tmp_path / prior
        train(small(model={"structure_prior": prior}, train={"max_steps": 1}), out)
        return str(out / "checkpoints" / "last.pt")

    return make


def test_same_cases_for_every_checkpoint(small, run, tmp_path: Path):
    paths, config = [run("learned"), run("oracle")], small()
    request = SheetRequest(paths, ["blind", "guided"], cases=2, difference=True)
    sheet = comparison_sheet(config, request, tmp_path / "out" / "sheet.pdf")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "sheet.png")), np.asarray(sheet))
    assert (tmp_path / "out" / "sheet.pdf").read_bytes().startswith(b"%PDF")
    dataset = build_dataset(config, "test")
    generator, _, _ = load_generator(paths[0])
    for line, index in enumerate((0, len(dataset) // 2)):
        sample = dataset[index]
        truth = cell(sheet, 2 * line, 3)
        hole = sample["mask"][0].numpy() > 0
        assert np.array_equal(truth, to_picture(to_unit(sample["target"])))
        filled = generator(sample["image"][None], sample["mask"][None])[1].detach()
        masked, blind, guided = (cell(sheet, 2 * line, column) for column in range(3))
        assert np.array_equal(blind, to_picture(to_unit(filled)[0]))
        assert np.array_equal(masked[~hole], truth[~hole]) and (masked[hole] == (235, 64, 140)).all()
        assert np.array_equal(guided[~hole], truth[~hole]) and (guided[hole] != blind[hole]).any()
        for column in (1, 2):
            difference = cell(sheet, 2 * line + 1, column)
            assert (difference[~hole] == 0).all() and (difference[hole] > 0).any()
        assert (cell(sheet, 2 * line + 1, 0) == 255).all()


def test_methods_without_training_stand_before_the_checkpoints(small, run, tmp_path: Path, monkeypatch):
    heads = []
    from igll.engine import comparison_sheet as module

    original = module.picture_sheet
    monkeypatch.setattr(module, "picture_sheet", lambda *rest: heads.append(rest[1]) or original(*rest))
    config, methods = small(), ["harmonic", "nearest"]
    both = SheetRequest([run("none")], ["blind"], methods, cases=1)
    alone = SheetRequest([], [], methods, cases=1, difference=True)
    sheets = [comparison_sheet(config, request, tmp_path / "s.png") for request in (both, alone)]
    titles = ["masked", "harmonic (Laplace)", "nearest pixel"]
    assert heads == [[*titles, "blind", "truth"], [*titles, "truth"]]
    sample = build_dataset(config, "test")[0]
    for column, fill in enumerate((harmonic, nearest), start=1):
        filled = to_picture(to_unit(fill(sample["image"][None], sample["mask"][None]))[0])
        for sheet in sheets:
            assert np.array_equal(cell(sheet, 0, column), filled)
    truth = to_picture(to_unit(sample["target"]))
    assert np.array_equal(cell(sheets[0], 0, 4), truth) and np.array_equal(cell(sheets[1], 0, 3), truth)
    hole = sample["mask"][0].numpy() > 0
    difference = cell(sheets[1], 1, 2)
    assert (difference[~hole] == 0).all() and (difference[hole] > 0).any()


def test_a_missing_package_is_told_before_any_work(small, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    request = SheetRequest(["absent.pt"], ["a"], ["harmonic", "telea"])
    with pytest.raises(InputError, match=r"^telea: needs the package .*igll\[baselines\]"):
        comparison_sheet(small(), request, tmp_path / "s.png")


def test_oracle_edges_are_labelled(small, run, tmp_path: Path, monkeypatch):
    told = {}
    from igll.engine import comparison_sheet as module

    original = module.picture_sheet

    def spy(rows, columns, titles, path, cell, caption):
        told.update(columns=columns, titles=titles, caption=caption)
        return original(rows, columns, titles, path, cell, caption)

    monkeypatch.setattr(module, "picture_sheet", spy)
    paths = [run("oracle"), run("reference"), run("none")]
    names = [build_dataset(small(), "test").name(1)]
    comparison_sheet(small(), SheetRequest(paths, ["A", "B", "C"], images=names), tmp_path / "s.png")
    assert told["columns"] == ["masked", "A (oracle edges)", "B (oracle edges)", "C", "truth"]
    assert "Oracle edges: A, B saw" in told["caption"] and told["titles"] == names


def test_what_cannot_be_compared(small, run, tmp_path: Path):
    paths, out = [run("none")], tmp_path / "s.png"
    with pytest.raises(InputError, match="--names: 2 for 1 checkpoints"):
        comparison_sheet(small(), SheetRequest(paths, ["a", "b"]), out)
    with pytest.raises(InputError, match="--images: nowhere is not in the test set"):
        comparison_sheet(small(), SheetRequest(paths, ["a"], images=["nowhere"]), out)
    with pytest.raises(InputError, match=r"data\.split_seed: differs from the training"):
        comparison_sheet(small(data={"split_seed": 5}), SheetRequest(paths, ["a"]), out)
    with pytest.raises(InputError, match="fills images of 3 channel"):
        comparison_sheet(small(model={"image_channels": 1}), SheetRequest(paths, ["a"]), out)
    with pytest.raises(InputError, match=r"end in \.png or \.pdf"):
        comparison_sheet(small(), SheetRequest(paths, ["a"]), tmp_path / "s.jpg")
    with pytest.raises(InputError, match="nothing to show; name a checkpoint, or a method"):
        comparison_sheet(small(), SheetRequest([], []), out)
    assert not out.exists()


def test_script(small, run, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2])
    from scripts.comparison_sheet import main

    checkpoint = run("none")
    config, out = tmp_path / "none" / "config.yaml", tmp_path / "s.png"
    arguments = ["--config", str(config), "--checkpoints", checkpoint, "--out", str(out)]
    assert main([*arguments, "--cases", "1", "--difference", "--set", "eval.weights=raw"]) == 0
    assert out.exists() and "s.png and .pdf" in capsys.readouterr().out
    assert main(["--config", str(config), "--methods", "harmonic", "nearest", "--out", str(out)]) == 0
    for wrong in (["--full", "0"], ["--methods", "teela"]):
        with pytest.raises(SystemExit):
            main([*arguments, *wrong])
