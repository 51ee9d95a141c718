"""Global attention module, GAM (section 3.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.fused_attention import fused_attention
from igll.models.hole_layout import HoleLayout
from igll.models.products import pays, product
from igll.models.tokens import CACHE_LINE, Packed, to_feature, to_tokens

IN_CACHE = 4 * 1024 * 1024  # scores that go through several steps together, on a CPU: 16 MiB of 32 of cache
_KEYS_AT_ONCE = 4_096  # by products


class Projected(NamedTuple):
    """What attention works on.

    Attributes:
        query_BMC: Queries of the chosen hole tokens.
        key_BKC: Keys, position included.
        value_BKC: Values.
        sources: Which tokens the keys and values belong to; None for all of the grid, in order.
    """

    query_BMC: Tensor
    key_BKC: Tensor
    value_BKC: Tensor
    sources: Packed | None

    def of_each_image(self) -> Iterator[Projected]:
        """One image after the other, without the padding of its list of sources."""
        of_images = zip(self.query_BMC.split(1), self.key_BKC.split(1), self.value_BKC.split(1), strict=True)
        for number, (query_1MC, key_1KC, value_1KC) in enumerate(of_images):
            keys = key_1KC.shape[1]
            if self.sources is not None and self.sources.ragged:
                keys = int(self.sources.valid_BM[number].sum())
            yield Projected(query_1MC, key_1KC[:, :keys], value_1KC[:, :keys], None)


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
        row_HC, column_WC = (
            F.interpolate(learned_CN[None], size=side, mode="linear", align_corners=False)[0].T.contiguous()
            for learned_CN, side in ((self.position_row, height), (self.position_column, width))
        )
        return (row_HC[:, None] + column_WC).flatten(0, 1)

    def forward(self, feature_BCHW: Tensor, hole_B1HW: Tensor, layout: HoleLayout | None = None) -> Tensor:
        """Return the feature map with its hole attended.

        Args:
            feature_BCHW: Features on the token grid.
            hole_B1HW: Bool, True where the token lies in the hole.
            layout: What follows from the hole, on the features' device; worked out here if not given.

        Returns:
            feature_BCHW; equal to the input outside the hole, and everywhere in an image that has no
            hole or, with ``keys="background"``, no background.
        """
        height, width = feature_BCHW.shape[-2:]
        layout = layout or HoleLayout.of(hole_B1HW).to(feature_BCHW.device)
        if layout.holes.index_BM.shape[1] == 0:
            return feature_BCHW
        tokens_BNC = to_tokens(feature_BCHW)
        known_BMC = layout.holes.gather(tokens_BNC)
        projected = self._project(tokens_BNC, (height, width), known_BMC, self._sources(layout))
        attended_BMC = self._attend(projected).to(tokens_BNC.dtype)
        if self.keys == "background" and layout.some_without_background:
            attended_BMC = torch.where(layout.has_background_B[:, None, None], attended_BMC, known_BMC)
        return to_feature(layout.holes.scatter(tokens_BNC, attended_BMC), height, width)

    def weights(self, feature_BCHW: Tensor, hole_B1HW: Tensor, row: int, column: int) -> Tensor:
        """Where one hole token looks: its attention weights, head by head.

        Args:
            feature_BCHW: As for :meth:`forward`.
            hole_B1HW: As for :meth:`forward`.
            row: Row of the token on the grid.
            column: Column of the token on the grid.

        Returns:
            weights_BGHW in [0, 1] for G heads, summing to 1 over the grid; 0 where no key stands, and
            everywhere in an image that :meth:`forward` leaves as it is.

        Raises:
            ValueError: If the token is not in the hole of every image.
        """
        height, width = feature_BCHW.shape[-2:]
        layout = HoleLayout.of(hole_B1HW).to(feature_BCHW.device)
        tokens_BNC = to_tokens(feature_BCHW)
        asking_B1C = one_token(hole_B1HW, row, column).gather(tokens_BNC)
        projected = self._project(tokens_BNC, (height, width), asking_B1C, self._sources(layout))
        score_BG1K = self._by_head(projected.query_BMC) @ self._by_head(projected.key_BKC).transpose(2, 3)
        score_BGK = score_BG1K[:, :, 0] / self.head_channels**0.5
        if projected.sources is None:
            return score_BGK.softmax(2).unflatten(2, (height, width))
        index_BK = projected.sources.index_BM
        barred_B1K = ~projected.sources.valid_BM[:, None]
        weight_BGK = score_BGK.masked_fill(barred_B1K, float("-inf")).softmax(2)
        weight_BGK = torch.where(layout.has_background_B[:, None, None], weight_BGK, 0.0)
        grid_BGN = weight_BGK.new_zeros(*weight_BGK.shape[:2], height * width)
        return grid_BGN.scatter(2, index_BK[:, None].expand_as(weight_BGK), weight_BGK).unflatten(
            2, (height, width)
        )

    def _project(
        self, tokens_BNC: Tensor, grid: tuple[int, int], asking_BMC: Tensor, sources: Packed | None
    ) -> Projected:
        """Queries of the asking tokens, keys and values of the sources (None: all tokens)."""
        source_BKC = tokens_BNC if sources is None else sources.gather(tokens_BNC)
        key_BKC = self.key(source_BKC)
        position_NC = self.position_NC(*grid)
        if position_NC is not None:
            position_BKC = position_NC.to(key_BKC.dtype).expand(len(key_BKC), -1, -1)
            key_BKC = key_BKC + (position_BKC if sources is None else sources.gather(position_BKC))
        return Projected(self.query(asking_BMC), key_BKC, self.value(source_BKC), sources)

    def _sources(self, layout: HoleLayout) -> Packed | None:
        """What may be attended; None for all tokens."""
        return layout.background if self.keys == "background" else None

    def _attend(self, projected: Projected) -> Tensor:
        """Scaled dot-product attention over the heads (equations 6–9)."""
        rows, width = _part_of(projected)
        if self.heads == 1 and pays(projected.query_BMC[:, :rows], projected.key_BKC[:, :width]):
            images = [_attend_by_products(image) for image in projected.of_each_image()]
            return images[0] if len(images) == 1 else torch.cat(images)
        query, key, value = (
            self._by_head(tokens) for tokens in (projected.query_BMC, projected.key_BKC, projected.value_BKC)
        )
        sources = projected.sources
        mask = sources.valid_BM[:, None, None, :] if sources is not None and sources.ragged else None
        attended = fused_attention(query, key, value, mask)
        joined_BMC: Tensor = self.join(attended.transpose(1, 2).flatten(2))
        return joined_BMC

    def _by_head(self, tokens_BMC: Tensor) -> Tensor:
        """Tokens as (B, heads, M, channels per head)."""
        return tokens_BMC.unflatten(2, (self.heads, self.head_channels)).transpose(1, 2)


def _part_of(projected: Projected) -> tuple[int, int]:
    """How many queries and keys go through several products at a time, so that scores stay in the cache."""
    queries, keys = projected.query_BMC.shape[1], max(1, projected.key_BKC.shape[1])
    width = -(-keys // -(-keys // _KEYS_AT_ONCE))
    rows = -(-queries // -(-queries * width // IN_CACHE))
    return rows + -rows % CACHE_LINE, width  # of rows few numbers for all holes


def _attend_by_products(image: Projected) -> Tensor:
    """Attention of one head in one image by products and softmax, some queries and keys at a time."""
    query_1MC, key_1KC, value_1KC, _ = image
    queries, (rows, width) = query_1MC.shape[1], _part_of(image)
    query_1MC = F.pad(query_1MC / query_1MC.shape[2] ** 0.5, (0, 0, 0, -queries % rows))
    parts = [
        (key_1WC, value_1WC.transpose(1, 2).contiguous())
        for key_1WC, value_1WC in zip(key_1KC.split(width, 1), value_1KC.split(width, 1), strict=True)
    ]
    attended = [_attend_in_parts(some_1XC, parts) for some_1XC in query_1MC.split(rows, 1)]
    return torch.cat(attended, 1)[:, :queries]


def _attend_in_parts(query_1XC: Tensor, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """What all keys together give, of what each part of them gives and how much it weighs."""
    attended, weights = [], []
    for key_1WC, value_1CW in parts:
        score_1XW = product(query_1XC, key_1WC)
        share_1XW = score_1XW.softmax(2)
        attended.append(product(share_1XW, value_1CW))
        if len(parts) > 1:
            # The logarithm of the sum of exponentials, by the largest score and its share of that sum.
            weights.append(score_1XW.amax(2, True) - share_1XW.amax(2, True).log())
    if len(parts) == 1:
        return attended[0]
    weight_1XP = torch.cat(weights, 2).softmax(2)
    return (weight_1XP[:, :, None] @ torch.stack(attended, 2))[:, :, 0]


def one_token(hole_B1HW: Tensor, row: int, column: int) -> Packed:
    """One token of the grid, the same in every image, as a packed list.

    Raises:
        ValueError: If it is outside the grid, or not in the hole of every image.
    """
    height, width = hole_B1HW.shape[-2:]
    inside = 0 <= row < height and 0 <= column < width
    if not inside or not bool(hole_B1HW[:, 0, row, column].all()):
        raise ValueError(f"token ({row}, {column}) is not in the hole of the {height} × {width} grid")
    index_B1 = torch.full(
        (hole_B1HW.shape[0], 1), row * width + column, dtype=torch.long, device=hole_B1HW.device
    )
    return Packed(index_B1, torch.ones_like(index_B1, dtype=torch.bool), ragged=False)
