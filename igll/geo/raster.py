"""Opening rasters, and what to say where that or reading them fails."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from igll.data.gdal_names import file_name
from igll.errors import InputError

_LONGEST = 300


def import_rasterio() -> ModuleType:
    """The library that reads and writes rasters.

    Raises:
        InputError: It is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise InputError('rasters need the package rasterio; pip install "igll[geo]"') from error
    return rasterio


def open_quietly(path: Path | str, mode: str = "r", **options: Any) -> Any:
    """An open raster, as rasterio opens it; that it has no place on Earth is no reason to warn."""
    rasterio = import_rasterio()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return rasterio.open(file_name(path), mode, **options)


@contextmanager
def open_raster(path: Path | str, **options: Any) -> Iterator[Any]:
    """Open a raster that a user gave, of any driver, for reading.

    Only opening is guarded; guard what is read in the block by ``reading``.

    Args:
        path: The file, or what else GDAL opens as one.
        **options: Passed to ``rasterio.open``.

    Yields:
        The rasterio dataset; closed when the block ends.

    Raises:
        InputError: The file is absent or not a raster, or rasterio is not installed.
    """
    import_rasterio()
    try:
        dataset = open_quietly(path, **options)
    except raster_errors() as error:
        if not Path(path).exists():
            raise InputError(f"{path}: no such file; check the path") from error
        raise InputError(f"{path}: cannot be opened as a raster ({one_line(error)})") from error
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
        reason = one_line(error)
        raise InputError(f"{path}: cannot be read ({reason}); the file is damaged or cut short") from error


def raster_errors() -> tuple[type[Exception], ...]:
    """What rasterio raises, and lets through from GDAL."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    return RasterioError, CPLE_BaseError


def one_line(error: BaseException) -> str:
    """What GDAL said of a failure, without line breaks; rasterio's own exception often only points to it."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
