"""A reference image as the scene's pixels see it."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.transform import from_origin

from igll.errors import InputError
from igll.geo.box import Box
from igll.geo.reference import open_reference
from tests.geo.grounds import NORTH, UTM, WEST, grid, smooth_scene, write_raster

SIZE = (96, 120)
WHOLE = Box(0, 0, *SIZE)


@pytest.fixture
def scene(tmp_path):
    return write_raster(tmp_path / "scene.tif", np.ones((3, *SIZE), np.uint8))


def seen(path, scene, box=WHOLE, count=3, level=0):
    with open_reference(path, scene, count, level) as reference:
        return reference.read(box)


def spread(values_CHW, valid_HW=None):
    """Each band between its own percentiles, in NumPy."""
    valid_HW = np.ones(values_CHW.shape[1:], bool) if valid_HW is None else valid_HW
    low_C, high_C = np.percentile(values_CHW[:, valid_HW].astype(float), (0.5, 99.5), axis=1)
    return ((values_CHW - low_C[:, None, None]) / (high_C - low_C)[:, None, None]).clip(0, 1)


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_on_the_scenes_own_grid(scene, tmp_path, bands, dtype):
    values_CHW = (smooth_scene(*SIZE, bands) * 200).astype(dtype)
    unit_CHW, missing_HW = seen(write_raster(tmp_path / "r.tif", values_CHW), scene)
    wanted_CHW = spread(values_CHW)[[min(band, bands - 1) for band in range(3)]]
    assert unit_CHW.dtype == np.float32 and not missing_HW.any()
    np.testing.assert_allclose(unit_CHW, wanted_CHW, atol=1e-6)
    box = Box(10, 20, 50, 90)
    part_CHW, _ = seen(tmp_path / "r.tif", scene, box)
    assert np.array_equal(part_CHW, unit_CHW[:, 10:50, 20:90])


def test_missing_values_of_every_kind(scene, tmp_path):
    gap_HW = np.zeros(SIZE, bool)
    gap_HW[20:40, 30:70] = True
    values_CHW = (smooth_scene(*SIZE, 3) * 200 + 20).astype(np.uint8)
    wanted_CHW = spread(values_CHW, ~gap_HW)
    cases = {
        "nodata": ({"nodata": 0}, 0, np.uint8),
        "nan": ({}, np.nan, np.float32),
        "alpha": ({"photometric": "RGB", "alpha": "YES"}, 7, np.uint8),
    }
    for name, (options, filler, dtype) in cases.items():
        given_CHW = np.where(gap_HW, filler, values_CHW).astype(dtype)
        if name == "alpha":
            given_CHW = np.concatenate([given_CHW, (~gap_HW).astype(np.uint8)[None] * 255])
        unit_CHW, missing_HW = seen(write_raster(tmp_path / f"{name}.tif", given_CHW, **options), scene)
        assert np.array_equal(missing_HW, gap_HW), name
        np.testing.assert_allclose(unit_CHW[:, ~gap_HW], wanted_CHW[:, ~gap_HW], atol=1e-6)
        assert (unit_CHW[:, gap_HW] == 0).all()


@pytest.mark.parametrize("nodata", [None, 0])
def test_beyond_its_extent_it_shows_nothing(scene, tmp_path, nodata):
    values_1HW = np.random.default_rng(0).integers(1, 255, (1, *SIZE), dtype=np.uint8)
    place = from_origin(WEST + 40 * 10, NORTH - 30 * 10, 10, 10)
    path = write_raster(tmp_path / "r.tif", values_1HW, transform=place, nodata=nodata)
    unit_CHW, missing_HW = seen(path, scene)
    inside_HW = np.zeros(SIZE, bool)
    inside_HW[30:, 40:] = True
    assert np.array_equal(missing_HW, ~inside_HW)
    shown_1HW = values_1HW[:, : SIZE[0] - 30, : SIZE[1] - 40]
    np.testing.assert_allclose(unit_CHW[:1, 30:, 40:], spread(shown_1HW), atol=1e-6)
    _, missing_HW = seen(path, scene, Box(0, 0, 20, 20))
    assert missing_HW.all()


def test_another_resolution_and_coordinate_system(scene, tmp_path):
    """A bright square stays in its place."""
    from rasterio.warp import transform

    fine_1HW = np.full((1, 2 * SIZE[0], 2 * SIZE[1]), 50, np.uint8)
    fine_1HW[:, 60:100, 80:140] = 200  # rows 30 to 50, columns 40 to 70 of the scene
    square_HW = np.zeros(SIZE, bool)
    square_HW[30:50, 40:70] = True
    path = write_raster(tmp_path / "fine.tif", fine_1HW, transform=grid(pixel=5))
    assert np.array_equal(seen(path, scene)[0][0] > 0.5, square_HW)
    (west, east), (north, south) = transform(
        UTM, "EPSG:4326", [WEST, WEST + 10 * SIZE[1]], [NORTH, NORTH - 10 * SIZE[0]]
    )
    pixel = ((east - west) / fine_1HW.shape[2], (north - south) / fine_1HW.shape[1])
    path = write_raster(
        tmp_path / "degrees.tif", fine_1HW, crs="EPSG:4326", transform=from_origin(west, north, *pixel)
    )
    shown_HW = seen(path, scene)[0][0] > 0.5
    assert (shown_HW != square_HW).sum() < 20  # at most a few pixels along the border


def test_coarser_levels_are_means(scene, tmp_path):
    values_1HW = np.random.default_rng(0).integers(1, 255, (1, *SIZE)).astype(np.float32)
    path = write_raster(tmp_path / "r.tif", values_1HW)
    unit_CHW, missing_HW = seen(path, scene, Box(0, 0, 24, 30), 1, level=1)
    mean_1HW = values_1HW.reshape(1, 24, 4, 30, 4).mean((2, 4))
    assert not missing_HW.any()
    np.testing.assert_allclose(unit_CHW, spread(mean_1HW), atol=1e-5)


def test_without_a_coordinate_system_sizes_decide(scene, tmp_path):
    values_1HW = (smooth_scene(*SIZE, 1) * 200).astype(np.uint8)
    bare = write_raster(tmp_path / "bare.tif", values_1HW, crs=None, transform=None)
    np.testing.assert_allclose(seen(bare, scene, count=1)[0], spread(values_1HW), atol=1e-6)
    small = write_raster(tmp_path / "small.tif", values_1HW[:, 1:], crs=None, transform=None)
    with pytest.raises(InputError, match=r"small\.tif: 120×95 pixels without a common coordinate system"):
        seen(small, scene)


@pytest.mark.parametrize("nodata", [None, 0])
def test_elsewhere_or_empty_is_refused(scene, tmp_path, nodata):
    values_1HW = np.full((1, *SIZE), 9, np.uint8)
    far = from_origin(WEST + 400_000, NORTH, 10, 10)
    path = write_raster(tmp_path / "far.tif", values_1HW, nodata=nodata, transform=far)
    with pytest.raises(InputError, match=r"far\.tif: shows no part of the scene"):
        seen(path, scene)
    empty = write_raster(tmp_path / "empty.tif", values_1HW * 0, nodata=0)
    with pytest.raises(InputError, match=r"empty\.tif: shows no part of the scene"):
        seen(empty, scene)


def test_a_constant_reference_is_dark(scene, tmp_path):
    unit_CHW, missing_HW = seen(write_raster(tmp_path / "r.tif", np.full((1, *SIZE), 9, np.uint8)), scene)
    assert (unit_CHW == 0).all() and not missing_HW.any()
