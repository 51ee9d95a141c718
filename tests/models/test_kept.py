"""Kernels kept from pass to pass: those of the weights as they are, and no part of a layer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.kept import Kept
from igll.models.layers import EnlargingConv2d
from igll.models.winograd import Conv2d


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One on which Winograd's algorithm pays, whatever runs the tests."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


LAYERS = {
    "by Winograd's algorithm": (lambda: Conv2d(128, 128, 3, padding=1), (1, 128, 64, 64)),
    "enlarging": (lambda: EnlargingConv2d(8, 4), (1, 8, 12, 10)),
}


def as_written(layer: nn.Conv2d, image: Tensor) -> Tensor:
    if isinstance(layer, EnlargingConv2d):
        image = F.interpolate(image, scale_factor=2, mode="nearest")
    return F.conv2d(image.double(), layer.weight.double(), layer.get_parameter("bias").double(), padding=1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("change", ["in place", "behind autograd's back", "another tensor", "loaded"])
def test_kept_kernels_are_those_of_the_weights_as_they_are(name: str, change: str, monkeypatch) -> None:
    made = []
    of = Kept.of
    monkeypatch.setattr(
        Kept, "of", lambda kept, weight, make: of(kept, weight, lambda given: made.append(1) or make(given))
    )
    build, shape = LAYERS[name]
    layer, image = build(), noise(*shape)
    with torch.inference_mode():
        layer(image), layer(image)
    assert made == [1]
    with torch.no_grad():
        if change == "in place":
            layer.weight[3, 6, 1, 1] += 1
        elif change == "behind autograd's back":
            layer.weight.data[3, 6, 1, 1] += 1
        elif change == "another tensor":
            layer.weight = nn.Parameter(layer.weight * 2)
        else:
            layer.load_state_dict({"weight": layer.weight / 2, "bias": noise(layer.out_channels)})
        torch.testing.assert_close(layer(image).double(), as_written(layer, image), rtol=0, atol=5e-5)
    assert made == [1, 1]


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_reach_the_weights_and_change_nothing_kept(name: str) -> None:
    build, shape = LAYERS[name]
    layer, image = build(), noise(*shape)
    with torch.no_grad():
        before = layer(image)
    layer(image).square().mean().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert torch.equal(layer(image), before)


@pytest.mark.parametrize("name", LAYERS)
def test_a_copy_of_a_layer_holds_its_weights_alone(name: str) -> None:
    build, shape = LAYERS[name]
    layer = build()
    empty = len(pickle.dumps(layer))
    with torch.no_grad():
        found = layer(noise(*shape))
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
            kept = [part for part in vars(other).values() if isinstance(part, Kept)]
            assert len(kept) == 1 and not vars(kept[0])
            assert torch.equal(other(noise(*shape)), found)
    assert len(pickle.dumps(layer)) == empty
    assert layer.state_dict().keys() == {"weight", "bias"}
