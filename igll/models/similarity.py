"""Flexible feature similarity module, FFSM (section 3.5)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.attention import GlobalAttention, one_token
from igll.models.tokens import Packed, pack, to_feature, to_tokens

# Offsets (row, column) of a 3 × 3 patch, row-major; OFFSETS[8 - i] is the reverse of OFFSETS[i].
OFFSETS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
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
        slot_BMO: For each hole token and offset, where that neighbour stands among the queries.
    """

    query_BMP: Tensor
    kernel_BKP: Tensor
    slot_BMO: Tensor


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

    def forward(self, feature_BCHW: Tensor, hole_B1HW: Tensor) -> Tensor:
        """Return the feature map with its hole filled from background patches.

        Args:
            feature_BCHW: Features on the token grid.
            hole_B1HW: Bool, True where the token lies in the hole.

        Returns:
            feature_BCHW; equal to the input outside the hole, and everywhere in an image that has no
            hole or no valid background patch.
        """
        height, width = feature_BCHW.shape[-2:]
        holes = pack(hole_B1HW.flatten(1))
        sources = pack(valid_patches(hole_B1HW).flatten(1))
        if holes.index_BM.shape[1] == 0 or sources.index_BM.shape[1] == 0:
            return feature_BCHW
        tokens_BNC = to_tokens(feature_BCHW)
        matching = self._match(feature_BCHW, hole_B1HW, holes, sources)
        pasted_BMP = self._select(matching.query_BMP, matching.kernel_BKP, sources.valid_BM)
        filled_BMC = _paste(pasted_BMP, matching.slot_BMO)

        usable_B11 = sources.valid_BM.any(1)[:, None, None]
        filled_BMC = torch.where(usable_B11, filled_BMC.to(tokens_BNC.dtype), holes.gather(tokens_BNC))
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
        holes = pack(hole_B1HW.flatten(1))
        sources = pack(valid_patches(hole_B1HW).flatten(1))
        matching = self._match(feature_BCHW, hole_B1HW, holes, sources)
        place_B11 = (holes.index_BM == token.index_BM).int().argmax(1)[:, None, None]
        slot_BO = matching.slot_BMO.gather(1, place_B11.expand(-1, -1, len(OFFSETS)))[:, 0]
        query_BOP = _take(matching.query_BMP, slot_BO)
        score_BOK = torch.matmul(query_BOP, _unit(matching.kernel_BKP).transpose(1, 2))
        return score_BOK, slot_BO < holes.index_BM.shape[1], sources

    def _match(self, feature_BCHW: Tensor, hole_B1HW: Tensor, holes: Packed, sources: Packed) -> Matching:
        """Foreground attended from the background, and both sides' patches (steps 1 to 3)."""
        height, width = feature_BCHW.shape[-2:]
        foreground_BNC = to_tokens(self.attention(feature_BCHW, hole_B1HW))
        gated_BNC = self.channel_gate(to_tokens(feature_BCHW), hole_B1HW.flatten(1))
        patch_BMP = gather_patches(foreground_BNC, holes.index_BM, height, width)
        kernel_BKP = gather_patches(gated_BNC, sources.index_BM, height, width)
        slot_BMO = neighbour_slots(holes, height, width)
        return Matching(_sum_over_neighbours(_unit(patch_BMP), slot_BMO), kernel_BKP, slot_BMO)

    def _select(self, query_BMP: Tensor, kernel_BKP: Tensor, valid_BK: Tensor) -> Tensor:
        """Mix (or pick) background patches for each query, some queries at a time where memory asks."""
        key_BPK = _unit(kernel_BKP).transpose(1, 2)
        batch, queries, keys = query_BMP.shape[0], query_BMP.shape[1], kernel_BKP.shape[1]
        rows = queries if torch.is_grad_enabled() else max(1, SCORE_BUDGET // (batch * keys))
        # With no real patch at all, every padded one stays in play; the caller drops the result.
        barred_B1K = (~valid_BK & valid_BK.any(1, keepdim=True))[:, None, :]
        mixed = []
        for query in query_BMP.split(rows, dim=1):
            score = torch.matmul(query, key_BPK).masked_fill(barred_B1K, float("-inf"))
            if self.select == "best":
                best_BM = score.argmax(2)
                mixed.append(kernel_BKP.gather(1, best_BM[..., None].expand(-1, -1, kernel_BKP.shape[2])))
            else:
                mixed.append(torch.matmul((self.score_scale * score).softmax(2), kernel_BKP))
        return torch.cat(mixed, 1)


def valid_patches(hole_B1HW: Tensor) -> Tensor:
    """Bool_B1HW, True at the centre of each 3 × 3 patch that lies in the grid and touches no hole token."""
    barred = F.pad(hole_B1HW.float(), (1, 1, 1, 1), value=1.0)
    return F.max_pool2d(barred, 3, stride=1) == 0


def gather_patches(tokens_BNC: Tensor, centre_BM: Tensor, height: int, width: int) -> Tensor:
    """3 × 3 patches around the given tokens as patch_BM(9C), zero beyond the grid."""
    row_BM, column_BM = centre_BM // width, centre_BM % width
    pieces = []
    for row_offset, column_offset in OFFSETS:
        row, column = row_BM + row_offset, column_BM + column_offset
        inside_BM = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index_BM = torch.where(inside_BM, row * width + column, 0)
        piece_BMC = tokens_BNC.gather(1, index_BM[..., None].expand(-1, -1, tokens_BNC.shape[2]))
        pieces.append(piece_BMC * inside_BM[..., None])
    return torch.cat(pieces, 2)


def neighbour_slots(holes: Packed, height: int, width: int) -> Tensor:
    """For each hole token and offset, where its neighbour stands in the packed list; M if it is no hole."""
    batch, count = holes.index_BM.shape
    device = holes.index_BM.device
    slot_BN = torch.full((batch, height * width), count, dtype=torch.long, device=device)
    own_BM = torch.where(holes.valid_BM, torch.arange(count, device=device), count)
    slot_BHW = slot_BN.scatter(1, holes.index_BM, own_BM).unflatten(1, (height, width))
    padded = F.pad(slot_BHW, (1, 1, 1, 1), value=count)
    around = [
        padded[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width].flatten(1)
        for row, column in OFFSETS
    ]
    return torch.stack([slot.gather(1, holes.index_BM) for slot in around], 2)


def _unit(patch_BMP: Tensor) -> Tensor:
    """Patches scaled to unit length, so that products are cosines; a zero patch stays zero."""
    precise = torch.promote_types(patch_BMP.dtype, torch.float32)
    return F.normalize(patch_BMP.to(precise), dim=2, eps=1e-6).to(patch_BMP.dtype)


def _take(patch_BMP: Tensor, slot_BM: Tensor) -> Tensor:
    """Rows of the packed list; slot M (no hole) gives zeros."""
    padded = F.pad(patch_BMP, (0, 0, 0, 1))
    return padded.gather(1, slot_BM[..., None].expand(-1, -1, patch_BMP.shape[2]))


def _sum_over_neighbours(patch_BMP: Tensor, slot_BMO: Tensor) -> Tensor:
    """Propagation: sum of the patches of the 3 × 3 neighbourhood's hole tokens."""
    total_BMP = torch.zeros_like(patch_BMP)
    for slot_BM in slot_BMO.unbind(2):
        total_BMP = total_BMP + _take(patch_BMP, slot_BM)
    return total_BMP


def _paste(patch_BMP: Tensor, slot_BMO: Tensor) -> Tensor:
    """Transposed convolution read at the hole tokens: every patch that covers a token, averaged."""
    pieces_BMOC = patch_BMP.unflatten(2, (len(OFFSETS), -1))
    total_BMC = torch.zeros_like(pieces_BMOC[:, :, 0])
    for offset, slot_BM in enumerate(slot_BMO.unbind(2)):
        # A patch centred at token + OFFSETS[o] covers the token with its element -OFFSETS[o].
        total_BMC = total_BMC + _take(pieces_BMOC[:, :, len(OFFSETS) - 1 - offset], slot_BM)
    covered_BM1 = (slot_BMO < patch_BMP.shape[1]).sum(2)[..., None]
    return total_BMC / covered_BM1.clamp_min(1)
