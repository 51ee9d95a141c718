from __future__ import annotations

import numpy as np
import pytest

from igll.geo.blending import compose, weight
from igll.geo.box import Box, blocks
from igll.geo.cells import cell_side, read_cells
from igll.geo.tiling import TileSizes, plan_tiles
from tests.geo.grounds import classes_of, grid_of, write_raster

SIZES = TileSizes(tile=128, context=32)


def mask(kind: str) -> np.ndarray:
    rng = np.random.default_rng(4)
    missing_HW = np.zeros((413, 555), bool)
    if kind == "small holes":
        for top, left in rng.integers(0, 400, (30, 2)):
            missing_HW[top : top + 9, left : left + 13] = True
    elif kind == "dust":
        missing_HW[rng.random(missing_HW.shape) < 0.02] = True
    elif kind == "large hole":
        missing_HW[90:300, 20:380] = True
    elif kind == "stripes":
        y_HW, x_HW = np.mgrid[:413, :555]
        missing_HW |= (y_HW + x_HW // 4) % 40 < 9
    elif kind == "all sorts":
        missing_HW = mask("small holes") | mask("large hole")
        missing_HW[-1, -1] = missing_HW[0, 0] = True
    return missing_HW


KINDS = ("small holes", "dust", "large hole", "stripes", "all sorts")


@pytest.mark.parametrize("kind", KINDS)
def test_every_missing_pixel_is_filled_and_shares_add_up_to_one(kind):
    missing_HW = mask(kind)
    plan = plan_tiles(grid_of(missing_HW), SIZES)
    total_HW, frame_HW = np.zeros(missing_HW.shape), Box(0, 0, *missing_HW.shape)
    for tile in plan.tiles:
        assert tile.frame.height <= SIZES.tile
        assert tile.frame.width <= SIZES.tile
        assert tile.frame.intersection(tile.reach) == tile.reach
        place = tile.reach.within(frame_HW)
        total_HW[place] += plan.owned(tile) * weight(tile, tile.reach, plan)
    assert np.allclose(total_HW[missing_HW], 1, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [7, 64, 1024])
def test_tiles_of_every_part(kind, side):
    plan = plan_tiles(grid_of(mask(kind)), SIZES)
    expected = {
        part: tiles
        for part in blocks(413, 555, side)
        if (tiles := [tile for tile in plan.tiles if tile.reach.intersection(part)])
    }
    assert list(plan.by_part(side).items()) == list(expected.items())


@pytest.mark.parametrize("kind", ["small holes", "large hole", "all sorts"])
def test_a_hole_that_fits_is_seen_whole_with_ground_around(kind):
    from scipy.ndimage import find_objects, label

    missing_HW = mask(kind)
    plan = plan_tiles(grid_of(missing_HW), SIZES)
    for rows, columns in find_objects(label(missing_HW, np.ones((3, 3)))[0]):
        hole = Box(rows.start, columns.start, rows.stop, columns.stop)
        if max(hole.height, hole.width) > SIZES.core - 2 * plan.grid.side:
            continue
        owners = [tile for tile in plan.tiles if tile.reach.intersection(hole) and tile.core is None]
        seen = [
            tile
            for tile in owners
            if tile.frame.intersection(hole.grown(SIZES.context, 413, 555))
            == hole.grown(SIZES.context, 413, 555)
        ]
        touches_cut = (plan.owner_YX[plan_cells(plan, hole)] == -1).any()
        assert seen or touches_cut


def plan_cells(plan, box):
    cells = plan.grid.cells(box)
    return np.s_[cells.top : cells.bottom, cells.left : cells.right]


def test_no_hole_no_tile():
    assert plan_tiles(grid_of(np.zeros((100, 70), bool)), SIZES).tiles == ()


def test_a_scene_of_one_tile_is_filled_in_one_piece():
    missing_HW = np.zeros((120, 128), bool)
    missing_HW[:100, :110] = True
    (tile,) = plan_tiles(grid_of(missing_HW), SIZES).tiles
    assert tile.core is None
    assert tile.frame == (0, 0, 120, 128)


def test_only_holes_far_from_ground_ask_for_guidance():
    assert plan_tiles(grid_of(mask("large hole")), SIZES).guided
    assert not plan_tiles(grid_of(mask("stripes")), SIZES).guided
    assert not plan_tiles(grid_of(mask("dust")), SIZES).guided
    lonely_HW = np.zeros((300, 300), bool)
    lonely_HW[140:150, 140:150] = True
    void_HW = np.zeros((300, 300), bool)
    void_HW[60:240, 60:240] = ~lonely_HW[60:240, 60:240]
    assert plan_tiles(grid_of(lonely_HW, void_HW), SIZES).guided


def test_neighbouring_holes_share_a_frame_only_where_it_pays():
    near_HW, far_HW = np.zeros((2, 400, 400), bool)
    near_HW[20:24, 20:24] = near_HW[20:24, 52:56] = True
    far_HW[2:6, 2:6] = far_HW[50:54, 50:54] = True
    assert len(plan_tiles(grid_of(near_HW), SIZES).tiles) == 1
    assert len(plan_tiles(grid_of(far_HW), TileSizes(512, 8)).tiles) == 2


@pytest.mark.parametrize("part_side", [70, 256])
@pytest.mark.parametrize("kind", ["large hole", "all sorts"])
def test_tiles_that_agree_are_put_together_without_a_trace(kind, part_side):
    missing_HW = mask(kind)
    plan = plan_tiles(grid_of(missing_HW), SIZES)
    truth_CHW = np.random.default_rng(1).random((2, *missing_HW.shape)).astype(np.float32)
    scene = Box(0, 0, *missing_HW.shape)
    tiles = []
    for tile in plan.tiles:
        place = tile.reach.within(scene)
        filled_HW = plan.owned(tile) & missing_HW[place]
        tiles.append((tile, np.where(filled_HW, truth_CHW[place], np.nan)))
    for part in blocks(*missing_HW.shape, part_side):
        place = part.within(scene)
        near = [(tile, values) for tile, values in tiles if tile.reach.intersection(part)]
        if missing_HW[place].any():
            filled_CHW = compose(part, missing_HW[place], near, plan)
            assert np.allclose(
                filled_CHW[:, missing_HW[place]], truth_CHW[place][:, missing_HW[place]], atol=1e-6
            )
            assert np.isnan(filled_CHW[:, ~missing_HW[place]]).all()


def test_pieces_fade_into_each_other_without_a_step():
    missing_HW = np.ones((1, 400), bool)
    missing_HW[0, 0] = False
    plan = plan_tiles(grid_of(missing_HW.repeat(200, 0)), SIZES)
    tiles = [tile for tile in plan.tiles if tile.reach.top == 0]
    values = [
        (tile, np.full((1, tile.reach.height, tile.reach.width), float(number % 2), np.float32))
        for number, tile in enumerate(tiles)
    ]
    part = Box(0, 0, 1, 400)
    line_W = compose(part, missing_HW, values, plan)[0, 0, 1:]
    assert np.abs(np.diff(line_W)).max() <= 1 / (2 * SIZES.blend) + 1e-6
    assert {0.0, 1.0} <= set(line_W.round(6))


@pytest.mark.parametrize("size", [(33, 50), (2049, 100)])
def test_cells_are_those_of_the_whole_raster(tmp_path, size):
    missing_HW = np.random.default_rng(0).random(size) < 0.004
    path = write_raster(tmp_path / "classes.tif", classes_of(missing_HW)[None])
    read, expected = read_cells(path), grid_of(missing_HW)
    assert read[:3] == expected[:3]
    assert np.array_equal(read.hole_YX, expected.hole_YX)
    assert np.array_equal(read.known_YX, expected.known_YX)


def test_the_grid_stays_small_however_large_the_scene():
    assert cell_side(20_000, 20_000) == 16
    for side in (100_000, 1_000_000):
        assert -(-side // cell_side(side, side)) <= 4096
