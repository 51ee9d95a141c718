"""Streets, houses, halls and car parks of synthetic aerial scenes."""

from __future__ import annotations

import math

import numpy as np

from igll.data import landcover as cover
from igll.data.landcover import Boxes
from igll.data.terrain import Canvas, Choice, Frame, Plane, palette, ramp, rgb

_PAVINGS = palette((164, 160, 150), (150, 146, 138), (172, 166, 154))
_POOL = rgb(92, 158, 172)


def lay_out_streets(canvas: Canvas, frame: Frame, block: tuple[float, float], width: float) -> Plane:
    """Lay a grid of streets with kerbs and pavements; blocks measure ``block`` (along u, along v).

    Returns:
        (H, W) distance in pixels from the nearest pavement; negative on it.
    """
    rng, metre = canvas.rng, canvas.metre
    u_HW, v_HW = frame.locate(canvas.x_HW, canvas.y_HW)
    off_v_HW = np.mod(v_HW + block[1] / 2, block[1]) - block[1] / 2
    off_u_HW = np.mod(u_HW + block[0] / 2, block[0]) - block[0] / 2
    away_HW = np.minimum(np.abs(off_v_HW), np.abs(off_u_HW)) - width / 2
    walk = 1.8 * metre
    slabs_HWC = canvas.pick(_PAVINGS) * (1 + 0.035 * canvas.noise(1.5))[..., None]
    canvas.paint(0.85 * ramp(-away_HW, -walk - 0.5, -walk + 0.5), slabs_HWC)
    wear_HW = 0.035 * canvas.noise(10 * metre, 3) + 0.02 * canvas.noise(1.4)
    canvas.paint(ramp(-away_HW, -0.5, 0.5), canvas.pick(cover.ASPHALT) * (1 + wear_HW)[..., None])
    mark = 0.1 * metre
    middle_HW = ramp(-np.abs(off_v_HW), -mark - 0.5, -mark + 0.5) * (np.abs(off_u_HW) > width)
    dashes_HW = (np.mod(u_HW, 7 * metre) < 3.5 * metre).astype(np.float32)
    canvas.paint(float(rng.uniform(0, 0.5)) * middle_HW * dashes_HW, rgb(205, 203, 196))
    np.maximum(canvas.built_HW, ramp(-away_HW, -walk, -walk + 1), out=canvas.built_HW)
    _park_at_kerbs(canvas, frame, block, width)
    return away_HW - np.float32(walk)


def _grid(canvas: Canvas, step_u: float, step_v: float) -> tuple[Plane, Plane]:
    """Frame coordinates of all grid cells that may show on the canvas, flattened."""
    reach = 0.75 * canvas.size + max(step_u, step_v)
    columns = np.arange(-math.ceil(reach / step_u), math.ceil(reach / step_u) + 1)
    rows = np.arange(-math.ceil(reach / step_v), math.ceil(reach / step_v) + 1)
    u, v = np.meshgrid(columns * step_u, rows * step_v)
    return u.ravel().astype(np.float32), v.ravel().astype(np.float32)


def _visible(canvas: Canvas, x: Plane, y: Plane, margin: float) -> Choice:
    near_x = (x > -margin) & (x < canvas.size + margin)
    return np.asarray(near_x & (y > -margin) & (y < canvas.size + margin))


def _park_at_kerbs(canvas: Canvas, frame: Frame, block: tuple[float, float], width: float) -> None:
    rng, metre = canvas.rng, canvas.metre
    u, v = _grid(canvas, 6.5 * metre, block[1])
    share = float(rng.uniform(0.05, 0.35))
    for side in (-1.0, 1.0):
        clear_of_crossing = np.abs(np.mod(u + block[0] / 2, block[0]) - block[0] / 2) > width
        chosen = (rng.random(len(u)) < share) & clear_of_crossing
        x, y, angle = frame.place(u[chosen], v[chosen] + np.float32(side * (width / 2 - 1.3 * metre)))
        seen = _visible(canvas, x, y, 6 * metre)
        cover.park_cars(canvas, x[seen], y[seen], angle[seen])


def line_with_houses(canvas: Canvas, frame: Frame, block: tuple[float, float]) -> None:
    """Put houses with drives, garages and some pools on both sides of the streets that run along u."""
    rng, metre = canvas.rng, canvas.metre
    lots = max(3, round(block[0] / (float(rng.uniform(15, 21)) * metre)))
    # The lots nearest to a crossing street keep clear of it.
    step = (block[0] - 16 * metre) / lots
    lot_u, lot_v = _grid(canvas, block[0], block[1])
    inner = (np.arange(lots, dtype=np.float32) + 0.5) * step + 8 * metre
    u = (lot_u[:, None] + inner).ravel().astype(np.float32)
    v = np.repeat(lot_v, lots)
    roofs = cover.TILES[rng.permutation(len(cover.TILES))[: int(rng.integers(2, 6))]]
    full_length = float(rng.uniform(11, 14)) * metre
    for side in (-1.0, 1.0):
        _house_row(canvas, frame, (u, v), side, roofs, full_length)


