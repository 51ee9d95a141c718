from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import center_of_mass

from igll.losses import FeatureMatchingLoss, GeometricAlignmentLoss, SelfGuidedRegressionLoss
from igll.losses.released import response_centres


def _array(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, shape)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).float()


@pytest.mark.parametrize("scale", ["none", "unit"])
def test_self_guided_regression_equals_its_equation(scale: str) -> None:
    images = [2 * _array((2, 3, 12, 16), seed) - 1 for seed in (0, 1)]
    shapes = {"relu1_1": (2, 64, 12, 16), "relu2_1": (2, 128, 6, 8)}
    features = [{name: _array(shape, 2 + side) for name, shape in shapes.items()} for side in (0, 1)]
    error = ((images[0] - images[1]) ** 2).mean(1)
    guidance = np.stack([1 + sample / sample.max() for sample in error])
    expected = 0.0
    for name, channels in (("relu1_1", 64), ("relu2_1", 128)):
        difference = features[0][name] - features[1][name]
        if scale == "unit":
            difference /= features[1][name].mean()
        expected += 1e3 / channels**2 * np.abs(guidance[:, None] * difference).mean()
        guidance = guidance.reshape(2, 6, 2, 8, 2).mean((2, 4)) if name == "relu1_1" else guidance
    sides = [{name: _tensor(values) for name, values in side.items()} for side in features]
    loss = SelfGuidedRegressionLoss(scale)(_tensor(images[0]), _tensor(images[1]), *sides)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_groups_of_bands_share_the_guidance_of_their_image() -> None:
    images = [2 * _array((2, 4, 12, 16), seed) - 1 for seed in (0, 1)]
    shapes = {"relu1_1": (4, 8, 12, 16), "relu2_1": (4, 8, 6, 8)}  # two groups of two images
    sides = [{name: _tensor(_array(shape, 2 + side)) for name, shape in shapes.items()} for side in (0, 1)]
    first, second = (
        [{name: values[part] for name, values in side.items()} for side in sides]
        for part in (slice(2), slice(2, 4))
    )
    loss, pair = SelfGuidedRegressionLoss(), [_tensor(image) for image in images]
    groups = (loss(*pair, *first) + loss(*pair, *second)) / 2
    assert loss(*pair, *sides).item() == pytest.approx(groups.item(), rel=1e-5)


def test_guidance_is_a_weight_and_not_a_target() -> None:
    shapes = {"relu1_1": (1, 4, 8, 8), "relu2_1": (1, 4, 4, 4)}
    prediction = _tensor(_array((1, 3, 8, 8), 0)).requires_grad_()
    found = {name: _tensor(_array(shape, 1)).requires_grad_() for name, shape in shapes.items()}
    wanted = {name: torch.zeros(shape) for name, shape in shapes.items()}
    SelfGuidedRegressionLoss()(prediction, torch.zeros(1, 3, 8, 8), found, wanted).backward()
    assert prediction.grad is None
    assert all(values.grad.abs().max() > 0 for values in found.values())
    # Without any error the guidance is 1 everywhere, not 0 / 0.
    image = prediction.detach()
    loss = SelfGuidedRegressionLoss()(image, image, found, wanted)
    plain = sum(values.mean().item() * 1e3 / 16 for values in found.values())
    assert loss.item() == pytest.approx(plain, rel=1e-5)


def test_centres_are_scipys_centres_of_mass() -> None:
    response = _array((2, 3, 9, 5), 0) ** 4
    expected = np.zeros((2, 3, 2))
    for sample in range(2):
        for channel in range(3):
            row, column = center_of_mass(response[sample, channel])
            expected[sample, channel] = column / 2 - 1, row / 4 - 1
    np.testing.assert_allclose(response_centres(_tensor(response)).numpy(), expected, atol=1e-6)
    other = _array((2, 3, 9, 5), 1) ** 4
    loss = GeometricAlignmentLoss()({"relu4_1": _tensor(other)}, {"relu4_1": _tensor(response)})
    difference = response_centres(_tensor(other)).numpy() - expected
    assert loss.item() == pytest.approx((difference**2).sum(2).mean() / 2, rel=1e-4)


def test_alignment_grows_with_the_shift_and_survives_silence() -> None:
    blob = torch.zeros(1, 1, 16, 16)
    blob[..., 2:4, 2:4] = 1
    losses = [
        GeometricAlignmentLoss()({"relu4_1": blob.roll(shift, 3)}, {"relu4_1": blob}).item()
        for shift in (0, 2, 6)
    ]
    assert losses[0] == 0
    assert losses[2] == pytest.approx(9 * losses[1], rel=1e-4)
    silent = torch.zeros(1, 1, 16, 16, requires_grad=True)
    loss = GeometricAlignmentLoss()({"relu4_1": silent}, {"relu4_1": blob})
    loss.backward()
    assert loss.item() == pytest.approx(((1 - 2 * 2.5 / 15) ** 2), rel=1e-5)
    assert silent.grad.isfinite().all()


def test_feature_matching_equals_its_equation() -> None:
    shapes = [(2, 4, 8, 8), (2, 8, 4, 4), (2, 16)]
    found, wanted = ([_array(shape, seed) for shape in shapes] for seed in (0, 1))
    expected = sum(np.abs(first - second).mean() for first, second in zip(found, wanted, strict=True))
    targets = [_tensor(values).requires_grad_() for values in wanted]
    predictions = [_tensor(values).requires_grad_() for values in found]
    loss = FeatureMatchingLoss()(predictions, targets)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert all(values.grad is None for values in targets)
    with pytest.raises(ValueError, match="argument 2"):
        FeatureMatchingLoss()(predictions[:2], targets)


def test_feature_matching_by_channels_weighs_as_dmfn_does() -> None:
    shapes = [(2, 4, 8, 8), (2, 8, 4, 4), (2, 16, 2, 2)]
    found, wanted = ([_array(shape, seed) for shape in shapes] for seed in (0, 1))
    expected = sum(
        1000 / first.shape[1] ** 2 * np.abs(first - second).mean()
        for first, second in zip(found, wanted, strict=True)
    )
    sides = [[_tensor(values) for values in side] for side in (found, wanted)]
    assert FeatureMatchingLoss(by_channels=True)(*sides).item() == pytest.approx(expected, rel=1e-5)
