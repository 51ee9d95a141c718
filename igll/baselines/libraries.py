"""Inpainting methods that OpenCV, scikit-image and PyPatchMatch bring.

Interface as in ``igll.baselines.classical``. All compute on the CPU, so results do not depend on the
device. Values are scaled for each image and channel to what the library works with, and back: a brighter
image, or one of a larger contrast, is filled in the same way.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from igll.baselines.holes import Array, fill_each, known_limits, missing_package

# OpenCV's formulas hold constants (a rounding term of 0.5, a gradient term of unit size, a smallest
# weight) that are to be small beside the values, in float32 as in 16 bits.
OPENCV_RANGE: Final = 65_535.0


def telea(image_BCHW: Tensor, mask_B1HW: Tensor, *, radius: float = 3.0) -> Tensor:
    """Fill by fast marching from the rim inwards (Telea 2004), OpenCV's implementation.

    A. Telea, An image inpainting technique based on the fast marching method, J. Graphics Tools 9(1).
    Each channel for itself in float32, not in OpenCV's 8 bits.

    Args:
        image_BCHW: Images in any range.
        mask_B1HW: 1 = missing.
        radius: Neighbourhood of a pixel that its value is taken from, in pixels, at least 1.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, an image has no known pixel, or OpenCV is not installed.
    """
    return _opencv(image_BCHW, mask_B1HW, "telea", radius)


def navier_stokes(image_BCHW: Tensor, mask_B1HW: Tensor, *, radius: float = 3.0) -> Tensor:
    """Fill by continuing lines of equal brightness (Bertalmio et al. 2001), OpenCV's implementation.

    M. Bertalmio, A. Bertozzi, G. Sapiro, Navier-Stokes, fluid dynamics, and image and video inpainting,
    CVPR 2001. Each channel for itself in float32, not in OpenCV's 8 bits.

    Args:
        image_BCHW: Images in any range.
        mask_B1HW: 1 = missing.
        radius: Neighbourhood of a pixel that its value is taken from, in pixels, at least 1.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, an image has no known pixel, or OpenCV is not installed.
    """
    return _opencv(image_BCHW, mask_B1HW, "navier_stokes", radius)


def _opencv(image_BCHW: Tensor, mask_B1HW: Tensor, method: str, radius: float) -> Tensor:
    try:
        import cv2
    except ImportError as error:
        raise missing_package(method, "opencv-python-headless") from error
    flag = {"telea": cv2.INPAINT_TELEA, "navier_stokes": cv2.INPAINT_NS}[method]

    def fill(image_CHW: Array, hole_HW: NDArray[np.bool_]) -> Array:
        low_C11, span_C11 = known_limits(image_CHW, hole_HW)
        scaled_CHW = ((image_CHW - low_C11) / span_C11 * OPENCV_RANGE).astype(np.float32)
        scaled_CHW[:, hole_HW] = 0
        missing_HW = hole_HW.astype(np.uint8)
        bands = [cv2.inpaint(band_HW, missing_HW, radius, flag) for band_HW in scaled_CHW]
        return np.stack(bands).astype(np.float64) / OPENCV_RANGE * span_C11 + low_C11

    return fill_each(image_BCHW, mask_B1HW, fill)


def biharmonic(image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Fill with the surface whose bi-Laplacian is zero, scikit-image's implementation.

    S. B. Damelin, N. S. Hoang, On surface completion and image inpainting by biharmonic functions:
    numerical aspects, Int. J. Math. Math. Sci. 2018. One sparse linear system in float64 for each image;
    values are cut to the range of the known ones of the channel. A hole of 224 × 224 pixels takes about a
    second.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, an image has no known pixel, or scikit-image is not installed.
    """
    try:
        from skimage.restoration import inpaint_biharmonic
    except ImportError as error:
        raise missing_package("biharmonic", "scikit-image") from error

    def fill(image_CHW: Array, hole_HW: NDArray[np.bool_]) -> Array:
        return inpaint_biharmonic(image_CHW, hole_HW, channel_axis=0)

    return fill_each(image_BCHW, mask_B1HW, fill)


def patch_match(image_BCHW: Tensor, mask_B1HW: Tensor, *, patch_radius: int = 3, seed: int = 0) -> Tensor:
    """Fill with patches of the known part, found by randomised search, PyPatchMatch's implementation.

    C. Barnes et al., PatchMatch: a randomized correspondence algorithm for structural image editing,
    SIGGRAPH 2009. The library knows three channels of 8 bits: channels are filled three at a time, in 255
    steps between the lowest and the highest known value of the channel.

    Args:
        image_BCHW: Images in any range.
        mask_B1HW: 1 = missing.
        patch_radius: Patches span 2 × patch_radius + 1 pixels, at least 1.
        seed: Of the search; equal images and seeds give equal fillings.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, an image has no known pixel, or PyPatchMatch is not installed.
    """
    try:
        import patchmatch
    except ImportError as error:
        raise missing_package("patch_match", "pypatchmatch (Python 3.11 or later)") from error

    def fill(image_CHW: Array, hole_HW: NDArray[np.bool_]) -> Array:
        low_C11, span_C11 = known_limits(image_CHW, hole_HW)
        levels_CHW = ((image_CHW - low_C11) / span_C11 * 255).round()
        levels_CHW[:, hole_HW] = 0
        channels = len(levels_CHW)
        filled_CHW = np.empty_like(levels_CHW)
        patchmatch.set_random_seed(seed)
        for first in range(0, channels, 3):
            # A group that is not full repeats the last channel.
            group = np.arange(first, first + 3).clip(max=channels - 1)
            picture_HW3 = levels_CHW[group].transpose(1, 2, 0).astype(np.uint8)
            result_HW3 = patchmatch.inpaint(picture_HW3, hole_HW, patch_size=patch_radius)
            filled_CHW[group] = result_HW3.transpose(2, 0, 1)
        return filled_CHW / 255 * span_C11 + low_C11

    return fill_each(image_BCHW, mask_B1HW, fill)
