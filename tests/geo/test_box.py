from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igll.geo import box
from igll.geo.box import Box, stored_blocks, strips, working_side
from igll.geo.raster import open_raster
from tests.geo.grounds import ground, write_raster

pytest.importorskip("rasterio")

HEIGHT, WIDTH = 150, 170
SCENE = Box(0, 0, HEIGHT, WIDTH)
ROWS = {"tiled": False, "blockxsize": None}


def test_boxes_and_windows() -> None:
    part = Box(2, 3, 6, 8)
    wide = part.grown(3, 8, 9)
    assert wide == Box(0, 0, 8, 9)
    whole = np.arange(2 * 72).reshape(2, 8, 9)
    assert (whole[wide.within(wide)][part.within(wide)] == whole[:, 2:6, 3:8]).all()
    assert (whole[0][part.within(wide)] == whole[0, 2:6, 3:8]).all()
    assert part.window().toslices() == (slice(2, 6), slice(3, 8))
    assert Box.of(part.window()) == part


@pytest.mark.parametrize("stored", [ROWS | {"blockysize": 1}, ROWS | {"blockysize": HEIGHT}, {}])
@pytest.mark.parametrize("memory", [1, 80_000, 2**30])
def test_whole_blocks_cover_a_raster_once_within_memory(
    tmp_path: Path, stored: dict[str, Any], memory: int
) -> None:
    covered_HW = np.zeros((HEIGHT, WIDTH), int)
    path = write_raster(tmp_path / "scene.tif", ground((3, HEIGHT, WIDTH)), **stored)
    with open_raster(path) as raster:
        height, width = raster.block_shapes[0]
        for part in stored_blocks(raster, memory=memory):
            covered_HW[part.within(SCENE)] += 1
            assert part.area * 24 <= max(memory, height * width * 24)
            assert part.top % height == part.left % width == 0
    assert (covered_HW == 1).all()


@pytest.mark.parametrize("stored", [{}, ROWS | {"blockysize": 5}, ROWS | {"blockysize": 200}])
def test_strips_in_parts_cover_each_pixel_once_and_are_small(
    stored: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "STRIP", 64)
    path = write_raster(tmp_path / "a.tif", ground((3, 200, 330)), **stored)
    covered_HW = np.zeros((200, 330), dtype=int)
    with open_raster(path) as raster:
        for strip in strips(*raster.shape):
            assert strip.width == 330
            for part in stored_blocks(raster, strip, memory=24 * 64 * 80):
                covered_HW[part.within(Box(0, 0, 200, 330))] += 1
                assert part.area <= 64 * 80
                assert part.intersection(strip) == part
                assert part.width == 330 or not stored
    assert (covered_HW == 1).all()


@pytest.mark.parametrize(("bands", "side"), [(1, 1024), (8, 1024), (9, 512), (224, 128), (5000, 128)])
def test_parts_of_many_bands_are_smaller(bands, side):
    assert working_side(bands, 1024) == side
