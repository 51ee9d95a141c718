"""Difference maps are read back through their own colour scale."""

from __future__ import annotations

import numpy as np

from igll.report.differences import colour_scale, difference_map


def test_brightness_follows_the_difference_up_to_the_full_one():
    truth = np.full((1, 6, 3), 100, np.uint8)
    result = truth.copy()
    result[0, :, :] += np.array([0, 8, 16, 32, 64, 155], np.uint8)[:, None]
    shown = difference_map(result, truth, 64).astype(int)
    brightness = shown[0].sum(1)
    assert (np.diff(brightness[:5]) > 0).all() and brightness[4] == brightness[5]
    assert (shown[0, 0] == 0).all()
    assert np.array_equal(difference_map(truth, result, 64), shown), "darker counts as brighter does"


def test_channels_are_averaged():
    truth = np.zeros((1, 2, 3), np.uint8)
    result = np.array([[[30, 0, 0], [10, 10, 10]]], np.uint8)
    first, second = difference_map(result, truth, 64)[0]
    assert np.array_equal(first, second)


def test_the_scale_shows_the_colours_of_the_maps():
    scale = colour_scale(200, 64)
    assert scale.shape == (200, 200, 3)
    ramp = scale[25:175, 55]
    steps = np.zeros((1, 65, 3), np.uint8) + np.arange(65, dtype=np.uint8)[None, :, None]
    shown = difference_map(steps, np.zeros_like(steps), 64)[0].astype(int)
    assert (abs(shown[-1] - ramp[0]) <= 1).all() and (abs(shown[0] - ramp[-1]) <= 1).all()
    nearest = abs(shown[:, None] - ramp[None].astype(int)).max(2).min(1)
    assert nearest.max() <= 4
    assert (scale[:, 90:] < 100).any(), "numbers beside the ramp"
