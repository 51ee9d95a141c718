"""3 × 3 convolutions on a CPU with half of the products: Winograd's algorithm F(4, 3) along the height.

Four rows of a result need six products with combinations of the kernel's rows instead of twelve with the rows
themselves (Lavin & Gray 2016). Along the width nothing changes: with both axes the additions, which run
through memory, would cost more than the products that they save. Results differ by rounding from those of a
plain convolution, about three times as far from the exact ones as its own are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.kept import Kept
from igll.models.shortcuts import may_shorten, onednn_is_measured

# Of fewer the additions take longer than what is saved.
_LEAST_CHANNELS, _LEAST_PIXELS = 128, 2_048
_LEAST_SPAN = 8  # rows for each of the dilation: of fewer, plain convolutions skip much of the padding
_PIECE = 8_192  # pixels at a time: their combinations stay in a processor's cache

# For the points 0, 1, -1, 2, -2 and infinity; of the usual combinations of rows the third and the fifth are
# taken with the other sign, and a quarter of the last.
_KERNELS_63 = torch.tensor([[6, 0, 0], [-4, -4, -4], [4, -4, 4], [1, 2, 4], [-1, 2, -4], [0, 0, 96]])

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Inside, every convolution is computed as it is written: for counting products, and for comparing."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


class Conv2d(nn.Conv2d):
    """A convolution that takes the shorter way wherever that is quicker; see :func:`pays`.

    What it makes of its kernels for that is kept, beside a copy of them by which it knows whether they are
    still the same: three times their memory.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._combined = Kept()

    def forward(self, input: Tensor) -> Tensor:
        """As of :class:`torch.nn.Conv2d`."""
        if self.bias is not None and pays(self, input):
            kernel_XC13 = self._combined.of(self.weight, combined_kernels)
            return convolve(input, kernel_XC13, self.bias, self.dilation[0])
        return super().forward(input)


def pays(layer: nn.Conv2d, input_BCHW: Tensor) -> bool:
    """Whether a layer may and should be computed by :func:`convolve`."""
    if not may_shorten(input_BCHW) or _plain.get() or layer.weight.dtype != input_BCHW.dtype:
        return False
    if not onednn_is_measured():
        return False
    dilation = layer.dilation[0]
    as_wide_as_tall = layer.dilation == layer.padding == (dilation, dilation)
    if layer.kernel_size != (3, 3) or layer.stride != (1, 1) or layer.groups != 1 or not as_wide_as_tall:
        return False
    if layer.padding_mode != "zeros" or input_BCHW.dim() != 4:
        return False
    batch, _, height, width = input_BCHW.shape
    wide = min(layer.in_channels, layer.out_channels) >= _LEAST_CHANNELS
    return wide and batch * height * width >= _LEAST_PIXELS and height >= _LEAST_SPAN * dilation


