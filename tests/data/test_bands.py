"""Rasters against rasterio's own reading, and what keeps clear of their missing pixels."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igll.data.bands import (
    complete_corners,
    missing_pixels,
    read_bands,
    require_rasterio,
    with_nearest_known,
)
from igll.data.files import read_image
from igll.errors import InputError

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
RNG = np.random.default_rng(3)
SIZE = (23, 31)


def save(path: Path, values_NHW: np.ndarray, nodata: float | None = None, **profile) -> Path:
    count, height, width = values_NHW.shape
    shape = {"count": count, "height": height, "width": width, "dtype": values_NHW.dtype, "nodata": nodata}
    profile = {"driver": "GTiff", "photometric": "MINISBLACK", "alpha": "NO", **profile}
    with rasterio.open(path, "w", **shape, **profile) as raster:
        raster.write(values_NHW)
    return path


def levels(dtype: str, count: int = 4, low: int = 0, high: int | None = None) -> np.ndarray:
    high = np.iinfo(dtype).max if high is None else high
    return RNG.integers(low, high, (count, *SIZE), dtype=dtype, endpoint=True)


@pytest.mark.parametrize("count", [1, 2, 4, 6, 64])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_integers_are_shares_of_their_full_scale(tmp_path, count, dtype, interleave):
    path = save(tmp_path / "a.tif", levels(dtype, count), interleave=interleave)
    image = read_bands(path, count)
    with rasterio.open(path) as raster:
        wanted = raster.read().transpose(1, 2, 0) / {"uint8": 255, "uint16": 65535, "int16": 32767}[dtype]
    assert image.dtype == np.float32 and image.shape == (*SIZE, count)
    np.testing.assert_array_equal(image, wanted.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_taken_as_they_are(tmp_path, dtype):
    values = RNG.random((6, *SIZE)).astype(dtype)
    image = read_bands(save(tmp_path / "a.tif", values), 6)
    np.testing.assert_array_equal(image, values.transpose(1, 2, 0).astype(np.float32))


@pytest.mark.parametrize(
    ("values", "stretch"),
    [
        (levels("uint16", high=12_000), [500, 10_000]),
        (levels("int16", low=-300, high=9_000), [-100, 8_000.5]),
        (levels("int32", low=-(10**6), high=10**6), [-(10**5), 10**5]),
        (levels("uint8"), [20, 300]),
        (RNG.normal(0.2, 0.3, (4, *SIZE)).astype(np.float32), [0.05, 0.6]),
    ],
)
def test_a_stretch_maps_raw_values_and_clips(tmp_path, values, stretch):
    image = read_bands(save(tmp_path / "a.tif", values), 4, stretch)
    low, high = stretch
    wanted = ((values.transpose(1, 2, 0).astype(np.float64) - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(image, wanted, rtol=0, atol=1e-7)
    assert (image == 0).any()


def test_rgb_of_8_bits_is_what_pillow_reads(tmp_path):
    colour = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    for suffix in ("tif", "png", "bmp"):
        Image.fromarray(colour).save(tmp_path / f"a.{suffix}")
        path = tmp_path / f"a.{suffix}"
        assert np.array_equal(read_bands(path, 3, [0, 255]), read_image(path))


def test_16_bit_colour_keeps_its_16_bits(tmp_path):
    values = levels("uint16", 3)
    path = save(tmp_path / "a.tif", values, photometric="RGB")
    wanted = (values.transpose(1, 2, 0) / 65535).astype(np.float32)
    assert np.array_equal(read_bands(path, 3, [0, 65535]), wanted)


# --- missing pixels


def test_nodata_nan_and_infinity_in_any_band_are_missing(tmp_path):
    values = RNG.uniform(0.1, 1, (4, *SIZE)).astype(np.float32)
    values[0, 2, 3], values[3, 4, 5], values[1, 6, 7] = np.nan, np.inf, -9999
    image = read_bands(save(tmp_path / "a.tif", values, nodata=-9999), 4)
    missing = missing_pixels(image)
    assert missing is not None and np.argwhere(missing).tolist() == [[2, 3], [4, 5], [6, 7]]
    assert np.isnan(image[missing]).all()
    np.testing.assert_array_equal(image[~missing], values.transpose(1, 2, 0)[~missing])


def test_alpha_and_masks_say_what_is_missing_and_are_no_bands(tmp_path):
    values = levels("uint8", 5)
    values[4, 2:5, 7] = 0
    path = save(tmp_path / "alpha.tif", values)
    with rasterio.open(path, "r+") as raster:
        kinds = rasterio.enums.ColorInterp
        raster.colorinterp = [kinds.gray, *[kinds.undefined] * 3, kinds.alpha]
    image = read_bands(path, 4)
    assert np.array_equal(missing_pixels(image), values[4] == 0)

    hidden = np.zeros(SIZE, bool)
    hidden[5:9, 7:] = True
    masked = save(tmp_path / "mask.tif", values[:4])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as raster:
        raster.write_mask(~hidden)
    assert np.array_equal(missing_pixels(read_bands(masked, 4)), hidden)


def test_complete_images_have_no_missing_pixel(tmp_path):
    image = read_bands(save(tmp_path / "a.tif", levels("uint16"), nodata=None), 4)
    assert missing_pixels(image) is None and missing_pixels(np.zeros((3, 3, 4), np.uint8)) is None
    assert with_nearest_known(image) is image


def test_two_and_four_bands_with_alpha_are_heeded_too(tmp_path):
    for mode, count in (("LA", 1), ("RGBA", 3)):
        colour = RNG.integers(0, 256, (*SIZE, count + 1), dtype=np.uint8)
        colour[4:7, 3:, -1] = 0
        Image.fromarray(colour, mode).save(tmp_path / "a.png")
        image = read_bands(tmp_path / "a.png", count, [0, 255])
        assert np.array_equal(missing_pixels(image), colour[..., -1] == 0)


@pytest.mark.parametrize("side", [1, 4, 12])
def test_corners_are_those_of_all_squares_without_a_missing_pixel(side):
    missing = RNG.random((12, 17)) < 0.02
    missing[5, 8] = True
    wanted = [
        [row, column]
        for row in range(12 - side + 1)
        for column in range(17 - side + 1)
        if not missing[row : row + side, column : column + side].any()
    ]
    assert complete_corners(missing, side).tolist() == wanted


def test_the_nearest_known_pixel_stands_in():
    image = np.arange(2 * 5 * 2, dtype=np.float32).reshape(2, 5, 2)
    image[:, 1:3] = np.nan
    filled = with_nearest_known(image)
    assert np.array_equal(filled[:, 1], image[:, 0]) and np.array_equal(filled[:, 2:], image[:, [3, 3, 4]])
    assert not with_nearest_known(np.full((2, 2, 4), np.nan, np.float32)).any()


# --- errors


def refused(path: Path, reason: str, count: int = 4, stretch: list[float] | None = None) -> str:
    with pytest.raises(InputError, match=reason) as error:
        read_bands(path, count, stretch)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_other_numbers_of_bands(tmp_path):
    path = save(tmp_path / "six.tif", levels("uint16", 6))
    refused(path, r"has 6 band\(s\), not 4; set model\.image_channels")
    rgba = Image.fromarray(RNG.integers(0, 256, (*SIZE, 4), dtype=np.uint8))
    rgba.save(tmp_path / "rgba.png")
    refused(tmp_path / "rgba.png", r"has 3 band\(s\) and alpha, not 2", count=2)


def test_a_band_taken_for_alpha_is_explained_and_the_remedy_works(tmp_path):
    values = levels("uint8")
    path = tmp_path / "nir.tif"
    shape = {"count": 4, "height": SIZE[0], "width": SIZE[1], "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape) as raster:  # as GDAL has it if not told otherwise
        raster.write(values)
    message = refused(path, r"has 3 band\(s\) and alpha, not 4; .* else set model\.image_channels=3")
    command = re.search(r"rio (edit-info --colorinterp \S+) on the file", message)
    assert command is not None
    rio = "from rasterio.rio.main import main_group; main_group()"
    subprocess.run([sys.executable, "-c", rio, *command[1].split(), str(path)], check=True)
    assert np.array_equal(read_bands(path, 4), (values.transpose(1, 2, 0) / 255).astype(np.float32))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((4, 3, 3), 1.5, np.float32), r"values span 0 to 1\.5, outside 0 to 1; set data\.stretch"),
        (np.full((4, 3, 3), -9999, np.int16), r"values span -9999 to 0, outside 0 to 32767; set data\.str"),
        (np.ones((4, 3, 3), np.int32), r"of int32 values, full scale says nothing; set data\.stretch"),
        (np.ones((4, 3, 3), np.complex64), "values of type complex64"),
    ],
)
def test_values_of_an_unknown_range(tmp_path, values, reason):
    refused(save(tmp_path / "a.tif", values), reason)


def test_files_that_cannot_be_read(tmp_path):
    refused(tmp_path / "absent.tif", "no such file")
    (tmp_path / "text.tif").write_text("no raster")
    refused(tmp_path / "text.tif", "cannot be read as a raster")
    path = save(tmp_path / "cut.tif", levels("uint16"))
    path.write_bytes(path.read_bytes()[:-2000])
    refused(path, "cannot be read as a raster")


@pytest.mark.parametrize("name", ["zip:tiles/a.tif", "http:a.tif", "GTIFF_DIR:1:a.tif"])
def test_files_whose_names_say_something_else_to_gdal(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    values, path = levels("uint16"), Path(name)
    path.parent.mkdir(exist_ok=True)
    save(tmp_path / "a.tif", values).rename(path)
    assert np.array_equal(read_bands(path, 4), (values.transpose(1, 2, 0) / 65535).astype(np.float32))


def test_files_that_are_too_large_to_be_read_whole(tmp_path, monkeypatch):
    path = save(tmp_path / "a.tif", levels("uint8"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    refused(path, "31×23 pixels are too large .*; cut it into tiles")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 713)
    assert read_bands(path, 4).shape == (*SIZE, 4)


def test_without_rasterio_the_extra_is_named(monkeypatch):
    require_rasterio()
    real = builtins.__import__

    def absent(name, *rest):
        if name == "rasterio":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r'need the package rasterio; pip install "igll\[geo\]"'):
        require_rasterio()


# --- real scenes


def test_real_scenes_of_four_six_and_seven_bands(shared):
    folder = shared / "data" / "geotiff"
    for name, count in (("landsat_series_2015", 4), ("naip_20180716", 4), ("stars_L7_ETMs", 6)):
        image = read_bands(folder / f"{name}.tif", count)
        with rasterio.open(folder / f"{name}.tif") as raster:
            values = raster.read(masked=True)
        known = ~values.mask.any(0) if values.mask.ndim else np.ones(image.shape[:2], bool)
        missing = missing_pixels(image)
        assert np.array_equal(~known, missing if missing is not None else ~known & False)
        wanted = (values.data.transpose(1, 2, 0)[known] / 255).astype(np.float32)
        assert np.array_equal(image[known], wanted)