def _house_row(
    canvas: Canvas, frame: Frame, lots: tuple[Plane, Plane], side: float, roofs_K3: Plane, typical: float
) -> None:
    rng, metre = canvas.rng, canvas.metre
    seen = _visible(canvas, *frame.place(lots[0], lots[1] + np.float32(side * 15 * metre))[:2], 14 * metre)
    u, v = lots[0][seen], lots[1][seen]
    count = len(u)

    def vary(low: float, high: float) -> Plane:
        return rng.uniform(low, high, count).astype(np.float32)

    u = u + vary(-1, 1) * metre
    setback = vary(14, 16) * metre
    length, width = typical * vary(0.85, 1.12), typical * vary(0.6, 0.78)
    colour_K3 = roofs_K3[rng.integers(len(roofs_K3), size=count)] * vary(0.88, 1.1)[:, None]
    pitch, hip = vary(0.35, 0.75), (vary(0, 1) < 0.5).astype(np.float32)
    eave = vary(2.8, 5) * metre
    zero, one = np.zeros(count, dtype=np.float32), np.ones(count, dtype=np.float32)

    def boxes(
        along: Plane, away: Plane, size: tuple[Plane, Plane], tint_K3: Plane, turn: float = 0.0
    ) -> Boxes:
        x, y, angle = frame.place(u + along, v + np.float32(side) * away)
        return Boxes(x, y, angle + np.float32(turn), size[0], size[1], tint_K3, zero, zero, zero)

    drive_at = length * np.where(rng.random(count) < 0.5, 0.32, -0.32).astype(np.float32)
    paving_K3 = cover.varied_tones(canvas, _PAVINGS, count)
    cover.build(
        canvas, boxes(drive_at, setback * 0.62, (setback * 0.6, 3.2 * metre * one), paving_K3, math.pi / 2)
    )
    wide_K3 = np.repeat(_POOL[None], count, axis=0)
    pool = boxes(-drive_at, setback + 10.5 * metre, (5.5 * metre * one, 3.2 * metre * one), wide_K3)
    cover.build(canvas, pool.subset(rng.random(count) < 0.08))
    garage = boxes(
        drive_at, setback - 3.5 * metre, (7 * metre * one, 5.5 * metre * one), colour_K3, math.pi / 2
    )
    garage.eave, garage.pitch = eave * 0.85, pitch
    house = boxes(zero, setback, (length, width), colour_K3)
    house.eave, house.pitch, house.hip = eave, pitch, hip
    shed = boxes(drive_at, setback + 11 * metre, (3.5 * metre * one, 2.6 * metre * one), paving_K3 * 0.85)
    shed.eave = 2.2 * metre * one
    cover.build(canvas, shed.subset(rng.random(count) < 0.4))
    cover.build(canvas, garage.subset(rng.random(count) < 0.6), ribs=0.03)
    cover.build(canvas, house, ribs=0.03)
    parked = boxes(drive_at, setback * 0.55, (one, one), paving_K3, math.pi / 2).subset(
        rng.random(count) < 0.35
    )
    cover.park_cars(canvas, parked.x, parked.y, parked.angle)


def raise_halls(
    canvas: Canvas,
    frame: Frame,
    middle: tuple[float, float],
    grid: tuple[int, int],
    room: tuple[float, float],
) -> None:
    """Put ``grid`` (along u, along v) halls into ``room`` (length, width) pixels around ``middle`` (u, v)."""
    rng, metre = canvas.rng, canvas.metre
    hall = (room[0] / grid[0], room[1] / grid[1])
    columns, rows = np.meshgrid(
        np.arange(grid[0]) - (grid[0] - 1) / 2, np.arange(grid[1]) - (grid[1] - 1) / 2
    )
    count = columns.size
    length = (hall[0] * rng.uniform(0.7, 0.98, count)).astype(np.float32)
    width = (hall[1] * rng.uniform(0.65, 0.92, count)).astype(np.float32)
    u = (middle[0] + columns.ravel() * hall[0]).astype(np.float32)
    v = (middle[1] + rows.ravel() * hall[1]).astype(np.float32)
    x, y, angle = frame.place(u, v)
    one = np.ones(count, dtype=np.float32)
    gabled = (rng.random(count) < 0.6).astype(np.float32)
    roof_K3 = cover.varied_tones(canvas, cover.METALS, count)
    eave = (metre * rng.uniform(4.5, 9, count)).astype(np.float32)
    cover.build(
        canvas,
        Boxes(x, y, angle, length, width, roof_K3, eave, 0.16 * gabled, 0 * one),
        ribs=float(rng.uniform(0, 0.05)),
    )
    for index in range(count):
        _roof_details(canvas, frame, (u[index], v[index]), (length[index], width[index]), float(eave[index]))


