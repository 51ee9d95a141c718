"""What of a raster can be filled, and which rasters a GeoTIFF can hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from igll.errors import InputError
from igll.geo.missing_values import data_bands


def fillable_bands(path: Path, source: Any, bands: Sequence[int] | None) -> tuple[int, ...]:
    """The numbers asked for, once they are known to be bands that can be filled.

    Args:
        path: The raster, for messages.
        source: It, open.
        bands: Numbers from 1; None for all but alpha.

    Raises:
        InputError: A band is absent, alpha or holds what cannot be filled, or no GeoTIFF can hold the raster.
    """
    from rasterio.enums import ColorInterp

    _refuse_raster(path, source)
    usable = data_bands(source)
    chosen = tuple(bands) if bands is not None else usable
    if not set(chosen) <= set(usable) or not chosen or len(set(chosen)) < len(chosen):
        raise InputError(
            f"{path}: bands {list(chosen)} cannot be filled; name some of 1 to {source.count}, "
            "each once, without alpha"
        )
    for band in chosen:
        if source.colorinterp[band - 1] == ColorInterp.palette:
            raise InputError(
                f"{path}: band {band} holds indices of a colour table, which cannot be filled; "
                "expand it first: gdal_translate -expand rgb"
            )
        if source.dtypes[band - 1].startswith("complex"):
            raise InputError(f"{path}: band {band} holds complex numbers; fill its amplitude alone")
    return chosen


def _refuse_raster(path: Path, source: Any) -> None:
    """Refuse what a GeoTIFF cannot hold, or would not hold all of."""
    if not all(source.mask_flag_enums):
        raise InputError(f"{path}: each band has a mask of its own, which GeoTIFF cannot hold; keep one mask")
    if len(types := sorted(set(source.dtypes))) > 1:
        raise InputError(
            f"{path}: has bands of {' and '.join(types)}, and a GeoTIFF holds one type; convert it first: "
            "gdal_translate -ot"
        )
    if len(parts := source.subdatasets) > 1:
        lost = f"{path}: holds {len(parts)} rasters, all but the first of which would be lost"
        raise InputError(f"{lost}; take out the one to fill: gdal_translate {parts[0]} one.tif")
