"""Flexible feature similarity module, FFSM (section 3.5)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.attention import GlobalAttention, one_token
from igll.models.hole_layout import OFFSETS, HoleLayout
from igll.models.tokens import Packed, in_batch, take_rows, to_feature, to_tokens

SCORE_BUDGET = 64 * 1024 * 1024  # entries of the score matrix held at once when no gradient is needed


class ChannelGate(nn.Module):
    """Channel attention that re-weights the background features used as kernels.

    Squeeze-and-excitation (Hu et al. 2018) whose average runs over known tokens only.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)  # of fewer, all may fall silent at once
        self.gate = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, tokens_BNC: Tensor, hole_BN: Tensor) -> Tensor:
        """Return tokens_BNC scaled channel by channel."""
        known_BN1 = (~hole_BN)[..., None].to(tokens_BNC.dtype)
        mean_B1C = (tokens_BNC * known_BN1).sum(1, keepdim=True) / known_BN1.sum(1, keepdim=True).clamp_min(1)
        gated_BNC: Tensor = tokens_BNC * self.gate(mean_B1C)
        return gated_BNC


class Matching(NamedTuple):
    """What scores are computed of.

    Attributes:
        query_BMP: Unit foreground patches around the hole tokens, summed over the neighbourhood (steps 1, 3).
        kernel_BKP: Background patches.
        scale_BK: One over each background patch's length.
    """

    query_BMP: Tensor
    kernel_BKP: Tensor
    scale_BK: Tensor


