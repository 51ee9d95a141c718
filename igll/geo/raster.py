"""Opening rasters, and walking over them in pieces that fit into memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from igll.errors import InputError

STRIP = 512  # rows that are worked on at a time, and the side of a tile of what is written
CACHE_BYTES = 128 * 2**20  # what GDAL may keep of blocks that it has decoded
_PIECE_BYTES = 16 * 2**20  # what a piece may take of a scene's own values
_LARGEST_REASON = 160


class Area(NamedTuple):
    """A rectangle of pixels: its first row and column, and its size."""

    top: int
    left: int
    height: int
    width: int

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The same as rasterio writes it: row and column ranges."""
        return (self.top, self.top + self.height), (self.left, self.left + self.width)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The same for indexing an array of the whole raster."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def grown(self, pixels: int, height: int, width: int) -> Area:
        """The area and ``pixels`` more on each side, as far as a raster of that size reaches."""
        top, left = max(0, self.top - pixels), max(0, self.left - pixels)
        bottom = min(height, self.top + self.height + pixels)
        right = min(width, self.left + self.width + pixels)
        return Area(top, left, bottom - top, right - left)

    def within(self, other: Area) -> tuple[slice, slice]:
        """Where this area lies in an array of ``other``, which contains it."""
        return Area(self.top - other.top, self.left - other.left, self.height, self.width).slices


@contextmanager
def open_raster(path: Path | str, **options: Any) -> Iterator[Any]:
    """Open a raster of any driver for reading; that it has no georeference is no cause for a warning.

    Only opening is guarded; guard what is read in the block by ``reading``.

    Args:
        path: The file, or what else GDAL opens as one.
        **options: Passed to ``rasterio.open``.

    Yields:
        The rasterio dataset; closed when the block ends.

    Raises:
        InputError: The file is absent or not a raster, or rasterio is not installed.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError as error:
        raise InputError(f'{path}: rasters need the package rasterio; pip install "igll[geo]"') from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path, **options)
    except raster_errors() as error:
        if not Path(path).exists():
            raise InputError(f"{path}: no such file; check the path") from error
        raise InputError(f"{path}: cannot be opened as a raster ({_reason(error)})") from error
    with dataset:
        yield dataset


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what fails while a raster's pixels are read into one line that names the file.

    Raises:
        InputError: Reading failed.
    """
    try:
        yield
    except raster_errors() as error:
        reason = _reason(error)
        raise InputError(f"{path}: cannot be read ({reason}); the file is damaged or cut short") from error


def strips(height: int, width: int) -> Iterator[Area]:
    """A raster's rows in order, ``STRIP`` at a time and as wide as it is."""
    for top in range(0, height, STRIP):
        yield Area(top, 0, min(STRIP, height - top), width)


def pieces(dataset: Any, strip: Area) -> Iterator[Area]:
    """Parts of a strip whose values in all bands fit into memory, along the blocks the file is stored in.

    A file of whole rows is cut across, one of tiles lengthwise, so that no block is decoded over and over.
    """
    pixels = max(1, _PIECE_BYTES // (8 * dataset.count))  # 8 bytes hold a value of any type
    if dataset.block_shapes[0][1] >= dataset.width:
        height, width = max(1, pixels // strip.width), strip.width
    else:
        height, width = strip.height, max(1, pixels // STRIP // STRIP) * STRIP
    for top in range(0, strip.height, height):
        for left in range(0, strip.width, width):
            yield Area(
                strip.top + top,
                strip.left + left,
                min(height, strip.height - top),
                min(width, strip.width - left),
            )


def raster_errors() -> tuple[type[Exception], ...]:
    """What rasterio raises, and lets through from GDAL."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    return RasterioError, CPLE_BaseError


def _reason(error: BaseException) -> str:
    """What GDAL said, on one line; rasterio's own exception often only points to it."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LARGEST_REASON else text[: _LARGEST_REASON - 1] + "…"
