"""Gradients under bf16 autocast on CPUs, against float32."""

from __future__ import annotations

import torch

from igll.models.learned_edges import LearnedEdges


def _gradients(net: torch.nn.Module, bf16: bool, run) -> dict[str, torch.Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        result = run()
    result.float().square().mean().backward()
    return {name: value.grad.clone() for name, value in net.named_parameters() if value.grad is not None}


def _assert_alike(precise: dict[str, torch.Tensor], rough: dict[str, torch.Tensor]) -> None:
    for name, value in precise.items():
        # bf16 keeps 8 bits; what a layer adds up of such roundings stays within a few per cent.
        assert (rough[name] - value).norm() <= 0.15 * value.norm() + 1e-6, name


def test_learned_edges_in_bf16():
    torch.manual_seed(0)
    net = LearnedEdges(3, 16).to(memory_format=torch.channels_last)
    image_BCHW, mask_B1HW = torch.rand(2, 3, 128, 128) * 2 - 1, torch.zeros(2, 1, 128, 128)
    mask_B1HW[..., 32:96, 32:96] = 1

    def run() -> torch.Tensor:
        return net(image_BCHW * (1 - mask_B1HW), mask_B1HW)

    _assert_alike(_gradients(net, False, run), _gradients(net, True, run))
