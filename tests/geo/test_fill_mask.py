from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rasterio", reason="scenes need rasterio")

from igll.errors import InputError
from igll.geo.fill_mask import write_fill_mask
from igll.geo.raster import open_quietly
from tests.geo.grounds import ground, write_classes, write_raster

ROTATED_POLE = "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=30 +lon_0=10 +R=6371000"


def test_a_crs_that_only_a_side_file_holds_is_the_masks_too(tmp_path: Path):
    filled = write_raster(tmp_path / "out.tif", ground((40, 50)), crs=ROTATED_POLE)
    assert (tmp_path / "out.tif.aux.xml").exists()
    classes = write_classes(tmp_path / "classes.tif", np.zeros((40, 50)))
    write_fill_mask(classes, tmp_path / "mask.tif", {}, filled=filled)
    with open_quietly(filled) as copy, open_quietly(tmp_path / "mask.tif") as mask:
        assert mask.crs is not None and mask.crs == copy.crs


def test_a_result_whose_name_is_not_utf_8_is_refused_by_that_name(tmp_path: Path):
    classes = write_classes(tmp_path / "classes.tif", np.zeros((40, 50)))
    out = tmp_path / os.fsdecode(b"\xff.tif")
    with pytest.raises(InputError) as error:
        write_fill_mask(classes, out, {})
    assert str(error.value).startswith(f"{out}: has a name that is not UTF-8")
