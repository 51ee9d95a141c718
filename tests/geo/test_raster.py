from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igll.errors import InputError
from igll.geo import raster
from igll.geo.raster import Area, open_raster, pieces, reading, strips
from tests.geo.rasters import ground, save

pytest.importorskip("rasterio")


def test_a_plain_picture_opens_without_a_warning(tmp_path: Path) -> None:
    Image.fromarray(ground((20, 30))).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_raster(tmp_path / "a.png") as dataset:
            assert dataset.shape == (20, 30)


def test_opening_tells_what_is_wrong_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    for name, message in (("absent.tif", "no such file"), ("text.tif", "cannot be opened as a raster")):
        with pytest.raises(InputError) as error, open_raster(tmp_path / name):
            pass
        assert str(error.value).startswith(f"{tmp_path / name}: {message}")
        assert "\n" not in str(error.value)


def test_an_error_in_the_block_is_left_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", ground((20, 30)))
    with pytest.raises(KeyError), open_raster(path), reading(path):
        raise KeyError("x")


def test_reading_a_file_cut_short(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", ground((200, 300)))
    path.write_bytes(path.read_bytes()[:-40_000])
    with (
        pytest.raises(InputError, match="damaged or cut short") as error,
        open_raster(path) as dataset,
        reading(path),
    ):
        dataset.read()
    assert str(error.value).startswith(f"{path}: cannot be read (")


def test_rasterio_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(InputError, match=r'pip install "igll\[geo\]"'), open_raster(tmp_path / "a.tif"):
        pass


@pytest.mark.parametrize("tiled", [True, False])
def test_pieces_cover_each_pixel_once_and_are_small(
    tiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raster, "STRIP", 64)
    monkeypatch.setattr(raster, "_PIECE_BYTES", 8 * 3 * 64 * 80)
    layout = {} if tiled else {"tiled": False, "blockxsize": None, "blockysize": 5}
    path = save(tmp_path / "a.tif", ground((3, 200, 330)), **layout)
    seen = np.zeros((200, 330), dtype=int)
    with open_raster(path) as dataset:
        for strip in strips(*dataset.shape):
            for area in pieces(dataset, strip):
                seen[area.slices] += 1
                assert area.height * area.width <= 64 * 80
                assert (area.width == 330) != tiled
    assert (seen == 1).all()


def test_areas() -> None:
    area = Area(2, 3, 4, 5)
    wide = area.grown(3, 8, 9)
    assert wide == Area(0, 0, 8, 9)
    whole = np.arange(72).reshape(8, 9)
    assert (whole[wide.slices][area.within(wide)] == whole[2:6, 3:8]).all()
    assert area.window == ((2, 6), (3, 8))
