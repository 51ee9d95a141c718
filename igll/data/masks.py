"""Hole masks: boolean arrays, True where the image is missing.

Every kind but the square takes exactly ``round(ratio * height * width)`` pixels. Most do so in the
same way: a real-valued field says how early a pixel goes missing, and the pixels with the smallest
values are taken. Shape and area are thus independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.fft
from PIL import Image, ImageDraw

from igll.errors import InputError

BoolArray: TypeAlias = npt.NDArray[np.bool_]
FloatArray: TypeAlias = npt.NDArray[np.float64]
Point: TypeAlias = tuple[float, float]

MASK_KINDS = ("square", "irregular", "cloud", "slc_off", "gaps", "salt_pepper")
PLACEMENTS = ("random", "center", "paper_train", "paper_test")

SMALLEST_SIDE = 16
LARGEST_RATIO = 0.95

# Where the authors test, and how far from the border they train (section 4.1 and the released settings).
PAPER_TEST_OFFSET = 32
PAPER_TRAIN_MARGIN = 8

# Landsat 7 without its scan-line corrector: what 30 m products show, in pixels and degrees.
SLC_PERIOD = (30.0, 35.0)
SLC_TILT = (8.0, 14.0)


def make_mask(
    kind: str, height: int, width: int, ratio: float, rng: np.random.Generator, placement: str = "random"
) -> BoolArray:
    """Draw one hole mask.

    Kinds:

    - ``square``: the paper's hole. Its side is ``sqrt(ratio * height * width)`` rounded down to an even
      number: 80, 128 and 224 pixels for 10, 25 and 77 % of 256 x 256. Where the square is longer than
      the short side of the image, a rectangle of the same area that spans the short side.
    - ``irregular``: free-form brush strokes.
    - ``cloud``: fractal noise above its quantile: soft blobs.
    - ``slc_off``: Landsat 7's scan gaps: parallel, slightly tilted stripes with the pitch of the 30 m
      product, which widen to both sides of the scene's centre line.
    - ``gaps``: mosaic seams: long wedges along tile borders, straight or stepped.
    - ``salt_pepper``: independent pixels, as lost in transmission.

    Args:
        kind: one of ``MASK_KINDS``.
        height: rows, at least 16.
        width: columns, at least 16.
        ratio: share of the image that is missing, in (0, 0.95].
        rng: the only source of randomness.
        placement: where a ``square`` goes, one of ``PLACEMENTS``; the other kinds have a layout of
            their own and do not read it. ``random``: anywhere inside. ``center``. ``paper_train``:
            anywhere at least 8 pixels from the border (less where it does not fit). ``paper_test``:
            top left corner at row 32, column 32 (moved up and left where it does not fit).

    Returns:
        Boolean array of shape (height, width), True = missing, with at least one pixel of each sort.

    Raises:
        InputError: unknown kind or placement, size or ratio outside the limits.
    """
    if kind not in MASK_KINDS:
        raise InputError(f"mask kind {kind!r} is unknown; choose one of {', '.join(MASK_KINDS)}")
    if placement not in PLACEMENTS:
        raise InputError(f"mask placement {placement!r} is unknown; choose one of {', '.join(PLACEMENTS)}")
    if not 0 < ratio <= LARGEST_RATIO:
        raise InputError(f"mask ratio {ratio} is outside (0, {LARGEST_RATIO}]; give a share of the area")
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            f"mask size {height}x{width} is too small; both sides need at least {SMALLEST_SIDE} pixels"
        )
    if kind == "square":
        return _square(height, width, ratio, rng, placement)
    count = max(round(ratio * height * width), 1)
    return _DRAW[kind](height, width, count, rng)


def grow_hole(hole_HW: BoolArray, radius: int) -> BoolArray:
    """A hole and all pixels within a distance of it, in pixels from centre to centre."""
    if radius == 0 or not hole_HW.any():
        return hole_HW
    # Imported late: scipy.ndimage takes a while.
    from scipy.ndimage import distance_transform_edt

    near_HW: BoolArray = distance_transform_edt(~hole_HW) <= radius
    return near_HW


def mask_bytes(mask_HW: BoolArray) -> bytes:
    """A mask as bytes to be hashed: its size, and one bit per pixel."""
    return f"{mask_HW.shape[0]}x{mask_HW.shape[1]}".encode() + np.packbits(mask_HW).tobytes()


def _square(height: int, width: int, ratio: float, rng: np.random.Generator, placement: str) -> BoolArray:
    area = ratio * height * width
    side = _even(math.sqrt(area))
    short = min(height, width)
    if side <= short:
        rows = columns = side
    else:
        rows, columns = (short, _even(area / short)) if height == short else (_even(area / short), short)
    mask = np.zeros((height, width), dtype=np.bool_)
    top = _start(height - rows, rng, placement)
    left = _start(width - columns, rng, placement)
    mask[top : top + rows, left : left + columns] = True
    return mask


def _even(length: float) -> int:
    """``length`` rounded down to an even number, at least 2."""
    return max(2 * int(length / 2 + 1e-9), 2)


def _start(slack: int, rng: np.random.Generator, placement: str) -> int:
    """First row (or column) of a hole that could start anywhere in 0 ... ``slack``."""
    if placement == "center":
        return slack // 2
    if placement == "paper_test":
        return min(PAPER_TEST_OFFSET, slack)
    margin = min(PAPER_TRAIN_MARGIN, slack // 2) if placement == "paper_train" else 0
    return int(rng.integers(margin, slack - margin + 1))


def _earliest(field_HW: FloatArray, count: int) -> BoolArray:
    """The ``count`` pixels with the smallest values; of equal ones the first.

    Which of equal values a partial sort takes differs between processors; this does not.
    """
    field = field_HW.ravel()
    last = np.partition(field, count - 1)[count - 1]
    mask = field < last
    mask[np.flatnonzero(field == last)[: count - int(mask.sum())]] = True
    return mask.reshape(field_HW.shape)


def _grid(height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Row and column numbers, shaped to broadcast: (height, 1) and (1, width)."""
    return np.arange(height, dtype=np.float64)[:, None], np.arange(width, dtype=np.float64)[None, :]


