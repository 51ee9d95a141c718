"""Small rasters for tests, in blocks that are smaller than they are."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

UTM = "EPSG:32618"
WEST, NORTH, PIXEL = 400_000.0, 4_500_000.0, 10.0


def grid(west: float = WEST, north: float = NORTH, pixel: float = PIXEL) -> Any:
    from rasterio.transform import from_origin

    return from_origin(west, north, pixel, pixel)


def save(path: Path, bands: np.ndarray, **options: Any) -> Path:
    """Write (bands, height, width) or (height, width); georeferenced unless ``crs=None`` is given."""
    import rasterio

    bands = np.atleast_3d(bands) if bands.ndim == 3 else bands[None]
    options = {"crs": UTM, "transform": grid(), "tiled": True, "blockxsize": 64, "blockysize": 64} | options
    mask = options.pop("mask", None)
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", dtype=bands.dtype, **shape, **options) as target:
            target.write(bands)
            if mask is not None:
                target.write_mask(mask)
    return path


def load(path: Path) -> np.ndarray:
    """First band."""
    import rasterio

    with rasterio.open(path) as source:
        return source.read(1)


def blobs(shape: tuple[int, int], seed: int, share: float = 0.1) -> np.ndarray:
    """A patchy boolean array."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return noise > np.quantile(noise, 1 - share)


def ground(shape: tuple[int, ...], seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    """Values from 1 to 200."""
    return np.random.default_rng(seed).integers(1, 201, size=shape).astype(dtype)
