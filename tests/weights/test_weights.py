"""The weights that ship: whole, small enough to clone, in the package, and used without a network."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import laplace

import igll
from igll.data.masks import make_mask
from igll.engine.shared_weights import SUFFIX
from igll.errors import InputError
from igll.method_inpainter import MethodInpainter
from igll.weights import BEST, SHIPPED

FOLDER = Path(igll.__file__).parent / "weights"
LARGEST_BYTES = 12_000_000
RNG = np.random.default_rng(5)


def test_they_are_small_enough_to_clone_and_the_table_lists_every_file():
    files = [path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= LARGEST_BYTES
    assert {path.name for path in files} == {"__init__.py", *(entry.file for entry in SHIPPED.values())}
    assert BEST in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_one_is_the_file_in_the_table_loads_and_fills(name: str):
    entry = SHIPPED[name]
    assert hashlib.sha256(entry.path.read_bytes()).hexdigest() == entry.sha256
    assert entry.path.suffix == SUFFIX  # nothing that could run
    model = igll.load(name, "cpu")
    assert model.training.step > 0 and model.config.data.root is None
    image_HWC = RNG.integers(0, 256, (48, 40, 3), dtype=np.uint8)
    hole_HW = np.zeros((48, 40), bool)
    hole_HW[10:30, 12:30] = True
    filled_HWC = model.inpaint(image_HWC, hole_HW)
    assert np.array_equal(filled_HWC[~hole_HW], image_HWC[~hole_HW])
    assert not np.array_equal(filled_HWC[hole_HW], image_HWC[hole_HW])


@pytest.mark.parametrize("name", [BEST, "igll-small-exemplar"])
def test_they_fill_alike_whatever_torchs_default_type_is(name: str):
    image_HWC = RNG.integers(0, 256, (48, 40, 3), dtype=np.uint8)
    hole_HW = np.zeros((48, 40), bool)
    hole_HW[10:30, 12:30] = True
    wanted_HWC = igll.load(name, "cpu").inpaint(image_HWC, hole_HW)
    torch.set_default_dtype(torch.float64)
    try:
        filled_HWC = igll.load(name, "cpu").inpaint(image_HWC, hole_HW)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.abs(filled_HWC.astype(int) - wanted_HWC.astype(int)).max() <= 1


def test_the_package_takes_the_files_along():
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml takes Python 3.11")
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f"*{SUFFIX}" in tomllib.loads(text)["tool"]["setuptools"]["package-data"]["igll.weights"]


def test_without_a_name_the_best_are_loaded_and_no_network_is_used(monkeypatch):
    def connect(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    model, named = igll.load(device="cpu"), igll.load(BEST, "cpu")
    for name, value in named.generator.state_dict().items():
        assert value.equal(model.generator.state_dict()[name])


def test_a_damaged_file_is_one_clear_line(monkeypatch):
    changed = dataclasses.replace(SHIPPED[BEST], sha256="0" * 64)
    monkeypatch.setitem(SHIPPED, BEST, changed)
    with pytest.raises(InputError, match=r"damaged, it is not the file that ships with igll .* install igll"):
        igll.load()
    monkeypatch.setitem(SHIPPED, BEST, dataclasses.replace(changed, file="absent.safetensors"))
    with pytest.raises(InputError, match=r"absent\.safetensors: is missing"):
        igll.load()


def test_scenes_held_out_are_filled_better_than_by_a_membrane(shared: Path):
    """Blind, on real scenes of the validation folder: the network adds to where it starts from."""
    model, membrane = igll.load(device="cpu"), MethodInpainter("harmonic")
    hole_HW = make_mask("irregular", 128, 128, 0.25, np.random.default_rng(11))
    gains = []
    for path in sorted((shared / "data" / "rsscn7" / "val").glob("*/*.webp"))[::10]:
        with Image.open(path) as picture:
            truth_HWC = np.asarray(picture.convert("RGB").crop((64, 64, 192, 192)))
        image_HWC = np.where(hole_HW[..., None], 0, truth_HWC).astype(np.uint8)
        errors = [
            np.mean((filler.inpaint(image_HWC, hole_HW)[hole_HW] - truth_HWC[hole_HW].astype(float)) ** 2)
            for filler in (model, membrane)
        ]
        gains.append(10 * np.log10(errors[1] / errors[0]))
    assert len(gains) == 14 and np.mean(gains) > 2 * np.std(gains, ddof=1) / len(gains) ** 0.5 > 0


NAMES = "igll-small-smooth", "igll-small", "igll-small-textured", "igll-small-exemplar"


def detail_in(shared: Path, hole_HW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean size of the Laplacian in the hole, on seven scenes: each set of weights, then the truth."""
    models = [igll.load(name, "cpu") for name in NAMES]
    detail = []
    for path in sorted((shared / "data" / "rsscn7" / "val").glob("*/*.webp"))[::20]:
        with Image.open(path) as picture:
            truth_HWC = np.asarray(picture.convert("RGB").crop((64, 64, 192, 192)))
        image_HWC = np.where(hole_HW[..., None], 0, truth_HWC).astype(np.uint8)
        pictures = [*(model.inpaint(image_HWC, hole_HW) for model in models), truth_HWC]
        detail.append([np.abs(laplace(one.mean(2)))[hole_HW].mean() for one in pictures])
    return np.mean(detail, axis=0)


def test_texture_rises_from_smooth_to_textured(shared: Path):
    hole_HW = make_mask("irregular", 128, 128, 0.25, np.random.default_rng(11))
    smooth, middle, textured, exemplar, truth = detail_in(shared, hole_HW)
    # Detail of an example is taken over away from known ground, which strokes are never far from.
    assert smooth < middle < exemplar < textured
    assert smooth < 0.6 * truth < exemplar and 0.7 * truth < textured < 1.3 * truth


def test_in_a_square_an_example_brings_the_detail_of_the_ground(shared: Path):
    hole_HW = np.zeros((128, 128), dtype=bool)
    hole_HW[32:96, 32:96] = True
    smooth, middle, _, exemplar, truth = detail_in(shared, hole_HW)
    assert smooth < middle < 0.3 * truth and 0.7 * truth < exemplar < 1.3 * truth
