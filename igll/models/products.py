"""Matrix products on a CPU by the kernels of its convolutions.

A product is a convolution of 1 × 1 whose pixels are the left matrix's rows. torch leaves products to MKL,
which goes no further than AVX2 on AMD's processors, and convolutions to oneDNN, which takes AVX-512 wherever
there is any: where it is of full width, more than twice as fast. Results differ by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from igll.models.shortcuts import may_shorten, onednn_is_measured

# oneDNN makes a kernel for every new shape, in about half a millisecond: smaller products do not earn it.
_LEAST = 2**26
_LEAST_VALUES = 20_481  # of smaller left matrices, and on one thread, torch keeps convolutions to itself

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_products() -> Iterator[None]:
    """Inside, every product of matrices is computed as one: for counting convolutions, and for comparing."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def product(left_BXC: Tensor, right_BYC: Tensor) -> Tensor:
    """The product of every row of one matrix with every row of another: left · rightᵀ.

    Args:
        left_BXC: Rows of channels, quickest if one lies after the other in memory: else it may be copied.
        right_BYC: Those of the other matrix, likewise.

    Returns:
        product_BXY.
    """
    if not pays(left_BXC, right_BYC):
        return left_BXC @ right_BYC.transpose(1, 2)
    pixels_1CX1 = left_BXC.contiguous()[:, :, None].permute(0, 3, 1, 2)
    product_1YX1 = F.conv2d(pixels_1CX1, right_BYC[0, ..., None, None])
    return product_1YX1.permute(0, 2, 3, 1).flatten(1, 2)


def pays(left_BXC: Tensor, right_BYC: Tensor) -> bool:
    """Whether a product may and should be computed as a convolution.

    It should for one image alone, which is how commands fill them on a CPU: there is no convolution of a
    batch with as many matrices.
    """
    if not may_shorten(left_BXC) or _plain.get() or len(left_BXC) != 1 or not onednn_is_measured():
        return False
    is_asked = left_BXC.numel() >= _LEAST_VALUES and torch.get_num_threads() > 1
    return is_asked and left_BXC.numel() * right_BYC.shape[1] >= _LEAST
