"""PSNR, SSIM, MS-SSIM and L1, one value per image, on images in [0, 1].

All functions take ``prediction_BCHW`` and ``target_BCHW``, float in [0, 1] with any number of
channels, and return a tensor of B values. Images that will be stored with 8 bits should be
rounded to 8 bits before they are measured. Masks are 1 where pixels were missing.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from igll.compat import prepare_torchvision
from igll.errors import InputError
from igll.metrics.layout import for_convolutions
from igll.metrics.names import SMALLEST_SIDE, MetricUnavailableError


def psnr(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each whole image in dB; inf where both are equal.

    Raises:
        InputError: Shapes differ or values leave [0, 1].
    """
    check_images(prediction_BCHW, target_BCHW)
    squared_error_BCHW = (prediction_BCHW.double() - target_BCHW.double()).square()
    return -10 * squared_error_BCHW.mean(dim=(1, 2, 3)).log10()


def hole_psnr(prediction_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """PSNR in dB over the missing pixels alone; inf where they are all right, NaN without a hole.

    Raises:
        InputError: Shapes differ or values leave [0, 1].
    """
    check_images(prediction_BCHW, target_BCHW)
    squared_error_BCHW = (prediction_BCHW.double() - target_BCHW.double()).square()
    return -10 * _hole_mean(squared_error_BCHW, mask_B1HW).log10()


def hole_l1(prediction_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Mean absolute error over the missing pixels alone, in [0, 1]; NaN without a hole.

    Raises:
        InputError: Shapes differ or values leave [0, 1].
    """
    check_images(prediction_BCHW, target_BCHW)
    return _hole_mean((prediction_BCHW.double() - target_BCHW.double()).abs(), mask_B1HW)


def ssim(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, mirrored borders.

    Raises:
        InputError: Shapes differ or values leave [0, 1].
        MetricUnavailableError: A side is shorter than the window.
    """
    check_images(prediction_BCHW, target_BCHW)
    require_side("ssim", target_BCHW)
    prepare_torchvision()
    from torchmetrics.functional.image import structural_similarity_index_measure

    similarity_B = structural_similarity_index_measure(
        for_convolutions(prediction_BCHW), for_convolutions(target_BCHW), data_range=1.0, reduction="none"
    )
    return cast(Tensor, similarity_B)  # a pair only if the similarity map is asked for too


def ms_ssim(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Multi-scale structural similarity (Wang et al. 2003): five scales with the published weights.

    Negative similarities at a scale count as 0.

    Raises:
        InputError: Shapes differ or values leave [0, 1].
        MetricUnavailableError: A side is shorter than 176 px, too short for five scales.
    """
    check_images(prediction_BCHW, target_BCHW)
    require_side("ms_ssim", target_BCHW)
    prepare_torchvision()
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    return multiscale_structural_similarity_index_measure(
        for_convolutions(prediction_BCHW), for_convolutions(target_BCHW), data_range=1.0, reduction="none"
    )


def check_images(prediction_BCHW: Tensor, target_BCHW: Tensor) -> None:
    """Refuse images of different shapes, or with values that are not in [0, 1].

    Raises:
        InputError: Says which image it is and what its values are.
    """
    if prediction_BCHW.ndim != 4 or prediction_BCHW.shape != target_BCHW.shape:
        raise InputError(
            "prediction and target: need the same shape (B, C, H, W), "
            f"these have {tuple(prediction_BCHW.shape)} and {tuple(target_BCHW.shape)}"
        )
    for name, image_BCHW in (("prediction", prediction_BCHW), ("target", target_BCHW)):
        if not image_BCHW.is_floating_point():
            raise InputError(f"{name}: needs floating point values in [0, 1], these are {image_BCHW.dtype}")
        low, high = torch.stack(torch.aminmax(image_BCHW)).tolist()  # at once: each waits for a GPU
        if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails too
            raise InputError(
                f"{name}: values must lie in [0, 1], these reach from {low:g} to {high:g}; "
                "bring images in [-1, 1] there with (image + 1) / 2 and clamp"
            )


def require_side(metric: str, image_BCHW: Tensor) -> None:
    """Refuse images that are too small for a metric.

    Raises:
        MetricUnavailableError: The shorter side is below ``SMALLEST_SIDE[metric]``.
    """
    side, needed = min(image_BCHW.shape[-2:]), SMALLEST_SIDE[metric]
    if side < needed:
        raise MetricUnavailableError(f"needs images of at least {needed} px, these are {side} px")


def _hole_mean(error_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Mean error of each image over its missing pixels and all channels; NaN without a hole."""
    batch, channels, height, width = error_BCHW.shape
    if mask_B1HW.shape != (batch, 1, height, width):
        raise InputError(
            f"mask: needs the shape {(batch, 1, height, width)}, this one has {tuple(mask_B1HW.shape)}"
        )
    hole_B1HW = mask_B1HW > 0.5
    # where, not a product: an error outside the hole must not count even if it is not finite.
    total = torch.where(hole_B1HW, error_BCHW, torch.zeros_like(error_BCHW)).sum(dim=(1, 2, 3))
    return total / (hole_B1HW.sum(dim=(1, 2, 3)) * channels)
