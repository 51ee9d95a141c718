from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

from igll.errors import InputError
from igll.geo.raster import open_raster, reading
from tests.geo.grounds import ground, write_raster

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
    path = write_raster(tmp_path / "a.tif", ground((20, 30)))
    with pytest.raises(KeyError), open_raster(path), reading(path):
        raise KeyError("x")


def test_reading_a_file_cut_short(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", ground((200, 300)))
    path.write_bytes(path.read_bytes()[:-40_000])
    with (
        pytest.raises(InputError, match="damaged or cut short") as error,
        open_raster(path) as dataset,
        reading(path),
    ):
        dataset.read()
    assert str(error.value).startswith(f"{path}: cannot be read (")


@pytest.mark.parametrize(
    "name", ["zip:a.tif", "http:a.tif", "file:a.tif", "GTIFF_DIR:1:a.tif", "zip:b/a.tif"]
)
def test_a_file_whose_name_says_something_else_to_gdal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    write_raster(tmp_path / "a.tif", ground((20, 30))).rename(tmp_path / name)
    with open_raster(path) as dataset:
        assert dataset.shape == (20, 30)
    write_raster(path.with_name("made.tif"), ground((20, 30)))
    assert path.with_name("made.tif").is_file()
    with pytest.raises(InputError, match=r"no such file"), open_raster(Path("zip:absent.tif")):
        pass


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.tif")
    with pytest.raises(InputError, match=r"has a name that is not UTF-8.*rename it"), open_raster(path):
        pass


def test_rasterio_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(InputError, match=r'pip install "igll\[geo\]"'), open_raster(tmp_path / "a.tif"):
        pass
