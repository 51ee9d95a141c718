"""The shorter way of convolving: exact to rounding, and taken where it may be and pays."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from igll.models import winograd
from igll.models.winograd import Conv2d, combined_kernels, convolve, pays, plain_convolutions

LARGE = (1, 128, 48, 48)


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One on which it pays, whatever runs the tests."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("piece", [1, 100, 1_000_000])
@pytest.mark.parametrize(
    ("shape", "outputs", "dilation"),
    [
        ((1, 8, 16, 16), 5, 1), ((2, 3, 17, 9), 4, 1), ((3, 4, 5, 7), 4, 2), ((1, 4, 33, 20), 4, 4),
        ((2, 2, 1, 1), 2, 1), ((1, 2, 3, 300), 2, 3), ((2, 3, 200, 100), 3, 1), ((1, 64, 24, 24), 64, 1),
    ],
)  # fmt: skip
def test_the_result_is_the_convolutions_to_rounding(
    shape: tuple[int, ...],
    outputs: int,
    dilation: int,
    piece: int,
    last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(winograd, "_PIECE", piece)
    image, weight, bias = noise(*shape), noise(outputs, shape[1], 3, 3, seed=1), noise(outputs, seed=2)
    if last:
        image, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (image, weight))
    found = convolve(image, combined_kernels(weight), bias, dilation).double()
    size = {"padding": dilation, "dilation": dilation}
    exact = F.conv2d(image.double(), weight.double(), bias.double(), **size)  # type: ignore[arg-type]
    # What rounding can do grows with what is added up, signs aside.
    added = F.conv2d(image.double().abs(), weight.double().abs(), bias.double().abs(), **size)  # type: ignore[arg-type]
    assert found.shape == exact.shape
    assert ((found - exact).abs() <= 20 * torch.finfo(torch.float32).eps * added.amax((2, 3), True)).all()


def test_another_default_type_does_not_matter() -> None:
    image, weight, bias = noise(1, 8, 16, 16), noise(5, 8, 3, 3, seed=1), noise(5, seed=2)
    expected = convolve(image, combined_kernels(weight), bias)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(convolve(image, combined_kernels(weight), bias), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("layer", [{}, {"dilation": 2, "padding": 2}], ids=str)
def test_a_layer_takes_it_without_gradients_alone(
    layer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(winograd, "convolve", lambda *given: taken.append(1) or convolve(*given))
    short, image = Conv2d(128, 128, 3, **({"padding": 1} | layer)), noise(*LARGE)
    plain = nn.Conv2d(128, 128, 3, **({"padding": 1} | layer))
    plain.load_state_dict(short.state_dict())
    with torch.no_grad():
        found, expected = short(image), plain(image)
    assert taken == [1] and not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert torch.equal(short(image), expected) and taken == [1]


@pytest.mark.parametrize(
    "around",
    [
        nullcontext(), torch.enable_grad(), plain_convolutions(), torch.autocast("cpu", torch.bfloat16),
    ],
    ids=["nothing", "gradients", "plain", "autocast"],
)  # fmt: skip
def test_it_is_left_where_it_may_not_be_taken(around: AbstractContextManager[Any]) -> None:
    with torch.no_grad(), around:
        assert pays(Conv2d(128, 128, 3, padding=1), noise(*LARGE)) == isinstance(around, nullcontext)
    with torch.no_grad():
        assert pays(Conv2d(128, 128, 3, padding=1), noise(*LARGE))


@pytest.mark.parametrize(
    "layer",
    [
        {"kernel_size": 5, "padding": 2}, {"stride": 2}, {"groups": 2}, {"padding": 0}, {"padding": 2},
        {"dilation": (1, 2), "padding": (1, 2)}, {"dilation": 8, "padding": 8}, {"out_channels": 64},
        {"in_channels": 64}, {"padding_mode": "circular"},
    ],
    ids=str,
)  # fmt: skip
def test_it_is_left_for_other_layers_and_where_it_costs_more(layer: dict[str, Any]) -> None:
    settings = {"in_channels": 128, "out_channels": 128, "kernel_size": 3, "padding": 1} | layer
    with torch.no_grad():
        assert not pays(Conv2d(**settings), noise(1, settings["in_channels"], 48, 48))
        assert not pays(Conv2d(128, 128, 3, padding=1), noise(1, 128, 32, 32))
        assert not pays(Conv2d(128, 128, 3, padding=1), noise(*LARGE)[0])
        assert not pays(Conv2d(128, 128, 3, padding=1).double(), noise(*LARGE))
        assert not pays(Conv2d(128, 128, 3, padding=1), noise(*LARGE).double())
        assert not pays(Conv2d(128, 128, 3, padding=1), noise(*LARGE).to("meta"))


@pytest.mark.parametrize("unknown", ["DEFAULT", "SVE256"])
def test_it_is_left_on_processors_that_nobody_measured(unknown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: unknown)
    with torch.no_grad():
        assert not pays(Conv2d(128, 128, 3, padding=1), noise(*LARGE))


def test_what_is_traced_is_the_plain_convolution() -> None:
    layer = Conv2d(128, 128, 3, padding=1)
    with torch.no_grad():
        traced = torch.jit.trace(layer, noise(*LARGE))
        assert torch.equal(
            traced(noise(*LARGE)), F.conv2d(noise(*LARGE), layer.weight, layer.bias, padding=1)
        )
