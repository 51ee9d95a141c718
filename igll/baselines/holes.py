"""What every filling without training starts from: the checked mask, one image at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igll.errors import InputError

Array = NDArray[np.float64]


def find_holes(image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """The mask as booleans, True = missing, after checking that it fits and leaves something known.

    Raises:
        InputError: Shapes do not match, or an image has no known pixel.
    """
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


def fill_each(
    image_BCHW: Tensor, mask_B1HW: Tensor, fill: Callable[[Array, NDArray[np.bool_]], Array]
) -> Tensor:
    """Fill the images of a batch one by one, in float64 on the CPU.

    Args:
        image_BCHW: Images in any range.
        mask_B1HW: 1 = missing.
        fill: Maps an image (C, H, W), zero where it is missing, and its hole (H, W) to the filled image;
            only what it gives in the hole is used. Images without a hole are not given to it.

    Returns:
        (B, C, H, W), dtype and device of the image; known pixels bit-identical.

    Raises:
        InputError: As find_holes.
    """
    hole_B1HW = find_holes(image_BCHW, mask_B1HW)
    filled_BCHW = image_BCHW.clone()
    for image_CHW, hole_1HW, filled_CHW in zip(image_BCHW, hole_B1HW, filled_BCHW, strict=True):
        if not hole_1HW.any():
            continue
        # masked_fill, not a product: missing pixels may hold NaN.
        known_CHW = image_CHW.masked_fill(hole_1HW, 0).cpu().double().numpy()
        result_CHW = torch.from_numpy(fill(known_CHW, hole_1HW[0].cpu().numpy()))
        filled_CHW.copy_(torch.where(hole_1HW, result_CHW.to(filled_CHW), image_CHW))
    return filled_BCHW


def known_limits(image_CHW: Array, hole_HW: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Lowest known value and range (1 where all are the same) of each channel, (C, 1, 1) each."""
    known_CN = image_CHW[:, ~hole_HW]
    low_C, high_C = known_CN.min(axis=1), known_CN.max(axis=1)
    span_C = np.where(high_C > low_C, high_C - low_C, 1.0)
    return low_C[:, None, None], span_C[:, None, None]


def missing_package(method: str, package: str, extra: str = "baselines") -> InputError:
    """What to say where a method's optional package is not installed."""
    return InputError(f'{method}: needs the package {package}; pip install "igll[{extra}]"')
