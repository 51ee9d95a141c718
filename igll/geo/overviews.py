"""Making overviews anew, of the sizes that a source's have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from igll.geo.raster import open_quietly

Size = tuple[int, int]  # rows, columns


def overview_sizes(dataset: Any) -> list[Size]:
    """Sizes of a raster's overviews, the largest first."""
    sizes = []
    for level in range(len(dataset.overviews(1))):
        with open_quietly(dataset.name, overview_level=level) as overview:
            sizes.append(overview.shape)
    return sizes


def overview_factors(size: Size, overviews: list[Size]) -> list[int]:
    """Factors by which GDAL makes overviews of these sizes, rounding them up.

    What is stated of a file is the ratio of widths, rounded: 63 for an overview of 11 of 697 columns, which
    is the 64th, and the 63rd would have 12. Sizes that no factor gives, such as those that others rounded
    down, get the stated one.
    """
    factors = set()
    for rows, columns in overviews:
        least = max(2, -(-size[0] // rows), -(-size[1] // columns))
        power = 1 << (least - 1).bit_length()  # the likeliest, if several give this size
        stated = max(2, round(size[1] / columns))
        fitting = (factor for factor in (power, least) if _reduced(size, factor) == (rows, columns))
        factors.add(next(fitting, stated))
    return sorted(factors)


def sizes_made(dataset: Any) -> list[Size]:
    """Sizes of the overviews that a copy of a raster gets, the largest first."""
    return [_reduced(dataset.shape, factor) for factor in _factors(dataset)]


def build_overviews(raster: Path, source: Any, resampling: str) -> None:
    """Give a copy overviews of the source's sizes, if that has any.

    Args:
        raster: The copy, closed.
        source: The source, open.
        resampling: Name of how they are made.
    """
    from rasterio.enums import Resampling

    if factors := _factors(source):
        # In a session of its own: GDAL cannot add overviews of a mask to a file whose tags it rewrites.
        with open_quietly(raster, "r+", driver="GTiff") as target:
            target.build_overviews(factors, Resampling[resampling])


def _factors(dataset: Any) -> list[int]:
    return overview_factors(dataset.shape, overview_sizes(dataset))


def _reduced(size: Size, factor: int) -> Size:
    return -(-size[0] // factor), -(-size[1] // factor)
