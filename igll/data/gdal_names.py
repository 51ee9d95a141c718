"""Names by which GDAL, rasterio and pyogrio open files, and not what they read into a name."""

from __future__ import annotations

from pathlib import Path

from igll.errors import InputError


def file_name(path: Path | str) -> Path | str:
    """A file's name such that GDAL and rasterio open that file, and not what they read into its name.

    To them ``zip:a.tif`` is a member of an archive, ``http:a.tif`` a page and ``GTIFF_DIR:1:a.tif`` a
    directory of another file. Text, and what is no file and in no folder, passes as it is.

    Args:
        path: A path that may be absent if its folder is there; or text that GDAL is to interpret.

    Raises:
        InputError: Its bytes are no UTF-8, which GDAL's names are.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: has a name that is not UTF-8, which GDAL cannot open; rename it") from None
    if not isinstance(path, Path) or ":" not in path.parts[0]:
        return path
    within_folder = len(path.parts) > 1 and path.parent.is_dir()
    return f"./{path}" if path.exists() or within_folder else path


def vector_file_name(path: Path) -> Path | str:
    """As :func:`file_name` for pyogrio, to which ``a!b.shp`` is a member of ``a``, and ``a;b.shp`` is ``a``.

    It passes on GDAL's own names as they are; one of those is the file from its first byte on.

    Args:
        path: A file that is there.

    Raises:
        InputError: As :func:`file_name`.
    """
    name = file_name(path)
    return f"/vsisubfile/0,{name}" if {"!", ";"} & set(str(path)) else name