def _roof_details(
    canvas: Canvas, frame: Frame, middle: tuple[float, float], hall: tuple[float, float], eave: float
) -> None:
    """Skylights in rows, or scattered vents, on one hall."""
    rng, metre = canvas.rng, canvas.metre
    if rng.random() < 0.5:
        along = np.arange(-0.4 * hall[0], 0.4 * hall[0], 6 * metre, dtype=np.float32)
        u, v = (part.ravel() for part in np.meshgrid(along, np.float32(hall[1]) * np.array([-0.25, 0.25])))
        size, tint, lift = (1.2 * metre, 0.28 * hall[1]), rgb(214, 216, 214), 0.0
    else:
        count = int(rng.integers(2, 9))
        u, v = rng.uniform(-0.4, 0.4, count) * hall[0], rng.uniform(-0.35, 0.35, count) * hall[1]
        size, tint, lift = (2.2 * metre, 1.8 * metre), rgb(150, 150, 148), 1.4 * metre
    x, y, angle = frame.place((middle[0] + u).astype(np.float32), (middle[1] + v).astype(np.float32))
    one = np.ones(len(x), dtype=np.float32)
    top = (eave + lift) * one if lift else 0 * one
    cover.build(
        canvas, Boxes(x, y, angle, size[0] * one, size[1] * one, np.outer(one, tint), top, 0 * one, 0 * one)
    )


def park_in_rows(
    canvas: Canvas, frame: Frame, middle: tuple[float, float], extent: tuple[float, float], filled: float
) -> None:
    """A car park of ``extent`` (along u, along v) pixels: marked bays in double rows, partly taken."""
    rng, metre = canvas.rng, canvas.metre
    pitch_u, pitch_v = 2.7 * metre, 16.5 * metre
    u_S = np.arange(-extent[0] / 2 + pitch_u, extent[0] / 2 - pitch_u / 2, pitch_u)
    v_S = np.arange(-extent[1] / 2 + 6 * metre, extent[1] / 2 - 5 * metre, pitch_v)
    rows_S = np.concatenate([v_S - 2.6 * metre, v_S + 2.6 * metre])
    u, v = (part.ravel().astype(np.float32) for part in np.meshgrid(u_S, rows_S))
    if not len(u):
        return
    one = np.ones(len(u), dtype=np.float32)
    x, y, angle = frame.place(middle[0] + u - np.float32(pitch_u / 2), middle[1] + v)
    across = angle + np.float32(math.pi / 2)
    white_K3 = np.repeat(rgb(196, 194, 188)[None], len(u), axis=0)
    lines = Boxes(x, y, across, 5 * metre * one, 0.35 * metre * one, white_K3, 0 * one, 0 * one, 0 * one)
    cover.build(canvas, lines.subset(_visible(canvas, x, y, 6 * metre)))
    x, y, _ = frame.place(middle[0] + u, middle[1] + v)
    taken = (rng.random(len(u)) < filled) & _visible(canvas, x, y, 6 * metre)
    cover.park_cars(
        canvas, x[taken], y[taken], across[taken] + np.float32(0.03) * rng.standard_normal(taken.sum())
    )


def fill_blocks(canvas: Canvas, frame: Frame, block: tuple[float, float], street_HW: Plane) -> None:
    """Pave the blocks between the streets and put halls, car parks or tanks on each."""
    rng, metre = canvas.rng, canvas.metre
    stained_HW = 0.05 * canvas.noise(14 * metre, 3) + 0.025 * canvas.noise(1.5)
    verge = 4 * metre
    paved_HW = ramp(street_HW, verge - 0.5, verge + 0.5)
    canvas.paint(
        paved_HW, canvas.pick(cover.ASPHALT if rng.random() < 0.5 else _PAVINGS) * (1 + stained_HW)[..., None]
    )
    np.maximum(canvas.built_HW, paved_HW, out=canvas.built_HW)
    for u, v in zip(*_grid(canvas, *block), strict=True):
        middle = (float(u) + block[0] / 2, float(v) + block[1] / 2)
        x, y, _ = frame.place(np.float32(middle[0]), np.float32(middle[1]))
        if _visible(canvas, x, y, 0.6 * math.hypot(*block)):
            _fill_block(canvas, frame, middle, (block[0] - 26 * metre, block[1] - 26 * metre))


def _fill_block(canvas: Canvas, frame: Frame, middle: tuple[float, float], room: tuple[float, float]) -> None:
    rng = canvas.rng
    use = rng.random()
    grid = (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
    if use < 0.4:
        raise_halls(canvas, frame, middle, grid, room)
    elif use < 0.75:
        half, quarter = (room[0], room[1] / 2), room[1] / 4
        raise_halls(canvas, frame, (middle[0], middle[1] - quarter), (grid[0], 1), half)
        park_in_rows(canvas, frame, (middle[0], middle[1] + quarter), half, float(rng.uniform(0.2, 0.9)))
    else:
        park_in_rows(canvas, frame, middle, room, float(rng.uniform(0.2, 0.9)))
