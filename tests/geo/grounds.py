"""Small rasters for the tests of this folder: noise, hills, blobs, and what is missing in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from igll.geo.cells import CellGrid, cell_side
from igll.geo.pixel_class import PixelClass

UTM = "EPSG:32618"
WEST, NORTH, PIXEL = 400_000.0, 4_500_000.0, 10.0


def grid(west: float = WEST, north: float = NORTH, pixel: float = PIXEL) -> Any:
    from rasterio.transform import Affine

    return Affine(pixel, 0, west, 0, -pixel, north)


def write_raster(path: Path, values: np.ndarray, **options: Any) -> Path:
    """Write (C, H, W) or (H, W), and a mask if one is given, on ``grid()`` unless told otherwise."""
    from igll.geo.raster import open_quietly

    values_CHW = values if values.ndim == 3 else values[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    keys: dict[str, Any] = {
        "driver": "GTiff", "crs": UTM, "transform": grid(), "tiled": True, "blockxsize": 64, "blockysize": 64,
    } | options  # fmt: skip
    mask_HW = keys.pop("mask", None)
    count, height, width = values_CHW.shape
    shape = {"count": count, "height": height, "width": width}
    with open_quietly(path, "w", dtype=values_CHW.dtype, **shape, **keys) as target:
        target.write(values_CHW)
        if mask_HW is not None:
            target.write_mask(mask_HW)
    return path


def load(path: Path) -> np.ndarray:
    """First band."""
    from igll.geo.raster import open_quietly

    with open_quietly(path) as source:
        return source.read(1)


def write_classes(path: Path, class_HW: np.ndarray) -> Path:
    return write_raster(path, class_HW.astype(np.uint8), compress="deflate")


def blobs(shape: tuple[int, int], seed: int, share: float = 0.1) -> np.ndarray:
    """A patchy boolean array."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return noise > np.quantile(noise, 1 - share)


def ground(shape: tuple[int, ...], seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    """Noise from 1 to 200."""
    return np.random.default_rng(seed).integers(1, 201, size=shape).astype(dtype)


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
