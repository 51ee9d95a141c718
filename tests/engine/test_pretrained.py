"""Folders in the layout of a Hugging Face repo: read back bit for bit, with nothing of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import igll
from igll.config import build_config
from igll.engine.shared_weights import read_notes, save_shared_weights
from igll.engine.trained import Training
from igll.errors import InputError, OutputError
from igll.inpainter import Inpainter
from igll.registry import build_generator


@pytest.fixture
def model() -> Inpainter:
    values = {"model": {"width": 4, "structure_prior": "learned"}, "edges": {"detector": "sobel"}}
    config = build_config({**values, "data": {"name": "folder", "root": "/home/someone/images"}})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        generator = build_generator(config.model).eval()
    return Inpainter(generator, config, Training(70, True, {"licence": "MIT"}))


def test_a_folder_comes_back_bit_for_bit(model: Inpainter, tmp_path: Path):
    model.save_pretrained(tmp_path / "new" / "folder")
    for again in (
        Inpainter.from_pretrained(tmp_path / "new" / "folder", device="cpu"),
        igll.load(str(tmp_path / "new" / "folder"), "cpu"),
    ):
        for name, value in model.generator.state_dict().items():
            assert value.equal(again.generator.state_dict()[name])
        assert again.config.model == model.config.model
        assert again.training == model.training
        assert again.device == torch.device("cpu")


def test_what_lies_in_it(model: Inpainter, tmp_path: Path):
    model.save_pretrained(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert not any(b"someone" in path.read_bytes() for path in tmp_path.iterdir())
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["model"]["width"] == 4 and settings["data"]["root"] is None
    card = (tmp_path / "README.md").read_text()
    front = card.split("---\n")[1]
    assert "library_name: igll\n" in front and "- image-inpainting\n" in front
    assert 'igll.load("OWNER/NAME")' in card and "70 steps" in card and "- licence: MIT" in card
    assert read_notes(tmp_path / "model.safetensors")["step"] == "70"


def test_a_card_that_was_written_by_hand_stays(model: Inpainter, tmp_path: Path):
    (tmp_path / "README.md").write_text("by hand")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "by hand"


def test_notes_of_shared_weights_go_along(model: Inpainter, tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_shared_weights(path, model.generator, model.config, 9, "float32", False, {"data": "noise"})
    loaded = igll.load(path, "cpu")
    assert loaded.training == Training(9, False, {"data": "noise"})
    loaded.save_pretrained(tmp_path / "again")
    assert igll.load(tmp_path / "again", "cpu").training == loaded.training


def test_what_goes_wrong_is_one_line(model: Inpainter, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file")
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"model\.safetensors: not a safetensors file"):
        Inpainter.from_pretrained(tmp_path)
