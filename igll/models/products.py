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
    # One image after the other: there is no convolution of a batch with as many matrices.
    products = [_convolved(*both) for both in zip(left_BXC.split(1), right_BYC.split(1), strict=True)]
    return products[0] if len(products) == 1 else torch.cat(products)


def pays(left_BXC: Tensor, right_BYC: Tensor) -> bool:
    """Whether products may and should be computed as convolutions, one for each image."""
    if not may_shorten(left_BXC) or _plain.get() or not len(left_BXC) or not onednn_is_measured():
        return False
    values = left_BXC[0].numel()
    is_asked = values >= _LEAST_VALUES and torch.get_num_threads() > 1
    return is_asked and values * right_BYC.shape[1] >= _LEAST


def _convolved(left_1XC: Tensor, right_1YC: Tensor) -> Tensor:
    pixels_1CX1 = left_1XC.contiguous()[:, :, None].permute(0, 3, 1, 2)
    product_1YX1 = F.conv2d(pixels_1CX1, right_1YC[0, ..., None, None])
    return product_1YX1.permute(0, 2, 3, 1).flatten(1, 2)
