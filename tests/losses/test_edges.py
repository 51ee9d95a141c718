from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_expit

from igll.losses import EdgeCompletionLoss


def _batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 1, 12, 10)) * 3
    target = rng.random((2, 1, 12, 10)) ** 8  # soft, mostly near 0, as edge maps are
    mask = (rng.random((2, 1, 12, 10)) < 0.3).astype(float)
    return logits, target, mask


def _loss(*arrays: np.ndarray, hole_weight: float = 5.0) -> torch.Tensor:
    return EdgeCompletionLoss(hole_weight)(*(torch.from_numpy(array).float() for array in arrays))


def test_equals_its_equation() -> None:
    logits, target, mask = _batch()
    weight = np.where(mask == 1, 5.0, 1.0)
    beta = np.average(1 - target, weights=weight)
    terms = beta * target * log_expit(logits) + (1 - beta) * (1 - target) * log_expit(-logits)
    assert _loss(logits, target, mask).item() == pytest.approx(-np.average(terms, weights=weight), rel=1e-5)


def test_few_edges_weigh_as_much_as_all_the_rest() -> None:
    target = np.zeros((1, 1, 20, 20))
    target[0, 0, 7] = 1  # one row in twenty
    mask = np.zeros_like(target)
    every_edge_missed = np.where(target == 1, -9.0, -40.0)
    false_edges_everywhere = np.where(target == 1, 40.0, 9.0)
    missed, invented = (_loss(logits, target, mask) for logits in (every_edge_missed, false_edges_everywhere))
    assert missed.item() == pytest.approx(invented.item(), rel=1e-5)


def test_the_hole_weighs_more() -> None:
    logits = np.zeros((1, 1, 8, 8))
    target = (np.indices((8, 8)).sum(0) % 2).astype(float)[None, None]
    mask = np.zeros_like(target)
    mask[..., :4] = 1  # as many edges on either side
    gradients = []
    for hole_weight in (1.0, 5.0):
        variable = torch.from_numpy(logits).float().requires_grad_()
        EdgeCompletionLoss(hole_weight)(
            variable, torch.from_numpy(target).float(), torch.from_numpy(mask).float()
        ).backward()
        gradients.append(variable.grad.abs())
    hole = torch.from_numpy(mask) == 1
    assert gradients[0][hole].mean() == pytest.approx(gradients[0][~hole].mean().item(), rel=1e-5)
    assert gradients[1][hole].mean() == pytest.approx(5 * gradients[1][~hole].mean().item(), rel=1e-5)


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_all_or_no_edges_stay_finite(edge: float) -> None:
    logits, target, mask = _batch()
    variable = torch.from_numpy(1e4 * logits).float().requires_grad_()
    loss = EdgeCompletionLoss()(variable, torch.full(target.shape, edge), torch.from_numpy(mask).float())
    loss.backward()
    assert loss.item() == 0  # the balance leaves nothing to tell apart
    assert torch.equal(variable.grad, torch.zeros_like(variable))


def test_half_precision_logits_are_compared_in_float32() -> None:
    logits, target, mask = (torch.from_numpy(array).float() for array in _batch())
    loss = EdgeCompletionLoss()(logits.bfloat16(), target, mask)
    assert loss.dtype == torch.float32
    assert loss.item() == EdgeCompletionLoss()(logits.bfloat16().float(), target, mask).item()
