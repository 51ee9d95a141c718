"""Spectral normalisation against torch's own, and against a singular value decomposition."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from igll.models.spectral import spectral_norm

torchs_own = nn.utils.parametrizations.spectral_norm
SHAPES = [(5, 3, 4, 4), (2, 7, 3, 2), (4, 6, 1, 1)]


def convolution(normalise: Callable[[nn.Conv2d], object], shape: tuple[int, ...], dtype: torch.dtype):
    torch.manual_seed(3)
    outputs, inputs, *kernel = shape
    layer = nn.Conv2d(inputs, outputs, tuple(kernel), dtype=dtype)
    normalise(layer)
    return layer


def steps(layer: nn.Module, count: int) -> list[Tensor]:
    """Weights and gradients of a few steps in which the weight moves."""
    found = []
    for step in range(count):
        weight = layer.weight
        torch.manual_seed(step)
        asked = torch.randn(weight.shape, dtype=torch.float64).to(weight)
        (original := layer.parametrizations.weight.original).grad = None
        (weight * asked).sum().backward()
        found += [weight.detach().clone(), original.grad.clone()]
        with torch.no_grad():
            original -= 0.05 * original.grad
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_weights_gradients_and_state_are_torchs(shape: tuple[int, ...], channels_last: bool) -> None:
    ours, theirs = (convolution(made, shape, torch.float64) for made in (spectral_norm, torchs_own))
    if channels_last:
        ours.to(memory_format=torch.channels_last)
    for train in (True, False):
        for found, expected in zip(steps(ours.train(train), 4), steps(theirs.train(train), 4), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=1e-13, msg=name)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_it_draws_as_many_random_numbers_as_torchs() -> None:
    states = []
    for made in (spectral_norm, torchs_own):
        convolution(made, SHAPES[0], torch.float32)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("channels_last", [False, True])
def test_float32_is_close_to_float64(channels_last: bool) -> None:
    """A layer as large as the discriminator's largest, but for its kernel."""
    single = convolution(spectral_norm, (512, 512, 3, 3), torch.float32)
    double = copy.deepcopy(single).double()
    if channels_last:
        single.to(memory_format=torch.channels_last)
    for found, expected in zip(steps(single, 2), steps(double, 2), strict=True):
        torch.testing.assert_close(
            found.double(), expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item()
        )


def test_the_largest_singular_value_becomes_one() -> None:
    layer = convolution(spectral_norm, (6, 4, 3, 3), torch.float64)
    with torch.no_grad():
        for _ in range(200):
            weight = layer.weight
    assert torch.linalg.svdvals(weight.flatten(1))[0].item() == pytest.approx(1, abs=1e-9)


def test_two_passes_before_one_backward_pass() -> None:
    """The second moves the singular vectors on, and the first one's gradient is of its own."""
    layer, apart = (convolution(spectral_norm, (5, 3, 4, 4), torch.float64) for _ in range(2))
    original = layer.parametrizations.weight.original
    for train in (True, False):
        original.grad = None
        first = layer.train(train).weight
        second = layer.train().weight
        (first.pow(3).sum() - 2 * second.sin().sum()).backward()
        apart.parametrizations.weight.original.grad = None
        apart.train(train).weight.pow(3).sum().backward()
        (-2 * apart.train().weight.sin().sum()).backward()
        torch.testing.assert_close(
            original.grad, apart.parametrizations.weight.original.grad, rtol=0, atol=1e-13
        )


def test_weights_that_are_parts_of_others() -> None:
    """Their memory is in neither order."""
    ours, theirs = (convolution(made, (5, 3, 4, 4), torch.float64) for made in (spectral_norm, torchs_own))
    name = "parametrizations.weight.original"
    values = torch.randn(5, 6, 4, 4, dtype=torch.float64)
    for layer in (ours, theirs):
        copied = values.clone()[:, ::2]
        layer.load_state_dict({**layer.state_dict(), name: copied}, assign=True)
    for found, expected in zip(steps(ours, 3), steps(theirs, 3), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_assigned_weights_are_normalised_too() -> None:
    ours, theirs = (convolution(made, (5, 3, 4, 4), torch.float64) for made in (spectral_norm, torchs_own))
    other = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    ours.weight, theirs.weight = other, other
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-13)


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        layer = convolution(spectral_norm, (5, 3, 4, 4), torch.float32)
    assert layer.weight.shape == (5, 3, 4, 4) and layer.weight.is_meta
