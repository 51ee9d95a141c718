"""Products as convolutions: the same to rounding, and taken where they may be and pay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from igll.models import products
from igll.models.products import pays, plain_products, product
from igll.models.shortcuts import onednn_is_measured

LEFT, RIGHT = (1, 2048, 128), (1, 512, 128)  # 2²⁷ multiply-adds


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One on which it pays, whatever runs the tests."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("left", ["whole", "rows of more", "columns of more", "turned"])
@pytest.mark.parametrize("right", ["whole", "rows of more", "columns of more", "turned"])
@pytest.mark.parametrize(
    ("rows", "columns", "channels"), [(70, 33, 24), (1, 5, 3), (16, 1, 1), (200, 64, 100)]
)
@torch.no_grad()
def test_the_result_is_the_products_to_rounding(
    rows: int, columns: int, channels: int, left: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_LEAST", 0)
    monkeypatch.setattr(products, "_LEAST_VALUES", 0)
    convolved = []
    convolve = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *given: convolved.append(1) or convolve(*given))

    def laid(count: int, form: str, seed: int) -> torch.Tensor:
        wide = noise(1, count + 5, channels + 7, seed=seed)
        matrices = {
            "whole": noise(1, count, channels, seed=seed),
            "rows of more": wide[:, 3 : count + 3, :channels].contiguous()[:, :count],
            "columns of more": wide[:, 2 : count + 2, 4 : channels + 4],
            "turned": noise(1, channels, count, seed=seed).transpose(1, 2),
        }
        return matrices[form]

    a, b = laid(rows, left, 1), laid(columns, right, 2)
    found = product(a, b)
    exact = a.double() @ b.double().transpose(1, 2)
    # What rounding can do grows with what is added up, signs aside.
    added = a.double().abs() @ b.double().abs().transpose(1, 2)
    assert convolved == [1] and found.shape == (1, rows, columns) and found.is_contiguous()
    assert ((found - exact).abs() <= channels**0.5 * torch.finfo(torch.float32).eps * added).all()


@pytest.mark.parametrize(
    "around",
    [nullcontext, torch.enable_grad, plain_products, partial(torch.autocast, "cpu", torch.bfloat16)],
    ids=["nothing", "gradients", "plain", "autocast"],
)
def test_it_is_left_where_it_may_not_be_taken(around: Callable[[], AbstractContextManager[Any]]) -> None:
    with torch.no_grad(), around():
        assert pays(noise(*LEFT), noise(*RIGHT)) == (around is nullcontext)
    with torch.no_grad():
        assert pays(noise(*LEFT), noise(*RIGHT))


@torch.no_grad()
def test_it_is_left_where_it_costs_more() -> None:
    left, right = noise(*LEFT), noise(*RIGHT)
    assert pays(left, right[:, :256]) and not pays(left, right[:, :255])
    assert not pays(left[:0], right[:0]) and product(left[:0], right[:0]).shape == (0, 2048, 512)
    assert not pays(left.double(), right.double())
    assert not pays(left.to("meta"), right.to("meta"))


@torch.no_grad()
def test_every_image_of_a_batch_has_a_convolution_of_its_own() -> None:
    left, right = noise(3, *LEFT[1:]), noise(3, *RIGHT[1:], seed=1)
    assert pays(left, right) and not pays(left[:, ::2], right[:, ::2]), "as each image would alone"
    alone = [product(left[image : image + 1], right[image : image + 1]) for image in range(3)]
    assert torch.equal(product(left, right), torch.cat(alone))


@pytest.mark.parametrize("unknown", ["DEFAULT", "SVE256"])
@torch.no_grad()
def test_it_is_left_on_processors_that_nobody_measured(unknown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: unknown)
    assert not pays(noise(*LEFT), noise(*RIGHT))


@torch.no_grad()
def test_it_is_left_where_torch_would_not_ask_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = noise(*LEFT), noise(*RIGHT)
    assert pays(left, right)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not pays(left, right)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    assert pays(left, right)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not pays(left, right)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not pays(left, right)


@pytest.mark.parametrize(
    ("left", "right"), [((1, 161, 128), (1, 4096, 128)), ((1, 6, 4096), (1, 2731, 4096))]
)
@torch.no_grad()
def test_what_pays_is_computed_by_onednn(
    left: tuple[int, ...], right: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    if not onednn_is_measured():
        pytest.skip("torch has no oneDNN for this processor")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert pays(noise(*left), noise(*right)), "the smallest left matrix"
        assert not pays(noise(*left)[:, 1:], noise(*right))
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            product(noise(*left), noise(*right))
    finally:
        torch.set_num_threads(threads)
    assert "aten::mkldnn_convolution" in {event.key for event in profiler.key_averages()}


def test_what_is_traced_is_the_plain_product() -> None:
    with torch.no_grad():
        traced = torch.jit.trace(product, (noise(*LEFT), noise(*RIGHT)))
        assert torch.equal(traced(noise(*LEFT), noise(*RIGHT)), noise(*LEFT) @ noise(*RIGHT).transpose(1, 2))
