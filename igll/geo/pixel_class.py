"""What can be said of a pixel of a raster that is to be filled."""

from __future__ import annotations

from enum import IntEnum


class PixelClass(IntEnum):
    """Values of the class raster that stands beside a scene while it is filled.

    Attributes:
        KNOWN: Measured; never written.
        HOLE: To be filled in every band, as under a cloud.
        GAP: The raster itself has no value here in at least one band: those bands are filled, the others
            are kept.
        VOID: Has no value and is to keep none, as the collar around a rotated scene; nothing is learned
            from it.
    """

    KNOWN = 0
    HOLE = 1
    GAP = 2
    VOID = 3
