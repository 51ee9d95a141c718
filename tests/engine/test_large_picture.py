"""Large pictures: cut as scenes are, filled with the same values, everything else kept."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio.errors import RasterioIOError

from igll.engine.infer import InferRequest, infer
from igll.engine.infer_plan import Inputs
from igll.engine.large_picture import LARGE, fills_in_tiles
from igll.engine.scene import SceneOptions
from igll.engine.tiles import TileStore
from igll.errors import OutputError
from igll.geo.holes import HoleSources
from igll.geo.tiling import TileSizes

HEIGHT, WIDTH = 210, LARGE + 46
RNG = np.random.default_rng(6)
SMOOTH = Image.fromarray(RNG.integers(30, 226, (7, 30, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
COLOUR = np.asarray(SMOOTH)
HOLE = np.zeros((HEIGHT, WIDTH), bool)
HOLE[20:60, 30:70] = HOLE[5:205, 500:800] = True  # one that fits into a frame, and one that is cut
SCENES = SceneOptions(HoleSources(), TileSizes(192, 32))


def request(folder: Path, image: Path, out: str, **changes) -> InferRequest:
    inputs = Inputs([image], folder / out, folder / "mask.png")
    return InferRequest(inputs, **{"method": "harmonic", "scenes": SCENES, "hole": "white"} | changes)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    Image.fromarray(HOLE).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def picture(folder: Path, mode: str) -> Path:
    image = SMOOTH.quantize(40) if mode == "P" else SMOOTH.convert(mode)
    image.save(folder / "image.png")
    return folder / "image.png"


@pytest.mark.usefixtures("mask")
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_filled_with_the_values_of_the_same_scene(tmp_path: Path, mode: str):
    image = picture(tmp_path, mode)
    SMOOTH.convert(mode).save(tmp_path / "scene.tif")
    full = SceneOptions(HoleSources(), SCENES.sizes, stretch="full")
    assert infer(request(tmp_path, image, "filled.png")) == 0
    assert infer(request(tmp_path, tmp_path / "scene.tif", "filled.tif", scenes=full)) == 0
    filled, scene = (np.asarray(Image.open(tmp_path / f"filled.{end}")) for end in ("png", "tif"))
    assert np.array_equal(filled, scene)
    assert np.array_equal(filled[~HOLE], np.asarray(SMOOTH.convert(mode))[~HOLE])
    assert (filled[HOLE] != np.asarray(SMOOTH.convert(mode))[HOLE]).mean() > 0.5


@pytest.mark.usefixtures("mask")
@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1"])
def test_every_mode_keeps_its_known_pixels(tmp_path: Path, mode: str):
    assert infer(request(tmp_path, picture(tmp_path, mode), "filled.png")) == 0
    before, after = Image.open(tmp_path / "image.png"), Image.open(tmp_path / "filled.png")
    assert after.mode == before.mode
    assert np.array_equal(np.asarray(after)[~HOLE], np.asarray(before)[~HOLE])
    grey = np.asarray(after.convert("RGB").convert("L"))
    # A membrane is near what is around it, but for dots that become one of two colours.
    assert mode == "1" or abs(grey[HOLE].mean() - grey[~HOLE].mean()) < 25


@pytest.mark.usefixtures("mask")
def test_the_weights_that_ship_fill_one_in_a_folder_of_its_own(tmp_path: Path):
    image = picture(tmp_path, "RGB")
    small = np.zeros_like(HOLE)
    small[20:40, 30:60] = True
    Image.fromarray(small).save(tmp_path / "mask.png")
    assert infer(request(tmp_path, image, "out/deep", method=None, checkpoint="igll-small")) == 0
    filled = np.asarray(Image.open(tmp_path / "out/deep/image.png"))
    assert np.array_equal(filled[~small], COLOUR[~small])
    assert np.abs(filled[small].astype(float) - COLOUR[small]).mean() < 12
    assert [path.name for path in (tmp_path / "out/deep").iterdir()] == ["image.png"]


def test_only_what_can_be_cut_is(monkeypatch: pytest.MonkeyPatch):
    large, square = Image.new("RGB", (LARGE + 1, 2)), Image.new("RGB", (LARGE, LARGE))
    assert fills_in_tiles(large) and not fills_in_tiles(square)
    assert not fills_in_tiles(large.convert("F"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not fills_in_tiles(large)


@pytest.mark.usefixtures("mask")
@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("igll.engine.large_picture.new_raster", OSError(28, "No space left on device")),
        ("igll.engine.large_picture.new_raster", RasterioIOError("No space left on device")),
        ("igll.engine.large_picture.fill_scene", OutputError("tiles0: No space left on device")),
    ],
)
def test_a_full_disk_is_one_line_that_names_the_result(tmp_path: Path, monkeypatch, target: str, error):
    image = picture(tmp_path, "RGB")

    def full(*arguments, **options):
        raise error

    monkeypatch.setattr(target, full)
    with pytest.raises(OutputError, match=r"filled\.png: its tiles cannot .*No space left on device"):
        infer(request(tmp_path, image, "filled.png"))
    assert not (tmp_path / "filled.png").exists()


@pytest.mark.usefixtures("mask")
def test_what_was_interrupted_goes_on_and_leaves_nothing(tmp_path: Path, monkeypatch, capsys):
    image = picture(tmp_path, "RGB")
    assert infer(request(tmp_path, image, "whole.png")) == 0
    put, puts = TileStore.put, []

    def interrupted(store, tile, filling):
        puts.append(tile)
        if len(puts) == 4:
            raise KeyboardInterrupt
        put(store, tile, filling)

    monkeypatch.setattr(TileStore, "put", interrupted)
    with pytest.raises(SystemExit, match="130"):
        infer(request(tmp_path, image, "filled.png"))
    assert "error: interrupted; run the same command again to go on" in capsys.readouterr().err
    assert infer(request(tmp_path, image, "filled.png")) == 0
    assert (tmp_path / "filled.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    again = len(puts)
    assert infer(request(tmp_path, image, "filled.png")) == 0
    assert again - 4 == len(puts) - again - 3  # three tiles were there already
    names = ["filled.png", "image.png", "mask.png", "whole.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
