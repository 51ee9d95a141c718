from __future__ import annotations

import numpy as np
import pytest

from igll.errors import InputError
from igll.geo.pixel_class import PixelClass
from igll.geo.scaling import Scaling, full_scaling, percentile_scaling
from tests.geo.grounds import classes_of, write_raster


def test_there_and_back_is_exact_between_the_limits():
    rng = np.random.default_rng(0)
    scaling = Scaling((-3.0, 100.0), (7.5, 65_000.0))
    values_CHW = np.stack([rng.uniform(-3, 7.5, (30, 40)), rng.uniform(100, 65_000, (30, 40))])
    unit_CHW = scaling.to_unit(values_CHW)
    assert unit_CHW.min() >= 0
    assert unit_CHW.max() <= 1
    assert np.allclose(
        scaling.from_unit(unit_CHW), values_CHW, rtol=0, atol=np.array([1e-6, 5e-3])[:, None, None]
    )
    whole = np.arange(100, 65_000, dtype=np.uint16).reshape(1, -1, 25)
    one = Scaling((100.0,), (65_000.0,))
    assert np.array_equal(np.rint(one.from_unit(one.to_unit(whole))), whole)
    assert scaling.to_unit(np.array([[[-100.0]], [[1e9]]])).ravel().tolist() == [0.0, 1.0]


def test_percentiles_are_those_of_known_finite_pixels(tmp_path):
    rng = np.random.default_rng(0)
    values_CHW = rng.normal(50, 9, (2, 60, 70)).astype(np.float32)
    class_HW = np.full((60, 70), PixelClass.KNOWN, np.uint8)
    class_HW[:30] = PixelClass.HOLE
    class_HW[:, :9] = PixelClass.VOID
    values_CHW[:, class_HW != PixelClass.KNOWN] = 1e6
    values_CHW[1, 40, 40] = np.nan
    scene = write_raster(tmp_path / "scene.tif", values_CHW)
    classes = write_raster(tmp_path / "classes.tif", class_HW[None])
    scaling = percentile_scaling(scene, classes, (2,), 1.0)
    sample = values_CHW[1][(class_HW == PixelClass.KNOWN) & np.isfinite(values_CHW[1])].astype(float)
    low, high = np.percentile(sample, (1, 99))
    assert scaling.low_C[0] == pytest.approx(low - 0.05 * (high - low))
    assert scaling.high_C[0] == pytest.approx(high + 0.05 * (high - low))


@pytest.mark.parametrize("resampling", ["nearest", "average"])
def test_overviews_do_not_bring_missing_values_into_the_percentiles(tmp_path, monkeypatch, resampling):
    import rasterio
    from rasterio.enums import Resampling

    monkeypatch.setattr("igll.geo.scaling._SAMPLE", 64)
    row, column = np.indices((256, 256))
    values_HW = (1000 + row + column).astype(np.int16)
    missing_HW = (row + column) % 7 < 2
    values_HW[missing_HW] = -9999
    scene = write_raster(tmp_path / "scene.tif", values_HW, nodata=-9999)
    with rasterio.open(scene, "r+") as target:
        target.build_overviews([2, 4], Resampling[resampling])
    classes = write_raster(tmp_path / "classes.tif", classes_of(missing_HW))
    scaling = percentile_scaling(scene, classes, (1,), 0.0)
    sample_N = values_HW[::4, ::4][~missing_HW[::4, ::4]].astype(float)
    room = 0.05 * float(np.ptp(sample_N))
    assert scaling.low_C[0] == pytest.approx(sample_N.min() - room)
    assert scaling.high_C[0] == pytest.approx(sample_N.max() + room)


@pytest.mark.parametrize("value", [0, 1e-5, 7, 273.15, 1e6, -3000])
def test_of_a_constant_band_only_the_constant_comes_back(tmp_path, value):
    """But for a few pixels, which percentiles leave out; in the precision that the raster has."""
    values_1HW = np.full((1, 40, 40), value, np.float32)
    values_1HW[0, 3, 3:6] = value + 1
    scene = write_raster(tmp_path / "scene.tif", values_1HW)
    classes = write_raster(tmp_path / "classes.tif", np.zeros((1, 40, 40), np.uint8))
    scaling = percentile_scaling(scene, classes, (1,), 0.5)
    unit_1HW = scaling.to_unit(values_1HW)
    assert np.isfinite(unit_1HW).all()
    for made in (unit_1HW, unit_1HW + 0.3, np.ones_like(unit_1HW)):
        assert (scaling.from_unit(made.clip(0, 1)).astype(np.float32) == np.float32(value)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ends", [(-1.7e308, 1.7e308), (np.finfo(float).max,) * 2, (-1.797e308, 5.0)])
def test_a_span_that_cannot_be_counted_with_is_refused(tmp_path, ends):
    values_1HW = np.full((1, 40, 40), ends[1])
    values_1HW[0, ::3] = ends[0]
    scene = write_raster(tmp_path / "scene.tif", values_1HW)
    classes = write_raster(tmp_path / "classes.tif", np.zeros((1, 40, 40), np.uint8))
    with pytest.raises(
        InputError, match=r"scene\.tif: known values reach from .*, too far to count with; mark"
    ):
        percentile_scaling(scene, classes, (1,), 0.5)


def test_the_full_range_of_a_type(tmp_path):
    missing_HW = np.eye(4, dtype=bool)
    classes = write_raster(tmp_path / "classes.tif", classes_of(missing_HW))
    deep = write_raster(tmp_path / "deep.tif", np.zeros((2, 4, 4), np.uint16))
    assert full_scaling(deep, classes, (1, 2)) == Scaling((0.0, 0.0), (65535.0, 65535.0))
    real = write_raster(tmp_path / "real.tif", np.zeros((1, 4, 4), np.float32))
    assert full_scaling(real, classes, (1,)) == Scaling((0.0,), (1.0,))
    signed = write_raster(tmp_path / "signed.tif", np.where(missing_HW, -9999, 5)[None].astype(np.int16))
    assert full_scaling(signed, classes, (1,)) == Scaling((0.0,), (32767.0,))
    below = write_raster(tmp_path / "below.tif", np.full((1, 4, 4), -5, np.int16))
    with pytest.raises(InputError, match=r"below\.tif: known values reach down to -5, .*--stretch"):
        full_scaling(below, classes, (1,))
    wide = write_raster(tmp_path / "wide.tif", np.zeros((1, 4, 4), np.int32))
    with pytest.raises(InputError, match=r"wide\.tif: values of int32 .*--stretch"):
        full_scaling(wide, classes, (1,))
