"""Flexible feature similarity module, FFSM (section 3.5)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from itertools import product as pairs_of
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from igll.models.attention import IN_CACHE, GlobalAttention, one_token
from igll.models.hole_layout import OFFSETS, HoleLayout, framed
from igll.models.products import product
from igll.models.strips import diagonal_sum, gather_strips, parts, sum_rows
from igll.models.tokens import take_rows, to_feature, to_tokens

SCORE_BUDGET = 128 * 1024 * 1024  # entries of a matrix of scores held at once when no gradient is needed


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
    """What scores are computed of. A strip is a token with the one above and the one below.

    Attributes:
        asking_BXS: Strips of the foreground, around the hole's tokens and those beside them, divided by the
            longest's length.
        source_BYS: Strips of the re-weighted background, around the patches' centres and those beside them.
        weight_BMO: That length over the foreground patch's around each neighbour of a hole token; 0 for one
            that is no hole.
        scale_BY: One over each background patch's length.
        barred_BY: Minus infinity for a source that is no patch's centre, else 0.
    """

    asking_BXS: Tensor
    source_BYS: Tensor
    weight_BMO: Tensor
    scale_BY: Tensor
    barred_BY: Tensor


class FlexibleFeatureSimilarity(nn.Module):
    """Fills hole tokens with the background patches that resemble them most.

    1. The foreground is attended from the background by GAM.
    2. Score: cosine between the 3 × 3 foreground patch around each hole token and every 3 × 3
       background patch that lies inside the grid and touches no hole token (equation 11).
    3. Propagation: each hole token's scores are summed over the hole tokens of its 3 × 3 neighbourhood.
    4. Softmax over the background patches (equation 12), or the best one alone.
    5. The chosen patches are pasted by transposed convolution, overlaps averaged.

    Only pairs of hole and valid patch are computed. A pair of patches shares two thirds of its tokens with
    the pair one step to the side, so what is multiplied are strips, three tokens high, and three products
    along a diagonal add up to a patch's; pasting is the same backwards. That is a third of the patches'
    arithmetic.

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
        holes = layout.holes
        if holes.index_BM.shape[1] == 0 or layout.sources.index_BM.shape[1] == 0:
            return feature_BCHW
        tokens_BNC = to_tokens(feature_BCHW)
        filled_BMC = self._paste(self._match(feature_BCHW, layout), layout).to(tokens_BNC.dtype)
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
        score_BOY, _, layout = self._around(feature_BCHW, hole_B1HW, row, column, sharpness=1.0)
        middle = len(OFFSETS) // 2
        score_BY = score_BOY[:, middle].masked_fill(~layout.is_centre_BY, float("nan"))
        grid_BN = torch.full_like(hole_B1HW.flatten(1), float("nan"), dtype=score_BY.dtype)
        return grid_BN.scatter(1, layout.sources.index_BM, score_BY).view(hole_B1HW.shape)

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
        score_BOY, covers_BO, layout = self._around(feature_BCHW, hole_B1HW, row, column, self.score_scale)
        grid_BN = score_BOY.new_zeros(hole_B1HW.flatten(1).shape)
        if score_BOY.shape[2] == 0:
            return grid_BN.view(hole_B1HW.shape)
        share_BOY = self._shares(score_BOY) * (covers_BO[..., None] & layout.is_centre_BY[:, None])
        share_BOY = share_BOY / covers_BO.sum(1)[:, None, None]
        for offset, (row_offset, column_offset) in enumerate(OFFSETS):
            # The patch pasted at token + offset covers the token with what stands at its centre - offset.
            origin_BY = layout.sources.index_BM - (row_offset * hole_B1HW.shape[3] + column_offset)
            origin_BY = origin_BY.clamp(0, grid_BN.shape[1] - 1)  # of what is no centre alone lies outside
            grid_BN = grid_BN.scatter_add(1, origin_BY, share_BOY[:, offset])
        return grid_BN.view(hole_B1HW.shape)

    def _around(
        self, feature_BCHW: Tensor, hole_B1HW: Tensor, row: int, column: int, sharpness: float
    ) -> tuple[Tensor, Tensor, HoleLayout]:
        """Scores of the 3 × 3 tokens around one hole token, itself in the middle.

        Returns:
            score_BOY of every source (of the token in the middle for those that are no hole); bool_BO, which
            of the tokens are hole; the layout.
        """
        token = one_token(hole_B1HW, row, column)
        layout = HoleLayout.of(hole_B1HW).to(feature_BCHW.device)
        matching, foreground = self._match(feature_BCHW, layout), layout.foreground
        place_B1 = (layout.holes.index_BM == token.index_BM).int().argmax(1)[:, None]
        slot_BO, covers_BO = (
            of_BMO.gather(1, place_B1[..., None].expand(-1, -1, len(OFFSETS)))[:, 0]
            for of_BMO in (foreground.neighbour_BMO, foreground.is_neighbour_BMO)
        )
        place_BO = foreground.place_BX.gather(1, slot_BO)
        first, last = int(place_BO.min()), int(place_BO.max())
        score_BMY = self._score(matching, layout, slice(first, last + 1), sharpness)
        return take_rows(score_BMY, place_BO - first), covers_BO, layout

    def _match(self, feature_BCHW: Tensor, layout: HoleLayout) -> Matching:
        """Foreground attended from the background, and both sides' strips and patch lengths."""
        height, width = feature_BCHW.shape[-2:]
        grid = (height, width)
        foreground, sources = layout.foreground, layout.sources
        attended_BNC = to_tokens(self.attention(feature_BCHW, layout.hole_B1HW, layout))
        gated_BNC = self.channel_gate(to_tokens(feature_BCHW), layout.hole_B1HW.flatten(1))
        asking_BXS, asking_scale_BX = gather_strips(attended_BNC, foreground.tokens.index_BM, grid)
        source_BYS, scale_BY = gather_strips(gated_BNC, framed(sources.index_BM, width), grid)
        # Products of strips of length 1 at most stay within what 16 bits hold.
        longest_B11 = torch.linalg.vector_norm(asking_BXS, dim=2, dtype=asking_scale_BX.dtype).amax(1)
        longest_B11 = longest_B11.detach().clamp_min(1e-6)[:, None, None]
        asking_BXS = asking_BXS / longest_B11.to(asking_BXS.dtype)
        # A neighbour's patch counts by its direction alone, and not at all if it is no hole.
        scale_BMO = take_rows(asking_scale_BX[..., None], foreground.neighbour_BMO.flatten(1))
        scale_BMO = scale_BMO.view_as(foreground.neighbour_BMO) * longest_B11
        weight_BMO = scale_BMO * foreground.is_neighbour_BMO
        # In an image without a patch every source stays in play; the caller drops the result.
        barred_BY = ~layout.is_centre_BY & layout.has_patches_B[:, None]
        barred_BY = torch.zeros_like(scale_BY).masked_fill(barred_BY, float("-inf"))
        return Matching(asking_BXS, source_BYS, weight_BMO, scale_BY, barred_BY)

    def _score(
        self,
        matching: Matching,
        layout: HoleLayout,
        some: slice,
        sharpness: float,
        memory_E: Tensor | None = None,
    ) -> Tensor:
        """Scores of some hole tokens, times the sharpness (steps 2 and 3).

        Args:
            matching: What they are computed of.
            layout: Where the hole is.
            some: Which hole tokens.
            sharpness: What they are multiplied by.
            memory_E: Where they are put, with room for all of them; None gets memory of their own.

        Returns:
            score_BMY; minus infinity for a source that is no patch's centre.
        """
        first, last = _span(layout.foreground.reach_2M, some, matching.asking_BXS.shape[1])
        asking_BXS, source_BYS = matching.asking_BXS[:, first : last + 1], matching.source_BYS
        neighbour_BMO = (layout.foreground.neighbour_BMO[:, some] - first).clamp(0, last - first)
        weight_BMO, sources = matching.weight_BMO[:, some], source_BYS.shape[1]
        barred_B1Y, scale_B1Y = matching.barred_BY[:, None], sharpness * matching.scale_BY[:, None]
        shape = (*weight_BMO.shape[:2], sources)
        score_BMY = None if memory_E is None else memory_E[: math.prod(shape)].view(shape)
        for columns in parts(sources, _at_once(source_BYS) // asking_BXS.shape[:2].numel()):
            product_BXY = product(asking_BXS, source_BYS[:, columns.seen])
            product_BXY = diagonal_sum(product_BXY.to(weight_BMO.dtype))
            some_BMY = sum_rows(product_BXY, neighbour_BMO, weight_BMO)[..., columns.inner]
            added_B1Y, factor_B1Y = barred_B1Y[..., columns.kept], scale_B1Y[..., columns.kept]
            if score_BMY is None and some_BMY.shape == shape:
                return torch.addcmul(added_B1Y, some_BMY, factor_B1Y)
            if score_BMY is None:
                score_BMY = some_BMY.new_empty(shape)
            torch.addcmul(added_B1Y, some_BMY, factor_B1Y, out=score_BMY[..., columns.kept])
        assert score_BMY is not None  # noqa: S101  (narrows for the type checker)
        return score_BMY

    def _shares(self, score_BMY: Tensor) -> Tensor:
        """How much of each source a token takes (step 4); of many scores, in their place."""
        batch, _, sources = score_BMY.shape
        rows = max(1, _at_once(score_BMY) // max(1, batch * sources))
        if rows >= score_BMY.shape[1]:
            return self._chosen(score_BMY)
        for some_BMY in score_BMY.split(rows, 1):
            some_BMY.copy_(self._chosen(some_BMY))
        return score_BMY

    def _chosen(self, score_BMY: Tensor) -> Tensor:
        if self.select == "softmax":
            return score_BMY.softmax(2)
        return torch.zeros_like(score_BMY).scatter(2, score_BMY.argmax(2, keepdim=True), 1.0)

    def _paste(self, matching: Matching, layout: HoleLayout) -> Tensor:
        """What each hole token becomes (steps 2 to 5), some tokens at a time where memory asks."""
        foreground, source_BYS = layout.foreground, matching.source_BYS
        batch, sources = source_BYS.shape[:2]
        # Precise, as several parts are added up.
        strip_BXS = torch.zeros_like(matching.asking_BXS, dtype=matching.weight_BMO.dtype)
        memory_E: Tensor | None = None
        for start, stop in _pieces(layout.holes.index_BM.shape[1], batch * sources):
            share_BMY = self._shares(
                self._score(matching, layout, slice(start, stop), self.score_scale, memory_E)
            )
            first, last = _span(foreground.slot_2M, slice(start, stop), strip_BXS.shape[1])
            place_BX = foreground.place_BX[:, first : last + 1]
            here_BX = foreground.is_hole_BX[:, first : last + 1] & (start <= place_BX) & (place_BX < stop)
            place_BX = (place_BX - start).clamp(0, stop - start - 1)
            height, width = _tile(batch, last + 1 - first, sources, _at_once(source_BYS))
            for rows, columns in pairs_of(parts(last + 1 - first, height), parts(sources, width)):
                seen = (place_BX[:, rows.seen, None], here_BX[:, rows.seen, None])
                share_BXY = _rows_of(share_BMY[..., columns.seen], *seen)
                share_BXY = diagonal_sum(share_BXY)[:, rows.inner, columns.inner].to(source_BYS.dtype)
                some = slice(first + rows.kept.start, first + rows.kept.stop)
                strip_BXS[:, some] += product(share_BXY, source_BYS[:, columns.kept].transpose(1, 2))
            # The next tokens' scores take its place: getting memory anew takes longer than filling it.
            memory_E = share_BMY.view(-1)
        # A strip at the token above covers the token with its last element, one below with its first.
        element_T = torch.arange(2, -1, -1, device=strip_BXS.device)
        covering_BM1 = foreground.is_neighbour_BMO.sum(2, keepdim=True).clamp_min(1)
        weight_BMT = foreground.in_column_BMT.to(matching.weight_BMO.dtype) / covering_BM1
        piece_BZC = strip_BXS.unflatten(2, (3, -1)).flatten(1, 2)
        return sum_rows(piece_BZC, foreground.column_BMT * 3 + element_T, weight_BMT)


def _span(slots_2M: Tensor, some: slice, entries: int) -> tuple[int, int]:
    """First and last entry of the foreground, of so many, that some hole tokens need; all for all tokens."""
    if some == slice(0, slots_2M.shape[1]):
        return 0, entries - 1  # without a look at a value, at which torch.compile would cut its graph
    return int(slots_2M[0, some].min()) - 1, int(slots_2M[1, some].max()) + 1


def _pieces(count: int, each: int) -> Iterator[tuple[int, int]]:
    """From where to where so many things are computed at a time that have so many entries each."""
    step = max(1, count if torch.is_grad_enabled() else SCORE_BUDGET // each)
    for start in range(0, max(1, count), step):
        yield start, min(start + step, count)


def _at_once(tensor: Tensor) -> int:
    """Entries of a matrix that go through several steps before the next ones do."""
    if torch.is_grad_enabled():
        return sys.maxsize
    if torch.compiler.is_compiling():  # for which every part is more to compile
        return SCORE_BUDGET
    return IN_CACHE if tensor.device.type == "cpu" else SCORE_BUDGET // 4


def _tile(batch: int, rows: int, columns: int, most: int) -> tuple[int, int]:
    """Height and width of the parts that a matrix is cut into, of about so many entries each at most."""
    if batch * rows * columns <= most:
        return rows, columns
    return (math.isqrt(most // batch),) * 2


def _rows_of(table_BMY: Tensor, place_BX1: Tensor, is_there_BX1: Tensor) -> Tensor:
    """Rows of each image's table, zeros where there is none: row_BXY."""
    if table_BMY.is_contiguous():  # else it would be copied first
        return sum_rows(table_BMY, place_BX1, is_there_BX1)
    return take_rows(table_BMY, place_BX1[..., 0]).mul_(is_there_BX1)
