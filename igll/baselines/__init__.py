"""Methods to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor

from igll.baselines.classical import fill_nodata, harmonic, mean_of_known, nearest
from igll.baselines.libraries import biharmonic, navier_stokes, patch_match, telea
from igll.baselines.tensor import halrtc, tensor_nuclear_norm

CLASSICAL: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "mean_of_known": mean_of_known,
    "nearest": nearest,
    "fill_nodata": fill_nodata,
    "harmonic": harmonic,
    "telea": telea,
    "navier_stokes": navier_stokes,
    "biharmonic": biharmonic,
    "patch_match": patch_match,
    "halrtc": halrtc,
    "tensor_nuclear_norm": tensor_nuclear_norm,
}
"""Fillings without training by the name they have in tables and configuration."""

CLASSICAL_TITLES: Final[dict[str, str]] = {
    "mean_of_known": "mean of known",
    "nearest": "nearest pixel",
    "fill_nodata": "GDAL fill-nodata",
    "harmonic": "harmonic (Laplace)",
    "telea": "Telea",
    "navier_stokes": "Navier–Stokes",
    "biharmonic": "biharmonic",
    "patch_match": "PatchMatch",
    "halrtc": "HaLRTC",
    "tensor_nuclear_norm": "tensor nuclear norm",
}
"""What tables call them."""


def require_packages(methods: Iterable[str]) -> None:
    """Say which optional package is missing before work that would be lost without it begins.

    Args:
        methods: Names out of ``CLASSICAL``.

    Raises:
        InputError: A method needs a package that is not installed; names both.
    """
    image_1CHW, mask_11HW = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    mask_11HW[..., 8:10, 8:10] = 1
    for name in methods:
        CLASSICAL[name](image_1CHW, mask_11HW)


__all__ = [
    "CLASSICAL",
    "CLASSICAL_TITLES",
    "biharmonic",
    "fill_nodata",
    "halrtc",
    "harmonic",
    "mean_of_known",
    "navier_stokes",
    "nearest",
    "patch_match",
    "require_packages",
    "telea",
    "tensor_nuclear_norm",
]
