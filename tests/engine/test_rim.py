from __future__ import annotations

import numpy as np

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


def test_the_shift_is_the_smoothed_step_at_the_rim_and_harmonic_inside():
    from scipy.ndimage import gaussian_filter1d

    rng = np.random.default_rng(0)
    filled_HW = np.zeros((60, 60), np.float32)
    hole_HW = np.zeros((60, 60), bool)
    hole_HW[20:] = True
    filled_HW[19] = rng.random(60, np.float32)
    shift_HW = match_rim(filled_HW[None], hole_HW)[0] - filled_HW
    # a straight rim across the image: one known neighbour each, weights cut at the image's border
    assert np.allclose(shift_HW[20], gaussian_filter1d(filled_HW[19], 2.0, mode="reflect"), atol=1e-5)
    inside = shift_HW[20:]
    assert inside.min() >= shift_HW[20].min() - 1e-6
    assert inside.max() <= shift_HW[20].max() + 1e-6
    assert inside[-1].std() < 0.2 * inside[0].std()


def test_without_a_rim_nothing_changes():
    filled_CHW = np.random.default_rng(0).random((2, 9, 9), np.float32)
    for hole_HW in (np.zeros((9, 9), bool), np.ones((9, 9), bool)):
        assert np.array_equal(match_rim(filled_CHW, hole_HW), filled_CHW)
