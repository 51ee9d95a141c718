"""Fillings from the known values around the hole: what any method has to beat.

All take ``image_BCHW``, float in any value range with any number of channels, and ``mask_B1HW``,
1 = missing. What the image holds under the mask is never looked at. Known pixels come back
bit-identical.
"""

from __future__ import annotations

from typing import Any

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


def harmonic(image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Fill with the surface whose Laplacian is zero: a membrane spanned over the hole's rim.

    Every missing pixel is the mean of its neighbours above, below, left and right, as many as the image has:
    its border is free. One sparse linear system in float64 on the CPU for each image, factored once for all
    channels.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, or an image has no known pixel.
    """
    # Imported late: scipy.sparse takes a while.
    from scipy.sparse import kronsum
    from scipy.sparse.linalg import splu

    height, width = image_BCHW.shape[-2:]
    # Of the flattened image: number of neighbours on the diagonal, -1 for each of them.
    laplacian_NN = kronsum(_line_laplacian(width), _line_laplacian(height), format="csr")

    def fill(image_CHW: Array, hole_HW: NDArray[np.bool_]) -> Array:
        hole_N = hole_HW.ravel()
        rows_MN = laplacian_NN[hole_N]
        # Symmetric and positive definite: needs no pivoting, and takes an ordering that keeps factors sparse.
        factors = splu(
            rows_MN[:, hole_N].tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        filled_CHW = image_CHW.copy()
        filled_CHW[:, hole_HW] = factors.solve(-(rows_MN[:, ~hole_N] @ image_CHW[:, ~hole_HW].T)).T
        return filled_CHW

    return fill_each(image_BCHW, mask_B1HW, fill)


def _line_laplacian(length: int) -> Any:
    """Laplacian of pixels in a row as a sparse matrix: what each differs from its neighbours, summed."""
    from scipy.sparse import diags

    place = np.arange(length)
    neighbours = (place > 0).astype(np.float64) + (place < length - 1)
    link = -np.ones(length - 1)
    return diags([link, neighbours, link], [-1, 0, 1])
