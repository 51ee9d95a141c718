"""Global attention module, GAM (section 3.4)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.tokens import pack, to_feature, to_tokens


class GlobalAttention(nn.Module):
    """Fills hole tokens from the whole grid by attention; known tokens pass through unchanged.

    The paper masks the attention so that only the foreground is normalised, and returns
    ``F_o = attended × mask + F × (1 − mask)``. So only hole tokens are queries, and the cost falls
    from N × N to hole × N. Content and position logits add up, ``(Q·Kᵀ + Q·Pᵀ) / √d = Q·(K + P)ᵀ / √d``:
    one fused attention call. P = P_h + P_w is learned, a vector per row and one per column, and is
    resized to the grid at hand, so a model trained at one size runs at any other.

    Args:
        channels: Channels of the feature map (4 × width).
        heads: 1 as the paper argues; its ablation uses 3. Several heads are joined by W_O.
        position: Whether keys carry the learned position.
        position_grid: Side of the grid on which positions are learned (64 = 256 / 4).
        keys: ``"all"`` tokens (PIRN), or those of the ``"background"`` alone (PERN).
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        position: bool = True,
        position_grid: int = 64,
        keys: Literal["all", "background"] = "all",
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_channels = -(-channels // heads)
        self.keys = keys
        inner = heads * self.head_channels
        self.query = nn.Linear(channels, inner)
        # A bias would add the same to all logits of a query, which the softmax takes out again.
        self.key = nn.Linear(channels, inner, bias=False)
        self.value = nn.Linear(channels, inner)
        self.join = nn.Linear(inner, channels) if heads > 1 else nn.Identity()
        self.position_row: nn.Parameter | None = None
        self.position_column: nn.Parameter | None = None
        if position:
            self.position_row = nn.Parameter(0.02 * torch.randn(inner, position_grid))
            self.position_column = nn.Parameter(0.02 * torch.randn(inner, position_grid))

    def position_NC(self, height: int, width: int) -> Tensor | None:
        """Learned position of every token of a height × width grid, or None without positions."""
        if self.position_row is None or self.position_column is None:
            return None
        row_CH = F.interpolate(self.position_row[None], size=height, mode="linear", align_corners=False)[0]
        column_CW = F.interpolate(self.position_column[None], size=width, mode="linear", align_corners=False)[
            0
        ]
        return (row_CH[:, :, None] + column_CW[:, None, :]).flatten(1).T

    def forward(self, feature_BCHW: Tensor, hole_B1HW: Tensor) -> Tensor:
        """Return the feature map with its hole attended.

        Args:
            feature_BCHW: Features on the token grid.
            hole_B1HW: Bool, True where the token lies in the hole.

        Returns:
            feature_BCHW; equal to the input outside the hole, and everywhere in an image that has no
            hole or, with ``keys="background"``, no background.
        """
        height, width = feature_BCHW.shape[-2:]
        tokens_BNC = to_tokens(feature_BCHW)
        hole_BN = hole_B1HW.flatten(1)
        queries = pack(hole_BN)
        if queries.index_BM.shape[1] == 0:
            return feature_BCHW
        query_BMC = self.query(queries.gather(tokens_BNC))
        key_BNC, value_BNC = self.key(tokens_BNC), self.value(tokens_BNC)
        position_NC = self.position_NC(height, width)
        if position_NC is not None:
            key_BNC = key_BNC + position_NC.to(key_BNC.dtype)
        usable_B = hole_BN.new_ones(hole_BN.shape[0])
        key_valid_BK: Tensor | None = None
        if self.keys == "background":
            usable_B = ~hole_BN.all(1)
            # An image without background attends to everything, and its result is dropped below.
            chosen = pack(~hole_BN | ~usable_B[:, None])
            key_BNC, value_BNC = chosen.gather(key_BNC), chosen.gather(value_BNC)
            key_valid_BK = chosen.valid_BM
        attended_BMC = self._attend(query_BMC, key_BNC, value_BNC, key_valid_BK)
        attended_BMC = torch.where(usable_B[:, None, None], attended_BMC, queries.gather(tokens_BNC))
        return to_feature(queries.scatter(tokens_BNC, attended_BMC.to(tokens_BNC.dtype)), height, width)

    def _attend(
        self, query_BMC: Tensor, key_BKC: Tensor, value_BKC: Tensor, valid_BK: Tensor | None
    ) -> Tensor:
        """Scaled dot-product attention over the heads (equations 6–9)."""
        query, key, value = (
            tensor.unflatten(2, (self.heads, self.head_channels)).transpose(1, 2)
            for tensor in (query_BMC, key_BKC, value_BKC)
        )
        mask = None if valid_BK is None or bool(valid_BK.all()) else valid_BK[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        joined_BMC: Tensor = self.join(attended.transpose(1, 2).flatten(2))
        return joined_BMC
