"""Filling by example: patches of known ground are copied into the hole, matched from coarse to fine.

The paper's FFSM takes features from patches that look alike and mixes them; mixing blurs. Here pixels are
copied.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_KNOWN_WEIGHT = 2.0  # of a known pixel in a comparison; one that is filled itself counts 1
# How much of a source's own variation is not held against it where the target is filled itself: what stands
# there is too even, so that without this the evenest ground would be copied everywhere.
_FORGIVEN = 0.4
_SOURCES = 4_096  # at most so many patches are compared with: all of an image of 256 × 256
_PAIRS = 2**24  # distances held at a time
_BLUR = 6.0  # standard deviation in pixels, above which structure is no detail
_NEAR = 10  # pixels from known ground within which a net knows better what goes on
_GOLDEN = (math.sqrt(5) - 1) / 2


class _Level(NamedTuple):
    """One resolution of the search.

    Attributes:
        scale: Pixels of the image to one of the level, on each side.
        stride: Of the grid of cells that patches are centred on, in the level's pixels.
        side: Of a patch.
        rounds: How often patches are chosen and laid over each other; the finest level keeps the choice.
    """

    scale: int
    stride: int
    side: int
    rounds: int


_LEVELS = (_Level(8, 1, 7, 6), _Level(4, 1, 7, 4), _Level(2, 2, 10, 3), _Level(1, 4, 16, 0))


class _Choice(NamedTuple):
    """Which patch every cell of the hole is copied from.

    Attributes:
        source_N: Number of the source's cell, row by row; −1 where nothing is missing.
        columns: Width of the grid.
        pixels: Side of a cell in pixels of the image.
    """

    source_N: Tensor
    columns: int
    pixels: int


@torch.compiler.disable
@torch.no_grad()
def fill_by_example(filled_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Fill the hole with patches of known ground.

    After Wexler et al. 2007, *Space-Time Completion of Video*, sections 3 and 4. At an eighth, a quarter and
    half of the resolution every patch in the hole looks for the most similar one that is wholly known, the
    image itself being what is compared; then all are laid over each other, the nearer its centre the more a
    patch counts, and the search starts anew. At full resolution the patches that were chosen at half are
    copied.

    The search looks at the mask and at what it finds: on CUDA it waits for the device, image by image.

    Args:
        filled_BCHW: Image whose hole holds a smooth start.
        mask_B1HW: 1 = missing.

    Returns:
        Image of the same shape and dtype; known pixels are as they were. An image that has no hole, shows no
        whole patch of known ground, or has a side of 16 pixels or less comes back as it is.
    """
    if filled_BCHW.is_meta:  # shapes alone are asked for
        return filled_BCHW
    height, width = filled_BCHW.shape[-2:]
    largest = _LEVELS[0].scale
    beyond = (0, -width % largest, 0, -height % largest)
    image_BCHW = F.pad(filled_BCHW.float(), beyond, mode="replicate")
    # Nothing is known beyond the image's border.
    hole_B1HW = F.pad((mask_B1HW > 0.5).float(), beyond, value=1.0)
    # Distances are differences of large numbers: in 16 bits the nearest patch is anybody's guess.
    with torch.autocast(filled_BCHW.device.type, enabled=False):
        results = [
            _fill_one(image, hole) if (mask > 0.5).any() else image
            for image, hole, mask in zip(image_BCHW, hole_B1HW, mask_B1HW, strict=True)
        ]
    example_BCHW = torch.stack(results)[..., :height, :width].to(filled_BCHW.dtype)
    return torch.where(mask_B1HW > 0.5, example_BCHW, filled_BCHW)


def detail_of(image_BCHW: Tensor) -> Tensor:
    """What an image shows beyond its blurred self: image_BCHW − its Gaussian blur."""
    if image_BCHW.is_meta:
        return image_BCHW
    exact_BCHW = image_BCHW if image_BCHW.dtype == torch.float64 else image_BCHW.float()
    channels, radius = image_BCHW.shape[1], int(2 * _BLUR)
    offset = torch.arange(-radius, radius + 1, device=image_BCHW.device)
    kernel = torch.exp(-0.5 * (offset / _BLUR) ** 2).to(exact_BCHW.dtype)
    kernel = (kernel / kernel.sum()).repeat(channels, 1, 1, 1)
    wide = F.pad(exact_BCHW, (radius,) * 4, mode="replicate")
    with torch.autocast(image_BCHW.device.type, enabled=False):
        blurred_BCHW = F.conv2d(F.conv2d(wide, kernel, groups=channels), kernel.mT, groups=channels)
    return (exact_BCHW - blurred_BCHW).to(image_BCHW.dtype)


