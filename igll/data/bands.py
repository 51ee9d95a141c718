"""Rasters with any number of bands, read by rasterio (extra ``geo``), which is imported only here.

``igll.data.files`` reads pictures; this reads raw values and knows which of them a raster lacks.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igll.data.files import FILTERS, FloatArray, full_scale
from igll.data.gdal_names import file_name
from igll.errors import InputError


def require_rasterio() -> None:
    """Say that the package is missing before work that needs it begins.

    Raises:
        InputError: It is not installed.
    """
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise InputError(
            "model.image_channels other than 1 and 3, and data.stretch, need the package rasterio; "
            'pip install "igll[geo]"'
        ) from error


def read_bands(path: Path, count: int, stretch: Sequence[float] | None = None) -> FloatArray:
    """Read a raster.

    A pixel is missing where any band has the raster's nodata value, NaN or infinity, and where its mask
    or its alpha band says so.

    Args:
        path: Any file that rasterio opens.
        count: Bands that it must have; alpha does not count.
        stretch: Raw values that become 0 and 1; what lies outside is clipped. None: 0 and the largest
            value of integers of 8 or 16 bits; floats as they are.

    Returns:
        (height, width, count) in [0, 1], float32; NaN in all bands of missing pixels.

    Raises:
        InputError: The file is absent, damaged, too large or has another number of bands; or its values do
            not lie in a known range and ``stretch`` is None.
    """
    values_NHW, known_HW = _read(Path(path), count)
    low, high = stretch if stretch is not None else (0, full_scale(path, values_NHW.dtype))
    image_HWC = np.empty((*known_HW.shape, count), np.float32)
    for band, values_HW in enumerate(values_NHW):
        image_HWC[..., band] = (values_HW.astype(np.float64) - low) / (high - low)
    image_HWC[~known_HW] = np.nan
    if stretch is None:
        _check_range(path, image_HWC, values_NHW.dtype)
    return np.clip(image_HWC, 0, 1, out=image_HWC)


def _read(path: Path, count: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Raw values (count, height, width), and where a pixel is known in all of them."""
    import rasterio
    from rasterio.enums import ColorInterp, MaskFlags
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    name = file_name(path)
    try:
        with FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            opened = rasterio.open(name)
        with opened as raster:
            kinds = raster.colorinterp
            bands = [band for band in raster.indexes if kinds[band - 1] != ColorInterp.alpha]
            _check_bands(path, [kind.name for kind in kinds], len(bands), count)
            _check_size(path, raster.width, raster.height)
            values_NHW = raster.read(bands)
            known_HW = np.ones(values_NHW.shape[1:], bool)
            for band in raster.indexes:
                if band not in bands:  # alpha, which GDAL heeds only as the second or fourth band
                    known_HW &= raster.read(band) != 0
                elif MaskFlags.all_valid not in raster.mask_flag_enums[band - 1]:
                    known_HW &= raster.read_masks(band) != 0
    except (RasterioError, OSError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"{path}: cannot be read as a raster ({reason}); replace or remove it") from error
    if values_NHW.dtype.kind not in "iuf":
        raise InputError(f"{path}: holds values of type {values_NHW.dtype}; convert it to integers or floats")
    if values_NHW.dtype.kind == "f":
        known_HW &= np.isfinite(values_NHW).all(0)
    return values_NHW, known_HW


def _check_bands(path: Path, kinds: list[str], found: int, wanted: int) -> None:
    if found == wanted:
        return
    if len(kinds) == wanted:
        # GDAL takes the fourth band of an 8-bit file for alpha unless it is told otherwise.
        marks = ",".join("undefined" if kind == "alpha" else kind for kind in kinds)
        raise InputError(
            f"{path}: has {found} band(s) and alpha, not {wanted}; if what is marked as alpha is data, run "
            f"rio edit-info --colorinterp {marks} on the file, else set model.image_channels={found}"
        )
    alpha = " and alpha" if len(kinds) > found else ""
    raise InputError(
        f"{path}: has {found} band(s){alpha}, not {wanted}; set model.image_channels to the number, the same "
        "for all files of the folder"
    )


def _check_size(path: Path, width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise InputError(
            f"{path}: {width}×{height} pixels are too large to be read whole for every crop; "
            "cut it into tiles of some hundred pixels a side"
        )


def _check_range(path: Path, image_HWC: FloatArray, dtype: np.dtype[Any]) -> None:
    """Refuse values that have no place in [0, 1]; NaN is no value."""
    low, high = np.nanmin(image_HWC, initial=0), np.nanmax(image_HWC, initial=0)
    if low < 0 or high > 1:
        full = full_scale(path, dtype)
        raise InputError(
            f"{path}: values span {low * full:g} to {high * full:g}, outside 0 to {full}; set "
            "data.stretch=[LOW, HIGH], the raw values for 0 and 1, or mark no-data in the file"
        )


def missing_pixels(image_HWC: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which pixels :func:`read_bands` found missing; None if there is none.

    Args:
        image_HWC: What it returned, or any other image.

    Returns:
        missing_HW, or None.
    """
    if image_HWC.dtype.kind != "f":
        return None
    missing_HW = np.isnan(image_HWC[..., 0])
    return missing_HW if missing_HW.any() else None


def complete_corners(missing_HW: NDArray[np.bool_], side: int) -> NDArray[np.int64]:
    """Rows and columns of the upper left corners of all squares without a missing pixel.

    Args:
        missing_HW: True = missing.
        side: Of the squares, at most the image's.

    Returns:
        corners_N2, row by row.
    """
    return np.argwhere(marked_in_squares(missing_HW, side) == 0)


def marked_in_squares(marked_HW: NDArray[np.bool_], side: int) -> NDArray[np.int64]:
    """How many pixels of each square are marked, by the row and column of its upper left corner.

    Args:
        marked_HW: True = marked.
        side: Of the squares, at most the image's.
    """
    count_HW = np.pad(marked_HW.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside_HW: NDArray[np.int64] = (
        count_HW[side:, side:] - count_HW[:-side, side:] - count_HW[side:, :-side] + count_HW[:-side, :-side]
    )
    return inside_HW


def with_nearest_known(image_HWC: FloatArray) -> FloatArray:
    """The image with the nearest known pixel in place of each missing one, or zeros if none is known.

    For edge detectors, to which NaN or a filling of one value would be an edge.
    """
    missing_HW = missing_pixels(image_HWC)
    if missing_HW is None:
        return image_HWC
    if missing_HW.all():
        return np.zeros_like(image_HWC)
    # Imported late: scipy.ndimage takes a while.
    from scipy.ndimage import distance_transform_edt

    rows_HW, columns_HW = distance_transform_edt(missing_HW, return_distances=False, return_indices=True)
    return image_HWC[rows_HW, columns_HW]
