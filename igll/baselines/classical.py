"""Fillings without training: what any network has to beat.

All take ``image_BCHW``, float in any value range with any number of channels, and ``mask_B1HW``,
1 = missing. What the image holds under the mask is never looked at. Known pixels come back
bit-identical.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from igll.errors import InputError


def mean_of_known(image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Fill with the mean of the known pixels, for each image and channel.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, or an image has no known pixel.
    """
    hole_B1HW = _hole(image_BCHW, mask_B1HW)
    # where, not a product: missing pixels may hold NaN.
    known_BCHW = torch.where(hole_B1HW, torch.zeros_like(image_BCHW), image_BCHW).double()
    count_B111 = (~hole_B1HW).sum(dim=(2, 3), keepdim=True)
    mean_BC11 = known_BCHW.sum(dim=(2, 3), keepdim=True) / count_B111
    return torch.where(hole_B1HW, mean_BC11.to(image_BCHW.dtype), image_BCHW)


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
        raise InputError('fill_nodata: needs the package rasterio; pip install "igll[geo]"') from error

    hole_B1HW = _hole(image_BCHW, mask_B1HW)
    filled_BCHW = image_BCHW.clone()
    # Longer than any path inside the image, so that no pixel is left without a neighbour.
    reach = float(sum(image_BCHW.shape[-2:]))
    for image_CHW, hole_HW, filled_CHW in zip(image_BCHW, hole_B1HW[:, 0], filled_BCHW, strict=True):
        if not hole_HW.any():
            continue
        known_HW = (~hole_HW).to(torch.uint8).cpu().numpy()
        bands_CHW = image_CHW.masked_fill(hole_HW, 0).float().cpu().numpy()
        for band, band_HW in enumerate(bands_CHW):
            smooth_HW = torch.from_numpy(
                fillnodata(band_HW, mask=known_HW, max_search_distance=reach, smoothing_iterations=0)
            )
            filled_CHW[band] = torch.where(hole_HW, smooth_HW.to(filled_CHW), image_CHW[band])
    return filled_BCHW


CLASSICAL: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "mean_of_known": mean_of_known,
    "fill_nodata": fill_nodata,
}
"""Classical fillings by the name they have in tables and configuration."""


def _hole(image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """The mask as booleans, True = missing, after checking that it fits and leaves something known."""
    batch, _, height, width = image_BCHW.shape
    if mask_B1HW.shape != (batch, 1, height, width):
        raise InputError(
            f"mask: needs the shape {(batch, 1, height, width)}, this one has {tuple(mask_B1HW.shape)}"
        )
    hole_B1HW = mask_B1HW > 0.5
    full_B = hole_B1HW.flatten(1).all(dim=1)
    if full_B.any():
        raise InputError(
            f"mask {int(full_B.nonzero()[0])} of the batch: every pixel is missing, nothing to fill from"
        )
    return hole_B1HW
