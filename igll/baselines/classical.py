"""Fillings from the nearest known values: what any method has to beat.

All take ``image_BCHW``, float in any value range with any number of channels, and ``mask_B1HW``,
1 = missing. What the image holds under the mask is never looked at. Known pixels come back
bit-identical.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igll.baselines.holes import Array, fill_each, find_holes, missing_package


def mean_of_known(image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Fill with the mean of the known pixels, for each image and channel.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, or an image has no known pixel.
    """
    hole_B1HW = find_holes(image_BCHW, mask_B1HW)
    # where, not a product: missing pixels may hold NaN.
    known_BCHW = torch.where(hole_B1HW, torch.zeros_like(image_BCHW), image_BCHW).double()
    count_B111 = (~hole_B1HW).sum(dim=(2, 3), keepdim=True)
    mean_BC11 = known_BCHW.sum(dim=(2, 3), keepdim=True) / count_B111
    return torch.where(hole_B1HW, mean_BC11.to(image_BCHW.dtype), image_BCHW)


def nearest(image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Fill each pixel with the nearest known one, by Euclidean distance.

    Of several at the same distance it takes the one that SciPy's distance transform names.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, or an image has no known pixel.
    """
    # Imported late: scipy.ndimage takes a while.
    from scipy.ndimage import distance_transform_edt

    def fill(image_CHW: Array, hole_HW: NDArray[np.bool_]) -> Array:
        rows_HW, columns_HW = distance_transform_edt(hole_HW, return_distances=False, return_indices=True)
        return image_CHW[:, rows_HW, columns_HW]

    return fill_each(image_BCHW, mask_B1HW, fill)


def fill_nodata(image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Fill each channel with GDAL's fill-nodata: inverse-distance weighting from the hole's rim.

    Computed in float32 on the CPU, searching the whole image, without smoothing.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, an image has no known pixel, or rasterio is not installed.
    """
    try:
        from rasterio.fill import fillnodata
    except ImportError as error:
        raise missing_package("fill_nodata", "rasterio", "geo") from error

    # Longer than any path inside the image, so that no pixel is left without a neighbour.
    reach = float(sum(image_BCHW.shape[-2:]))

    def fill(image_CHW: Array, hole_HW: NDArray[np.bool_]) -> Array:
        known_HW = (~hole_HW).astype(np.uint8)
        bands = [
            fillnodata(band_HW, mask=known_HW, max_search_distance=reach, smoothing_iterations=0)
            for band_HW in image_CHW.astype(np.float32)
        ]
        return np.stack(bands).astype(np.float64)

    return fill_each(image_BCHW, mask_B1HW, fill)
