"""Vanilla attention: what the paper's ablation puts in the place of GAM and of FFSM (section 4.4)."""

from __future__ import annotations

from torch import Tensor

from igll.models.attention import GlobalAttention
from igll.models.hole_layout import HoleLayout
from igll.models.tokens import to_feature, to_tokens


class VanillaAttention(GlobalAttention):
    """The transformer's self-attention (Vaswani et al. 2017): ``softmax(Q·Kᵀ / √d)·V`` for every token.

    All tokens ask and all tokens answer; the hole plays no part, and the result stands for the feature
    map everywhere, known tokens included. Projections, heads and learned position are GAM's, so that
    against GAM only the guidance by the mask is missing, and the number of parameters is the same. The
    position has an ablation of its own.

    Args:
        channels: Channels of the feature map (4 × width).
        heads: Attention heads; several are joined by W_O.
        position: Whether keys carry the learned position.
        position_grid: Side of the grid on which positions are learned.
    """

    def __init__(self, channels: int, heads: int = 1, position: bool = True, position_grid: int = 64) -> None:
        super().__init__(channels, heads, position, position_grid, keys="all")

    def forward(self, feature_BCHW: Tensor, hole_B1HW: Tensor, layout: HoleLayout | None = None) -> Tensor:
        """Return the attended feature map.

        Args:
            feature_BCHW: Features on the token grid.
            hole_B1HW: The hole, as GAM and FFSM take it; not used.
            layout: As GAM and FFSM take it; not used.

        Returns:
            feature_BCHW, new at every token.
        """
        height, width = feature_BCHW.shape[-2:]
        tokens_BNC = to_tokens(feature_BCHW)
        attended_BNC = self._attend(self._project(tokens_BNC, (height, width), tokens_BNC, None))
        return to_feature(attended_BNC.to(feature_BCHW.dtype), height, width)
