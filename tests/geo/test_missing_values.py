from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from igll.geo.box import Box
from igll.geo.missing_values import data_bands, missing_values
from igll.geo.raster import open_raster
from tests.geo.grounds import blobs, ground, write_raster

pytest.importorskip("rasterio")

SHAPE = (90, 130)
BOX = Box(10, 20, 80, 120)
PLACE = BOX.within(Box(0, 0, *SHAPE))


def missing_in(path: Path) -> np.ndarray:
    with open_raster(path) as dataset:
        return missing_values(dataset, data_bands(dataset), BOX)


def test_nodata_band_by_band(tmp_path: Path) -> None:
    bands = ground((2, *SHAPE), dtype="int16")
    bands[0, blobs(SHAPE, 1)] = -7
    bands[1, blobs(SHAPE, 2)] = -7
    path = write_raster(tmp_path / "a.tif", bands, nodata=-7)
    expected = np.stack([band[PLACE] == -7 for band in bands])
    assert (missing_in(path) == expected).all()


@pytest.mark.parametrize("nodata", [None, np.nan, -9999.1, -3.4028234663852886e38])
def test_floats(nodata: float | None, tmp_path: Path) -> None:
    """NaN and infinities are missing whether or not they are declared."""
    band = ground(SHAPE, dtype="float32")
    holes = [blobs(SHAPE, seed) for seed in (1, 2, 3)]
    band[holes[0]], band[holes[1]] = np.nan, np.inf
    expected = holes[0] | holes[1]
    if nodata is not None:
        band[holes[2]] = nodata
        expected |= holes[2]
    path = write_raster(tmp_path / "a.tif", band, nodata=nodata)
    assert (missing_in(path)[0] == expected[PLACE]).all()


@pytest.mark.parametrize("internal", [True, False])
def test_dataset_mask_and_nodata_together(internal: bool, tmp_path: Path) -> None:
    import rasterio

    band = ground(SHAPE)
    band[blobs(SHAPE, 1)] = 0
    masked = blobs(SHAPE, 2)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write_raster(tmp_path / "a.tif", np.stack([band, band]), nodata=0, mask=~masked)
    assert (tmp_path / "a.tif.msk").exists() != internal
    assert (missing_in(path) == ((band == 0) | masked)[PLACE]).all()


@pytest.mark.parametrize("nodata", [None, 5])
def test_alpha(nodata: int | None, tmp_path: Path) -> None:
    """What is half transparent has a value; alpha itself is no data band."""
    bands = ground((4, *SHAPE))
    bands[3] = 255
    bands[3, blobs(SHAPE, 1)] = 0
    bands[3, blobs(SHAPE, 2) & (bands[3] > 0)] = 100
    path = write_raster(tmp_path / "a.tif", bands, photometric="RGB", alpha="yes", nodata=nodata)
    expected = np.repeat((bands[3] == 0)[None], 3, axis=0) | (bands[:3] == (nodata or 0))
    with open_raster(path) as dataset:
        assert data_bands(dataset) == (1, 2, 3)
        assert data_bands(dataset, quality_band=2) == (1, 3)
    assert (missing_in(path) == np.stack([band[PLACE] for band in expected])).all()


def test_without_an_account_nothing_is_missing(tmp_path: Path) -> None:
    assert not missing_in(write_raster(tmp_path / "a.tif", np.zeros((2, *SHAPE), dtype=np.uint16))).any()
