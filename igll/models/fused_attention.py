"""Scaled dot-product attention as torch fuses it, by kernels that suit holes of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CHANNELS = 8  # those of a head that CUDA's fused kernels take are a multiple of it


def fused_attention(
    query_BGMC: Tensor, key_BGKC: Tensor, value_BGKC: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attend, on CUDA without ever holding all scores.

    There, cuDNN's kernels, which torch prefers in 16 bits on GPUs from Hopper on, are passed over: they are
    planned anew for every number of queries and keys, and holes have any number; and of a mask that is
    learned, as HAN's, they know no gradient. A compiled pass, of one size, takes what torch chooses.

    Args:
        query_BGMC: Queries of M tokens, by head.
        key_BGKC: Keys of K tokens.
        value_BGKC: Their values, of as many channels.
        mask: What is added to the scores, or, in bool, which of them count; expandable to (B, heads, M, K).

    Returns:
        attended_BGMC.
    """
    if query_BGMC.device.type != "cuda":
        return F.scaled_dot_product_attention(query_BGMC, key_BGKC, value_BGKC, attn_mask=mask)
    if torch.compiler.is_compiling():
        return _attend_in_whole_vectors(query_BGMC, key_BGKC, value_BGKC, mask)
    kernels = torch.backends.cuda
    before = kernels.cudnn_sdp_enabled()
    kernels.enable_cudnn_sdp(False)
    try:
        return _attend_in_whole_vectors(query_BGMC, key_BGKC, value_BGKC, mask)
    finally:
        kernels.enable_cudnn_sdp(before)


def _attend_in_whole_vectors(
    query_BGMC: Tensor, key_BGKC: Tensor, value_BGKC: Tensor, mask: Tensor | None
) -> Tensor:
    """Attend with channels of zeros beside those there are, where a fused kernel would not take these.

    Of heads of, say, 43 channels torch would otherwise make a matrix of all scores.
    """
    channels = query_BGMC.shape[3]
    if missing := -channels % _CHANNELS:
        query_BGMC, key_BGKC, value_BGKC = (
            F.pad(some_BGXC, (0, missing)) for some_BGXC in (query_BGMC, key_BGKC, value_BGKC)
        )
    scale = channels**-0.5  # which torch would take from the zeros, too
    attended = F.scaled_dot_product_attention(query_BGMC, key_BGKC, value_BGKC, attn_mask=mask, scale=scale)
    return attended[..., :channels]
