"""Putting the fillings of tiles together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from igll.geo.box import Box
from igll.geo.tiling import Plan, Tile


def weight(tile: Tile, part: Box, plan: Plan) -> NDArray[np.float64]:
    """Share of a tile in each pixel: weight_HW in [0, 1], over all tiles of a pixel 1.

    A tile that fills whole holes has them to itself. A piece of a hole that is cut fades linearly into its
    neighbours across the border between them, not at the scene's own border.

    Args:
        tile: The tile.
        part: Pixels, inside the tile's reach.
        plan: What the tile belongs to.
    """
    if tile.core is None:
        return np.ones((part.height, part.width))
    core, blend, grid = tile.core, plan.sizes.blend, plan.grid
    rows = _share(np.arange(part.top, part.bottom), core.top, core.bottom, grid.height, blend)
    columns = _share(np.arange(part.left, part.right), core.left, core.right, grid.width, blend)
    return rows[:, None] * columns


def compose(
    part: Box, missing_HW: NDArray[np.bool_], tiles: Iterable[tuple[Tile, NDArray[np.float32]]], plan: Plan
) -> NDArray[np.float64]:
    """The filling of a part of the scene: values_CHW, NaN where nothing is missing.

    Args:
        part: The part.
        missing_HW: Its missing pixels.
        tiles: All tiles that reach into it, each with its values_CHW over its whole reach.
        plan: What the tiles belong to.
    """
    total_CHW: NDArray[np.float64] | None = None
    weight_HW = np.zeros((part.height, part.width))
    for tile, values_CHW in tiles:
        shared = tile.reach.intersection(part)
        if shared is None:
            continue
        if total_CHW is None:
            total_CHW = np.zeros((len(values_CHW), part.height, part.width))
        place, source = shared.within(part), shared.within(tile.reach)
        fills_HW = missing_HW[place] & plan.owned(tile)[source]
        share_HW = np.where(fills_HW, weight(tile, shared, plan), 0.0)
        # where, not a product: what a tile does not fill may hold NaN
        total_CHW[place] += np.where(share_HW > 0, values_CHW[source] * share_HW, 0.0)
        weight_HW[place] += share_HW
    assert total_CHW is not None  # noqa: S101  (narrows: parts without a tile are not composed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(missing_HW, total_CHW / weight_HW, np.nan)


def _share(place_N: NDArray[np.int64], start: int, end: int, length: int, blend: int) -> NDArray[np.float64]:
    """Share of the piece from ``start`` to ``end`` along one axis; all pieces of a grid add up to 1."""
    centre_N = place_N + 0.5

    def passed(border: int) -> NDArray[np.float64]:
        if border <= 0:
            return np.ones_like(centre_N)
        if border >= length:
            return np.zeros_like(centre_N)
        return ((centre_N - border) / (2 * blend) + 0.5).clip(0, 1)

    return passed(start) - passed(end)
