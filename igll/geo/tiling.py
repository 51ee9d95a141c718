"""Which parts of a scene are filled together.

Holes are looked for on a grid of cells. One that fits into a tile with ground all around is filled in one
piece, in a frame of its own or shared with its neighbours where that is cheaper. One that does not fit is
cut along a regular grid; neighbouring pieces overlap and are blended. What holds no hole costs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from igll.geo.box import Box
from igll.geo.cells import CellGrid

# Owner of the cells of holes that are cut; of cells without a hole.
CUT = -1
NOBODY = -2


class TileSizes(NamedTuple):
    """How scenes are cut.

    Attributes:
        tile: Longest side of a frame, in pixels.
        context: Ground around a hole that a frame holds at least, in pixels.
    """

    tile: int = 512
    context: int = 64

    @property
    def core(self) -> int:
        """Side of the pieces into which large holes are cut."""
        return self.tile - 2 * self.context

    @property
    def blend(self) -> int:
        """Reach of a piece beyond its core: over twice this width it fades into the next one."""
        return self.context // 2


class Tile(NamedTuple):
    """One pass of the model.

    Attributes:
        number: Of the tile; also the owner of its cells, if it fills whole holes.
        frame: What the model sees.
        reach: Where the pixels that it fills lie.
        core: Of a piece of a hole that is cut: its share of the grid; else None.
        guided: Whether a coarser filling has to lead: in a piece, where ground is farther than the context;
            for whole holes, where the frame shows no ground at all.
    """

    number: int
    frame: Box
    reach: Box
    core: Box | None
    guided: bool


class Plan(NamedTuple):
    """How a scene is filled.

    Attributes:
        tiles: All passes, in order.
        owner_YX: For every cell, the tile that fills its missing pixels, ``CUT`` or ``NOBODY``.
        grid: The cells.
        sizes: How holes are cut.
    """

    tiles: tuple[Tile, ...]
    owner_YX: NDArray[np.int32]
    grid: CellGrid
    sizes: TileSizes

    @property
    def guided(self) -> bool:
        """Whether any tile needs a coarser filling first."""
        return any(tile.guided for tile in self.tiles)

    def by_part(self, side: int) -> dict[Box, list[Tile]]:
        """The tiles that reach into each of the scene's ``blocks`` of a side, in the blocks' order.

        Blocks that no tile reaches are left out.
        """
        found: dict[tuple[int, int], list[Tile]] = defaultdict(list)
        for tile in self.tiles:
            for top in range(tile.reach.top // side * side, tile.reach.bottom, side):
                for left in range(tile.reach.left // side * side, tile.reach.right, side):
                    found[top, left].append(tile)
        height, width = self.grid.height, self.grid.width
        return {
            Box(top, left, min(top + side, height), min(left + side, width)): tiles
            for (top, left), tiles in sorted(found.items())
        }

    def owned(self, tile: Tile) -> NDArray[np.bool_]:
        """Pixels of ``tile.reach`` whose holes the tile fills: owned_HW; of them, the missing ones count."""
        side = self.grid.side
        cells = self.grid.cells(tile.reach)
        wanted = CUT if tile.core is not None else tile.number
        part = self.owner_YX[cells.top : cells.bottom, cells.left : cells.right] == wanted
        pixels = Box(cells.top * side, cells.left * side, cells.bottom * side, cells.right * side)
        return part.repeat(side, 0).repeat(side, 1)[tile.reach.within(pixels)]


def plan_tiles(grid: CellGrid, sizes: TileSizes) -> Plan:
    """Share the holes of a scene out over tiles.

    Args:
        grid: The scene's cells.
        sizes: How to cut.
    """
    from scipy.ndimage import find_objects, label

    label_YX, count = label(grid.hole_YX, np.ones((3, 3)))
    label_YX = label_YX.astype(np.int32, copy=False)
    boxes = [
        grid.pixels(Box(rows.start, columns.start, rows.stop, columns.stop))
        for rows, columns in find_objects(label_YX)
    ]
    far_YX = _far_from_ground(grid, sizes.context)
    whole = [number for number, box in enumerate(boxes, 1) if _fits(_frame(box, grid, sizes), sizes)]
    groups = _groups(boxes, whole, grid, sizes)

    # Owners by label; label 0 is ground.
    owner = np.full(count + 1, CUT, np.int32)
    owner[0] = NOBODY
    tiles = []
    for index, (box, members) in enumerate(groups):
        owner[members] = index
        frame = _frame(box, grid, sizes)
        tiles.append(Tile(index, frame, box, None, not shows_ground(grid, frame)))
    owner_YX = owner[label_YX]
    for core in _cores(owner_YX, grid, sizes):
        reach = core.grown(sizes.blend, grid.height, grid.width)
        frame = core.grown(sizes.context, grid.height, grid.width)
        guided = _any_in(far_YX, grid, reach) or not shows_ground(grid, frame)
        tiles.append(Tile(len(tiles), frame, reach, core, guided))
    return Plan(tuple(tiles), owner_YX, grid, sizes)


def shows_ground(grid: CellGrid, frame: Box) -> bool:
    """Whether a frame is sure to hold a known pixel: it holds a cell with one completely."""
    rows, columns = grid.known_YX.shape
    top, left = -(-frame.top // grid.side), -(-frame.left // grid.side)
    bottom = rows if frame.bottom == grid.height else frame.bottom // grid.side
    right = columns if frame.right == grid.width else frame.right // grid.side
    return bool(grid.known_YX[top:bottom, left:right].any())


def _frame(box: Box, grid: CellGrid, sizes: TileSizes) -> Box:
    return box.grown(sizes.context, grid.height, grid.width)


def _fits(frame: Box, sizes: TileSizes) -> bool:
    return max(frame.height, frame.width) <= sizes.tile


def _groups(
    boxes: list[Box], whole: list[int], grid: CellGrid, sizes: TileSizes
) -> list[tuple[Box, list[int]]]:
    """Holes that are filled in one piece, put together where one frame is less work than two.

    Only holes that begin in the same part of the scene are tried, so the work grows with their number.
    """
    parts: dict[tuple[int, int], list[tuple[Box, list[int]]]] = defaultdict(list)
    for number in whole:
        box = boxes[number - 1]
        groups = parts[box.top // sizes.core, box.left // sizes.core]
        for place, (other, members) in enumerate(groups):
            union = other.union(box)
            frame = _frame(union, grid, sizes)
            apart = _frame(box, grid, sizes).area + _frame(other, grid, sizes).area
            if _fits(frame, sizes) and frame.area <= apart:
                groups[place] = (union, [*members, number])
                break
        else:
            groups.append((box, [number]))
    return [group for part in sorted(parts) for group in parts[part]]


def _cores(owner_YX: NDArray[np.int32], grid: CellGrid, sizes: TileSizes) -> list[Box]:
    """Parts of the regular grid within whose reach a hole is cut."""
    cut_YX = owner_YX == CUT
    if not cut_YX.any():
        return []
    found = []
    for top in range(0, grid.height, sizes.core):
        for left in range(0, grid.width, sizes.core):
            core = Box(top, left, min(top + sizes.core, grid.height), min(left + sizes.core, grid.width))
            if _any_in(cut_YX, grid, core.grown(sizes.blend, grid.height, grid.width)):
                found.append(core)
    return found


def _any_in(flag_YX: NDArray[np.bool_], grid: CellGrid, box: Box) -> bool:
    cells = grid.cells(box)
    return bool(flag_YX[cells.top : cells.bottom, cells.left : cells.right].any())


def _far_from_ground(grid: CellGrid, context: int) -> NDArray[np.bool_]:
    """Cells with a hole from which known ground is farther than the context of a frame."""
    from scipy.ndimage import distance_transform_edt

    if grid.known_YX.all():
        return np.zeros_like(grid.hole_YX)
    distance_YX = distance_transform_edt(~grid.known_YX).astype(np.float32)
    return grid.hole_YX & (distance_YX * grid.side > context)
