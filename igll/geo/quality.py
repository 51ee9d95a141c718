"""Quality flags that come with satellite products: which values of a QA raster mean "not the ground"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from igll.errors import InputError

# Bits of QA_PIXEL: "Landsat 8-9 Collection 2 Level 2 Science Product Guide", "Landsat 4-7 Collection 2
# Level 2 Science Product Guide" (USGS), section on the pixel quality assessment band.
LANDSAT_BITS: dict[str, tuple[int, ...]] = {
    "fill": (0,),
    "dilated-cloud": (1,),
    "cirrus": (2,),
    "cloud": (3,),
    "shadow": (4,),
    "snow": (5,),
}
# Values of SCL: "Sentinel-2 Products Specification Document" (ESA), scene classification of Level-2A.
SENTINEL_CLASSES: dict[str, tuple[int, ...]] = {
    "nodata": (0,),
    "saturated": (1,),
    "dark": (2,),
    "shadow": (3,),
    "vegetation": (4,),
    "bare": (5,),
    "water": (6,),
    "unclassified": (7,),
    "cloud": (8, 9),
    "cloud-medium": (8,),
    "cloud-high": (9,),
    "cirrus": (10,),
    "snow": (11,),
}
_LARGEST_BIT = 31


@dataclass(frozen=True)
class QualityFlags:
    """Which pixels of a quality raster are to be filled.

    Attributes:
        bits: Bits of which any set one marks a pixel, counted from 0 at the lowest.
        values: Values that mark a pixel.
    """

    bits: tuple[int, ...] = ()
    values: tuple[int, ...] = ()

    def marked(self, quality: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether pixels are flagged, in the shape of ``quality``, an array of integers."""
        if self.bits:
            wanted = sum(1 << bit for bit in set(self.bits))
            return (quality.astype(np.int64) & wanted) != 0
        return np.isin(quality, np.array(self.values))


def parse_quality_flags(text: str) -> QualityFlags:
    """Read what a user writes for quality flags.

    - ``landsat-c2``: QA_PIXEL of Landsat Collection 2; cloud, dilated cloud, cirrus and cloud shadow.
    - ``sentinel2-scl``: scene classification of Sentinel-2 Level-2A; cloud shadow (3), cloud of medium
      and high probability (8, 9) and thin cirrus (10).
    - ``landsat-c2:cloud,snow``, ``sentinel2-scl:cloud-high``: only what is named (names: see
      ``LANDSAT_BITS`` and ``SENTINEL_CLASSES``).
    - ``bits:3,4``: pixels with bit 3 or bit 4 set. ``values:3,8``: pixels with these values.

    Raises:
        InputError: The text is none of these.
    """
    kind, _, listed = text.partition(":")
    names = [name.strip() for name in listed.split(",")] if ":" in text else None
    if kind == "landsat-c2":
        return QualityFlags(
            bits=_named(text, names or ["cloud", "dilated-cloud", "cirrus", "shadow"], LANDSAT_BITS)
        )
    if kind == "sentinel2-scl":
        return QualityFlags(values=_named(text, names or ["shadow", "cloud", "cirrus"], SENTINEL_CLASSES))
    if kind == "bits" and names and all(_is_whole(name) and int(name) <= _LARGEST_BIT for name in names):
        return QualityFlags(bits=tuple(map(int, names)))
    if kind == "values" and names and all(_is_whole(name) for name in names):
        return QualityFlags(values=tuple(map(int, names)))
    raise InputError(
        f"quality flags {text!r}: not understood; give landsat-c2, sentinel2-scl (or with names, as "
        f"landsat-c2:cloud,shadow), bits:3,4 (0 to {_LARGEST_BIT}) or values:3,8,9,10"
    )


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _named(text: str, names: list[str], meanings: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    unknown = [name for name in names if name not in meanings]
    if unknown:
        raise InputError(
            f"quality flags {text!r}: no flag is named {unknown[0]!r}; choose from {', '.join(meanings)}"
        )
    return tuple(number for name in names for number in meanings[name])
