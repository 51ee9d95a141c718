"""Small rasters for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from igll.geo.cells import CellGrid, cell_side
from igll.geo.pixel_class import PixelClass


def write_raster(path: Path, values_CHW: np.ndarray, **options) -> Path:
    """A GeoTIFF with a coordinate system, of pixels of 10 m."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values_CHW.shape
    keys = {
        "driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values_CHW.dtype,
        "crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10),
    } | options  # fmt: skip
    with rasterio.open(path, "w", **keys) as target:
        target.write(values_CHW)
    return path


def grid_of(missing_HW: np.ndarray, void_HW: np.ndarray | None = None) -> CellGrid:
    """The cells of a mask, counted one by one."""
    height, width = missing_HW.shape
    side = cell_side(height, width)
    known_HW = ~missing_HW if void_HW is None else ~missing_HW & ~void_HW
    shape = (-(-height // side), -(-width // side))
    hole_YX, known_YX = np.zeros(shape, bool), np.zeros(shape, bool)
    for row in range(shape[0]):
        for column in range(shape[1]):
            cell = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
            hole_YX[row, column] = missing_HW[cell].any()
            known_YX[row, column] = known_HW[cell].any()
    return CellGrid(side, height, width, hole_YX, known_YX)


def classes_of(missing_HW: np.ndarray) -> np.ndarray:
    return np.where(missing_HW, PixelClass.HOLE, PixelClass.KNOWN).astype(np.uint8)


def smooth_scene(height: int, width: int, bands: int, seed: int = 0) -> np.ndarray:
    """Gentle hills, different in every band: values_CHW in [0, 1], float64."""
    rng = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[:height, :width]
    waves = []
    for _ in range(bands):
        phase, length = rng.uniform(0, 6, 4), rng.uniform(60, 200, 4)
        terms = [
            np.sin(y_HW / length[0] + phase[0]), np.sin(x_HW / length[1] + phase[1]),
            np.sin((x_HW + y_HW) / length[2] + phase[2]), np.sin((x_HW - y_HW) / length[3] + phase[3]),
        ]  # fmt: skip
        waves.append(0.5 + sum(terms) / 9)
    return np.stack(waves)
