from __future__ import annotations

import numpy as np
import pytest

from igll.geo.band_groups import group_bands, join_groups


@pytest.mark.parametrize(
    ("count", "channels", "groups"),
    [
        (3, 3, [[0, 1, 2]]),
        (4, 3, [[0, 1, 2], [1, 2, 3]]),
        (6, 3, [[0, 1, 2], [3, 4, 5]]),
        (7, 3, [[0, 1, 2], [3, 4, 5], [4, 5, 6]]),
        (1, 3, [[0, 0, 0]]),
        (2, 3, [[0, 1, 1]]),
        (2, 1, [[0], [1]]),
        (5, 4, [[0, 1, 2, 3], [1, 2, 3, 4]]),
    ],
)
def test_groups_are_full_and_hold_every_band(count, channels, groups):
    index_GC = group_bands(count, channels)
    assert index_GC.tolist() == groups
    bands_CHW = np.random.default_rng(0).random((count, 3, 5), np.float32)
    assert np.allclose(join_groups(bands_CHW[index_GC], count), bands_CHW)


def test_repeated_channels_are_averaged_and_overlapping_bands_taken_once():
    filled_GCHW = np.array([[1.0, 2, 3]], np.float32)[..., None, None]
    assert join_groups(filled_GCHW, 1).ravel().tolist() == [2.0]
    assert join_groups(filled_GCHW, 2).ravel().tolist() == [1.0, 2.5]
    overlapping = np.array([[1.0, 2, 3], [20, 30, 4]], np.float32)[..., None, None]
    assert join_groups(overlapping, 4).ravel().tolist() == [1.0, 2, 3, 4]
