"""Rectangles of pixels, and passing over a raster in them."""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rasterio.windows import Window

STRIP = 512  # rows that are worked on at a time
MEMORY = 16 * 2**20  # bytes that the values of all bands in a box may take
_VALUE = 8  # bytes that hold a value of any type

# What a part of a scene may take, but no part is narrower than the least side.
_WORKING_BYTES = 64 * 2**20
_LEAST_SIDE = 128


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the ends not included."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of(cls, window: Window) -> Box:
        """A window of rasterio, of whole numbers."""
        top, left = int(window.row_off), int(window.col_off)
        return cls(top, left, top + int(window.height), left + int(window.width))

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def grown(self, by: int, height: int, width: int) -> Box:
        """The box with a margin on every side, inside an image of that size."""
        return Box(
            max(self.top - by, 0),
            max(self.left - by, 0),
            min(self.bottom + by, height),
            min(self.right + by, width),
        )

    def union(self, other: Box) -> Box:
        """The smallest box around both."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def intersection(self, other: Box) -> Box | None:
        """What both share, or None."""
        shared = Box(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )
        return shared if shared.height > 0 and shared.width > 0 else None

    def within(self, frame: Box) -> tuple[EllipsisType, slice, slice]:
        """Index of this box in an array whose last two axes hold the pixels of ``frame``."""
        return (
            ...,
            slice(self.top - frame.top, self.bottom - frame.top),
            slice(self.left - frame.left, self.right - frame.left),
        )

    def window(self) -> Window:
        """As a window of rasterio."""
        from rasterio.windows import Window

        return Window(self.left, self.top, self.width, self.height)


def strips(height: int, width: int) -> Iterator[Box]:
    """An image's rows in order, ``STRIP`` at a time and as wide as it is."""
    for top in range(0, height, STRIP):
        yield Box(top, 0, min(top + STRIP, height), width)


def blocks(height: int, width: int, side: int) -> Iterator[Box]:
    """Boxes of ``side`` × ``side`` pixels, smaller at the end, that cover an image, row by row."""
    return _cover(Box(0, 0, height, width), side, side)


def stored_blocks(dataset: Any, part: Box | None = None, memory: int | None = None) -> Iterator[Box]:
    """Boxes that together cover a raster once, along the blocks that its first band is stored in.

    Each is made of whole blocks, as many as fit into memory but at least one, so that none is decoded over
    and over. Only blocks as wide as the raster are cut, into rows, where one is too much and a part of the
    raster, which may cut it anyway, is covered.

    Args:
        dataset: An open rasterio dataset.
        part: What to cover, such as a strip; the whole raster by default.
        memory: Bytes for the values of all bands in a box, 8 for each; ``MEMORY`` by default.

    Returns:
        The boxes from top to bottom, each row of them from left to right.
    """
    frame = part or Box(0, 0, dataset.height, dataset.width)
    pixels = max(1, (memory or MEMORY) // (_VALUE * dataset.count))
    block_height, block_width = dataset.block_shapes[0]
    block_height, block_width = min(block_height, frame.height), min(block_width, frame.width)
    if part and block_width == dataset.width and block_height * block_width > pixels:
        block_height = 1
    budget = max(1, pixels // (block_height * block_width))
    across = min(budget, -(-frame.width // block_width))
    down = max(1, budget // across) if across * block_width >= frame.width else 1
    return _cover(frame, down * block_height, across * block_width)


def _cover(frame: Box, height: int, width: int) -> Iterator[Box]:
    for top in range(frame.top, frame.bottom, height):
        for left in range(frame.left, frame.right, width):
            yield Box(top, left, min(top + height, frame.bottom), min(left + width, frame.right))


def working_side(bands: int, most: int) -> int:
    """Side of the parts that a scene is worked on in: a power of two, shorter the more bands there are.

    Args:
        bands: Bands that are held at once, in double precision.
        most: The longest side, a power of two.
    """
    side = most
    while side > _LEAST_SIDE and side * side * bands * 8 > _WORKING_BYTES:
        side //= 2
    return side
