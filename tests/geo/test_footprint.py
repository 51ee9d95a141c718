from __future__ import annotations

import numpy as np
import pytest

from igll.geo.box import Box, blocks
from igll.geo.footprint import Footprint

shapely = pytest.importorskip("shapely")


def hull_by_shapely(valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether centres lie in the hull of the valid pixels' squares; and whether they lie on its border."""
    # The first and last pixel of a row span the others, and a hull takes long over many.
    counted = valid.cumsum(axis=1)
    rows, columns = np.nonzero(valid & ((counted == 1) | (counted == counted[:, -1:])))
    hull = shapely.union_all(shapely.box(columns, rows, columns + 1, rows + 1)).convex_hull
    y, x = np.mgrid[: valid.shape[0], : valid.shape[1]] + 0.5
    points = shapely.points(x, y)
    return shapely.intersects(hull, points), shapely.distance(hull.exterior, points) < 1e-9


def diamond(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2
    return np.abs(x + 0.3 * y) + np.abs(y - 0.3 * x) < size // 2.5


SCENES = {
    "rotated": diamond(61),
    "rotated with gaps": diamond(61) & (np.random.default_rng(0).random((61, 61)) < 0.5),
    "scattered": np.random.default_rng(1).random((40, 70)) < 0.01,
    "one row": np.eye(1, 30, 4, dtype=bool).repeat(1, axis=0) | (np.arange(30) == 20),
    "one column": (np.arange(30) % 7 == 3)[:, None],
    "a line of pixels": np.eye(25, dtype=bool),
    "a single pixel": np.pad(np.ones((1, 1), dtype=bool), 5),
    "two far rows": np.repeat([[True], [False], [True]], [1, 30, 1], axis=0).repeat(9, axis=1),
    "all": np.ones((12, 13), dtype=bool),
}


@pytest.mark.parametrize("name", SCENES)
def test_equals_the_hull_of_the_whole(name: str) -> None:
    valid = SCENES[name]
    height, width = valid.shape
    footprint = Footprint(height, width)
    scene = Box(0, 0, height, width)
    for box in reversed(list(blocks(height, width, 7))):  # in any order
        footprint.add(valid[box.within(scene)], box)
    whole = footprint.inside(scene)
    expected, undecided = hull_by_shapely(valid)
    assert (whole == expected)[~undecided].all()
    assert whole[valid].all()
    part = Box(height // 3, width // 3, height - height // 6, width - width // 6)
    assert (footprint.inside(part) == whole[part.within(scene)]).all()


def test_without_a_valid_pixel_all_is_outside() -> None:
    footprint = Footprint(4, 5)
    footprint.add(np.zeros((4, 5), dtype=bool), Box(0, 0, 4, 5))
    assert not footprint.inside(Box(0, 0, 4, 5)).any()
