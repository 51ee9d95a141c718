"""Picking the tokens that matter: hole tokens as queries, background tokens as keys.

Images of a batch have holes of different sizes, so the chosen tokens are packed to the front and
padded to the longest list; ``valid_BM`` says which entries are real. The padding repeats tokens that
were not chosen, so that indices stay distinct and scattering back is well defined.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """Positions of the chosen tokens of each image.

    Attributes:
        index_BM: Token positions, chosen ones first and in order.
        valid_BM: True where the position was chosen, False for padding.
    """

    index_BM: Tensor
    valid_BM: Tensor

    def gather(self, tokens_BNC: Tensor) -> Tensor:
        """Return the chosen tokens (padding included) as tokens_BMC."""
        return tokens_BNC.gather(1, self.index_BM[..., None].expand(-1, -1, tokens_BNC.shape[-1]))

    def scatter(self, tokens_BNC: Tensor, chosen_BMC: Tensor) -> Tensor:
        """Return tokens_BNC with the chosen tokens replaced; padding entries change nothing."""
        kept_BMC = torch.where(self.valid_BM[..., None], chosen_BMC, self.gather(tokens_BNC))
        return tokens_BNC.scatter(1, self.index_BM[..., None].expand_as(kept_BMC), kept_BMC)


def pack(chosen_BN: Tensor) -> Packed:
    """Pack the positions where ``chosen_BN`` is True; M is the largest count in the batch (may be 0)."""
    count_B = chosen_BN.sum(1)
    longest = int(count_B.max())
    index_BN = torch.argsort((~chosen_BN).to(torch.uint8), dim=1, stable=True)
    valid_BM = torch.arange(longest, device=chosen_BN.device) < count_B[:, None]
    return Packed(index_BN[:, :longest], valid_BM)


def to_tokens(feature_BCHW: Tensor) -> Tensor:
    """Row-major tokens_BNC of a feature map."""
    return feature_BCHW.flatten(2).transpose(1, 2)


def to_feature(tokens_BNC: Tensor, height: int, width: int) -> Tensor:
    """Feature map of row-major tokens_BNC."""
    return tokens_BNC.transpose(1, 2).unflatten(2, (height, width))
