"""Opening rasters and reading them, with failures in the user's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from igll.errors import InputError
from igll.geo.gdal_session import import_rasterio, one_line, open_quietly


@contextmanager
def open_raster(path: Path) -> Iterator[Any]:
    """A raster opened for reading, closed at the end of the block.

    Raises:
        InputError: It is absent or no raster.
    """
    rasterio = import_rasterio()
    try:
        dataset = open_quietly(path)
    except rasterio.errors.RasterioError as error:
        raise InputError(f"{path}: cannot be opened as a raster ({one_line(error)})") from None
    with dataset:
        yield dataset


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Says which file is damaged when reading it fails inside the block.

    Raises:
        InputError: A block of pixels cannot be read.
    """
    rasterio = import_rasterio()
    try:
        yield
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
        raise InputError(
            f"{path}: cannot be read ({one_line(error)}); the file is damaged or cut short"
        ) from None
