"""Where the holes of a batch are: everything that follows from the mask alone, worked out before the pass.

How many tokens are missing decides the sizes of tensors, and sizes have to be known on the host. So the
mask is looked at once, on the CPU, and the networks work with the lists that came out: on a GPU, a pass
that is given its layout waits for nothing, unless it fills by example.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igll.models.tokens import Packed, pack, put_rows, take_rows, to_feature, to_tokens

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
    """

    index_BM: Tensor
    height: int
    width: int

    def crop(self, feature_BCHW: Tensor) -> Tensor:
        """Cut the window out of a feature map."""
        return to_feature(take_rows(to_tokens(feature_BCHW), self.index_BM), self.height, self.width)

    def crop_pixels(self, image_BCHW: Tensor, cell: int) -> Tensor:
        """Cut the window out of an image of ``cell`` × ``cell`` pixels per token."""
        return F.pixel_shuffle(self.crop(F.pixel_unshuffle(image_BCHW, cell)), cell)

    def put_pixels(self, image_BCHW: Tensor, part_BCHW: Tensor, cell: int) -> Tensor:
        """The image with the window replaced by what :meth:`crop_pixels` would cut out of it."""
        height, width = (side // cell for side in image_BCHW.shape[-2:])
        tokens_BNC = to_tokens(F.pixel_unshuffle(image_BCHW, cell))
        part_BMC = to_tokens(F.pixel_unshuffle(part_BCHW, cell))
        put_BNC = put_rows(tokens_BNC, self.index_BM, part_BMC)
        return F.pixel_shuffle(to_feature(put_BNC, height, width), cell)


class HoleLayout(NamedTuple):
    """What attention and decoder need to know of the holes on the token grid.

    Attributes:
        hole_B1HW: Bool, True where the token lies in the hole.
        holes: The hole's tokens.
        background: The known tokens; of an image that has none, all.
        has_background_B: Whether there are any.
        some_without_background: Whether any image has none.
        patches: Centres of the 3 × 3 patches that lie in the grid and touch no hole token.
        has_patches_B: Whether there are any.
        some_without_patches: Whether any image has none.
        neighbour_BMO: For each hole token and offset, where its neighbour stands in the list of hole tokens;
            its own place where the neighbour is none.
        is_hole_BMO: Whether it is one.
        window: The part of the grid that the hole's pixels are painted from; None for all of it.
    """

    hole_B1HW: Tensor
    holes: Packed
    background: Packed
    has_background_B: Tensor
    some_without_background: bool
    patches: Packed
    has_patches_B: Tensor
    some_without_patches: bool
    neighbour_BMO: Tensor
    is_hole_BMO: Tensor
    window: Window | None

    @classmethod
    def of(cls, hole_B1HW: Tensor, margin: int | None = None) -> HoleLayout:
        """Work out the layout of a batch, on the CPU.

        Args:
            hole_B1HW: Bool, True where the token lies in the hole; on any device.
            margin: Tokens around the hole that the window takes in; None for no window.

        Returns:
            The layout, on the CPU.
        """
        hole_B1HW = hole_B1HW.cpu()
        hole_BN, patch_BN = hole_B1HW.flatten(1), valid_patches(hole_B1HW).flatten(1)
        has_background_B = ~hole_BN.all(1)
        holes = pack(hole_BN)
        neighbour_BMO, is_hole_BMO = _neighbours(holes, *hole_B1HW.shape[-2:])
        return cls(
            hole_B1HW,
            holes,
            pack(~hole_BN | ~has_background_B[:, None]),
            has_background_B,
            not bool(has_background_B.all()),
            pack(patch_BN),
            patch_BN.any(1),
            not bool(patch_BN.any(1).all()),
            neighbour_BMO,
            is_hole_BMO,
            None if margin is None else _window(hole_B1HW, margin),
        )

    def to(self, device: torch.device) -> HoleLayout:
        """The same on another device."""
        window = self.window
        return self._replace(
            hole_B1HW=self.hole_B1HW.to(device, non_blocking=True),
            holes=self.holes.to(device),
            background=self.background.to(device),
            has_background_B=self.has_background_B.to(device, non_blocking=True),
            patches=self.patches.to(device),
            has_patches_B=self.has_patches_B.to(device, non_blocking=True),
            neighbour_BMO=self.neighbour_BMO.to(device, non_blocking=True),
            is_hole_BMO=self.is_hole_BMO.to(device, non_blocking=True),
            window=window and window._replace(index_BM=window.index_BM.to(device, non_blocking=True)),
        )


def valid_patches(hole_B1HW: Tensor) -> Tensor:
    """Bool_B1HW, True at the centre of each 3 × 3 patch that lies in the grid and touches no hole token."""
    barred = F.pad(hole_B1HW.float(), (1, 1, 1, 1), value=1.0)
    return F.max_pool2d(barred, 3, stride=1) == 0


def _neighbours(holes: Packed, height: int, width: int) -> tuple[Tensor, Tensor]:
    """For each hole token and offset, its neighbour's place in the packed list, and whether it has one."""
    batch, count = holes.index_BM.shape
    place_M = torch.arange(count)
    slot_BN = torch.full((batch, height * width), count, dtype=torch.long)
    slot_BHW = slot_BN.scatter(1, holes.index_BM, torch.where(holes.valid_BM, place_M, count))
    padded = F.pad(slot_BHW.unflatten(1, (height, width)), (1, 1, 1, 1), value=count)
    around = [
        padded[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width].flatten(1)
        for row, column in OFFSETS
    ]
    slot_BMO = torch.stack([slot.gather(1, holes.index_BM) for slot in around], 2)
    is_hole_BMO = slot_BMO < count
    return torch.where(is_hole_BMO, slot_BMO, place_M[:, None]), is_hole_BMO


def _window(hole_B1HW: Tensor, margin: int) -> Window | None:
    """The smallest window that takes in every image's hole and its margin, as far as the grid goes."""
    rows, columns = (_extents(hole_B1HW[:, 0].any(axis), margin) for axis in (2, 1))
    size = [int((ends - starts).max()) for starts, ends in (rows, columns)]
    grid = hole_B1HW.shape[-2:]
    if size[0] * size[1] > _NEARLY_ALL * grid[0] * grid[1]:
        return None
    row_BH, column_BW = (
        torch.minimum(starts, torch.tensor(side - length))[:, None] + torch.arange(length)
        for (starts, _), side, length in zip((rows, columns), grid, size, strict=True)
    )
    return Window((row_BH[:, :, None] * grid[1] + column_BW[:, None]).flatten(1), *size)


def _extents(taken_BX: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """From where to where each row of flags is set, with the margin, within bounds; (0, 1) if nowhere."""
    length = taken_BX.shape[1]
    first_B = taken_BX.int().argmax(1)
    last_B = length - 1 - taken_BX.flip(1).int().argmax(1)
    start_B, end_B = (first_B - margin).clamp_min(0), (last_B + 1 + margin).clamp_max(length)
    anywhere_B = taken_BX.any(1)
    return torch.where(anywhere_B, start_B, 0), torch.where(anywhere_B, end_B, 1)
