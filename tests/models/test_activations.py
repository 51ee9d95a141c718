"""ELU by powers of two: torch's to rounding, and torch's own wherever somebody watches."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models import activations
from igll.models.activations import ELU, elu


def values(*shape: int, spread: float = 3.0) -> Tensor:
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is computed by powers of two."""
    taken: list[Tensor] = []
    in_memory = activations._in_memory

    def noted(tensor: Tensor) -> Tensor | None:
        flat = in_memory(tensor)
        taken.extend([] if flat is None else [flat])
        return flat

    monkeypatch.setattr(activations, "_in_memory", noted)
    monkeypatch.setattr(activations, "_PIECE", 1_000)
    monkeypatch.setattr(activations, "_LEAST", 0)
    return taken


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("spread", [1e-6, 1e-2, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 1000), (2, 3, 17, 9), (1, 16, 33, 20), (0, 4)])
def test_it_is_off_by_no_more_than_rounding(
    shape: tuple[int, ...], spread: float, inplace: bool, pieces: list[Tensor]
) -> None:
    given = values(*shape, spread=spread)
    exact, before = F.elu(given.double()), given.clone()
    with torch.no_grad():
        found = elu(given, inplace)
    assert found.shape == given.shape and (found is given) == inplace
    assert ((found.double() - exact).abs() <= 1e-7 + 1e-7 * exact.abs()).all()
    assert torch.equal(found[before > 0], before[before > 0]), "what is positive stays as it is"
    assert torch.equal(given, before) or inplace
    assert sum(map(Tensor.numel, pieces)) == given.numel()


def test_memory_keeps_its_order(pieces: list[Tensor]) -> None:
    last = values(2, 16, 20, 24).to(memory_format=torch.channels_last)
    with torch.no_grad():
        found = elu(last)
    assert pieces and found.stride() == last.stride()
    assert torch.allclose(found, F.elu(last), rtol=0, atol=1e-7)


def test_what_is_no_number_or_without_bound_is_treated_as_torch_does(pieces: list[Tensor]) -> None:
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, -1e-30, 1e-30, 3e38, -3e38])
    with torch.no_grad():
        assert torch.allclose(elu(odd), F.elu(odd), rtol=0, atol=1e-7, equal_nan=True)
    assert len(pieces) == 1


def test_few_values_are_torchs_own() -> None:
    few, many = values(32, 1023), values(32, 1024)
    with torch.no_grad():
        assert torch.equal(elu(few), F.elu(few)) and not torch.equal(elu(many), F.elu(many))


def test_maps_over_a_batch_and_forward_derivatives_work_without_gradients(pieces: list[Tensor]) -> None:
    given, tangent = values(4, 6), values(4, 6, spread=1.0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        assert torch.allclose(torch.func.vmap(elu)(given), F.elu(given), rtol=0, atol=1e-7)
        _, found = torch.func.jvp(elu, (given,), (tangent,))
        _, wanted = torch.func.jvp(F.elu, (given,), (tangent,))
    assert pieces and torch.allclose(found, wanted, rtol=0, atol=1e-6)


def test_what_does_not_stand_side_by_side_is_put_there() -> None:
    given = values(64, 2_048)[:, ::2]
    with torch.no_grad():
        assert torch.allclose(elu(given), F.elu(given), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("given", "watched"),
    [
        (values(4, 6), torch.enable_grad()),
        (values(4, 6), torch.autocast("cpu", torch.bfloat16)),
        (values(4, 6).double(), nullcontext()),
        (values(4, 6).bfloat16(), nullcontext()),
        (values(4, 6)[:, ::2], nullcontext()),
        (values(2, 3, 4, 5)[:, :2], nullcontext()),
    ],
    ids=["gradients", "autocast", "float64", "bfloat16", "columns", "channels"],
)
def test_it_is_torchs_own_where_it_has_to_be(
    given: Tensor, watched: AbstractContextManager[Any], pieces: list[Tensor]
) -> None:
    expected = given.clone()
    with torch.no_grad(), watched:
        found, expected = elu(given, inplace=True), F.elu(expected, inplace=True)
    assert found is given and torch.allclose(found, expected, rtol=0, atol=1e-7) and not pieces


@pytest.mark.parametrize("inplace", [False, True])
def test_gradients_are_torchs(inplace: bool) -> None:
    given = values(5, 7).requires_grad_()
    gradients = [
        torch.autograd.grad(activation(given.clone(), inplace=inplace).square().sum(), given)[0]
        for activation in (elu, F.elu)
    ]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_the_layer_is_torchs_with_any_alpha(alpha: float, pieces: list[Tensor]) -> None:
    given = values(4, 6)
    with torch.no_grad():
        assert torch.allclose(ELU(alpha)(given), nn.ELU(alpha)(given), rtol=0, atol=1e-7)
    assert bool(pieces) == (alpha == 1.0)
