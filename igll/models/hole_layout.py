"""Where the holes of a batch are: everything that follows from the mask alone, worked out before the pass.

How many tokens are missing decides the sizes of tensors, and sizes have to be known on the host. So the
mask is looked at once, on the CPU, and the networks work with the lists that came out: on a GPU, a pass
that is given its layout waits for nothing, unless it fills by example.
"""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igll.models.shortcuts import may_shorten
from igll.models.tokens import CACHE_LINE, Packed, pack, put_rows, take_rows, to_device, to_feature, to_tokens
from igll.models.uncompiled import uncompiled

# Offsets (row, column) of a 3 × 3 patch, row-major; OFFSETS[8 - i] is the reverse of OFFSETS[i].
OFFSETS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
# Around this share of the grid, cutting the window out costs more than it saves.
_NEARLY_ALL = 0.9


class Window(NamedTuple):
    """A rectangle of the grid around each image's hole; all of a batch have the same size.

    Attributes:
        index_BM: The tokens in it, row-major.
        height: Its rows.
        width: Its columns.
        corner: Row and column of its first token, if they are the same in every image; else None.
    """

    index_BM: Tensor
    height: int
    width: int
    corner: tuple[int, int] | None

    def crop(self, feature_BCHW: Tensor) -> Tensor:
        """Cut the window out of a feature map, which need not be kept for it."""
        if place := self._place(feature_BCHW, 1):
            return feature_BCHW[place].clone(memory_format=torch.channels_last)
        return to_feature(take_rows(to_tokens(feature_BCHW), self.index_BM), self.height, self.width)

    def crop_pixels(self, image_BCHW: Tensor, cell: int) -> Tensor:
        """As :meth:`crop`, out of an image of ``cell`` × ``cell`` pixels per token."""
        if place := self._place(image_BCHW, cell):
            return image_BCHW[place].clone(memory_format=torch.channels_last)
        pixels_BNC, index_BM = self._pixels(image_BCHW, cell)
        return to_feature(take_rows(pixels_BNC, index_BM), cell * self.height, cell * self.width)

    def put_pixels(self, image_BCHW: Tensor, part_BCHW: Tensor, cell: int) -> Tensor:
        """The image with the window replaced by what :meth:`crop_pixels` would cut out of it."""
        if place := self._place(image_BCHW, cell):
            image_BCHW = image_BCHW.clone(memory_format=torch.channels_last)
            image_BCHW[place] = part_BCHW
            return image_BCHW
        pixels_BNC, index_BM = self._pixels(image_BCHW, cell)
        return to_feature(put_rows(pixels_BNC, index_BM, to_tokens(part_BCHW)), *image_BCHW.shape[-2:])

    def _place(self, image_BCHW: Tensor, cell: int) -> tuple[EllipsisType, slice, slice] | None:
        """The window as a part of memory, if it is one and nothing is traced that would hold for it alone."""
        if self.corner is None or not may_shorten(image_BCHW):
            return None
        top, left = (cell * start for start in self.corner)
        return ..., slice(top, top + cell * self.height), slice(left, left + cell * self.width)

    def _pixels(self, image_BCHW: Tensor, cell: int) -> tuple[Tensor, Tensor]:
        """An image's pixels as rows of memory, and which of them the window holds, row-major."""
        columns = image_BCHW.shape[3] // cell
        # Rows of tokens are ``cell`` rows of pixels.
        corner_BM = cell * (self.index_BM + (cell - 1) * columns * (self.index_BM // columns))
        step_S = torch.arange(cell * image_BCHW.shape[3], device=corner_BM.device)
        inside_S1S = step_S.view(cell, 1, -1)[..., :cell]
        index_BHSWS = corner_BM.view(-1, self.height, 1, self.width, 1) + inside_S1S
        return to_tokens(image_BCHW.contiguous(memory_format=torch.channels_last)), index_BHSWS.flatten(1)


class Foreground(NamedTuple):
    """Hole tokens with their left and right neighbours, and where hole tokens stand among them.

    A token and those beside it stand one after the other, also at the grid's border: positions are those of
    the grid with a frame one token wide.

    Attributes:
        tokens: The list, in the framed grid.
        place_BX: Which hole token each entry is, by its place in the list of those; 0 where it is none.
        is_hole_BX: Whether it is one.
        neighbour_BMO: For each hole token and offset, where its neighbour stands in this list; the token's
            own place if the neighbour is no hole.
        is_neighbour_BMO: Whether it is one.
        column_BMT: Where the token above, the token itself and the one below stand in this list, 0 where they
            do not.
        in_column_BMT: Whether they do.
        slot_2M: First and last entry of a hole token, over all images of the batch.
        reach_2M: The same of its neighbours. Both stay on the CPU, where they are needed.
    """

    tokens: Packed
    place_BX: Tensor
    is_hole_BX: Tensor
    neighbour_BMO: Tensor
    is_neighbour_BMO: Tensor
    column_BMT: Tensor
    in_column_BMT: Tensor
    slot_2M: Tensor
    reach_2M: Tensor

    @classmethod
    def of(cls, hole_B1HW: Tensor, holes: Packed) -> Foreground:
        """List what belongs to the hole, on the CPU."""
        columns = hole_B1HW.shape[3] + 2
        framed_BN = F.pad(hole_B1HW[:, 0], (1, 1, 1, 1)).flatten(1)
        beside_B1HW = F.max_pool2d(F.pad(hole_B1HW.float(), (2, 2, 1, 1)), (1, 3), stride=1)
        tokens = pack(beside_B1HW.flatten(1) > 0)
        slot_BN, place_BN = _places(tokens, framed_BN.shape[1]), _places(holes, hole_B1HW[0].numel())
        place_BN = F.pad(place_BN.view_as(hole_B1HW), (1, 1, 1, 1), value=-1).flatten(1)
        place_BX = place_BN.gather(1, tokens.index_BM)
        around_O = torch.tensor([row * columns + column for row, column in OFFSETS])
        around_BMO = framed(holes.index_BM, columns - 2)[..., None] + around_O
        slot_BMO = slot_BN.gather(1, around_BMO.flatten(1)).view_as(around_BMO)
        middle = len(OFFSETS) // 2
        is_neighbour_BMO = framed_BN.gather(1, around_BMO.flatten(1)).view_as(around_BMO)
        is_neighbour_BMO = is_neighbour_BMO & holes.valid_BM[..., None]
        own_BM1 = slot_BMO[..., middle : middle + 1].clamp_min(0)
        column_BMT = slot_BMO[..., 1::3]
        # With the other sign: of 64-bit integers torch finds the largest many times as fast as the least.
        first_BMO = torch.where(is_neighbour_BMO, -slot_BMO, -tokens.index_BM.shape[1])
        last_BMO = torch.where(is_neighbour_BMO, slot_BMO, -1)
        return cls(
            tokens,
            place_BX.clamp_min(0),
            (place_BX >= 0) & tokens.valid_BM,
            torch.where(is_neighbour_BMO, slot_BMO, own_BM1),
            is_neighbour_BMO,
            column_BMT.clamp_min(0),
            column_BMT >= 0,
            torch.stack([-first_BMO[..., middle].amax(0), last_BMO[..., middle].amax(0)]),
            torch.stack([-first_BMO.amax((0, 2)), last_BMO.amax((0, 2))]),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Foreground:
        """The same with every tensor of the batch changed."""
        changed = {
            name: change(value)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor) and name not in ("slot_2M", "reach_2M")
        }
        return self._replace(tokens=self.tokens.map(change), **changed)


class HoleLayout(NamedTuple):
    """What prefill, attention and decoder need to know of the holes on the token grid.

    Attributes:
        hole_B1HW: Bool, True where the token lies in the hole.
        holes: The hole's tokens.
        background: The known tokens; of an image that has none, all.
        has_background_B: Whether there are any.
        some_without_background: Whether any image has none.
        foreground: The hole's tokens with those beside them.
        sources: Centres of the 3 × 3 patches that lie in the grid and touch no hole token, with those beside
            them, which stand one after the other; and padding.
        is_centre_BY: Which of the sources are centres.
        has_patches_B: Whether there are any.
        some_without_patches: Whether any image has none.
        window: The part of the grid that the hole's pixels are painted from; None for all of it.
        canvas: The part that is painted, within the window; None for all of the grid.
        canvas_in_window: The same, its tokens counted within the window.
        halvings: How often the grid can be halved until no cell is hole throughout, or one is left.
    """

    hole_B1HW: Tensor
    holes: Packed
    background: Packed
    has_background_B: Tensor
    some_without_background: bool
    foreground: Foreground
    sources: Packed
    is_centre_BY: Tensor
    has_patches_B: Tensor
    some_without_patches: bool
    window: Window | None
    canvas: Window | None
    canvas_in_window: Window | None
    halvings: int

    @classmethod
    def of(cls, hole_B1HW: Tensor, margins: tuple[int, int] | None = None) -> HoleLayout:
        """Work out the layout of a batch, on the CPU.

        Args:
            hole_B1HW: Bool, True where the token lies in the hole; on any device.
            margins: Tokens around the hole that the window takes in, and those that the canvas does, which
                are no more; None for neither.

        Returns:
            The layout, on the CPU.
        """
        hole_B1HW = hole_B1HW.cpu()
        if (batch := len(hole_B1HW)) > 1 and bool((hole_B1HW == hole_B1HW[:1]).all()):
            # The paper's square in every image: what follows from it is worked out once.
            return cls.of(hole_B1HW[:1], margins).map(lambda tensor: tensor.expand(batch, *tensor.shape[1:]))
        hole_BN, centre_B1HW = hole_B1HW.flatten(1), valid_patches(hole_B1HW)
        centre_BN = centre_B1HW.flatten(1)
        source_B1HW = F.max_pool2d(centre_B1HW.float(), (1, 3), stride=1, padding=(0, 1))
        holes, sources = pack(hole_BN), pack(source_B1HW.flatten(1) > 0, CACHE_LINE)
        has_background_B = ~hole_BN.all(1)
        window, canvas = (_window(hole_B1HW, margin) for margin in margins) if margins else (None, None)
        return cls(
            hole_B1HW,
            holes,
            pack(~hole_BN | ~has_background_B[:, None]),
            has_background_B,
            not bool(has_background_B.all()),
            Foreground.of(hole_B1HW, holes),
            sources,
            centre_BN.gather(1, sources.index_BM),
            centre_BN.any(1),
            not bool(centre_BN.any(1).all()),
            window,
            canvas,
            canvas if canvas is None or window is None else _within(canvas, window, hole_B1HW.shape[3]),
            _halvings(hole_B1HW),
        )

    @uncompiled  # which cannot follow memory being pinned
    def to(self, device: torch.device) -> HoleLayout:
        """The same on another device."""
        return self.map(lambda tensor: to_device(tensor, device))

    def map(self, change: Callable[[Tensor], Tensor]) -> HoleLayout:
        """The same with every tensor of the batch changed."""
        window, canvas, inside = (
            part and part._replace(index_BM=change(part.index_BM))
            for part in (self.window, self.canvas, self.canvas_in_window)
        )
        return self._replace(
            hole_B1HW=change(self.hole_B1HW),
            holes=self.holes.map(change),
            background=self.background.map(change),
            has_background_B=change(self.has_background_B),
            foreground=self.foreground.map(change),
            sources=self.sources.map(change),
            is_centre_BY=change(self.is_centre_BY),
            has_patches_B=change(self.has_patches_B),
            window=window,
            canvas=canvas,
            canvas_in_window=inside,
        )


def valid_patches(hole_B1HW: Tensor) -> Tensor:
    """Bool_B1HW, True at the centre of each 3 × 3 patch that lies in the grid and touches no hole token."""
    barred = F.pad(hole_B1HW.float(), (1, 1, 1, 1), value=1.0)
    return F.max_pool2d(barred, 3, stride=1) == 0


def framed(index_BX: Tensor, columns: int) -> Tensor:
    """Positions on a grid of so many columns as positions on the same grid with a frame one token wide."""
    return index_BX + 2 * (index_BX // columns) + columns + 3


def _places(listed: Packed, tokens: int) -> Tensor:
    """Where each of so many tokens stands in a list, -1 if it does not."""
    place_M = torch.arange(listed.index_BM.shape[1])
    place_BN = torch.full((len(listed.index_BM), tokens), -1, dtype=torch.long)
    return place_BN.scatter(1, listed.index_BM, torch.where(listed.valid_BM, place_M, -1))


def _halvings(hole_B1HW: Tensor) -> int:
    """See :attr:`HoleLayout.halvings`."""
    known_B1HW, halvings = (~hole_B1HW).float(), 0
    while known_B1HW[0].numel() > 1 and not bool(known_B1HW.all()):
        known_B1HW, halvings = F.max_pool2d(known_B1HW, 2, ceil_mode=True), halvings + 1
    return halvings


def _window(hole_B1HW: Tensor, margin: int) -> Window | None:
    """The smallest window that takes in every image's hole and its margin, as far as the grid goes."""
    rows, columns = (_extents(hole_B1HW[:, 0].any(axis), margin) for axis in (2, 1))
    height, width = (int((ends - starts).max()) for starts, ends in (rows, columns))
    grid = hole_B1HW.shape[-2:]
    if height * width > _NEARLY_ALL * grid[0] * grid[1]:
        return None
    row_BH, column_BW = (
        torch.minimum(starts, torch.tensor(side - length))[:, None] + torch.arange(length)
        for (starts, _), side, length in zip((rows, columns), grid, (height, width), strict=True)
    )
    corner = (int(row_BH[0, 0]), int(column_BW[0, 0])) if len(hole_B1HW) == 1 else None
    return Window((row_BH[:, :, None] * grid[1] + column_BW[:, None]).flatten(1), height, width, corner)


def _within(part: Window, whole: Window, columns: int) -> Window:
    """A window on a grid of so many columns as one on the grid that a larger window is."""
    row_BM, column_BM = (
        of_grid(part.index_BM, columns) - of_grid(whole.index_BM[:, :1], columns)
        for of_grid in (torch.floor_divide, torch.remainder)
    )
    corner = None
    if part.corner is not None and whole.corner is not None:
        corner = part.corner[0] - whole.corner[0], part.corner[1] - whole.corner[1]
    return part._replace(index_BM=row_BM * whole.width + column_BM, corner=corner)


def _extents(taken_BX: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """From where to where each row of flags is set, with the margin, within bounds; (0, 1) if nowhere."""
    length = taken_BX.shape[1]
    first_B = taken_BX.int().argmax(1)
    last_B = length - 1 - taken_BX.flip(1).int().argmax(1)
    start_B, end_B = (first_B - margin).clamp_min(0), (last_B + 1 + margin).clamp_max(length)
    anywhere_B = taken_BX.any(1)
    return torch.where(anywhere_B, start_B, 0), torch.where(anywhere_B, end_B, 1)