def away_from_ground(mask_B1HW: Tensor) -> Tensor:
    """How far pixels are from known ground: 0 there, rising to 1 ten pixels away (chessboard distance)."""
    known_B1HW = 1 - mask_B1HW
    steps_B1HW = torch.zeros_like(mask_B1HW)
    for _ in range(_NEAR):
        steps_B1HW = steps_B1HW + 1 - known_B1HW
        known_B1HW = F.max_pool2d(known_B1HW, 3, stride=1, padding=1)
    return steps_B1HW / _NEAR


def _fill_one(image_CHW: Tensor, hole_1HW: Tensor) -> Tensor:
    """Fill one image whose sides the largest scale divides."""
    found_CHW, choice = image_CHW, None
    for level in _LEVELS:
        small_CHW = F.avg_pool2d(image_CHW, level.scale)
        if min(small_CHW.shape[-2:]) <= level.side:
            continue
        search = _Search(small_CHW, F.max_pool2d(hole_1HW, level.scale), level)
        # What is whole at one level is whole at all finer ones.
        if len(search.source_S) == 0 or (choice is None and level.rounds == 0):
            continue
        found_CHW = small_CHW
        if choice is not None:
            chosen_T = search.carried(choice)
            found_CHW = search.laid(chosen_T)
        for _ in range(level.rounds):
            chosen_T = search.nearest(found_CHW)
            found_CHW = search.laid(chosen_T)
        choice = search.choice(chosen_T)
    return image_CHW if choice is None else found_CHW