def _salt_pepper(height: int, width: int, count: int, rng: np.random.Generator) -> BoolArray:
    return _earliest(rng.random((height, width)), count)


def _cloud(height: int, width: int, count: int, rng: np.random.Generator) -> BoolArray:
    # A larger field than needed: the transform is periodic, and clouds must not leave on the right and
    # come back on the left.
    rows, columns = (scipy.fft.next_fast_len(side + side // 4, real=True) for side in (height, width))
    # In double precision, where processors' different rounding does not move a pixel into or out of the hole.
    noise = rng.standard_normal((rows, columns))
    # Frequencies in cycles per image, stretched along the direction of the wind.
    down = np.fft.fftfreq(rows, 1 / max(height, width))[:, None]
    right = np.fft.rfftfreq(columns, 1 / max(height, width))[None, :]
    wind, stretch = rng.uniform(0, math.pi), rng.uniform(1.0, 1.8)
    along = (math.cos(wind) * right + math.sin(wind) * down) * stretch
    across = math.cos(wind) * down - math.sin(wind) * right
    squared = along**2 + across**2
    # A power law below one cloud's size gives ragged rims; the roll-off spares them single-pixel crumbs.
    clouds_per_image, exponent = rng.uniform(1.5, 7.0), rng.uniform(1.9, 2.6)
    finest = max(height, width) / 7
    gain = (squared + clouds_per_image**2) ** (-exponent / 2) * np.exp(-squared / (2 * finest**2))
    spectrum = scipy.fft.rfft2(noise) * gain
    field_HW = scipy.fft.irfft2(spectrum, s=(rows, columns))[:height, :width]
    return _earliest(field_HW, count)


def _slc_off(height: int, width: int, count: int, rng: np.random.Generator) -> BoolArray:
    row, column = _grid(height, width)
    tilt = math.radians(rng.uniform(*SLC_TILT))
    period = min(rng.uniform(*SLC_PERIOD), min(height, width) / 2)
    # From a stripe's middle line (0) to the middle between two stripes (1).
    phase = (row * math.cos(tilt) - column * math.sin(tilt)) / period + rng.uniform()
    offset = np.abs(2 * (phase % 1) - 1).clip(1e-4, 1 - 1e-4)
    # The scene's centre line, across which the stripes are thinnest, may lie outside this cut-out.
    centre = rng.uniform(-0.5, 1.5) * width
    widening = 0.15 + np.abs(column + row * math.tan(tilt) - centre) / width
    # On the logit scale a narrow stripe's width is proportional to the widening, and a wide one's saturates
    # instead of swallowing the ground between two stripes.
    return _earliest(np.log(offset / (1 - offset)) - np.log(widening), count)


def _irregular(height: int, width: int, count: int, rng: np.random.Generator) -> BoolArray:
    canvas = Image.new("L", (width, height))
    while True:
        points, thickness = _stroke(height, width, count / (height * width), rng)
        before = canvas.copy()
        _paint(canvas, points, thickness)
        if canvas.histogram()[255] >= count:
            return _paint_up_to(before, points, thickness, count)


def _stroke(height: int, width: int, ratio: float, rng: np.random.Generator) -> tuple[list[Point], int]:
    """A wandering polyline and its thickness in pixels; larger holes are painted with a wider brush."""
    side = min(height, width)
    x, y, heading = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 2 * math.pi)
    points = [(x, y)]
    for _ in range(rng.integers(3, 10)):
        heading += rng.normal(0, 0.9)
        length = side * rng.uniform(0.05, 0.2)
        x, y = x + length * math.cos(heading), y + length * math.sin(heading)
        points.append((x, y))
    return points, max(2, round(side * rng.uniform(0.03, 0.07 + 0.12 * ratio)))


def _paint(canvas: Image.Image, points: list[Point], thickness: int) -> None:
    draw, radius = ImageDraw.Draw(canvas), thickness / 2
    draw.line(points, fill=255, width=thickness)
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


def _painted(canvas: Image.Image) -> BoolArray:
    return np.asarray(canvas) > 0


def _paint_up_to(canvas: Image.Image, points: list[Point], thickness: int, count: int) -> BoolArray:
    """Paint the stroke piece by piece and stop inside the piece that would exceed ``count`` pixels."""
    for start, end in pairwise(points):
        before = _painted(canvas)
        _paint(canvas, [start, end], thickness)
        after = _painted(canvas)
        if after.sum() >= count:
            break
    row, column = np.nonzero(after & ~before)
    nearest = np.argsort((column - start[0]) ** 2 + (row - start[1]) ** 2, kind="stable")
    taken = nearest[: count - int(before.sum())]
    mask = before.copy()
    mask[row[taken], column[taken]] = True
    return mask


def _gaps(height: int, width: int, count: int, rng: np.random.Generator) -> BoolArray:
    # A larger share means more seams, so that they stay long and thin.
    seams = int(rng.integers(1, 4)) + round(8 * count / (height * width))
    upright = int(rng.integers(0, seams + 1))
    level = _seam_field(seams - upright, width, height, rng).T
    return _earliest(np.minimum(_seam_field(upright, height, width, rng), level), count)


def _seam_field(seams: int, length: int, breadth: int, rng: np.random.Generator) -> FloatArray:
    """Distance to the nearest seam over its local width, (length, breadth); seams run down the rows."""
    field = np.full((length, breadth), np.inf)
    for number in range(seams):
        # Evenly spread, as tile borders are, and moved a little.
        place = breadth * (number + rng.uniform(0.2, 0.8)) / seams
        ends = np.array([1.0, rng.uniform(0.1, 0.8)][:: rng.choice((1, -1))]) * rng.uniform(0.6, 1.0)
        seam = _straight if rng.uniform() < 0.5 else _stepped
        np.minimum(field, seam(place, ends, length, breadth, rng), out=field)
    return field


def _straight(
    place: float, ends: FloatArray, length: int, breadth: int, rng: np.random.Generator
) -> FloatArray:
    """A slanted wedge, ``ends[0]`` wide at the first row and ``ends[1]`` at the last."""
    row, column = _grid(length, breadth)
    progress = row / length
    middle = place + breadth * rng.normal(0, 0.08) * (progress - 0.5)
    return np.abs(column - middle) / (ends[0] + (ends[1] - ends[0]) * progress)


def _stepped(
    place: float, ends: FloatArray, length: int, breadth: int, rng: np.random.Generator
) -> FloatArray:
    """Bands along tile corners that do not line up, each with one width, from ``ends[0]`` to ``ends[1]``."""
    row, column = _grid(length, breadth)
    steps = int(rng.integers(1, 4))
    tops = [-length, *np.sort(rng.uniform(0.1, 0.9, steps) * length), 2 * length]
    shifts = breadth * rng.uniform(0.03, 0.1, steps) * rng.choice((1, -1), steps)
    lefts = [place, *(place + np.cumsum(shifts))]
    field = np.full((length, breadth), np.inf)
    for number, width in enumerate(np.linspace(ends[0], ends[1], steps + 1)):
        x, top, bottom = lefts[number], tops[number], tops[number + 1]
        pieces = [(x, x, top, bottom)]
        if number < steps:
            pieces.append((*sorted((x, lefts[number + 1])), bottom, bottom))
        for left, right, above, below in pieces:
            # The larger of the distances along the axes, so that corners stay square.
            sideways = np.abs(column - column.clip(left, right)) / width
            upwards = np.abs(row - row.clip(above, below)) / width
            np.minimum(field, np.maximum(sideways, upwards), out=field)
    return field


_DRAW: dict[str, Callable[[int, int, int, np.random.Generator], BoolArray]] = {
    "irregular": _irregular,
    "cloud": _cloud,
    "slc_off": _slc_off,
    "gaps": _gaps,
    "salt_pepper": _salt_pepper,
}
