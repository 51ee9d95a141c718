from __future__ import annotations

import numpy as np
import pytest
import rasterio

from igll.geo.layout import is_kept_as_it_is
from tests.geo.grounds import write_raster

VALUES_CHW = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, 64, 64)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, True),
        ({"compress": "deflate", "tiled": True, "blockxsize": 32, "blockysize": 32}, True),
        ({"compress": "jpeg"}, False),
        ({"driver": "PNG"}, False),
        ({"driver": "COG"}, False),
    ],
)
def test_only_plain_lossless_geotiffs_are_copied_byte_by_byte(tmp_path, options, kept):
    with rasterio.open(write_raster(tmp_path / "a.tif", VALUES_CHW, **options)) as dataset:
        assert is_kept_as_it_is(dataset) == kept


def test_what_would_leave_holes_in_the_file_is_laid_out_anew(tmp_path):
    path = write_raster(tmp_path / "a.tif", VALUES_CHW)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2])
    with rasterio.open(path) as dataset:
        assert not is_kept_as_it_is(dataset)


@pytest.mark.parametrize("endianness", ["little", "big"])
@pytest.mark.parametrize(("bigtiff", "kept"), [("yes", True), ("no", False)])
def test_a_large_file_has_to_be_able_to_grow(tmp_path, monkeypatch, endianness, bigtiff, kept):
    monkeypatch.setattr("igll.geo.layout._CLASSIC_LIMIT", 0)
    path = write_raster(tmp_path / "a.tif", VALUES_CHW, bigtiff=bigtiff, endianness=endianness)
    with rasterio.open(path) as dataset:
        assert is_kept_as_it_is(dataset) == kept
