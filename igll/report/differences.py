"""Maps of how far a filled image is from the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Black, violet, orange, pale yellow: brightness rises evenly, so the order also shows without colour.
_STOPS = np.array([[0, 0, 0], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float64)


def difference_map(
    result_HWC: NDArray[np.uint8], truth_HWC: NDArray[np.uint8], full: int
) -> NDArray[np.uint8]:
    """Absolute difference of two pictures, mean over the channels, in colours.

    Args:
        result_HWC: uint8.
        truth_HWC: uint8, of the same shape.
        full: Difference that gets the brightest colour, as do all above; 1 to 255.

    Returns:
        uint8 RGB of the same size, black where nothing differs.
    """
    difference_HW = np.abs(result_HWC.astype(np.float64) - truth_HWC).mean(axis=2)
    return _coloured(difference_HW / full)


def colour_scale(side: int, full: int) -> NDArray[np.uint8]:
    """A square picture of side × side pixels that explains the colours of :func:`difference_map`."""
    picture = Image.new("RGB", (side, side), (255, 255, 255))
    top, bottom, left = side // 8, side - side // 8, side // 4
    ramp_HW = np.linspace(1, 0, bottom - top)[:, None].repeat(side // 10, 1)
    picture.paste(Image.fromarray(_coloured(ramp_HW)), (left, top))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, side // 14))
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        label = f"{share * full:g}" + (" or more" if share == 1 else "")
        draw.text((left + side // 10 + 6, y), label, (34, 34, 34), font, anchor="lm")
    return np.asarray(picture)


def _coloured(share_HW: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Shares of the full difference as RGB."""
    places = np.linspace(0, 1, len(_STOPS))
    channels = [np.interp(share_HW, places, _STOPS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=2)).astype(np.uint8)
