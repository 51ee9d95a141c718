"""Settings of GDAL for long streams of pixels, and noticing every failure to write."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from igll.errors import OutputError
from igll.geo.raster import import_rasterio, one_line, raster_errors

CACHE_MIB = 256
_NEARLY_FULL = 2**20  # bytes left on a disk that is as good as full
_WRITING = ("writ", "flush", "no space", "file too large", "append")


@contextmanager
def gdal_session() -> Iterator[None]:
    """GDAL with a cache of bounded size that keeps masks inside GeoTIFF files.

    Raises:
        InputError: rasterio is not installed.
    """
    rasterio = import_rasterio()
    with rasterio.Env(
        GDAL_CACHEMAX=CACHE_MIB * 2**20,
        GDAL_TIFF_INTERNAL_MASK=True,
        GDAL_NUM_THREADS="ALL_CPUS",
        GDAL_PNG_WHOLE_IMAGE_OPTIM=False,  # which does not notice that a file is cut short
    ):
        yield


class WriteErrors(logging.Handler):
    """What GDAL only logs while a file is written or closed, as it does when the disk is full.

    Args:
        path: The result, for messages.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(logging.ERROR)
        self._path = path
        self._inside = False
        self._heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Remember an error of our own calls, and one about writing whenever it comes."""
        message = " ".join(record.getMessage().split())
        if self._inside or any(word in message.lower() for word in _WRITING):
            self._heard.append(message)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hears GDAL as long as the block lasts."""
        logger = logging.getLogger("rasterio")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Makes every failure of GDAL inside the block, raised or only logged, an error of the output.

        Raises:
            OutputError: Something could not be written.
        """
        failures: tuple[type[Exception], ...] = (*raster_errors(), OSError)
        self._inside = True
        try:
            yield
        except failures as error:
            raise self.failure(one_line(error)) from self.cause(one_line(error))
        finally:
            self._inside = False
        if self._heard:
            raise self.failure(self._heard[0]) from self.cause(self._heard[0])

    def cause(self, reason: str) -> OSError | None:
        """A full disk as the system would name it, so that callers need not read messages; else None."""
        return OSError(errno.ENOSPC, reason) if self._disk_full([reason, *self._heard]) else None

    def failure(self, reason: str) -> OutputError:
        """The error to raise, which names a full disk where that is the likely cause."""
        if self._disk_full([reason, *self._heard]):
            reason = f"disk full? {reason}"
        return OutputError(f"{self._path}: cannot be written ({reason})")

    def _disk_full(self, messages: list[str]) -> bool:
        if any(os.strerror(errno.ENOSPC).lower() in message.lower() for message in messages):
            return True
        try:
            return shutil.disk_usage(self._path.parent).free < _NEARLY_FULL
        except OSError:
            return False