class FlexibleFeatureSimilarity(nn.Module):
    """Fills hole tokens with the background patches that resemble them most.

    1. The foreground is attended from the background by GAM.
    2. Score: cosine between the 3 × 3 foreground patch around each hole token and every 3 × 3
       background patch that lies inside the grid and touches no hole token (equation 11).
    3. Propagation: each hole token's scores are summed over the hole tokens of its 3 × 3 neighbourhood.
    4. Softmax over the background patches (equation 12), or the best one alone.
    5. The chosen patches are pasted by transposed convolution, overlaps averaged.

    Step 3 is linear in the foreground patch, so the normalised patches are summed before the one
    matrix product, and 2–5 become attention with patches as tokens: hole × valid pairs, nothing else.

    Args:
        channels: Channels of the feature map (4 × width).
        heads: Heads of the attention in step 1.
        position: Whether that attention uses learned positions.
        position_grid: Side of the grid on which positions are learned.
        select: ``"softmax"`` or ``"best"``; picking the best lets no gradient into step 1.
        score_scale: What scores are multiplied by before the softmax; 1 in the paper. Sums of cosines of
            similar patches lie so close together that the softmax is nearly an average; more sharpens it.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        position: bool = True,
        position_grid: int = 64,
        select: Literal["softmax", "best"] = "softmax",
        score_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.select = select
        self.score_scale = score_scale
        self.attention = GlobalAttention(channels, heads, position, position_grid, keys="background")
        self.channel_gate = ChannelGate(channels)

    def forward(self, feature_BCHW: Tensor, hole_B1HW: Tensor, layout: HoleLayout | None = None) -> Tensor:
        """Return the feature map with its hole filled from background patches.

        Args:
            feature_BCHW: Features on the token grid.
            hole_B1HW: Bool, True where the token lies in the hole.
            layout: What follows from the hole, on the features' device; worked out here if not given.

        Returns:
            feature_BCHW; equal to the input outside the hole, and everywhere in an image that has no
            hole or no valid background patch.
        """
        height, width = feature_BCHW.shape[-2:]
        layout = layout or HoleLayout.of(hole_B1HW).to(feature_BCHW.device)
        holes, patches = layout.holes, layout.patches
        if holes.index_BM.shape[1] == 0 or patches.index_BM.shape[1] == 0:
            return feature_BCHW
        tokens_BNC = to_tokens(feature_BCHW)
        matching = self._match(feature_BCHW, layout)
        filled_BMC = _paste(self._select(matching, patches), layout).to(tokens_BNC.dtype)
        if layout.some_without_patches:
            usable_B11 = layout.has_patches_B[:, None, None]
            filled_BMC = torch.where(usable_B11, filled_BMC, holes.gather(tokens_BNC))
        return to_feature(holes.scatter(tokens_BNC, filled_BMC), height, width)

    def scores(self, feature_BCHW: Tensor, hole_B1HW: Tensor, row: int, column: int) -> Tensor:
        """How well each background patch fits one hole token: the scores that step 4 compares.

        Args:
            feature_BCHW: As for :meth:`forward`.
            hole_B1HW: As for :meth:`forward`.
            row: Row of the token on the grid.
            column: Column of the token on the grid.

        Returns:
            score_B1HW at the centres of the patches, a sum of up to nine cosines, so within [-9, 9];
            NaN where no valid patch is centred.

        Raises:
            ValueError: If the token is not in the hole of every image.
        """
        score_BOK, _, sources = self._around(feature_BCHW, hole_B1HW, row, column)
        centre = len(OFFSETS) // 2
        score_B1K = score_BOK[:, centre : centre + 1].masked_fill(~sources.valid_BM[:, None], float("nan"))
        grid_B1N = score_B1K.new_full((len(score_B1K), 1, hole_B1HW[0].numel()), float("nan"))
        return grid_B1N.scatter(2, sources.index_BM[:, None], score_B1K).view(hole_B1HW.shape)

    def weights(self, feature_BCHW: Tensor, hole_B1HW: Tensor, row: int, column: int) -> Tensor:
        """Where the content of one hole token comes from, once overlapping patches are averaged (step 5).

        The weighted sum of the background features, re-weighted by the channel gate, is the token's new
        value.

        Args:
            feature_BCHW: As for :meth:`forward`.
            hole_B1HW: As for :meth:`forward`.
            row: Row of the token on the grid.
            column: Column of the token on the grid.

        Returns:
            weights_B1HW in [0, 1], summing to 1 over the grid; 0 in the hole, and everywhere in an image
            that :meth:`forward` leaves as it is.

        Raises:
            ValueError: If the token is not in the hole of every image.
        """
        score_BOK, covers_BO, sources = self._around(feature_BCHW, hole_B1HW, row, column)
        grid_BN = score_BOK.new_zeros(hole_B1HW.flatten(1).shape)
        if score_BOK.shape[2] == 0:
            return grid_BN.view(hole_B1HW.shape)
        barred_B1K = ~sources.valid_BM[:, None]
        score_BOK = score_BOK.masked_fill(barred_B1K, torch.finfo(score_BOK.dtype).min)
        if self.select == "best":
            share_BOK = torch.zeros_like(score_BOK).scatter(2, score_BOK.argmax(2, keepdim=True), 1.0)
        else:
            share_BOK = (self.score_scale * score_BOK).softmax(2)
        share_BOK = share_BOK.masked_fill(barred_B1K, 0.0) * covers_BO[..., None]
        share_BOK = share_BOK / covers_BO.sum(1)[:, None, None]
        for offset, (row_offset, column_offset) in enumerate(OFFSETS):
            # The patch pasted at token + offset covers the token with what stands at its centre - offset.
            origin_BK = sources.index_BM - (row_offset * hole_B1HW.shape[3] + column_offset)
            origin_BK = origin_BK.clamp(0, grid_BN.shape[1] - 1)  # padding alone lies outside
            grid_BN = grid_BN.scatter_add(1, origin_BK, share_BOK[:, offset])
        return grid_BN.view(hole_B1HW.shape)

    def _around(
        self, feature_BCHW: Tensor, hole_B1HW: Tensor, row: int, column: int
    ) -> tuple[Tensor, Tensor, Packed]:
        """Scores of the 3 × 3 tokens around one hole token, itself in the middle.

        Returns:
            score_BOK of every background patch (0 for tokens that are no hole); bool_BO, which of the tokens
            are hole; the patches' centres.
        """
        token = one_token(hole_B1HW, row, column)
        layout = HoleLayout.of(hole_B1HW).to(feature_BCHW.device)
        matching = self._match(feature_BCHW, layout)
        place_B1 = (layout.holes.index_BM == token.index_BM).int().argmax(1)[:, None]
        around_BO, covers_BO = (
            slot_BMO.gather(1, place_B1[..., None].expand(-1, -1, len(OFFSETS)))[:, 0]
            for slot_BMO in (layout.neighbour_BMO, layout.is_hole_BMO)
        )
        query_BOP = take_rows(matching.query_BMP, around_BO) * covers_BO[..., None]
        score_BOK = query_BOP @ matching.kernel_BKP.transpose(1, 2) * matching.scale_BK[:, None]
        return score_BOK, covers_BO, layout.patches

    def _match(self, feature_BCHW: Tensor, layout: HoleLayout) -> Matching:
        """Foreground attended from the background, and both sides' patches (steps 1 to 3)."""
        height, width = feature_BCHW.shape[-2:]
        grid = (height, width)
        foreground_BNC = to_tokens(self.attention(feature_BCHW, layout.hole_B1HW, layout))
        gated_BNC = self.channel_gate(to_tokens(feature_BCHW), layout.hole_B1HW.flatten(1))
        patch_BMP, patch_scale_BM = gather_patches(foreground_BNC, layout.holes.index_BM, grid)
        kernel_BKP, kernel_scale_BK = gather_patches(gated_BNC, layout.patches.index_BM, grid)
        # A neighbour's patch counts by its direction alone, and not at all if it is no hole.
        scale_BMO = take_rows(patch_scale_BM[..., None], layout.neighbour_BMO.flatten(1))
        weight_BMO = scale_BMO.view_as(layout.neighbour_BMO) * layout.is_hole_BMO
        return Matching(sum_rows(patch_BMP, layout.neighbour_BMO, weight_BMO), kernel_BKP, kernel_scale_BK)

    def _select(self, matching: Matching, patches: Packed) -> Tensor:
        """Mix (or pick) background patches for each query, some queries at a time where memory asks."""
        query_BMP, kernel_BKP, scale_BK = matching
        batch, queries, keys = query_BMP.shape[0], query_BMP.shape[1], kernel_BKP.shape[1]
        rows = queries if torch.is_grad_enabled() else max(1, SCORE_BUDGET // (batch * keys))
        barred_B1K = None
        if patches.ragged:
            # With no real patch at all, every padded one stays in play; the caller drops the result.
            barred_B1K = (~patches.valid_BM & patches.valid_BM.any(1, keepdim=True))[:, None, :]
        mixed = []
        for query in query_BMP.split(rows, dim=1):
            score = query @ kernel_BKP.transpose(1, 2) * (self.score_scale * scale_BK)[:, None]
            if barred_B1K is not None:
                score = score.masked_fill(barred_B1K, float("-inf"))
            if self.select == "best":
                mixed.append(take_rows(kernel_BKP, score.argmax(2)))
            else:
                mixed.append(score.softmax(2).to(kernel_BKP.dtype) @ kernel_BKP)
        return torch.cat(mixed, 1) if len(mixed) > 1 else mixed[0]


def gather_patches(tokens_BNC: Tensor, centre_BM: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """3 × 3 patches around the given tokens, zero beyond the grid.

    Args:
        tokens_BNC: Tokens of the grid.
        centre_BM: Positions of the patches' centres.
        grid: Height and width of the grid.

    Returns:
        patch_BM(9C), and one over each patch's length, scale_BM, in at least float32.
    """
    batch, _, channels = tokens_BNC.shape
    # A frame of zeros around the grid stands for what lies beyond it.
    framed_BHWC = F.pad(tokens_BNC.unflatten(1, grid), (0, 0, 1, 1, 1, 1))
    framed_BNC = framed_BHWC.flatten(1, 2)
    around_O = torch.tensor(
        [row * (grid[1] + 2) + column for row, column in OFFSETS], device=tokens_BNC.device
    )
    framed_centre_BM = centre_BM + 2 * (centre_BM // grid[1]) + grid[1] + 3
    index_BX = (framed_centre_BM[..., None] + around_O).flatten(1)
    patch_BMP = take_rows(framed_BNC, index_BX).view(batch, -1, len(OFFSETS) * channels)
    precise = torch.promote_types(tokens_BNC.dtype, torch.float32)
    length_BM = torch.linalg.vector_norm(patch_BMP, dim=2, dtype=precise)
    return patch_BMP, 1 / length_BM.clamp_min(1e-6)


def sum_rows(table_BMP: Tensor, index_BMO: Tensor, weight_BMO: Tensor) -> Tensor:
    """For every entry, the weighted sum of some rows of its image's table: row_BMP."""
    batch, rows, _ = table_BMP.shape
    flat_XO = in_batch(index_BMO, rows).view(-1, index_BMO.shape[2])
    sum_XP = F.embedding_bag(
        flat_XO,
        table_BMP.flatten(0, 1),
        mode="sum",
        per_sample_weights=weight_BMO.to(table_BMP.dtype).flatten(0, 1),
    )
    return sum_XP.unflatten(0, (batch, -1))


def _paste(patch_BMP: Tensor, layout: HoleLayout) -> Tensor:
    """Transposed convolution read at the hole tokens: every patch that covers a token, averaged."""
    piece_BXC = patch_BMP.unflatten(2, (len(OFFSETS), -1)).flatten(1, 2)
    # A patch centred at token + OFFSETS[o] covers the token with its element -OFFSETS[o].
    element_O = torch.arange(len(OFFSETS) - 1, -1, -1, device=patch_BMP.device)
    covered_BM1 = layout.is_hole_BMO.sum(2, keepdim=True)
    weight_BMO = layout.is_hole_BMO.to(patch_BMP.dtype) / covered_BM1.clamp_min(1)
    return sum_rows(piece_BXC, layout.neighbour_BMO * len(OFFSETS) + element_O, weight_BMO)
