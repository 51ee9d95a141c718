"""Fitting a filling to the known pixels around it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from igll.models.prefill import prefill_harmonic

# Pixels: steps are averaged along the rim with neighbours so far away, as each holds the ground's own detail.
_SMOOTHING = 2.0


def match_rim(filled_CHW: NDArray[np.float32], hole_HW: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shift each band's filling so that it meets the known pixels along the hole's rim.

    A model of three channels may give bands that it never saw the wrong brightness. Every missing pixel at
    the rim is compared with its known neighbours; the difference, smoothed along the rim, is spread into the
    hole as a membrane, which is what Poisson image editing adds to a pasted patch (P. Pérez et al. 2003,
    section 2). The gain stays 1: matching contrast along the rim too made fillings worse.

    Args:
        filled_CHW: Known values outside the hole, a model's filling inside.
        hole_HW: What was filled.

    Returns:
        filled_CHW with other values inside the hole.
    """
    inner_N, outer_N = _rim_pairs(hole_HW)
    if len(inner_N) == 0:
        return filled_CHW
    from scipy.ndimage import gaussian_filter

    flat_CM = filled_CHW.reshape(len(filled_CHW), -1)
    steps_CN = flat_CM[:, outer_N] - flat_CM[:, inner_N]
    count_HW = np.bincount(inner_N, minlength=hole_HW.size).reshape(hole_HW.shape)
    total_CHW = np.stack([np.bincount(inner_N, step_N, hole_HW.size) for step_N in steps_CN])
    total_CHW = gaussian_filter(total_CHW.reshape(filled_CHW.shape), _SMOOTHING, axes=(1, 2))
    rim_HW = count_HW > 0
    step_CHW = total_CHW / np.maximum(gaussian_filter(count_HW.astype(np.float64), _SMOOTHING), 1e-9)
    # The rim alone holds the membrane; what it does outside the hole is cut off below.
    mask_11HW = torch.from_numpy(~rim_HW).float()[None, None]
    start_CHW = torch.from_numpy(np.where(rim_HW, step_CHW, 0).astype(np.float32))
    shift_CHW = prefill_harmonic(start_CHW[None], mask_11HW)[0].numpy()
    return np.where(hole_HW, filled_CHW + shift_CHW, filled_CHW)


def _rim_pairs(hole_HW: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat indices of missing pixels and of the known ones above, below and beside them."""
    index_HW = np.arange(hole_HW.size).reshape(hole_HW.shape)
    inner, outer = [], []
    for near, far in (
        (np.s_[:-1], np.s_[1:]),
        (np.s_[1:], np.s_[:-1]),
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:, 1:], np.s_[:, :-1]),
    ):
        pair_HW = hole_HW[near] & ~hole_HW[far]
        inner.append(index_HW[near][pair_HW])
        outer.append(index_HW[far][pair_HW])
    return np.concatenate(inner), np.concatenate(outer)
