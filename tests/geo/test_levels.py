from __future__ import annotations

import numpy as np
import pytest

from igll.geo.box import Box
from igll.geo.levels import FACTOR, Level, read_enlarged, reduce_level, smooth
from igll.geo.pixel_class import PixelClass
from igll.geo.raster import open_quietly
from tests.geo.grounds import classes_of, smooth_scene, write_raster


def make_level(folder, size, bands=(1, 2)):
    values_CHW = (smooth_scene(*size, 3) * 60_000).astype(np.uint16)
    missing_HW = np.zeros(size, bool)
    missing_HW[5:18, 7:22] = True
    class_HW = classes_of(missing_HW)
    class_HW[-5:] = PixelClass.VOID
    level = Level(
        write_raster(folder / "values.tif", values_CHW), write_raster(folder / "c.tif", class_HW[None]), bands
    )
    return level, values_CHW, class_HW


@pytest.mark.parametrize("size", [(40, 32), (41, 35)])
def test_a_coarser_level_is_the_mean_of_known_pixels(tmp_path, monkeypatch, size):
    monkeypatch.setattr("igll.geo.levels._BLOCK", 16)
    level, values_CHW, class_HW = make_level(tmp_path, size, bands=(1, 3))
    coarse = reduce_level(level, tmp_path)
    with open_quietly(coarse.values) as values, open_quietly(coarse.classes) as classes:
        mean_CHW, coarse_HW = values.read(), classes.read(1)
    assert mean_CHW.shape == (2, -(-size[0] // 4), -(-size[1] // 4))
    for row, column in np.ndindex(*coarse_HW.shape):
        cell = np.s_[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        known_HW = class_HW[cell] == PixelClass.KNOWN
        if known_HW.any():
            assert coarse_HW[row, column] == PixelClass.KNOWN
            for band, source in enumerate((0, 2)):
                expected = values_CHW[source][cell][known_HW].mean()
                assert mean_CHW[band, row, column] == pytest.approx(expected, rel=1e-6)
        else:
            assert coarse_HW[row, column] == PixelClass.HOLE
    assert coarse.bands == (1, 2)
    assert coarse.number == 1


def test_a_level_that_is_there_is_not_made_again(tmp_path):
    level, _, _ = make_level(tmp_path, (40, 32))
    coarse = reduce_level(level, tmp_path)
    before = coarse.values.stat().st_mtime_ns
    assert reduce_level(level, tmp_path) == coarse
    assert coarse.values.stat().st_mtime_ns == before


def test_enlarging_keeps_a_plane_in_place(tmp_path):
    y_HW, x_HW = np.mgrid[:64, :96].astype(np.float32)
    plane_HW = 3 * y_HW + 2 * x_HW
    small_HW = plane_HW.reshape(16, 4, 24, 4).mean((1, 3))
    path = write_raster(tmp_path / "coarse.tif", small_HW[None])
    box = Box(16, 20, 48, 72)
    assert np.allclose(read_enlarged(path, box)[0], plane_HW[box.within(Box(0, 0, 64, 96))], atol=1e-3)
    # at the border the last cell is all there is to go by
    whole_HW = read_enlarged(path, Box(0, 0, 64, 96))[0]
    assert np.abs(whole_HW - plane_HW).max() <= 3 * 1.5 + 2 * 1.5


def test_smoothing_keeps_means_and_planes():
    plane_1HW = np.add.outer(np.arange(40.0), np.arange(40.0)).astype(np.float32)[None]
    inner = np.s_[:, FACTOR:-FACTOR, FACTOR:-FACTOR]
    assert np.allclose(smooth(plane_1HW)[inner], plane_1HW[inner], atol=1e-4)
    noise_1HW = np.random.default_rng(0).random((1, 37, 41), np.float32)
    assert smooth(noise_1HW).shape == noise_1HW.shape
    assert smooth(noise_1HW).std() < noise_1HW.std() / 2
