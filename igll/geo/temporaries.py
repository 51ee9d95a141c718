"""Raster files that are whole or not there, with the side files that GDAL writes beside them."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from igll.errors import OutputError
from igll.storage import replacing

_PAM = ".aux.xml"
_STALE = (_PAM, ".ovr", ".msk", ".msk.ovr")


@contextmanager
def temporary_beside(path: Path, use: str) -> Iterator[Path]:
    """A path for a temporary raster in the folder of a result; at the end it and its side files are gone.

    Args:
        path: The result.
        use: A word that tells several temporaries of one result apart.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{use}.tif")
    try:
        yield temporary
    finally:
        for file in _with_side_files(temporary):
            with suppress(OSError):  # the failure itself is what the user has to hear of
                file.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Give a whole raster its final name, and its side files theirs; those of an older raster go.

    Raises:
        OutputError: The folder does not allow it.
    """
    with replacing(path, durable=True) as last:
        temporary.replace(last)
    for suffix in _STALE:
        with suppress(OSError):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    rename_side_files(temporary, path)


def rename_side_files(raster: Path, path: Path) -> None:
    """Give what lies beside a raster the names that belong beside another one.

    Raises:
        OutputError: The folder does not allow it.
    """
    for file in _with_side_files(raster):
        if file != raster:
            rest = file.name.removeprefix(raster.stem)
            # GDAL appends to the whole name, as .aux.xml, or to what is before its suffix, as .IMD.
            name = (
                path.name + rest[len(raster.suffix) :] if rest.startswith(raster.suffix) else path.stem + rest
            )
            try:
                file.replace(path.with_name(name))
            except OSError as error:
                raise OutputError(f"{path.with_name(name)}: cannot be written ({error.strerror})") from None


def drop_needless_side_file(raster: Path) -> None:
    """Remove GDAL's ``.aux.xml`` where it repeats nothing but descriptions, which GeoTIFF itself holds."""
    side_file = Path(f"{raster}{_PAM}")
    if side_file.exists():
        bands = ElementTree.parse(side_file).getroot()  # noqa: S314 - written by GDAL a moment ago
        if all(band.tag == "PAMRasterBand" and all(n.tag == "Description" for n in band) for band in bands):
            side_file.unlink()


def _with_side_files(raster: Path) -> list[Path]:
    if not raster.parent.is_dir():
        return []
    return [file for file in raster.parent.iterdir() if file.name.startswith(raster.stem)]
