from __future__ import annotations

import numpy as np
import pytest

from igll.engine.pasted import PastedReference
from tests.geo.grounds import smooth_scene


def test_another_date_of_other_contrast_gives_the_ground_back():
    truth_CHW = smooth_scene(60, 70, 2).astype(np.float32)
    missing_HW = np.zeros((60, 70), bool)
    missing_HW[20:40, 25:45] = True
    reference_CHW = truth_CHW * np.array([0.5, 1.4], np.float32)[:, None, None] + 0.1
    seen_CHW = np.where(missing_HW, 0, truth_CHW).astype(np.float32)
    filled_CHW = PastedReference().fill(seen_CHW, missing_HW, reference_CHW)
    assert np.abs(filled_CHW - truth_CHW).max() < 0.02
    assert np.array_equal(filled_CHW[:, ~missing_HW], truth_CHW[:, ~missing_HW])


def test_it_needs_a_reference():
    with pytest.raises(ValueError, match="none is given"):
        PastedReference().fill(np.zeros((1, 4, 4), np.float32), np.eye(4, dtype=bool), None)
