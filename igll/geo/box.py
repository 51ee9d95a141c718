"""Rectangles of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rasterio.windows import Window


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the ends not included."""

    top: int
    left: int
    bottom: int
    right: int

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


def blocks(height: int, width: int, side: int) -> Iterator[Box]:
    """Boxes of ``side`` × ``side`` pixels, smaller at the end, that cover an image, row by row."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Box(top, left, min(top + side, height), min(left + side, width))