class _Search:
    """Patches of one image at one level, held as the places of their pixels.

    Args:
        image_CHW: The image at this level; its hole holds the smooth start.
        hole_1HW: 1 = missing, here or in any pixel that this one stands for.
        level: The level.

    Attributes:
        source_S: Cells of the patches that are wholly known.
        compared_Q: Which of those the search looks at.
        target_T: Cells that something is missing in.
    """

    def __init__(self, image_CHW: Tensor, hole_1HW: Tensor, level: _Level) -> None:
        self.image_CHW, self.hole_1HW, self.level = image_CHW, hole_1HW, level
        self.channels, self.height, self.width = image_CHW.shape
        self.columns = self.width // level.stride
        self.margin = (level.side - level.stride) // 2
        wide_1HW = self._wide(hole_1HW)
        whole_N = F.max_pool2d(wide_1HW, level.side, level.stride).flatten() == 0
        self.source_S = whole_N.nonzero()[:, 0]
        self.compared_Q = self._spread(len(self.source_S))
        self.place_N = torch.full_like(whole_N, -1, dtype=torch.long)
        self.place_N[self.source_S] = torch.arange(len(self.source_S), device=whole_N.device)
        self.target_T = F.max_pool2d(hole_1HW, level.stride).flatten().nonzero()[:, 0]
        self.target_TP = self._pixels(self.target_T)
        self.missing_TP = wide_1HW.flatten()[self.target_TP]
        self.window_P = self._window()

    def nearest(self, image_CHW: Tensor) -> Tensor:
        """For each target the most similar source's place in the list: chosen_T."""
        source_QCP = self._patches(self.image_CHW, self._pixels(self.source_S[self.compared_Q]))
        squared_PQ = source_QCP.square().sum(1).mT
        varied_PQ = (source_QCP - source_QCP.mean(2, keepdim=True)).square().sum(1).mT
        source_KQ = source_QCP.flatten(1).mT
        rows = max(_PAIRS // len(self.compared_Q), 1)
        chosen = []
        for pixel_RP, missing_RP in zip(self.target_TP.split(rows), self.missing_TP.split(rows), strict=True):
            weight_RP = _KNOWN_WEIGHT + (1 - _KNOWN_WEIGHT) * missing_RP
            target_RCP = self._patches(image_CHW, pixel_RP) * weight_RP[:, None]
            # Weighted squared distance, without the part that is the same for all sources.
            distance_RQ = weight_RP @ squared_PQ - 2 * target_RCP.flatten(1) @ source_KQ
            chosen.append((distance_RQ - _FORGIVEN * (missing_RP @ varied_PQ)).argmin(1))
        return self.compared_Q[torch.cat(chosen)]

    def laid(self, chosen_T: Tensor) -> Tensor:
        """The image with the chosen patches laid over each other in its hole."""
        patch_TCP = self._patches(self.image_CHW, self._pixels(self.source_S[chosen_T])) * self.window_P
        weight_TP = self.window_P.expand(len(chosen_T), -1)
        sums = [self._added(values_TP) for values_TP in (*patch_TCP.unbind(1), weight_TP)]
        mean_CHW = torch.stack(sums[:-1]) / sums[-1].clamp_min(1e-6)
        return torch.where(self.hole_1HW > 0, mean_CHW, self.image_CHW)

    def choice(self, chosen_T: Tensor) -> _Choice:
        """The choice, for the next finer level."""
        source_N = torch.full_like(self.place_N, -1)
        source_N[self.target_T] = self.source_S[chosen_T]
        return _Choice(source_N, self.columns, self.level.scale * self.level.stride)

    def carried(self, coarse: _Choice) -> Tensor:
        """A coarser level's choice on this level's grid, each cell beside its neighbours: chosen_T."""
        ratio = coarse.pixels // (self.level.scale * self.level.stride)
        row_T, column_T = self.target_T // self.columns, self.target_T % self.columns
        source_T = coarse.source_N[row_T // ratio * coarse.columns + column_T // ratio]
        row_T = source_T // coarse.columns * ratio + row_T % ratio
        column_T = source_T % coarse.columns * ratio + column_T % ratio
        return self.place_N[row_T * self.columns + column_T]

    def _wide(self, image_CHW: Tensor) -> Tensor:
        """The image with a margin, so that every cell has a whole patch; beyond the image it is reflected."""
        return F.pad(image_CHW[None], (self.margin,) * 4, mode="reflect")[0]

    def _pixels(self, cell_N: Tensor) -> Tensor:
        """Where the pixels of the patches around cells stand in the wide image, row by row: pixel_NP."""
        stride, columns = self.level.stride, self.width + 2 * self.margin
        corner_N = (cell_N // self.columns * columns + cell_N % self.columns) * stride
        offset = torch.arange(self.level.side, device=cell_N.device)
        return corner_N[:, None] + (offset[:, None] * columns + offset).flatten()

    def _patches(self, image_CHW: Tensor, pixel_NP: Tensor) -> Tensor:
        """The patches with these pixels: patch_NCP."""
        return self._wide(image_CHW).flatten(1)[:, pixel_NP].transpose(0, 1)

    def _added(self, value_TP: Tensor) -> Tensor:
        """The sum of one channel's patches, each on its target: sum_HW."""
        height, width = self.height + 2 * self.margin, self.width + 2 * self.margin
        sum_HW = value_TP.new_zeros(height * width)
        sum_HW.index_add_(0, self.target_TP.flatten(), value_TP.flatten())
        inner = slice(self.margin, self.margin + self.height), slice(self.margin, self.margin + self.width)
        return sum_HW.view(height, width)[inner]

    def _spread(self, count: int) -> Tensor:
        """At most so many of a list's places as are compared, everywhere alike and in no grid: place_Q."""
        if count <= _SOURCES:
            return torch.arange(count, device=self.image_CHW.device)
        draw = torch.arange(_SOURCES, dtype=torch.float64) * _GOLDEN % 1
        return (draw * count).long().unique().to(self.image_CHW.device)

    def _window(self) -> Tensor:
        """How much a patch's pixels count, less away from its centre: Gaussian, half a cell wide."""
        middle = (self.level.side - 1) / 2
        offset = torch.arange(self.level.side, device=self.image_CHW.device) - middle
        fall = torch.exp(-0.5 * (offset / (0.5 * self.level.stride)) ** 2)
        return (fall[:, None] * fall).flatten()