@torch.no_grad()
def convolve(input_BCHW: Tensor, kernel_XC13: Tensor, bias_O: Tensor, dilation: int = 1) -> Tensor:
    """A 3 × 3 convolution with stride 1, padded with as many zeros as it is dilated.

    Args:
        input_BCHW: Of any size; quickest if channels are last in memory.
        kernel_XC13: Kernels, as :func:`combined_kernels` makes them of 3 × 3 ones.
        bias_O: Added to each output channel.
        dilation: Distance of the kernel's elements.

    Returns:
        result_BOHW, channels last in memory, without gradient.
    """
    batch, _, height, width = input_BCHW.shape
    tiles = -(-height // (4 * dilation))  # of four rows, or of four times as many as the dilation
    row_BHWC = input_BCHW.permute(0, 2, 3, 1)
    if missing := 4 * dilation * tiles - height:
        row_BHWC = F.pad(row_BHWC, (0, 0, 0, 0, 0, missing))
    row_BT4DWC = row_BHWC.unflatten(1, (tiles, 4, dilation))
    outputs = len(bias_O)
    bias_6O = bias_O.new_zeros(6, outputs)
    bias_6O[1] = bias_O  # the second product is part of all four rows
    result_BT4DWO = input_BCHW.new_empty(batch, tiles, 4, dilation, width, outputs)
    step = max(1, _PIECE // (4 * dilation * width * batch))
    for first in range(0, tiles, step):
        last = min(first + step, tiles)
        product_BXHW = F.conv2d(
            _combined_rows(row_BT4DWC, first, last).flatten(1, 2).permute(0, 3, 1, 2),
            kernel_XC13,
            bias_6O.flatten(),
            padding=(0, dilation),
            dilation=(1, dilation),
            groups=6,
        )
        product_BTDW6O = product_BXHW.permute(0, 2, 3, 1).unflatten(1, (-1, dilation)).unflatten(4, (6, -1))
        _put_rows(product_BTDW6O, result_BT4DWO[:, first:last])
    return result_BT4DWO.flatten(1, 3)[:, :height].permute(0, 3, 1, 2)


def _combined_rows(row_BT4DWC: Tensor, first: int, last: int) -> Tensor:
    """Six combinations, side by side as groups of channels, of some tiles' rows and those around: Bᵀd."""
    d1, d2, d3, d4 = row_BT4DWC[:, first:last].unbind(2)
    combined_BTDW6C = d1.new_empty(*d1.shape[:-1], 6, d1.shape[-1])
    v0, v1, v2, v3, v4, v5 = combined_BTDW6C.unbind(-2)
    # The row above a tile is the last one of the tile before; beyond the first and the last tile are zeros.
    second, before_last = max(first, 1), min(last, row_BT4DWC.shape[1] - 1)
    torch.sub(d4, d2, alpha=5, out=v0)
    v0[:, second - first :].add_(row_BT4DWC[:, second - 1 : last - 1, 3], alpha=4)
    torch.sub(d1, d3, alpha=1.25, out=v5)
    v5[:, : before_last - first].add_(row_BT4DWC[:, first + 1 : before_last + 1, 0], alpha=0.25)
    # Sums, then differences of the same two in the place of one of them: less goes through memory.
    torch.sub(d3, d1, alpha=4, out=v1)
    torch.sub(d4, d2, alpha=4, out=v2)
    torch.sub(v1.add_(v2), v2, alpha=2, out=v2)
    torch.sub(d3, d1, out=v3)
    torch.sub(d4, d2, out=v4)
    torch.add(v4, v3, alpha=2, out=v3)
    torch.sub(v3, v4, alpha=2, out=v4)
    return combined_BTDW6C.flatten(-2)


@torch.no_grad()
def combined_kernels(weight_OC33: Tensor) -> Tensor:
    """Six combinations of a kernel's rows, Gg, as kernels of six groups: (6 · O, C, 1, 3)."""
    row_3X = weight_OC33.permute(2, 0, 3, 1).flatten(1)
    combined_6O3C = (_KERNELS_63.to(row_3X) / 24 @ row_3X).unflatten(1, (weight_OC33.shape[0], 3, -1))
    return combined_6O3C.flatten(0, 1)[:, None].permute(0, 3, 1, 2)


def _put_rows(product_BTDW6O: Tensor, result_BT4DWO: Tensor) -> None:
    """The four rows of each tile from its six products, whose memory is used up: Aᵀm."""
    y0, y1, y2, y3 = result_BT4DWO.unbind(2)
    m0, m1, m2, m3, m4, m5 = product_BTDW6O.unbind(-2)
    near, far = m1.add_(m2), m3.add_(m4)
    torch.add(m0, near, out=y0).add_(far)
    torch.add(near, far, alpha=4, out=y2)
    near, far = torch.sub(m1, m2, alpha=2, out=m2), torch.sub(m3, m4, alpha=2, out=m4)
    torch.add(near, far, alpha=2, out=y1)
    torch.add(near, far, alpha=8, out=y3).add_(m5)
