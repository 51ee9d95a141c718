"""Patches of one image at one resolution: which known one stands best for every missing place."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_KNOWN = 2.0  # weight of a known pixel in a comparison; one that is missing counts 1
_CROWDING = 1.0  # what using a source over and over costs, in variances of the known ground per pixel
_CROWDED = 20.0  # uses, in multiples of the mean, above which it costs no more
_JUMPS = (1, 4)  # distances in cells at which neighbours are asked what they copy
_SOURCES = 4_096  # at most so many patches are gone through while a hole is filled from its rim
_PAIRS = 2**24  # distances, or values of patches, held at a time
_IN_CACHE = 2**17  # values of patches compared at a time on a CPU
_GOLDEN = (math.sqrt(5) - 1) / 2
_AROUND = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column)


class Level(NamedTuple):
    """One resolution of a search.

    Attributes:
        scale: Pixels of the image to one of the level, on each side.
        stride: Side of the cells that the hole is filled with, in the level's pixels.
        side: Of a patch, in the middle of which the cell lies.
        rounds: How often patches are chosen anew and laid over each other.
        reach: Pixels beyond its cell that a patch is laid over.
        spread: Standard deviation in pixels of the weight with which it is.
    """

    scale: int
    stride: int
    side: int
    rounds: int
    reach: int
    spread: float


class PatchSearch:
    """Patches of an image, held as places of their upper left pixels in the image with a margin.

    Args:
        image_CHW: The image at this level; nothing of its hole is looked at.
        hole_1HW: 1 = missing, here or in any pixel that this one stands for.
        level: The level.

    Attributes:
        source_S: Places of the patches that are wholly known.
        target_T: Places of the patches around the cells that something is missing in.
    """

    def __init__(self, image_CHW: Tensor, hole_1HW: Tensor, level: Level) -> None:
        self.image_CHW, self.hole_1HW, self.level = image_CHW, hole_1HW, level
        self.channels, self.height, self.width = image_CHW.shape
        self.margin = (level.side - level.stride) // 2
        self.columns = self.width + 2 * self.margin  # of the image with its margin
        is_whole_1YX = F.max_pool2d(F.pad(hole_1HW, (self.margin,) * 4, value=1.0), level.side, 1) == 0
        beyond = level.side - 1
        self.is_whole_N = F.pad(is_whole_1YX, (0, beyond, 0, beyond)).flatten()
        self.source_S = self.is_whole_N.nonzero()[:, 0]
        self.cell_YX = F.max_pool2d(hole_1HW, level.stride)[0] > 0
        row_T, column_T = self.cell_YX.nonzero(as_tuple=True)
        self.cell_T = row_T * self.cell_YX.shape[1] + column_T
        self.target_T = (row_T * self.columns + column_T) * level.stride
        self.known_rows = self._rows(image_CHW)
        self.weight_rows = self._rows((_KNOWN + (1 - _KNOWN) * hole_1HW).expand_as(image_CHW))
        self.crowding_N = torch.zeros_like(self.is_whole_N, dtype=image_CHW.dtype)

    def grown(self) -> Tensor:
        """Fill the hole from its rim inwards: source_T.

        Every cell at the rim of what is missing takes the patch that fits the known and already filled pixels
        around it best, and its pixels; then come those behind it. What structures lead into the hole are
        carried on through it.
        """
        level, wide_CN = self.level, self._wide(self.image_CHW).flatten(1).clone()
        gone_N = self._wide(self.hole_1HW).flatten().clone()
        left_YX, source_YX = self.cell_YX.clone(), torch.full_like(self.cell_YX, -1, dtype=torch.long)
        offset_O = self._square(level.stride) + self.margin * (self.columns + 1)
        while left_YX.any():
            ring_YX = left_YX & (F.max_pool2d((~left_YX)[None].float(), 3, 1, 1)[0] > 0)
            row_R, column_R = ring_YX.nonzero(as_tuple=True)
            place_R = (row_R * self.columns + column_R) * level.stride
            still_there = self._runs((1 - gone_N).expand_as(wide_CN))
            source_R = self._nearest(self._runs(wide_CN), still_there, place_R)
            source_YX[ring_YX] = source_R
            to_M = (place_R[:, None] + offset_O).flatten()
            from_M = (source_R[:, None] + offset_O).flatten()
            fresh_M = gone_N[to_M] > 0
            wide_CN[:, to_M[fresh_M]] = wide_CN[:, from_M[fresh_M]]
            gone_N[to_M] = 0
            left_YX = left_YX & ~ring_YX
        return source_YX[self.cell_YX]

    def improved(self, image_CHW: Tensor, source_T: Tensor) -> Tensor:
        """The choice after each target has looked at what its neighbours copy, and around that: source_T.

        After Barnes et al. 2009, *PatchMatch*, without its random search.
        """
        rows, source_T = self._rows(image_CHW), source_T.clone()
        cost_T = self._costs(rows, self.target_T, source_T)
        stride, far = self.level.stride, max(_JUMPS)
        columns = self.cell_YX.shape[1] + 2 * far
        cell_T = (
            (self.cell_T // self.cell_YX.shape[1] + far) * columns + self.cell_T % self.cell_YX.shape[1] + far
        )
        source_M = torch.full(((self.cell_YX.shape[0] + 2 * far) * columns,), -1, device=source_T.device)
        for jump in _JUMPS:
            for row, column in ((0, -1), (-1, 0), (0, 1), (1, 0)):
                source_M[cell_T] = source_T
                neighbour_T = source_M[cell_T + jump * (row * columns + column)]
                shift = jump * stride * (row * self.columns + column)
                offered_T = torch.where(neighbour_T < 0, -1, neighbour_T - shift)
                self._take(rows, offered_T, source_T, cost_T)
        for row, column in _AROUND:
            self._take(rows, source_T + row * self.columns + column, source_T, cost_T)
        return source_T

    def note(self, source_T: Tensor) -> None:
        """Let sources that this choice uses more often than others cost more from now on."""
        side = self.level.side
        uses_N = torch.bincount(source_T, minlength=len(self.is_whole_N)).to(self.image_CHW.dtype)
        uses_1HW = uses_N.view(1, -1, self.columns)
        near_N = F.avg_pool2d(uses_1HW, side, 1, side // 2, count_include_pad=False)[
            :, : uses_1HW.shape[1], : self.columns
        ].flatten()
        known_CM = self.image_CHW[:, self.hole_1HW[0] == 0]
        expected = len(source_T) / len(self.source_S)
        worst = _CROWDING * side**2 * known_CM.var(1).sum()
        self.crowding_N = worst * (near_N / expected).clamp(max=_CROWDED) / _CROWDED

    def laid(self, source_T: Tensor) -> Tensor:
        """The image with the chosen patches' middles laid over each other in its hole: image_CHW."""
        level = self.level
        side = level.stride + 2 * level.reach
        offset_O = self._square(side) + (self.margin - level.reach) * (self.columns + 1)
        step = torch.arange(side, device=source_T.device, dtype=self.image_CHW.dtype)
        distance = step - (side - 1) / 2
        fall = torch.exp(-0.5 * (distance / level.spread) ** 2)
        weight_O1 = (fall[:, None] * fall).flatten()[:, None]
        wide_NC = self._wide(self.image_CHW).flatten(1).mT.contiguous()
        sum_NC, total_N1 = torch.zeros_like(wide_NC), torch.zeros_like(wide_NC[:, :1])
        # One pixel of all patches at a time: they stand apart, so that sums are the same on any device.
        for offset, weight in zip(offset_O, weight_O1, strict=True):
            to_T = self.target_T + offset
            sum_NC.index_add_(0, to_T, wide_NC[source_T + offset] * weight)
            total_N1.index_add_(0, to_T, weight.expand(len(to_T), 1))
        mean_CHW = (sum_NC / total_N1.clamp_min(1e-6)).mT.reshape(self.channels, -1, self.columns)
        inner = slice(self.margin, self.margin + self.height), slice(self.margin, self.margin + self.width)
        return torch.where(self.hole_1HW > 0, mean_CHW[:, inner[0], inner[1]], self.image_CHW)

    def carried(self, coarse: PatchSearch, source_T: Tensor) -> Tensor:
        """A coarser level's choice on this level's cells, each beside its neighbours: source_T."""
        level, ratio = self.level, coarse.level.scale // self.level.scale
        columns = self.cell_YX.shape[1]
        row_T, column_T = self.cell_T // columns * level.stride, self.cell_T % columns * level.stride
        pixels = ratio * coarse.level.stride
        source_YX = torch.full_like(coarse.cell_YX, -1, dtype=torch.long)
        source_YX[coarse.cell_YX] = source_T
        coarse_T = source_YX[row_T // pixels, column_T // pixels]
        row_T = coarse_T // coarse.columns * ratio + row_T % pixels
        column_T = coarse_T % coarse.columns * ratio + column_T % pixels
        return row_T * self.columns + column_T

    def _nearest(self, rows: Tensor, weight_rows: Tensor, place_R: Tensor) -> Tensor:
        """Of the compared sources the one with the smallest weighted squared distance: source_R."""
        compared_Q = self._spread()
        source_QV = self._patches(self.known_rows, compared_Q)
        squared_VQ = source_QV.square().mT
        chosen = []
        for some_R in place_R.split(max(_PAIRS // len(compared_Q), 1)):
            weight_RV = self._patches(weight_rows, some_R)
            # Without the part that is the same for all sources.
            cost_RQ = weight_RV @ squared_VQ
            cost_RQ.addmm_(self._patches(rows, some_R) * weight_RV, source_QV.mT, alpha=-2)
            chosen.append(cost_RQ.argmin(1))
        return compared_Q[torch.cat(chosen)]

    def _costs(self, rows: Tensor, target_T: Tensor, source_T: Tensor) -> Tensor:
        """What it costs each target to be copied from its source: cost_T."""
        values = _IN_CACHE if rows.device.type == "cpu" else _PAIRS
        at_once = max(values // (self.level.side**2 * self.channels), 1)
        costs = []
        for place_R, source_R in zip(target_T.split(at_once), source_T.split(at_once), strict=True):
            apart_RV = self._patches(rows, place_R) - self._patches(self.known_rows, source_R)
            costs.append(
                (apart_RV.square_() * self._patches(self.weight_rows, place_R)).sum(1)
                + self.crowding_N[source_R]
            )
        return torch.cat(costs) if costs else target_T.new_zeros(0, dtype=rows.dtype)

    def _take(self, rows: Tensor, offered_T: Tensor, source_T: Tensor, cost_T: Tensor) -> None:
        """Take what is offered where it is whole ground and costs less; writes into source_T and cost_T."""
        inside_T = offered_T.clamp(0, len(self.is_whole_N) - 1)
        may_T = (offered_T == inside_T) & (inside_T != source_T) & self.is_whole_N[inside_T]
        index_M = may_T.nonzero()[:, 0]
        cost_M = self._costs(rows, self.target_T[index_M], inside_T[index_M])
        better_M = cost_M < cost_T[index_M]
        index_M, cost_M = index_M[better_M], cost_M[better_M]
        source_T[index_M], cost_T[index_M] = inside_T[index_M], cost_M

    def _wide(self, image_CHW: Tensor) -> Tensor:
        """The image with a margin, so that every cell has a whole patch; beyond the image it is reflected."""
        return F.pad(image_CHW[None], (self.margin,) * 4, mode="reflect")[0]

    def _rows(self, image_CHW: Tensor) -> Tensor:
        return self._runs(self._wide(image_CHW).flatten(1))

    def _runs(self, wide_CN: Tensor) -> Tensor:
        """At each place the row of a patch that begins there: a view would be read value by value."""
        flat = F.pad(wide_CN.mT, (0, 0, 0, self.level.side - 1)).contiguous()
        run = self.level.side * self.channels
        return flat.as_strided((wide_CN.shape[1], run), (self.channels, 1)).contiguous()

    def _patches(self, rows: Tensor, place_N: Tensor) -> Tensor:
        """The patches at these places, row by row, channels last: patch_NV."""
        down = torch.arange(self.level.side, device=place_N.device) * self.columns
        patch_NV = rows.index_select(0, (place_N[:, None] + down).flatten())
        return patch_NV.view(len(place_N), self.level.side**2 * self.channels)

    def _square(self, side: int) -> Tensor:
        """From its first pixel to all of a square, in places: offset_O."""
        offset = torch.arange(side, device=self.source_S.device)
        return (offset[:, None] * self.columns + offset).flatten()

    def _spread(self) -> Tensor:
        """At most so many sources as are compared, everywhere alike and in no grid: compared_Q."""
        count = len(self.source_S)
        if count <= _SOURCES:
            return self.source_S
        draw = torch.arange(_SOURCES, dtype=torch.float64) * _GOLDEN % 1
        return self.source_S[(draw * count).long().unique().to(self.source_S.device)]
