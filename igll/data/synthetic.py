"""Seeded synthetic aerial scenes, for training and testing where no real images are at hand.

:func:`render_scene` draws one scene of fields, woods, water, streets or bare land. Pictures depend on
the seed, the size and the kind alone; between platforms a value may differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from igll.data import landcover as cover
from igll.data import settlement
from igll.data.terrain import Canvas, Plane, palette, photograph, ramp, random_frame, rgb
from igll.errors import InputError

_SMALLEST = 16
_LARGEST = 4096
_SANDS = palette((196, 178, 148), (184, 166, 140), (206, 192, 166), (176, 160, 138))
_SEAS = palette((46, 78, 84), (40, 68, 84), (56, 84, 78), (60, 86, 92))
_ROCKS = palette((128, 120, 110), (140, 128, 114), (116, 112, 108), (146, 128, 108))


def _farmland(canvas: Canvas) -> None:
    rng, metre = canvas.rng, canvas.metre
    frame = random_frame(canvas, bend=22 * metre, wavelength=500)
    u_HW, v_HW = frame.locate(canvas.x_HW, canvas.y_HW)
    border_HW = cover.sow_fields(canvas, u_HW, v_HW, float(rng.uniform(60, 170)))
    ragged_HW = border_HW + np.float32(0.8) * canvas.noise(6 * metre, 2)
    margin = float(rng.uniform(0.6, 2.5)) * metre
    strip_HWC = canvas.pick(cover.GRASSES) * (1 + 0.1 * canvas.noise(2.5, 2))[..., None]
    canvas.paint(ramp(-ragged_HW, -margin - 0.8, -margin + 0.8), strip_HWC)
    if rng.random() < 0.7:
        _country_road(canvas, paved=rng.random() < 0.6)
    if rng.random() < 0.45:
        _farmstead(canvas)
    hedges_HW = ramp(-border_HW, -3 * metre, 0) * ramp(canvas.noise(50 * metre), -0.2, 0.8)
    copse_HW = ramp(canvas.noise(90 * metre, 2) - 1.6, 0.0, 0.15)
    density_HW = np.maximum(hedges_HW * float(rng.uniform(0.0, 0.9)), copse_HW)
    cover.grow_crowns(canvas, density_HW, 6 * metre, cover.LEAVES)


def _country_road(canvas: Canvas, paved: bool) -> None:
    rng = canvas.rng
    width = float(rng.uniform(5.6, 8) if paved else rng.uniform(3, 4)) * canvas.metre
    frame = random_frame(canvas, bend=30 * canvas.metre)
    u_HW, v_HW = frame.locate(canvas.x_HW, canvas.y_HW)
    cover.lay_road(canvas, u_HW, v_HW, width, paved)
    if paved:
        cover.drive_cars(canvas, frame, width, int(rng.integers(0, 5)))


def _farmstead(canvas: Canvas) -> None:
    metre = canvas.metre
    frame = random_frame(canvas)
    away_HW = np.hypot(canvas.x_HW - frame.x0, canvas.y_HW - frame.y0)
    away_HW = away_HW + np.float32(4 * metre) * canvas.noise(14 * metre, 2)
    yard_HWC = canvas.pick(cover.SOILS) * (1 + 0.06 * canvas.noise(3, 2))[..., None]
    canvas.paint(ramp(-away_HW, -30 * metre, -26 * metre), yard_HWC)
    settlement.raise_halls(canvas, frame, (0, 0), (2, 2), (48 * metre, 34 * metre))
    fringe_HW = 0.6 * ramp(-np.abs(away_HW - 34 * metre), -7 * metre, 0)
    cover.grow_crowns(canvas, fringe_HW, 6 * metre, cover.LEAVES)


def _town(canvas: Canvas) -> None:
    rng, metre = canvas.rng, canvas.metre
    cover.vegetate(canvas, canvas.pick(cover.GRASSES if rng.random() < 0.7 else cover.SOILS, 0.1))
    frame = random_frame(canvas, bend=float(rng.choice([0, 25])) * metre, wavelength=420 * metre)
    block = (float(rng.uniform(90, 150)) * metre, float(rng.uniform(52, 62)) * metre)
    street_HW = settlement.lay_out_streets(canvas, frame, block, float(rng.uniform(6, 8.5)) * metre)
    settlement.line_with_houses(canvas, frame, block)
    density_HW = float(rng.uniform(0.2, 0.7)) * ramp(canvas.noise(30 * metre), -0.9, 0.9)
    density_HW = density_HW * ramp(street_HW, 0.5 * metre, 2 * metre) * (canvas.built_HW < 0.1)
    cover.grow_crowns(canvas, density_HW, float(rng.uniform(5.0, 7.5)) * metre, cover.LEAVES)


def _industrial(canvas: Canvas) -> None:
    rng, metre = canvas.rng, canvas.metre
    cover.vegetate(canvas, canvas.pick(cover.GRASSES))
    frame = random_frame(canvas)
    block = (float(rng.uniform(110, 160)) * metre, float(rng.uniform(80, 110)) * metre)
    street_HW = settlement.lay_out_streets(canvas, frame, block, 9 * metre)
    settlement.fill_blocks(canvas, frame, block, street_HW)
    density_HW = 0.5 * ramp(-np.abs(street_HW - 2.5 * metre), -2 * metre, 0)
    cover.grow_crowns(canvas, density_HW, 6 * metre, cover.LEAVES)


def _plant_wood(canvas: Canvas, where_HW: Plane) -> None:
    """Woods of one stand (needles, leaves, bare or mixed) where ``where_HW`` (0..1) is high."""
    rng, metre = canvas.rng, canvas.metre
    stand = rng.random()
    if stand < 0.35:
        cover.grow_crowns(canvas, where_HW, float(rng.uniform(4, 6)) * metre, cover.CONIFERS, 1.5, 0.15)
    elif stand < 0.75:
        cover.grow_crowns(canvas, where_HW, float(rng.uniform(6, 9)) * metre, cover.LEAVES, 0.9, 0.3)
        cover.grow_crowns(canvas, 0.15 * where_HW, 5 * metre, cover.CONIFERS, 1.6, 0.2)
    else:
        cover.grow_crowns(canvas, where_HW, float(rng.uniform(4, 6)) * metre, cover.BARE_TWIGS, 0.9, 0.45)


def _forest(canvas: Canvas) -> None:
    rng, metre = canvas.rng, canvas.metre
    cover.vegetate(canvas, canvas.pick(cover.SHRUBS if rng.random() < 0.4 else cover.GRASSES), 1.4)
    if rng.random() < 0.5:
        _country_road(canvas, paved=rng.random() < 0.3)
    gaps_HW = ramp(canvas.noise(70 * metre, 3, 0.6) + float(rng.uniform(0.3, 2.2)), 0.0, 0.5)
    _plant_wood(canvas, float(rng.uniform(0.85, 1)) * gaps_HW)


def _meadow(canvas: Canvas) -> None:
    rng, metre = canvas.rng, canvas.metre
    cover.vegetate(canvas, canvas.pick(cover.GRASSES, 0.12), 1.5)
    canvas.mottle(0.05 * canvas.noise(18 * metre, 3, 0.7))
    for _ in range(int(rng.integers(1, 3))):
        _country_road(canvas, paved=rng.random() < 0.2)
    groves_HW = ramp(canvas.noise(80 * metre, 2), float(rng.uniform(0.6, 1.6)), 2.2)
    cover.grow_crowns(canvas, np.maximum(groves_HW, 0.012), 8 * metre, cover.LEAVES)
    cover.grow_crowns(canvas, 0.25 * ramp(canvas.noise(40 * metre), 0.5, 1.5), 3.5 * metre, cover.SHRUBS)


def _river(canvas: Canvas) -> None:
    rng, metre = canvas.rng, canvas.metre
    frame = random_frame(canvas, bend=45 * metre, wavelength=330 * metre)
    u_HW, v_HW = frame.locate(canvas.x_HW, canvas.y_HW)
    if rng.random() < 0.5:
        cover.sow_fields(canvas, *random_frame(canvas).locate(canvas.x_HW, canvas.y_HW), 90 * metre)
    else:
        cover.vegetate(canvas, canvas.pick(cover.GRASSES, 0.1), 1.4)
    steep_HW = np.sqrt(1 + frame.slope(u_HW) ** 2)
    width = float(rng.uniform(14, 60)) * metre
    inside_HW = width / 2 - np.abs(v_HW) / steep_HW + np.float32(2.5 * metre) * canvas.noise(30 * metre, 3)
    _fill_and_fringe(canvas, inside_HW)


def _lake(canvas: Canvas) -> None:
    rng = canvas.rng
    cover.vegetate(canvas, canvas.pick(cover.GRASSES, 0.1), 1.3)
    if rng.random() < 0.6:
        _country_road(canvas, paved=rng.random() < 0.4)
    around = random_frame(canvas)
    away_HW = np.hypot(canvas.x_HW - around.x0, canvas.y_HW - around.y0)
    outline_HW = np.clip(canvas.noise(0.42 * canvas.size, 5, 0.45), -1.4, 2)
    inside_HW = canvas.size * (float(rng.uniform(0.2, 0.42)) + 0.1 * outline_HW) - away_HW
    _fill_and_fringe(canvas, inside_HW)


def _fill_and_fringe(canvas: Canvas, inside_HW: Plane) -> None:
    """Water where ``inside_HW`` > 0, with a bare bank and trees along it and in groves beyond."""
    rng, metre = canvas.rng, canvas.metre
    bank = float(rng.uniform(1, 7)) * metre
    ragged_HW = inside_HW + np.float32(0.35 * bank) * canvas.noise(8 * metre, 2)
    soil_HWC = canvas.pick(cover.SOILS) * (1 + 0.07 * canvas.noise(2.5, 2))[..., None]
    canvas.paint(0.85 * ramp(ragged_HW, -bank - metre, -bank + metre), soil_HWC)
    cover.flood(canvas, inside_HW, canvas.pick(cover.WATERS, 0.1), float(rng.uniform(4, 16)) * metre)
    belt = float(rng.uniform(10, 45)) * metre
    near_HW = ramp(inside_HW, -belt - 4, -belt + 4) * ramp(-inside_HW, bank - 1, bank + 3 * metre)
    thick_HW = ramp(canvas.noise(45 * metre, 2), float(rng.uniform(-1.5, 0.3)), 0.8)
    groves_HW = ramp(canvas.noise(100 * metre, 2), 0.9, 1.1) * ramp(-inside_HW, bank, bank + 3)
    _plant_wood(canvas, np.maximum(near_HW * thick_HW, groves_HW))


def _coast(canvas: Canvas) -> None:
    rng, metre = canvas.rng, canvas.metre
    cover.vegetate(canvas, canvas.pick(cover.GRASSES, 0.1), 1.2)
    frame = random_frame(canvas, bend=30 * metre, wavelength=500)
    u_HW, v_HW = frame.locate(canvas.x_HW, canvas.y_HW)
    sea_HW = v_HW + np.float32(5 * metre) * canvas.noise(60 * metre, 4)
    beach = float(rng.uniform(15, 55)) * metre
    sand_HWC = (
        canvas.pick(_SANDS) * (1 + 0.025 * canvas.noise(20 * metre, 4) + 0.03 * canvas.noise(1.2))[..., None]
    )
    ragged_HW = sea_HW + np.float32(3 * metre) * canvas.noise(12 * metre, 3)
    canvas.paint(ramp(ragged_HW, -beach - 2 * metre, -beach + 2 * metre), sand_HWC)
    # The last wave leaves the sand dark and wet.
    canvas.mottle(-0.22 * ramp(sea_HW, -7 * metre, -5 * metre))
    shore_HW = -sea_HW - beach
    dunes_HW = ramp(canvas.noise(22 * metre, 2), 0.1, 1.2) * ramp(shore_HW, -6 * metre, 10 * metre)
    cover.grow_crowns(canvas, 0.8 * dunes_HW, 3.2 * metre, cover.SHRUBS, 0.8)
    if rng.random() < 0.5:
        cover.lay_road(canvas, u_HW, v_HW + beach + 22 * metre, 6.5 * metre, paved=True)
    wood_HW = ramp(shore_HW, 30 * metre, 36 * metre) * ramp(canvas.noise(50 * metre, 2), -0.2, 0.6)
    cover.grow_crowns(canvas, wood_HW, 6 * metre, cover.LEAVES)
    deep, shallow = canvas.pick(_SEAS, 0.12), rgb(122, 136, 118)
    depth_HW = ramp(sea_HW, 0, float(rng.uniform(40, 120)) * metre) ** 0.6
    swell_HW = 0.03 * canvas.noise(16 * metre, 4, 0.7) + 0.012 * canvas.noise(1.5)
    canvas.paint(
        ramp(sea_HW, -0.7, 0.7),
        (shallow + depth_HW[..., None] * (deep - shallow)) * (1 + swell_HW)[..., None],
    )
    canvas.height_HW *= 1 - ramp(sea_HW, -0.5, 0.5)
    _break_waves(canvas, u_HW, sea_HW)


def _break_waves(canvas: Canvas, u_HW: Plane, sea_HW: Plane) -> None:
    """White water in lines along the shore, torn by noise and thinning out seawards."""
    rng, metre = canvas.rng, canvas.metre
    lace_HW = canvas.noise(6 * metre, 3, 1.0)
    offset = 0.0
    for strength in (1.0, 0.8, 0.65, 0.45)[: int(rng.integers(1, 5))]:
        front_HW = sea_HW - offset + np.float32(2.2 * metre) * canvas.noise(35 * metre, 3)
        # A sharp front on the shore side and a ragged trail behind it.
        trail = float(rng.uniform(5, 14)) * metre
        shape_HW = ramp(front_HW, -0.5, 0.8) * ramp(-front_HW, -trail, 0)
        torn_HW = ramp(lace_HW + 2.4 * shape_HW + canvas.noise(70 * metre) * 0.7, 0.9, 3.0)
        canvas.paint(strength * 0.85 * torn_HW * (shape_HW > 0), rgb(222, 226, 224))
        offset += float(rng.uniform(12, 30)) * metre


def _mountain(canvas: Canvas) -> None:
    rng, metre = canvas.rng, canvas.metre
    scale = float(rng.uniform(70, 130))
    relief_HW = np.zeros_like(canvas.height_HW)
    tilt_2HW = np.zeros((2, *relief_HW.shape), dtype=np.float32)
    for octave in range(6):
        bumps_HW = canvas.noise(scale / 1.9**octave)
        # Steep flanks are worn smooth: detail grows where the coarser octaves lie flat.
        tilt_2HW += np.asarray(np.gradient(bumps_HW), dtype=np.float32) * np.float32(
            0.8 * scale / 1.9**octave
        )
        relief_HW += 0.52**octave * bumps_HW / (1 + (tilt_2HW**2).sum(axis=0))
    canvas.height_HW[:] = relief_HW * np.float32(scale * rng.uniform(0.24, 0.4))
    rise_y_HW, rise_x_HW = np.gradient(canvas.height_HW)
    slope_HW = np.hypot(rise_x_HW, rise_y_HW)
    cover.vegetate(canvas, canvas.pick(cover.GRASSES, 0.1), 1.3)
    rock_HWC = (
        canvas.pick(_ROCKS) * (1 + 0.06 * canvas.noise(9, 4, 0.8) + 0.04 * canvas.noise(1.3))[..., None]
    )
    bare = float(rng.uniform(-0.25, 0.5))
    canvas.paint(ramp(slope_HW + 0.12 * canvas.noise(12, 3) + bare, 0.25, 0.5), rock_HWC)
    high_HW = (relief_HW - float(relief_HW.min())) / float(np.ptp(relief_HW))
    if rng.random() < 0.3:
        snow_HW = ramp(high_HW - 0.2 * slope_HW + 0.05 * canvas.noise(10, 3), 0.34, 0.46)
        canvas.paint(0.92 * snow_HW, rgb(214, 218, 224))
    elif rng.random() < 0.7:
        wood_HW = ramp(-high_HW - 0.2 * slope_HW + 0.08 * canvas.noise(30, 2), -0.55, -0.42)
        ground_HW = canvas.height_HW.copy()
        canvas.height_HW[:] = 0
        cover.grow_crowns(canvas, wood_HW, 4 * metre, cover.CONIFERS, 1.0)
        canvas.height_HW += ground_HW


def _scrub(canvas: Canvas) -> None:
    rng, metre = canvas.rng, canvas.metre
    cover.vegetate(canvas, canvas.pick(cover.SOILS, 0.12), 0.7)
    washes_HW = np.abs(canvas.noise(90 * metre, 4, 0.55))
    canvas.mottle(0.1 * ramp(-washes_HW, -0.16, -0.03))
    if rng.random() < 0.5:
        _country_road(canvas, paved=False)
    lush_HW = float(rng.uniform(0.15, 0.7)) * ramp(canvas.noise(70 * metre, 2), -1.6, 0.8)
    lush_HW *= ramp(washes_HW, 0.03, 0.12)
    cover.grow_crowns(canvas, lush_HW, float(rng.uniform(4, 6)) * metre, cover.SHRUBS, 0.9, 0.1, broad=0.45)
    cover.grow_crowns(canvas, 0.5 * lush_HW, 2.6 * metre, cover.SHRUBS, 0.8, 0.15, broad=0.4)


# For each kind: how to draw it, and between how many pixels a metre may measure.
_KINDS: dict[str, tuple[Callable[[Canvas], None], float, float]] = {
    "farmland": (_farmland, 0.8, 1.6),
    "town": (_town, 1.2, 2.4),
    "industrial": (_industrial, 1.0, 2.0),
    "forest": (_forest, 1.0, 1.9),
    "meadow": (_meadow, 1.0, 1.8),
    "river": (_river, 0.9, 1.6),
    "lake": (_lake, 0.9, 1.6),
    "coast": (_coast, 1.0, 1.8),
    "mountain": (_mountain, 0.7, 1.1),
    "scrub": (_scrub, 1.2, 2.4),
}
SCENE_KINDS: tuple[str, ...] = tuple(_KINDS)


def render_scene(seed: int, size: int = 256, kind: str | None = None) -> NDArray[np.uint8]:
    """Draw a synthetic aerial picture.

    Args:
        seed: Non-negative number; the same seed, size and kind give the same picture.
        size: Side of the picture in pixels, 16 to 4096.
        kind: One of :data:`SCENE_KINDS`; None lets the seed choose.

    Returns:
        (size, size, 3) uint8 RGB.

    Raises:
        InputError: If an argument is out of its range.
    """
    if seed < 0:
        raise InputError(f"seed: {seed} is negative; give 0 or more")
    if not _SMALLEST <= size <= _LARGEST:
        raise InputError(f"size: {size} is out of range; give {_SMALLEST} to {_LARGEST} pixels")
    if kind is not None and kind not in _KINDS:
        raise InputError(f"kind: {kind!r} is unknown; give one of {', '.join(SCENE_KINDS)}")
    rng = np.random.default_rng(seed)
    chosen = SCENE_KINDS[int(rng.integers(len(SCENE_KINDS)))]
    draw, coarse, fine = _KINDS[kind or chosen]
    canvas = Canvas(rng, size, float(rng.uniform(coarse, fine)))
    draw(canvas)
    return photograph(canvas)
