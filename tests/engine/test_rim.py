from __future__ import annotations

import numpy as np
import pytest

from igll.engine.rim import match_rim
from tests.geo.grounds import smooth_scene


def hole(height, width):
    hole_HW = np.zeros((height, width), bool)
    hole_HW[10:30, 15:35] = True
    hole_HW[0:4, 40:] = True
    return hole_HW


def test_an_offset_of_each_band_is_undone():
    truth_CHW = smooth_scene(40, 50, 2).astype(np.float32)
    hole_HW = hole(40, 50)
    offset_C1 = np.array([[0.2], [-0.1]], np.float32)
    wrong_CHW = truth_CHW.copy()
    wrong_CHW[:, hole_HW] += offset_C1
    matched_CHW = match_rim(wrong_CHW, hole_HW)
    left = np.abs(matched_CHW - truth_CHW)[:, hole_HW].mean(1)
    assert (left < 0.15 * np.abs(offset_C1[:, 0])).all()
    assert np.array_equal(matched_CHW[:, ~hole_HW], truth_CHW[:, ~hole_HW])


def test_the_rim_meets_its_known_neighbours():
    rng = np.random.default_rng(0)
    filled_CHW, hole_HW = rng.random((1, 40, 50), np.float32), hole(40, 50)
    matched_HW = match_rim(filled_CHW, hole_HW)[0]
    # one known neighbour above each of these
    assert np.allclose(matched_HW[10, 16:34], filled_CHW[0, 9, 16:34], atol=1e-5)
    corner = (filled_CHW[0, 9, 15] + filled_CHW[0, 10, 14]) / 2
    assert matched_HW[10, 15] == pytest.approx(corner, abs=1e-5)


def test_without_a_rim_nothing_changes():
    filled_CHW = np.random.default_rng(0).random((2, 9, 9), np.float32)
    for hole_HW in (np.zeros((9, 9), bool), np.ones((9, 9), bool)):
        assert np.array_equal(match_rim(filled_CHW, hole_HW), filled_CHW)
