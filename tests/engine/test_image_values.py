"""What counts as a mask; the rest is tested through ``Inpainter``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from igll.engine.image_values import hole_of
from igll.errors import InputError

HOLE = np.array([[0, 1, 0], [1, 1, 0]], bool)
GREY = Image.fromarray(HOLE * np.uint8(200))
NAN = np.where(HOLE, np.nan, 0.0)


@pytest.mark.parametrize(
    "mask",
    [
        HOLE, HOLE * np.uint8(255), HOLE * np.int64(-3), HOLE * np.float16(0.5), HOLE.astype(">u2"),
        HOLE.tolist(), np.ma.masked_array(HOLE), np.ma.masked_where(HOLE, np.zeros((2, 3))),
        torch.from_numpy(HOLE),
        torch.from_numpy(HOLE).to(torch.bfloat16), GREY.convert("1"), GREY, GREY.convert("RGB"),
        GREY.convert("P"), Image.fromarray(HOLE * np.float32(0.1)),
    ],
    ids=lambda mask: str(getattr(mask, "dtype", getattr(mask, "mode", type(mask).__name__))),
)  # fmt: skip
def test_what_is_not_zero_is_missing(mask):
    found = hole_of(mask)
    assert found.dtype == torch.bool and np.array_equal(found.numpy(), HOLE)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (NAN, "holds NaN, which is neither missing nor known"),
        (torch.from_numpy(NAN), "holds NaN"),
        (None, r"NoneType of shape \(\) and object; give a NumPy array"),
        ("cloud.png", "str of shape .* give a NumPy array"),
        (5, r"int of shape \(\) and int64; give"),
        (torch.tensor(1), r"Tensor of shape \(\) and torch.int64; give"),
        (HOLE.astype(object), r"ndarray of shape \(2, 3\) and object; give"),
        (HOLE.astype(complex), r"ndarray of shape \(2, 3\) and complex128; give"),
        (torch.from_numpy(HOLE.astype(complex)), r"Tensor of shape \(2, 3\) and torch.complex128; give"),
        ([[1, 2], [3]], r"list; give a NumPy array of shape \(H, W\)"),
    ],
)
def test_what_is_no_mask_is_refused_by_what_is_wrong(mask, told):
    with pytest.raises(InputError, match=f"mask: {told}") as caught:
        hole_of(mask)
    assert "\n" not in str(caught.value)
