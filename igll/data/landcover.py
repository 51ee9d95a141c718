"""What covers the ground of a synthetic aerial scene: crops, trees, roads, roofs, cars and water."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from igll.data.terrain import Canvas, Choice, Frame, Plane, palette, ramp, rgb

CROPS = palette(
    (150, 132, 112), (118, 104, 90), (96, 86, 76), (158, 142, 126), (166, 150, 116), (172, 156, 112),
    (86, 102, 60), (66, 86, 50), (112, 124, 78), (104, 104, 70), (140, 136, 96), (120, 112, 88),
)  # fmt: skip
GRASSES = palette((104, 110, 74), (88, 102, 62), (122, 118, 86), (96, 96, 70), (112, 120, 78))
SOILS = palette((158, 138, 112), (168, 146, 122), (146, 128, 108), (176, 158, 130), (140, 118, 98))
LEAVES = palette((74, 92, 52), (62, 82, 48), (86, 100, 58), (54, 74, 46), (94, 100, 60))
CONIFERS = palette((46, 64, 44), (54, 72, 48), (42, 58, 44), (60, 76, 50))
BARE_TWIGS = palette((116, 108, 100), (104, 100, 94), (124, 112, 98), (96, 96, 84))
SHRUBS = palette((92, 84, 58), (80, 80, 54), (104, 92, 66), (84, 74, 54))
TILES = palette((150, 92, 72), (160, 108, 84), (128, 82, 68), (116, 104, 96), (98, 96, 96), (140, 130, 120),
                (176, 170, 160), (122, 112, 100), (84, 84, 88))  # fmt: skip
METALS = palette(
    (186, 186, 182), (206, 204, 198), (150, 154, 156), (128, 140, 152), (166, 152, 136), (120, 118, 114)
)
PAINTS = palette((214, 214, 212), (60, 60, 64), (150, 152, 154), (120, 40, 38), (52, 66, 96), (190, 188, 180),
                 (34, 34, 36))  # fmt: skip
ASPHALT = palette((118, 116, 114), (104, 103, 103), (134, 131, 127), (92, 92, 94))
WATERS = palette((44, 60, 60), (58, 70, 58), (36, 48, 66), (70, 78, 62), (40, 56, 74))


def vegetate(canvas: Canvas, colour: Plane, strength: float = 1.0) -> None:
    """Cover the whole canvas with short plants or bare earth around ``colour``."""
    metre = canvas.metre
    canvas.colour_HWC[:] = colour
    patches_HW = canvas.noise(60 * metre, 3, 0.6)
    # Dry patches go towards yellow, lush ones towards green.
    tint_3 = np.array([0.05, 0.025, 0.015], dtype=np.float32) * np.float32(strength)
    canvas.colour_HWC *= 1 + patches_HW[..., None] * tint_3
    worn_HW = ramp(canvas.noise(40 * metre, 4, 0.7), 0.6, 1.6) * np.float32(0.4)
    canvas.paint(worn_HW, canvas.pick(SOILS) * np.float32(0.85))
    tufts_HW = 0.05 * canvas.noise(7 * metre, 3, 0.8) + 0.045 * canvas.noise(1.6)
    canvas.mottle(np.float32(strength) * tufts_HW)


def _topmost_crowns(
    position: tuple[Plane, Plane], centre: tuple[Plane, Plane], squared: Plane, spacing: float
) -> tuple[Plane, NDArray[np.int64]]:
    """For every pixel the squared height of the highest crown above it (0: none) and that crown's index.

    A pixel's candidates stand in its own lattice cell or in one of the eight around it.
    """
    x_HW, y_HW = position
    side = squared.shape[1]
    cell_S = (np.arange(len(x_HW), dtype=np.float32) / spacing).astype(int) + 1
    dome_HW = np.zeros_like(x_HW)
    owner_HW = np.zeros(dome_HW.shape, dtype=np.int64)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            index_HW = (cell_S + down)[:, None] * side + (cell_S + right)[None, :]
            there_HW = squared.ravel()[index_HW] - (x_HW - centre[0].ravel()[index_HW]) ** 2
            there_HW -= (y_HW - centre[1].ravel()[index_HW]) ** 2
            higher_HW = there_HW > dome_HW
            dome_HW[higher_HW] = there_HW[higher_HW]
            owner_HW[higher_HW] = index_HW[higher_HW]
    return dome_HW, owner_HW


def grow_crowns(
    canvas: Canvas,
    density_HW: Plane,
    spacing: float,
    table_K3: Plane,
    tall: float = 1.0,
    ragged: float = 0.22,
    broad: float = 0.85,
) -> None:
    """Plant trees or bushes with a crown each.

    Args:
        canvas: Where to plant.
        density_HW: Probability, 0..1, that a tree stands at a pixel; nothing grows on built ground.
        spacing: Mean distance between neighbours in pixels.
        table_K3: Colours of the leaves.
        tall: Height of a crown's dome relative to its radius.
        ragged: Irregularity of the outlines relative to ``spacing``.
        broad: Largest radius of a crown relative to ``spacing``; the smallest is 0.45 times that.
    """
    rng, size = canvas.rng, canvas.size
    side = math.ceil(size / spacing) + 3
    grid = np.arange(side, dtype=np.float32) - 0.5
    centre_x = ((grid[None, :] + rng.uniform(-0.42, 0.42, (side, side))) * spacing).astype(np.float32)
    centre_y = ((grid[:, None] + rng.uniform(-0.42, 0.42, (side, side))) * spacing).astype(np.float32)
    column = np.clip(centre_x, 0, size - 1).astype(int)
    row = np.clip(centre_y, 0, size - 1).astype(int)
    chance = density_HW[row, column] * (canvas.built_HW[row, column] < 0.5)
    squared = ((spacing * rng.uniform(0.45 * broad, broad, (side, side))) ** 2).astype(np.float32)
    squared[rng.random((side, side)) >= chance] = -1e6

    x_HW = canvas.x_HW + np.float32(ragged * spacing) * canvas.noise(max(2.0, spacing / 3), 2, 0.7)
    y_HW = canvas.y_HW + np.float32(ragged * spacing) * canvas.noise(max(2.0, spacing / 3), 2, 0.7)
    dome_HW, owner_HW = _topmost_crowns((x_HW, y_HW), (centre_x, centre_y), squared, spacing)
    tone = table_K3[rng.integers(len(table_K3), size=side * side)]
    tone = tone * rng.uniform(0.82, 1.16, (side * side, 1)).astype(np.float32)
    crown_HW = np.sqrt(dome_HW) * np.float32(tall)
    leaf_HW = canvas.noise(2.2, 2, 0.9)
    cover_HW = ramp(dome_HW, 0.0, max(1.0, 0.1 * spacing))
    canvas.paint(cover_HW, tone[owner_HW] * (1 + 0.13 * leaf_HW[..., None]))
    # Trunks lift the crown, so that a lone tree casts a shadow beside itself.
    lift_HW = cover_HW * np.float32(0.25 * tall * spacing) + crown_HW * (1 + 0.14 * leaf_HW)
    np.maximum(canvas.height_HW, lift_HW * (cover_HW > 0), out=canvas.height_HW)


@dataclass
class Boxes:
    """K turned rectangles seen from above; every field holds K numbers (lengths in pixels).

    ``angle`` is the direction of the long side. ``pitch`` is the slope of a gabled roof (0 flat);
    ``hip`` is 1 where the roof slopes to all four sides.
    """

    x: Plane
    y: Plane
    angle: Plane
    length: Plane
    width: Plane
    colour_K3: Plane
    eave: Plane
    pitch: Plane
    hip: Plane

    def subset(self, chosen_K: Choice) -> Boxes:
        """The boxes for which ``chosen_K`` (boolean) holds."""
        return Boxes(**{field.name: getattr(self, field.name)[chosen_K] for field in fields(self)})


def varied_tones(canvas: Canvas, table_K3: Plane, count: int) -> Plane:
    """``count`` colours of a table, each a little brighter or darker than there."""
    tones = table_K3[canvas.rng.integers(len(table_K3), size=count)]
    return np.asarray(tones * canvas.rng.uniform(0.88, 1.1, (count, 1)), dtype=np.float32)


def build(canvas: Canvas, boxes: Boxes, ribs: float = 0.0) -> None:
    """Draw rectangles (roofs, cars, drives) with smooth outlines and the height of their roofs.

    Args:
        canvas: Where to build.
        boxes: What to build; of two that overlap, the later one is on top.
        ribs: Contrast of the lines that tiles or metal sheets draw down a roof.
    """
    if not len(boxes.x):
        return
    half = math.ceil(float(np.hypot(boxes.length, boxes.width).max()) / 2) + 1
    reach_W = np.arange(-half, half + 1)
    column = np.floor(boxes.x).astype(int)[:, None, None] + reach_W[None, None, :]
    row = np.floor(boxes.y).astype(int)[:, None, None] + reach_W[None, :, None]
    dx, dy = column - boxes.x[:, None, None], row - boxes.y[:, None, None]
    cosine, sine = np.cos(boxes.angle)[:, None, None], np.sin(boxes.angle)[:, None, None]
    along = dx * cosine + dy * sine
    across = dy * cosine - dx * sine
    from_end = boxes.length[:, None, None] / 2 - np.abs(along)
    from_side = boxes.width[:, None, None] / 2 - np.abs(across)
    cover = np.clip(np.minimum(from_end, from_side) + 0.5, 0, 1)
    inside = (cover > 0) & (column >= 0) & (column < canvas.size) & (row >= 0) & (row < canvas.size)
    which, part_row, part_column = np.nonzero(inside)
    cover = cover[inside].astype(np.float32)
    at = (row[which, part_row, 0], column[which, 0, part_column])

    uphill = np.where(
        boxes.hip[which] > 0, np.minimum(from_side[inside], from_end[inside]), from_side[inside]
    )
    top = boxes.eave[which] + boxes.pitch[which] * np.maximum(uphill, 0)
    rib = 1 + ribs * np.cos(2 * math.pi * along[inside] / 2.7)
    colour = boxes.colour_K3[which] * rib[:, None].astype(np.float32)
    canvas.colour_HWC[at] += cover[:, None] * (colour - canvas.colour_HWC[at])
    canvas.height_HW[at] = np.maximum(canvas.height_HW[at], top * cover)
    canvas.built_HW[at] = np.maximum(canvas.built_HW[at], cover)


def park_cars(canvas: Canvas, x: Plane, y: Plane, angle: Plane) -> None:
    """Put a car, 4.4 m by 1.9 m, at each position (K,) with the given heading."""
    rng, metre, count = canvas.rng, canvas.metre, len(x)
    paint_K3 = PAINTS[rng.integers(len(PAINTS), size=count)]
    length = (metre * rng.uniform(4.0, 4.8, count)).astype(np.float32)
    full = np.ones(count, dtype=np.float32)
    roof = Boxes(x, y, angle, length, 1.9 * metre * full, paint_K3, 1.2 * metre * full, 0 * full, 0 * full)
    build(canvas, roof)
    # The windscreen is a dark band before the middle.
    shift = length * 0.17
    glass = Boxes(
        x + shift * np.cos(angle), y + shift * np.sin(angle), angle, 0.7 * metre * full, 1.5 * metre * full,
        np.repeat(rgb(40, 44, 48)[None], count, axis=0), 0 * full, 0 * full, 0 * full,
    )  # fmt: skip
    build(canvas, glass)


def lay_road(canvas: Canvas, u_HW: Plane, v_HW: Plane, width: float, paved: bool) -> None:
    """Lay a road along ``v_HW = 0``: verge, surface with wheel tracks, markings where it is wide enough."""
    rng, metre = canvas.rng, canvas.metre
    away_HW = np.abs(v_HW)
    ragged_HW = away_HW + np.float32(0.5 * metre) * canvas.noise(5 * metre, 2)
    canvas.paint(
        0.55 * ramp(-ragged_HW, -width / 2 - 2.2 * metre, -width / 2 - 0.4 * metre), canvas.pick(SOILS)
    )
    cover_HW = ramp(-away_HW if paved else -ragged_HW, -width / 2 - 0.5, -width / 2 + 0.5)
    surface = canvas.pick(ASPHALT if paved else SOILS)
    wear_HW = 0.03 * canvas.noise(12 * metre, 3) + 0.02 * canvas.noise(1.5)
    tracks_HW = 0.05 * np.cos(2 * math.pi * v_HW * np.float32(2 / width))
    canvas.paint(cover_HW, surface * (1 + wear_HW + (tracks_HW if paved else -2 * tracks_HW))[..., None])
    if not paved:
        grassy_HW = ramp(-away_HW, -0.5 * metre - 0.5, -0.5 * metre + 0.5) * float(rng.uniform(0.2, 0.6))
        canvas.paint(grassy_HW, canvas.pick(GRASSES))
    elif width > 5.5 * metre:
        mark = 0.09 * metre
        dashes_HW = (np.mod(u_HW, 9 * metre) < 4 * metre).astype(np.float32)
        line_HW = ramp(-away_HW, -mark - 0.5, -mark + 0.5) * dashes_HW
        edge_HW = ramp(-np.abs(away_HW - width / 2 + 0.5 * metre), -mark - 0.5, -mark + 0.5)
        canvas.paint(
            np.float32(min(1.0, metre)) * (np.float32(0.55) * line_HW + np.float32(0.4) * edge_HW),
            rgb(205, 203, 196),
        )
    np.maximum(canvas.built_HW, ramp(-away_HW, -width / 2 - 1, -width / 2), out=canvas.built_HW)


def drive_cars(canvas: Canvas, frame: Frame, width: float, count: int) -> None:
    """Put ``count`` cars on the two lanes of a road that runs along the axis of ``frame``."""
    rng = canvas.rng
    u = rng.uniform(-0.7, 0.7, count).astype(np.float32) * canvas.size
    side = np.where(rng.random(count) < 0.5, -1, 1).astype(np.float32)
    x, y, angle = frame.place(u, side * np.float32(width / 4))
    park_cars(canvas, x, y, angle + np.where(side > 0, 0, math.pi).astype(np.float32))


def flood(canvas: Canvas, inside_HW: Plane, colour: Plane, shallow: float) -> None:
    """Fill with water where ``inside_HW`` (distance from the shore in pixels) is positive."""
    cover_HW = ramp(inside_HW, -0.5, 0.5)
    depth_HW = ramp(inside_HW, 0.0, shallow)
    # Near the shore the bed shines through.
    bed_3 = rgb(112, 108, 84)
    water_HWC = colour + (0.55 * (1 - depth_HW))[..., None] * (bed_3 - colour)
    ripples_HW = 0.035 * canvas.noise(40 * canvas.metre, 3) + 0.02 * canvas.noise(2.0)
    canvas.paint(cover_HW, water_HWC * (1 + ripples_HW[..., None]))
    canvas.height_HW *= 1 - cover_HW
    np.maximum(canvas.built_HW, cover_HW, out=canvas.built_HW)


def split_rectangles(
    rng: np.random.Generator, rectangle: tuple[float, float, float, float], smallest: float
) -> list[tuple[float, float, float, float]]:
    """Cut a rectangle (u0, u1, v0, v1) again and again across its longer side, as farmland is divided."""
    u0, u1, v0, v1 = rectangle
    long_u = u1 - u0 > v1 - v0
    longer = max(u1 - u0, v1 - v0)
    if longer < 1.7 * smallest or (longer < 3 * smallest and rng.random() < 0.25):
        return [rectangle]
    cut = float(rng.uniform(0.35, 0.65)) * longer
    first = (u0, u0 + cut, v0, v1) if long_u else (u0, u1, v0, v0 + cut)
    second = (u0 + cut, u1, v0, v1) if long_u else (u0, u1, v0 + cut, v1)
    return split_rectangles(rng, first, smallest) + split_rectangles(rng, second, smallest)


def sow_fields(canvas: Canvas, u_HW: Plane, v_HW: Plane, smallest: float) -> Plane:
    """Divide the ground into fields, each with its crop and rows.

    Returns:
        (H, W) distance in pixels to the nearest field boundary.
    """
    rng, metre = canvas.rng, canvas.metre
    extent = (float(u_HW.min()) - 9, float(u_HW.max()) + 9, float(v_HW.min()) - 9, float(v_HW.max()) + 9)
    texture_HW = 0.035 * canvas.noise(1.3) + 0.03 * canvas.noise(4 * metre, 2)
    patches_HW = canvas.noise(45 * metre, 3, 0.55)
    wander_HW = canvas.noise(90 * metre)
    border_HW = np.zeros_like(u_HW)
    crops_K3 = CROPS[rng.permutation(len(CROPS))]
    for number, (u0, u1, v0, v1) in enumerate(split_rectangles(rng, extent, smallest)):
        inside_HW = (u_HW >= u0) & (u_HW < u1) & (v_HW >= v0) & (v_HW < v1)
        if not inside_HW.any():
            continue
        u_P, v_P = u_HW[inside_HW], v_HW[inside_HW]
        edge_P = np.minimum(np.minimum(u_P - u0, u1 - u_P), np.minimum(v_P - v0, v1 - v_P))
        border_HW[inside_HW] = edge_P
        along_u = rng.random() < (0.8 if u1 - u0 > v1 - v0 else 0.2)
        across_P = (v_P if along_u else u_P) + np.float32(0.8 * metre) * wander_HW[inside_HW]
        rows_P = _rows(canvas, across_P, edge_P)
        tone_P = 1 + rows_P * (1 + 0.35 * patches_HW[inside_HW]) + texture_HW[inside_HW]
        tone_P += np.float32(rng.uniform(0.015, 0.06)) * patches_HW[inside_HW]
        warm_3 = np.array([0.02, 0.01, 0.0], dtype=np.float32)
        tint_P3 = 1 + patches_HW[inside_HW][:, None] * warm_3
        canvas.colour_HWC[inside_HW] = (
            canvas.pick(crops_K3[number % len(crops_K3)][None], 0.12) * tone_P[:, None] * tint_P3
        )
    return border_HW


def _rows(canvas: Canvas, across_P: Plane, edge_P: Plane) -> Plane:
    """Relative brightness of drills, uneven strips and wheel tracks at distances across a field."""
    rng, metre = canvas.rng, canvas.metre
    period = float(rng.uniform(2.6, 6.5))
    drills_P = np.cos(across_P * np.float32(2 * math.pi / period)) * np.float32(rng.uniform(0.0, 0.13))
    knots = np.arange(float(across_P.min()), float(across_P.max()) + 8, float(rng.uniform(1.5, 5)))
    strips_P = np.interp(across_P, knots, rng.uniform(-1, 1, len(knots))) * float(rng.uniform(0.02, 0.08))
    pass_width = float(rng.uniform(18, 30)) * metre
    wheel_P = np.abs(np.mod(across_P, pass_width) - pass_width / 2)
    wheels_P = -float(rng.uniform(0, 0.14)) * ramp(-np.abs(wheel_P - metre), -1.1, -0.2)
    # Machines turn at the end of the field: there the rows run along the edge instead.
    headland_P = ramp(edge_P, 7 * metre, 8 * metre)
    turned_P = 0.6 * np.cos(edge_P * np.float32(2 * math.pi / period)) * np.abs(drills_P).max()
    return np.asarray(
        (drills_P + strips_P + wheels_P) * headland_P + turned_P * (1 - headland_P), dtype=np.float32
    )
