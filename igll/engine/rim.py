"""Fitting a filling to the known pixels around it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from igll.models.layers import prefill_harmonic


def match_rim(filled_CHW: NDArray[np.float32], hole_HW: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shift each band's filling so that it meets the known pixels along the hole's rim.

    A model of three channels may give bands that it never saw the wrong brightness. Every missing pixel at
    the rim is compared with its known neighbours; the difference is spread into the hole as a membrane, which
    is what Poisson image editing adds to a pasted patch (P. Pérez et al. 2003, section 2). The gain stays 1:
    matching contrast along the rim too made fillings worse.

    Args:
        filled_CHW: Known values outside the hole, a model's filling inside.
        hole_HW: What was filled.

    Returns:
        filled_CHW with other values inside the hole.
    """
    inner_N, outer_N = _rim_pairs(hole_HW)
    if len(inner_N) == 0:
        return filled_CHW
    flat_CM = filled_CHW.reshape(len(filled_CHW), -1)
    count_M = np.bincount(inner_N, minlength=hole_HW.size)
    steps_CN = flat_CM[:, outer_N] - flat_CM[:, inner_N]
    total_CM = np.stack([np.bincount(inner_N, step_N, hole_HW.size) for step_N in steps_CN])
    step_CHW = (total_CM / np.maximum(count_M, 1)).reshape(filled_CHW.shape).astype(np.float32)
    # The rim alone holds the membrane; what it does outside the hole is cut off below.
    inside_HW = (count_M == 0).reshape(hole_HW.shape)
    mask_11HW = torch.from_numpy(inside_HW).float()[None, None]
    shift_CHW = prefill_harmonic(torch.from_numpy(step_CHW)[None], mask_11HW)[0].numpy()
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
