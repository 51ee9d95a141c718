"""Where the bands of a raster have no value, by every means that a raster has to say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NODATA_TUPLE = "NODATA_VALUES"  # dataset tag: a pixel whose bands have all these values is no pixel


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


def missing_values(dataset: Any, bands: Sequence[int], window: Any) -> NDArray[np.bool_]:
    """Where bands have no value: no-data value, not finite, masked, or wholly transparent.

    Args:
        dataset: An open rasterio dataset.
        bands: Numbers from 1.
        window: ``rasterio.windows.Window``.

    Returns:
        (C, H, W), True where the band has no value.
    """
    values_CHW = dataset.read(list(bands), window=window)
    missing_CHW: NDArray[np.bool_] = dataset.read_masks(list(bands), window=window) == 0
    for missing_HW, values_HW, band in zip(missing_CHW, values_CHW, bands, strict=True):
        missing_HW |= ~np.isfinite(values_HW)
        nodata = dataset.nodatavals[band - 1]
        if nodata is not None:
            missing_HW |= values_HW == nodata
    for band in alpha_bands(dataset):
        missing_CHW |= dataset.read(band, window=window) == 0
    return missing_CHW
