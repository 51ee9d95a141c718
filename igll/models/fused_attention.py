"""Scaled dot-product attention as torch fuses it, by kernels that suit holes of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fused_attention(
    query_BGMC: Tensor, key_BGKC: Tensor, value_BGKC: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attend, without cuDNN's kernels, which torch prefers in 16 bits on GPUs from Hopper on.

    Those are planned anew for every number of queries and keys, and holes have any number; and of a mask that
    is learned, as HAN's, they know no gradient. A compiled pass, of one size, takes what torch chooses.

    Args:
        query_BGMC: Queries of M tokens, by head.
        key_BGKC: Keys of K tokens.
        value_BGKC: Their values.
        mask: What is added to the scores, or, in bool, which of them count; expandable to (B, heads, M, K).

    Returns:
        attended_BGMC.
    """
    if query_BGMC.device.type != "cuda" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query_BGMC, key_BGKC, value_BGKC, attn_mask=mask)
    kernels = torch.backends.cuda
    before = kernels.cudnn_sdp_enabled()
    kernels.enable_cudnn_sdp(False)
    try:
        return F.scaled_dot_product_attention(query_BGMC, key_BGKC, value_BGKC, attn_mask=mask)
    finally:
        kernels.enable_cudnn_sdp(before)
