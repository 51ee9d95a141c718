"""Which bands of a raster hold measurements, and where they have no value, by what the raster itself says."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igll.geo.box import Box

BoolArray = NDArray[np.bool_]
NODATA_TUPLE = "NODATA_VALUES"  # dataset tag: a pixel whose bands have all these values is no pixel


def data_bands(dataset: Any, quality_band: int | None = None) -> tuple[int, ...]:
    """Numbers of the bands that hold measurements, from 1: all but alpha and a quality band.

    Args:
        dataset: An open rasterio dataset.
        quality_band: The band that holds quality flags, if one does.
    """
    without = {*alpha_bands(dataset), quality_band}
    return tuple(band for band in dataset.indexes if band not in without)


def alpha_bands(dataset: Any) -> list[int]:
    """Numbers of the bands that say how opaque a pixel is, from 1."""
    from rasterio.enums import ColorInterp

    return [band for band in dataset.indexes if dataset.colorinterp[band - 1] == ColorInterp.alpha]


def has_mask(dataset: Any) -> bool:
    """Whether a mask beside the bands says which pixels are valid."""
    from rasterio.enums import MaskFlags

    flags = dataset.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags and not {MaskFlags.alpha, MaskFlags.nodata} & set(flags)


def nodata_of(dataset: Any, band: int) -> float | None:
    """The value of a band that means none.

    Args:
        dataset: An open rasterio dataset.
        band: From 1.
    """
    if dataset.nodatavals[band - 1] is not None:
        return float(dataset.nodatavals[band - 1])
    combined = dataset.tags().get(NODATA_TUPLE, "").split()
    return float(combined[band - 1]) if len(combined) == dataset.count else None


def missing_values(dataset: Any, bands: Sequence[int], box: Box) -> BoolArray:
    """Where bands have no value.

    A value is missing where it equals the band's no-data value, is NaN or infinite, or where an alpha band
    or the dataset's mask (internal or ``.msk``) is 0; the last two hold for all bands at once.

    Args:
        dataset: An open rasterio dataset.
        bands: Numbers from 1.
        box: Pixels to look at.

    Returns:
        (C, H, W), True where the band has no value.
    """
    from rasterio.enums import MaskFlags

    window = box.window()
    missing_CHW = np.zeros((len(bands), box.height, box.width), dtype=np.bool_)
    for missing_HW, band in zip(missing_CHW, bands, strict=True):
        flags = dataset.mask_flag_enums[band - 1]
        if MaskFlags.all_valid not in flags:
            missing_HW |= _read_mask(dataset, band, window) == 0
        # GDAL asks a mask or the no-data value, never both.
        nodata = None if MaskFlags.nodata in flags else dataset.nodatavals[band - 1]
        floating = dataset.dtypes[band - 1].startswith(("float", "complex"))
        if floating or nodata is not None:
            values_HW = dataset.read(band, window=window)
            if floating:
                missing_HW |= ~np.isfinite(values_HW)
            if nodata is not None:
                missing_HW |= values_HW == nodata
    for band in alpha_bands(dataset):
        missing_CHW |= dataset.read(band, window=window) == 0
    return missing_CHW


def _read_mask(dataset: Any, band: int, window: Any) -> NDArray[np.uint8]:
    from rasterio.errors import NodataShadowWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NodataShadowWarning)  # alpha is looked at by itself
        mask_HW: NDArray[np.uint8] = dataset.read_masks(band, window=window)
    return mask_HW
