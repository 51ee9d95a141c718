"""What a raster itself says of its missing pixels: nodata, NaN, dataset mask, alpha."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from igll.geo.raster import Area

BoolArray = npt.NDArray[np.bool_]


def data_bands(dataset: Any, quality_band: int | None = None) -> tuple[int, ...]:
    """The bands that hold measurements, counted from 1: all but alpha and a quality band.

    Args:
        dataset: An open rasterio dataset.
        quality_band: The band that holds quality flags, if one does.
    """
    from rasterio.enums import ColorInterp

    return tuple(
        band
        for band, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True)
        if meaning != ColorInterp.alpha and band != quality_band
    )


def missing_in_bands(dataset: Any, bands: tuple[int, ...], area: Area) -> BoolArray:
    """Where the raster has no value, band by band.

    A value is missing where it equals the band's nodata value, is NaN or infinite, or where an alpha band
    or the dataset's mask (internal or ``.msk``) is 0; the last two hold for all bands at once.

    Args:
        dataset: An open rasterio dataset.
        bands: Bands to look at, counted from 1.
        area: Pixels to look at.

    Returns:
        (bands, height, width), True = missing.
    """
    from rasterio.enums import ColorInterp, MaskFlags

    missing = np.zeros((len(bands), area.height, area.width), dtype=np.bool_)
    for row, band in zip(missing, bands, strict=True):
        flags = dataset.mask_flag_enums[band - 1]
        if MaskFlags.all_valid not in flags:
            row |= dataset.read_masks(band, window=area.window) == 0
        # GDAL asks a mask or the nodata value, never both.
        nodata = None if MaskFlags.nodata in flags else dataset.nodatavals[band - 1]
        floating = dataset.dtypes[band - 1].startswith(("float", "complex"))
        if floating or nodata is not None:
            values = dataset.read(band, window=area.window)
            if floating:
                row |= ~np.isfinite(values)
            if nodata is not None:
                row |= values == nodata
    for band, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True):
        if meaning == ColorInterp.alpha:
            missing |= dataset.read(band, window=area.window) == 0
    return missing
