"""Tokens of a feature map: reading and replacing those that matter, row by row.

Images of a batch have holes of different sizes, so the chosen tokens are packed to the front and
padded to the longest list; ``valid_BM`` says which entries are real. The padding repeats tokens that
were not chosen, so that indices stay distinct and scattering back is well defined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CACHE_LINE = 16  # float32 values: matrices whose rows fill whole lines multiply faster


class Packed(NamedTuple):
    """Positions of the chosen tokens of each image.

    Attributes:
        index_BM: Token positions, chosen ones first and in order.
        valid_BM: True where the position was chosen, False for padding.
        ragged: Whether there is any padding. Known on the host, so that nobody has to wait for a GPU to ask.
    """

    index_BM: Tensor
    valid_BM: Tensor
    ragged: bool

    def gather(self, tokens_BNC: Tensor) -> Tensor:
        """Return the chosen tokens (padding included) as tokens_BMC."""
        return take_rows(tokens_BNC, self.index_BM)

    def scatter(self, tokens_BNC: Tensor, chosen_BMC: Tensor) -> Tensor:
        """Return tokens_BNC with the chosen tokens replaced; padding entries change nothing."""
        if self.ragged:
            chosen_BMC = torch.where(self.valid_BM[..., None], chosen_BMC, self.gather(tokens_BNC))
        return put_rows(tokens_BNC, self.index_BM, chosen_BMC)

    def map(self, change: Callable[[Tensor], Tensor]) -> Packed:
        """The same with every tensor changed."""
        return Packed(change(self.index_BM), change(self.valid_BM), self.ragged)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on another device; nobody waits for the copy, which for a GPU takes pinned memory."""
    if tensor.device.type == "cpu" and tensor.dim() and tensor.stride(0) == 0 and len(tensor) > 1:
        return to_device(tensor[:1], device).expand_as(tensor)  # one that all images share
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)


def pack(chosen_BN: Tensor, multiple: int = 1) -> Packed:
    """Pack the positions where ``chosen_BN`` is True.

    M is the largest count in the batch (may be 0), and if there are as many tokens, a multiple.
    """
    count_B = chosen_BN.sum(1)
    longest = min(-(-int(count_B.max()) // multiple) * multiple, chosen_BN.shape[1])
    index_BN = torch.argsort((~chosen_BN).to(torch.uint8), dim=1, stable=True)
    valid_BM = torch.arange(longest, device=chosen_BN.device) < count_B[:, None]
    return Packed(index_BN[:, :longest], valid_BM, int(count_B.min()) < longest)


def in_batch(index_BX: Tensor, rows: int) -> Tensor:
    """Indices into each image's rows as flat indices into those of the whole batch."""
    batch = index_BX.shape[0]
    if batch == 1 and not torch.jit.is_tracing():  # what is traced with one image serves any number
        return index_BX.flatten()
    offset_B = rows * torch.arange(batch, device=index_BX.device)
    return (index_BX + offset_B.view(-1, *[1] * (index_BX.dim() - 1))).flatten()


def take_rows(tokens_BNC: Tensor, index_BM: Tensor) -> Tensor:
    """Rows of each image as tokens_BMC; whole rows are copied, which is many times faster than ``gather``."""
    batch, rows, _ = tokens_BNC.shape
    taken = tokens_BNC.flatten(0, 1).index_select(0, in_batch(index_BM, rows))
    return taken.unflatten(0, (batch, index_BM.shape[1]))


def put_rows(tokens_BNC: Tensor, index_BM: Tensor, rows_BMC: Tensor) -> Tensor:
    """Tokens_BNC with the rows at distinct positions replaced."""
    batch, rows, _ = tokens_BNC.shape
    flat = tokens_BNC.flatten(0, 1).index_copy(0, in_batch(index_BM, rows), rows_BMC.flatten(0, 1))
    return flat.unflatten(0, (batch, rows))


def to_tokens(feature_BCHW: Tensor) -> Tensor:
    """Row-major tokens_BNC of a feature map; a view if its memory is channels last."""
    return feature_BCHW.flatten(2).transpose(1, 2)


def to_feature(tokens_BNC: Tensor, height: int, width: int) -> Tensor:
    """Feature map of row-major tokens_BNC; channels last in memory if the tokens are contiguous."""
    return tokens_BNC.transpose(1, 2).unflatten(2, (height, width))
