"""Strips, a token with the one above and the one below: what FFSM makes 3 × 3 patches' products of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igll.models.tokens import CACHE_LINE, in_batch, take_rows

_MOST_SUMS = 2**31 - 1  # CUDA counts what embedding_bag's gradient comes from in 32 bits


class _DiagonalSum(torch.autograd.Function):
    """See :func:`diagonal_sum`. The sum is its own transpose, so its gradient is the same sum."""

    @staticmethod
    def forward(ctx: Any, matrix_BXY: Tensor) -> Tensor:
        """The sum."""
        if torch.compiler.is_compiling():  # which makes one pass of this, and cannot write into a part
            before_BXY = F.pad(matrix_BXY[:, :-1, :-1], (1, 0, 1, 0))
            return matrix_BXY + before_BXY + F.pad(matrix_BXY[:, 1:, 1:], (0, 1, 0, 1))
        # Going through memory is what takes time: nothing is copied but what has nothing before it.
        sum_BXY = torch.empty_like(matrix_BXY)
        sum_BXY[:, :1], sum_BXY[:, 1:, :1] = matrix_BXY[:, :1], matrix_BXY[:, 1:, :1]
        torch.add(matrix_BXY[:, 1:, 1:], matrix_BXY[:, :-1, :-1], out=sum_BXY[:, 1:, 1:])
        sum_BXY[:, :-1, :-1] += matrix_BXY[:, 1:, 1:]
        return sum_BXY

    @staticmethod
    def backward(ctx: Any, *gradients_BXY: Tensor) -> Tensor:
        """The gradient's sum."""
        return diagonal_sum(gradients_BXY[0])


def diagonal_sum(matrix_BXY: Tensor) -> Tensor:
    """Each entry with those before and after it on its diagonal; beyond the matrix stand zeros."""
    sum_BXY: Tensor = _DiagonalSum.apply(matrix_BXY)
    return sum_BXY


class Part(NamedTuple):
    """Some rows or columns of a matrix that is summed along its diagonals a part at a time.

    Attributes:
        seen: Those that the part is computed of.
        kept: Those of them whose sums are complete, and are in no other part.
        inner: Where the latter stand among the former.
    """

    seen: slice
    kept: slice
    inner: slice


def parts(count: int, most: int) -> Iterator[Part]:
    """So many rows or columns in parts of equal width, several ones of whole cache lines.

    Args:
        count: How many there are.
        most: How many a part may see, but at least a cache line.
    """
    if count <= max(CACHE_LINE, most):
        yield Part(slice(0, count), slice(0, count), slice(0, count))
        return
    most = max(CACHE_LINE, most // CACHE_LINE * CACHE_LINE)
    # All but the first and the last keep two fewer than they see.
    number = -(-(count - 2) // (most - 2))
    width = min(count, -(-(-(-(count - 2) // number) + 2) // CACHE_LINE) * CACHE_LINE)
    start = 0
    while start < count:
        left = min(max(start - 1, 0), count - width)
        right = left + width
        stop = right if right == count else right - 1
        yield Part(slice(left, right), slice(start, stop), slice(start - left, stop - left))
        start = stop


def gather_strips(tokens_BNC: Tensor, centre_BX: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Tokens with those above and below them, zero beyond the grid.

    Args:
        tokens_BNC: Tokens of the grid.
        centre_BX: Their positions in the grid with a frame of one token; what stands beside a patch's centre
            comes before and after it in the list.
        grid: Height and width of the grid.

    Returns:
        strip_BX(3C), and one over the length of the 3 × 3 patch around each entry, scale_BX, in at least
        float32; the latter means nothing where the entries before and after do not stand beside.
    """
    batch, _, channels = tokens_BNC.shape
    # A frame of zeros around the grid stands for what lies beyond it.
    framed_BHWC = F.pad(tokens_BNC.unflatten(1, grid), (0, 0, 1, 1, 1, 1))
    around_T = (grid[1] + 2) * torch.arange(-1, 2, device=tokens_BNC.device)
    # Beyond the frame stands nothing that is asked for.
    index_BXT = (centre_BX[..., None] + around_T).clamp(0, (grid[0] + 2) * (grid[1] + 2) - 1)
    strip_BXS = take_rows(framed_BHWC.flatten(1, 2), index_BXT.flatten(1)).view(batch, -1, 3 * channels)
    precise = torch.promote_types(tokens_BNC.dtype, torch.float32)
    length_BX = torch.linalg.vector_norm(strip_BXS, dim=2, dtype=precise)
    wide_BX = F.pad(length_BX, (1, 1))
    beside_BXT = torch.stack([wide_BX[:, :-2], length_BX, wide_BX[:, 2:]], 2)
    return strip_BXS, 1 / torch.linalg.vector_norm(beside_BXT, dim=2).clamp_min(1e-6)


def sum_rows(table_BMP: Tensor, index_BMO: Tensor, weight_BMO: Tensor) -> Tensor:
    """For every entry, the weighted sum of some rows of its image's table: row_BMP."""
    batch, rows, columns = table_BMP.shape
    if columns == 0:  # on some processors torch calls every index of such a table out of range
        return table_BMP.new_zeros(batch, index_BMO.shape[1], 0)
    if batch > 1 and index_BMO.shape[:2].numel() * columns > _MOST_SUMS:
        halves = zip(*(tensor.tensor_split(2) for tensor in (table_BMP, index_BMO, weight_BMO)), strict=True)
        return torch.cat([sum_rows(*half) for half in halves])
    flat_XO = in_batch(index_BMO, rows).view(-1, index_BMO.shape[2])
    sum_XP = F.embedding_bag(
        flat_XO,
        table_BMP.flatten(0, 1),
        mode="sum",
        per_sample_weights=weight_BMO.to(table_BMP.dtype).flatten(0, 1),
    )
    return sum_XP.unflatten(0, (batch, -1))
