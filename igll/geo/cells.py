"""A scene's classes on a coarse grid of cells: small enough to plan with, however large the scene."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from igll.geo.box import Box, blocks
from igll.geo.pixel_class import PixelClass
from igll.geo.raster import open_raster, reading

SMALLEST_CELL = 16
# Cells along a side at most: the grid takes 16 million numbers, whatever the scene.
_MOST_CELLS = 4096
_BLOCK = 2048


class CellGrid(NamedTuple):
    """What the cells of a scene hold.

    Attributes:
        side: Pixels along a cell's side.
        height: Of the scene, in pixels.
        width: Of the scene, in pixels.
        hole_YX: Whether a cell holds a pixel to be filled.
        known_YX: Whether a cell holds a measured pixel.
    """

    side: int
    height: int
    width: int
    hole_YX: NDArray[np.bool_]
    known_YX: NDArray[np.bool_]

    def pixels(self, cells: Box) -> Box:
        """A box of cells as a box of pixels, inside the scene."""
        return Box(
            cells.top * self.side,
            cells.left * self.side,
            min(cells.bottom * self.side, self.height),
            min(cells.right * self.side, self.width),
        )

    def cells(self, pixels: Box) -> Box:
        """The smallest box of cells that covers a box of pixels."""
        return Box(
            pixels.top // self.side,
            pixels.left // self.side,
            -(-pixels.bottom // self.side),
            -(-pixels.right // self.side),
        )


def cell_side(height: int, width: int) -> int:
    """Side of the cells for a scene of that size: a power of two of at least ``SMALLEST_CELL``."""
    side = SMALLEST_CELL
    while max(height, width) > side * _MOST_CELLS:
        side *= 2
    return side


def read_cells(classes: Path) -> CellGrid:
    """Sum a class raster up to cells, block by block.

    Args:
        classes: Raster of ``PixelClass`` values.
    """
    with open_raster(classes) as dataset, reading(classes):
        height, width = dataset.height, dataset.width
        side = cell_side(height, width)
        shape = (-(-height // side), -(-width // side))
        hole_YX, known_YX = np.zeros(shape, bool), np.zeros(shape, bool)
        for block in blocks(height, width, max(_BLOCK, side)):
            class_HW = dataset.read(1, window=block.window())
            cells = (
                slice(block.top // side, -(-block.bottom // side)),
                slice(block.left // side, -(-block.right // side)),
            )
            hole_YX[cells] = _any(is_missing(class_HW), side)
            known_YX[cells] = _any(class_HW == PixelClass.KNOWN, side)
    return CellGrid(side, height, width, hole_YX, known_YX)


def is_missing(class_HW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels are to be filled."""
    return (class_HW == PixelClass.HOLE) | (class_HW == PixelClass.GAP)


def _any(flag_HW: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Whether any pixel of a cell is set."""
    height, width = flag_HW.shape
    rows = np.logical_or.reduceat(flag_HW, np.arange(0, height, side), axis=0)
    return np.logical_or.reduceat(rows, np.arange(0, width, side), axis=1)
