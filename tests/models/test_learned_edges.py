"""The net that completes edges: it trains, sees far enough and carries structure into the hole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from igll.models.learned_edges import LearnedEdges


def test_the_stem_is_its_four_convolutions() -> None:
    torch.manual_seed(0)
    net = LearnedEdges(3, 8).double()
    input_BCHW = torch.rand(2, 4, 13, 11, dtype=torch.float64)
    expected_BCHW = torch.cat([convolution(input_BCHW) for convolution in net.stem], 1)
    torch.testing.assert_close(net.stem(input_BCHW), expected_BCHW, rtol=0, atol=1e-14)


@pytest.mark.parametrize("hole", ["none", "all", "square"])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_learned_edges_train_with_any_mask(hole: str, channels: int) -> None:
    torch.manual_seed(0)
    net = LearnedEdges(channels, 8)
    mask_B1HW = torch.zeros(2, 1, 37, 30)
    if hole == "all":
        mask_B1HW[:] = 1
    elif hole == "square":
        mask_B1HW[..., 8:24, 8:24] = 1
    image_BCHW = (torch.rand(2, channels, 37, 30) * 2 - 1) * (1 - mask_B1HW)
    logits_B1HW = net(image_BCHW, mask_B1HW)
    assert logits_B1HW.shape == (2, 1, 37, 30) and logits_B1HW.isfinite().all()
    logits_B1HW.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_learned_edges_stay_small() -> None:
    with torch.device("meta"):
        net = LearnedEdges()
        image_BCHW, mask_B1HW = torch.empty(1, 3, 256, 256), torch.empty(1, 1, 256, 256)
    assert sum(p.numel() for p in net.parameters()) == 115_457
    with FlopCounterMode(display=False) as counter:
        net(image_BCHW, mask_B1HW)
    multiply_adds = counter.get_total_flops() / 2
    assert multiply_adds == 1_093_748_288


def test_learned_edges_see_across_the_largest_hole() -> None:
    torch.manual_seed(0)
    net = LearnedEdges(3, 8)
    mask_B1HW = torch.zeros(1, 1, 256, 256)
    mask_B1HW[..., 16:240, 16:240] = 1
    image_BCHW = ((torch.rand(1, 3, 256, 256) * 2 - 1) * (1 - mask_B1HW)).requires_grad_()
    (gradient_BCHW,) = torch.autograd.grad(net(image_BCHW, mask_B1HW)[0, 0, 128, 128], image_BCHW)
    seen_HW = gradient_BCHW[0].abs().sum(dim=0) > 0
    assert seen_HW[:16].any() and seen_HW[240:].any() and seen_HW[:, :16].any() and seen_HW[:, 240:].any()


def test_learned_edges_carry_a_line_across_the_hole() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    net = LearnedEdges(1, 8)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    mask_B1HW = torch.zeros(1, 1, 32, 32)
    mask_B1HW[..., 8:24, 8:24] = 1

    def batch(size: int) -> tuple[Tensor, Tensor]:
        """Steps at random places, upright or lying; the target marks the step."""
        target_B1HW = torch.zeros(size, 1, 32, 32)
        image_B1HW = -torch.ones(size, 1, 32, 32)
        for i, (place, lying) in enumerate(
            zip(rng.integers(9, 23, size), rng.random(size) < 0.5, strict=True)
        ):
            image_HW, target_HW = image_B1HW[i, 0], target_B1HW[i, 0]
            (image_HW.T if lying else image_HW)[:, place:] = 1
            (target_HW.T if lying else target_HW)[:, place] = 1
        return image_B1HW * (1 - mask_B1HW), target_B1HW

    for _ in range(120):
        image_B1HW, target_B1HW = batch(8)
        logits_B1HW = net(image_B1HW, mask_B1HW.expand_as(image_B1HW))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_B1HW, target_B1HW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    image_B1HW, target_B1HW = batch(64)
    with torch.no_grad():
        edge_B1HW = net(image_B1HW, mask_B1HW.expand_as(image_B1HW)).sigmoid()
    inside = mask_B1HW.expand_as(image_B1HW) > 0
    assert torch.corrcoef(torch.stack([edge_B1HW[inside], target_B1HW[inside]]))[0, 1] > 0.8


def test_learned_edges_refuse_a_width_that_four_kinds_cannot_share() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        LearnedEdges(3, 30)
