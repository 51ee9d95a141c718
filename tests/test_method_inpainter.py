"""A method without training behind the interface of a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from igll.baselines import CLASSICAL
from igll.errors import InputError
from igll.method_inpainter import MethodInpainter

RNG = np.random.default_rng(2)
HOLE = np.zeros((20, 26), bool)
HOLE[6:13, 8:20] = True


@pytest.mark.parametrize("shape", [(20, 26), (20, 26, 1), (20, 26, 2), (20, 26, 3), (20, 26, 7)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_arrays_of_any_number_of_channels(shape, dtype):
    full = {"uint8": 255, "uint16": 65535, "int16": 32767, "float32": 1}[dtype]
    image = (RNG.random(shape) * full).astype(dtype)
    image[HOLE] = np.nan if dtype == "float32" else 0
    filled = MethodInpainter("nearest").inpaint(image, HOLE)
    assert filled.dtype == image.dtype and filled.shape == image.shape
    assert filled[~HOLE].tobytes() == image[~HOLE].tobytes()
    unit_HWC = np.where(HOLE[..., None], 0, np.atleast_3d(image) / np.float32(full)).astype(np.float32)
    wanted_1CHW = CLASSICAL["nearest"](
        torch.from_numpy(unit_HWC.transpose(2, 0, 1))[None], torch.from_numpy(HOLE)[None, None].float()
    )
    wanted_HWC = wanted_1CHW[0].permute(1, 2, 0).numpy() * full
    np.testing.assert_allclose(np.atleast_3d(filled), wanted_HWC, atol=0.51 if full > 1 else 1e-6)


def test_batches_and_pictures():
    method = MethodInpainter("harmonic")
    assert method.device == torch.device("cpu") and method.title == "harmonic (Laplace)"
    batch_BCHW = torch.from_numpy(RNG.random((2, 5, 20, 26), np.float32))
    filled_BCHW = method.inpaint(batch_BCHW, torch.from_numpy(HOLE))
    known_HW = torch.from_numpy(~HOLE)
    assert torch.equal(filled_BCHW[..., known_HW], batch_BCHW[..., known_HW])
    for index in range(2):
        assert torch.allclose(method.inpaint(batch_BCHW[index], HOLE), filled_BCHW[index], atol=1e-5)
    picture = Image.fromarray(RNG.integers(0, 255, (20, 26, 4), dtype=np.uint8))
    filled = method.inpaint(picture, HOLE)
    assert filled.mode == "RGBA"
    assert np.array_equal(np.asarray(filled)[~HOLE], np.asarray(picture)[~HOLE])
    assert (np.asarray(filled)[HOLE, 3] == 255).all()


def test_guides_are_refused():
    image = np.zeros((20, 26, 3), np.uint8)
    for guide in ("edges", "reference"):
        with pytest.raises(InputError, match=f"{guide}: nearest pixel looks at the image alone"):
            MethodInpainter("nearest").inpaint(image, HOLE, **{guide: image})


def test_what_cannot_be_filled():
    image = np.zeros((20, 26), np.uint8)
    with pytest.raises(InputError, match="every pixel of the image is missing"):
        MethodInpainter("nearest").inpaint(image, np.ones_like(HOLE))
    with pytest.raises(InputError, match="does not fit"):
        MethodInpainter("nearest").inpaint(image, HOLE[1:])


def test_a_missing_package_is_told_at_once(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(InputError, match=r"telea.*pip install"):
        MethodInpainter("telea")
