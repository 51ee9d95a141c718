"""The convex hull of a scene's valid ground, to tell gaps inside it from the collar around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from igll.geo.box import Box
from igll.geo.missing_values import BoolArray


class Footprint:
    """Hull of the valid pixels of a raster, from one pass over it in any order.

    Of each row only its first and last valid pixel is kept. A pixel lies inside if its centre does; pixels
    count as squares, so that the hull of a single pixel or row is no special case, and so that a valid
    pixel's centre is half a pixel away from the border, far beyond rounding.

    Args:
        height: Rows of the raster.
        width: Columns of the raster.
    """

    def __init__(self, height: int, width: int) -> None:
        self._first = np.full(height, width, dtype=np.int64)
        self._last = np.full(height, -1, dtype=np.int64)
        self._hull: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def add(self, valid: BoolArray, box: Box) -> None:
        """Take note of the valid pixels of a box, (height, width)."""
        rows = np.flatnonzero(valid.any(axis=1))
        first = valid[rows].argmax(axis=1)
        last = box.width - 1 - valid[rows, ::-1].argmax(axis=1)
        rows += box.top
        self._first[rows] = np.minimum(self._first[rows], box.left + first)
        self._last[rows] = np.maximum(self._last[rows], box.left + last)
        self._hull = None

    def inside(self, box: Box) -> BoolArray:
        """Whether pixels lie in the hull of all that was added: (height, width)."""
        if self._hull is None:
            self._hull = self._intervals()
        first, last = (bound[box.top : box.bottom, None] for bound in self._hull)
        columns = np.arange(box.left, box.right)[None, :]
        return (columns >= first) & (columns <= last)

    def _intervals(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last column inside the hull, row by row; last < first where there is none."""
        rows = np.flatnonzero(self._last >= 0)
        if not rows.size:
            return self._first, self._last
        left, right = self._first[rows], self._last[rows] + 1
        corners = [np.stack((x, y), axis=1) for x in (left, right) for y in (rows, rows + 1)]
        points = np.concatenate(corners).astype(np.float64)
        vertices = points[ConvexHull(points).vertices]
        low, high = np.full(self._first.shape, np.inf), np.full(self._last.shape, -np.inf)
        for (x0, y0), (x1, y1) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
            crossed = np.arange(int(min(y0, y1)), int(max(y0, y1)))  # rows whose centres the edge passes
            if crossed.size:
                x = x0 + (crossed + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
                low[crossed] = np.minimum(low[crossed], x)
                high[crossed] = np.maximum(high[crossed], x)
        within = slice(rows[0], rows[-1] + 1)
        first, last = np.full_like(self._first, 1), np.zeros_like(self._last)
        first[within] = np.ceil(low[within] - 0.5).astype(np.int64)
        last[within] = np.floor(high[within] - 0.5).astype(np.int64)
        return first, last
