from __future__ import annotations

import numpy as np
import pytest
import torch

from igll.losses import PerceptualLoss, StyleLoss

LAYERS = {
    "relu1_1": (4, 16, 12), "relu2_1": (6, 8, 6), "relu2_2": (6, 8, 6), "relu3_1": (8, 4, 3),
    "relu3_3": (8, 4, 3), "relu4_1": (9, 4, 3), "relu4_3": (9, 2, 2), "relu5_1": (9, 2, 1),
    "relu5_2": (9, 2, 1),
}  # fmt: skip
PERCEPTUAL = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]
STYLE = ["relu2_2", "relu3_3", "relu4_3", "relu5_2"]


def _features(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    scale = 1.0
    features = {}
    for name, shape in LAYERS.items():
        features[name] = scale * np.maximum(rng.normal(size=(2, *shape)), 0)
        scale *= 3
    return features


def _tensors(features: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values).float() for name, values in features.items()}


def _gram(features: np.ndarray) -> np.ndarray:
    grams = np.zeros((features.shape[0], features.shape[1], features.shape[1]))
    for sample, maps in enumerate(features):
        for i, first in enumerate(maps):
            for j, second in enumerate(maps):
                grams[sample, i, j] = (first * second).sum() / maps.size
    return grams


@pytest.mark.parametrize("scale", ["none", "unit"])
def test_perceptual_equals_its_equation(scale: str) -> None:
    prediction, target = _features(0), _features(1)
    expected = 0.0
    for name in PERCEPTUAL:
        divisor = target[name].mean() if scale == "unit" else 1
        expected += np.abs(prediction[name] - target[name]).mean() / divisor
    loss = PerceptualLoss(scale)(_tensors(prediction), _tensors(target))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", ["none", "unit"])
def test_style_equals_its_equation(scale: str) -> None:
    prediction, target = _features(0), _features(1)
    expected = 0.0
    for name in STYLE:
        divisor = target[name].mean() if scale == "unit" else 1
        difference = _gram(prediction[name] / divisor) - _gram(target[name] / divisor)
        expected += np.abs(difference).mean()
    loss = StyleLoss(scale)(_tensors(prediction), _tensors(target))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [PerceptualLoss("unit"), StyleLoss("unit")])
def test_unit_scale_does_not_see_the_scale_of_the_backbone(loss: torch.nn.Module) -> None:
    prediction, target = _tensors(_features(0)), _tensors(_features(1))
    louder = [{name: 57 * values for name, values in side.items()} for side in (prediction, target)]
    assert loss(*louder).item() == pytest.approx(loss(prediction, target).item(), rel=1e-5)


@pytest.mark.parametrize("scale", ["none", "unit"])
@pytest.mark.parametrize("kind", [PerceptualLoss, StyleLoss])
def test_gradient_reaches_the_prediction_alone(kind: type, scale: str) -> None:
    prediction, target = _tensors(_features(0)), _tensors(_features(1))
    for side in (prediction, target):
        for values in side.values():
            values.requires_grad_()
    kind(scale)(prediction, target).backward()
    used = PERCEPTUAL if kind is PerceptualLoss else STYLE
    assert all(prediction[name].grad.abs().max() > 0 for name in used)
    assert all(values.grad is None for values in target.values())


@pytest.mark.parametrize("kind", [PerceptualLoss, StyleLoss])
def test_silent_layers_stay_finite(kind: type) -> None:
    silent = {name: torch.zeros_like(values) for name, values in _tensors(_features(0)).items()}
    assert kind("unit")(silent, silent).item() == 0


def test_gram_matrices_are_not_cast_down() -> None:
    prediction, target = _tensors(_features(0)), _tensors(_features(1))
    plain = StyleLoss()(prediction, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(StyleLoss()(prediction, target), plain)


@pytest.mark.parametrize("by_channels", [False, True])
@pytest.mark.parametrize("layers", [["relu4_1"], ["relu3_1", "relu4_1", "relu5_1"]])
def test_perceptual_layers_and_weights_can_be_chosen(layers: list[str], by_channels: bool) -> None:
    prediction, target = _features(0), _features(1)
    expected = 0.0
    for name in layers:
        weight = 1000 / LAYERS[name][0] ** 2 if by_channels else 1
        expected += weight * np.abs(prediction[name] - target[name]).mean()
    sides = [{name: values[name] for name in layers} for values in (_tensors(prediction), _tensors(target))]
    loss = PerceptualLoss(layers=layers, by_channels=by_channels)(*sides)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_style_layers_can_be_chosen() -> None:
    prediction, target, layers = _features(0), _features(1), ["relu1_1", "relu4_3"]
    expected = sum(np.abs(_gram(prediction[name]) - _gram(target[name])).mean() for name in layers)
    sides = [{name: values[name] for name in layers} for values in (_tensors(prediction), _tensors(target))]
    assert StyleLoss(layers=layers)(*sides).item() == pytest.approx(expected, rel=1e-5)
