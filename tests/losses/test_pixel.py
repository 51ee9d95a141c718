from __future__ import annotations

import numpy as np
import pytest
import torch

from igll.losses import LocalL1Loss


def _batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    prediction, target = (torch.from_numpy(rng.uniform(-1, 1, (3, 4, 9, 7))).float() for _ in range(2))
    mask = torch.from_numpy(rng.random((3, 1, 9, 7)) < [[[[0.1]]], [[[0.5]]], [[[0.9]]]]).float()
    return prediction, target, mask


def test_is_the_mean_over_the_holes_of_the_batch() -> None:
    prediction, target, mask = _batch()
    hole = np.broadcast_to(mask.numpy() == 1, prediction.shape)
    expected = np.abs(prediction.numpy().astype(float) - target.numpy())[hole].mean()
    assert LocalL1Loss()(prediction, target, mask).item() == pytest.approx(expected, rel=1e-6)


def test_known_pixels_have_no_say() -> None:
    prediction, target, mask = _batch()
    prediction.requires_grad_()
    LocalL1Loss()(prediction, target, mask).backward()
    known = (mask == 0).expand_as(prediction)
    assert prediction.grad[known].abs().max() == 0
    assert prediction.grad[~known].abs().min() > 0


def test_no_hole_gives_zero_and_a_zero_gradient() -> None:
    prediction, target, mask = _batch()
    prediction.requires_grad_()
    loss = LocalL1Loss()(prediction, target, torch.zeros_like(mask))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


def test_half_precision_input_is_summed_in_float32() -> None:
    # 300 x 300 pixels add up to 90,000, more than a 16-bit float holds.
    prediction = torch.ones(1, 1, 300, 300, dtype=torch.float16)
    loss = LocalL1Loss()(prediction, torch.zeros_like(prediction), torch.ones_like(prediction))
    assert loss.dtype == torch.float32
    assert loss.item() == 1
