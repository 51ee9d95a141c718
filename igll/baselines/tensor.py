"""Completion of low-rank tensors: the image is a height × width × channels tensor with missing entries.

Both methods solve

    min_X  Σ_i f_i(X)   subject to   X = T on the known entries,

f_i convex functions that are small for low rank, by the alternating direction method of multipliers
(ADMM) with one copy M_i of the tensor for each function and multipliers Y_i:

    M_i ← prox_{f_i/ρ}(X + Y_i/ρ),
    X   ← mean_i(M_i − Y_i/ρ) on the missing entries, T on the known ones,
    Y_i ← Y_i − ρ (M_i − X),   ρ ← growth · ρ.

Interface as in ``igll.baselines.classical``. Computed in float64 on the CPU, so results do not depend on
the device. Each channel is first brought to mean 0 and standard deviation 1 of its known values, so that
filling commutes with any change of brightness and contrast; missing entries start at that mean. Rows or
columns that are missing all across the image stay there: nothing ties them to their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igll.baselines.holes import Array, fill_each

Proximal = Callable[[Tensor, float], Tensor]

START_PENALTY: Final = 0.01
GROWTH: Final = 1.1


def halrtc(
    image_BCHW: Tensor, mask_B1HW: Tensor, *, tolerance: float = 1e-4, iterations: int = 500
) -> Tensor:
    """Fill so that the sum of the nuclear norms of the tensor's three unfoldings is least (HaLRTC).

    J. Liu, P. Musialski, P. Wonka, J. Ye, Tensor completion for estimating missing values in visual data,
    TPAMI 35(1), 2013: problem (16) by algorithm 4, with equal weights α. Of an image with a single
    channel it is the nuclear norm of the matrix.

    Args:
        image_BCHW: Images in any range.
        mask_B1HW: 1 = missing.
        tolerance: Stop where neither the tensor's last step nor its distance to any of its copies exceeds
            this part of its norm.
        iterations: Stop after as many in any case.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, or an image has no known pixel.
    """
    modes = [1, 2, 0] if image_BCHW.shape[1] > 1 else [1]
    weight = 1 / len(modes)

    def unfolding(mode: int) -> Proximal:
        def shrink(x_CHW: Tensor, step: float) -> Tensor:
            moved = x_CHW.movedim(mode, 0)
            shrunk = shrink_singular_values(moved.flatten(1), weight * step)
            return shrunk.view(moved.shape).movedim(0, mode)

        return shrink

    return _complete(image_BCHW, mask_B1HW, [unfolding(mode) for mode in modes], tolerance, iterations)


def tensor_nuclear_norm(
    image_BCHW: Tensor, mask_B1HW: Tensor, *, tolerance: float = 1e-4, iterations: int = 500
) -> Tensor:
    """Fill so that the tensor nuclear norm of the t-SVD along the channels is least.

    Z. Zhang, S. Aeron, Exact tensor completion using t-SVD, IEEE Trans. Signal Processing 65(6), 2017. The
    norm is the mean of the nuclear norms of the frontal slices after a discrete Fourier transform along
    the channels; its proximal operator shrinks their singular values (C. Lu et al., Tensor robust
    principal component analysis with a new tensor nuclear norm, TPAMI 42(4), 2020, theorem 4.2).

    Args:
        image_BCHW: Images in any range.
        mask_B1HW: 1 = missing.
        tolerance: Stop where neither the tensor's last step nor its distance to its copy exceeds this part
            of its norm.
        iterations: Stop after as many in any case.

    Returns:
        (B, C, H, W), dtype and device of the image.

    Raises:
        InputError: Shapes do not match, or an image has no known pixel.
    """

    def shrink(x_CHW: Tensor, step: float) -> Tensor:
        # Of a real tensor the other half of the spectrum is conjugate.
        spectrum_FHW = torch.fft.rfft(x_CHW, dim=0)
        return torch.fft.irfft(shrink_singular_values(spectrum_FHW, step), n=len(x_CHW), dim=0)

    return _complete(image_BCHW, mask_B1HW, [shrink], tolerance, iterations)


def shrink_singular_values(matrix: Tensor, threshold: float) -> Tensor:
    """Proximal operator of the nuclear norm: U max(Σ − threshold, 0) Vᴴ (Cai, Candès, Shen 2010).

    From the eigenvectors of the smaller Gram matrix, far cheaper than the decomposition itself. That
    leaves singular values an error of about 1e-8 of the largest in float64: below the tolerance here.

    Args:
        matrix: (..., m, n), real or complex, float64.
        threshold: What is taken off each singular value.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        return shrink_singular_values(matrix.mH, threshold).mH
    squares, vectors = torch.linalg.eigh(matrix @ matrix.mH)
    singular = squares.clamp(min=0).sqrt()
    kept = (1 - threshold / singular.clamp(min=torch.finfo(singular.dtype).tiny)).clamp(min=0)
    return (vectors * kept.unsqueeze(-2)) @ (vectors.mH @ matrix)


def _complete(
    image_BCHW: Tensor, mask_B1HW: Tensor, proximals: list[Proximal], tolerance: float, iterations: int
) -> Tensor:
    def fill(image_CHW: Array, hole_HW: NDArray[np.bool_]) -> Array:
        known_CN = image_CHW[:, ~hole_HW]
        mean_C11 = known_CN.mean(axis=1)[:, None, None]
        deviation_C11 = known_CN.std(axis=1)[:, None, None]
        # A channel that is constant, up to rounding, stays at its mean.
        flat_C11 = deviation_C11 <= 1e-12 * np.abs(mean_C11)
        deviation_C11[flat_C11] = 1
        target_CHW = np.where(hole_HW | flat_C11, 0, (image_CHW - mean_C11) / deviation_C11)
        filled_CHW = _admm(
            torch.from_numpy(target_CHW), torch.from_numpy(hole_HW), proximals, tolerance, iterations
        )
        return filled_CHW.numpy() * deviation_C11 + mean_C11

    return fill_each(image_BCHW, mask_B1HW, fill)


def _admm(
    target_CHW: Tensor, hole_HW: Tensor, proximals: list[Proximal], tolerance: float, iterations: int
) -> Tensor:
    """The iteration at the head of this file, from X = target and Y = 0."""
    x = target_CHW
    multipliers = [torch.zeros_like(x) for _ in proximals]
    penalty = START_PENALTY
    for _ in range(iterations):
        copies = [
            proximal(x + multiplier / penalty, 1 / penalty)
            for proximal, multiplier in zip(proximals, multipliers, strict=True)
        ]
        pulls = [copy - multiplier / penalty for copy, multiplier in zip(copies, multipliers, strict=True)]
        before, x = x, torch.where(hole_HW, torch.stack(pulls).mean(dim=0), target_CHW)
        multipliers = [
            multiplier - penalty * (copy - x) for copy, multiplier in zip(copies, multipliers, strict=True)
        ]
        penalty *= GROWTH
        largest = max(float((x - other).norm()) for other in (before, *copies))
        if largest <= tolerance * float(x.norm()):
            break
    return x
