from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from igll.losses import LocalL1Loss, LogErrorLoss, StagedL1Loss, WholeL1Loss


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


def _float64(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy().astype(float) for tensor in tensors]


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_stages_count_hole_and_known_pixels_each_by_themselves(stages: int) -> None:
    first, target, mask = _batch()
    predictions = [first, -first, first**2][:stages]
    *painted, image, hole = _float64(*predictions, target, mask)
    expected = 0.0
    for number, frame in enumerate(painted, start=1):
        distance = np.abs(frame - image)
        term = (hole * distance).mean() + ((1 - hole) * distance).mean() / (1 - hole).mean()
        expected += term if number == stages else 1.2 * term
    loss = StagedL1Loss()(predictions, target, mask)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("missing", [0.0, 1.0])
def test_stages_are_finite_with_nothing_or_everything_missing(missing: float) -> None:
    prediction, target, mask = _batch()
    prediction.requires_grad_()
    loss = StagedL1Loss()([prediction, prediction], target, torch.full_like(mask, missing))
    loss.backward()
    image, wanted = _float64(prediction, target)
    assert loss.item() == pytest.approx(2.2 * np.abs(image - wanted).mean(), rel=1e-6)
    assert prediction.grad is not None and prediction.grad.isfinite().all() and prediction.grad.any()


def test_every_stage_gets_a_gradient_everywhere() -> None:
    prediction, target, mask = _batch()
    stages = [(scale * prediction).detach().requires_grad_() for scale in (0.3, 0.8)]
    StagedL1Loss()(stages, target, mask).backward()
    for stage in stages:
        assert stage.grad is not None and (stage.grad != 0).all()
    hole = (mask == 1).expand_as(prediction)
    assert (stages[0].grad[hole].abs() / stages[1].grad[hole].abs()).numpy() == pytest.approx(1.2, rel=1e-5)


@pytest.mark.parametrize("per_hole", [False, True])
def test_whole_frame_equals_its_equation(per_hole: bool) -> None:
    prediction, target, mask = _batch()
    painted, image, hole = _float64(prediction, target, mask)
    expected = np.abs(painted - image).mean() / (hole.mean() if per_hole else 1)
    loss = WholeL1Loss(per_hole)(prediction, target, mask)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("per_hole", [False, True])
def test_whole_frame_without_a_hole_is_finite(per_hole: bool) -> None:
    prediction, target, mask = _batch()
    prediction.requires_grad_()
    loss = WholeL1Loss(per_hole)(prediction, target, torch.zeros_like(mask))
    loss.backward()
    painted, image = _float64(prediction, target)
    # A batch without a hole counts as if one pixel of an image were missing.
    expected = np.abs(painted - image).mean() * (9 * 7 if per_hole else 1)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert prediction.grad is not None and (prediction.grad != 0).all() and prediction.grad.isfinite().all()


@pytest.mark.parametrize("per_hole", [False, True])
def test_whole_frame_sums_half_precision_in_float32(per_hole: bool) -> None:
    prediction = torch.ones(1, 1, 300, 300, dtype=torch.float16)
    loss = WholeL1Loss(per_hole)(prediction, torch.zeros_like(prediction), torch.ones_like(prediction))
    assert loss.dtype == torch.float32 and loss.item() == 1


def test_log_error_is_the_mean_psnr_of_the_holes() -> None:
    prediction, target, mask = _batch()
    decibels = []
    for one, other, hole in zip(prediction.double(), target.double(), mask.bool(), strict=True):
        inside = hole.expand_as(one)
        values = other[inside].numpy(), one[inside].numpy()
        decibels.append(peak_signal_noise_ratio(*values, data_range=2.0))
    # PSNR = 10 log10(4 / error)
    expected = np.mean([np.log1p(4 / 10 ** (value / 10) / 1e-3) for value in decibels])
    assert LogErrorLoss(1e-3)(prediction, target, mask).item() == pytest.approx(expected, rel=1e-6)


def test_log_error_of_a_perfect_or_absent_hole_is_zero_with_a_finite_gradient() -> None:
    prediction, target, mask = _batch()
    mask[1] = 0
    prediction[0] = target[0]
    prediction.requires_grad_()
    alone = LogErrorLoss()(prediction[2:], target[2:], mask[2:])
    loss = LogErrorLoss()(prediction, target, mask)
    loss.backward()
    assert loss.item() == pytest.approx(alone.item() / 3, rel=1e-6)
    assert torch.equal(prediction.grad[:2], torch.zeros_like(prediction[:2]))
    assert prediction.grad[2].isfinite().all()
    assert prediction.grad[2].abs().max() > 0
