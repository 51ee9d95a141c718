"""Multiply-adds against counts by hand, and every model measured."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from igll.config import ModelConfig
from igll.engine.cost import measure_models, multiply_adds, parameters


class OneConvolutionAndAttention(nn.Module):
    """Small enough to count by hand: a 3 × 3 convolution from 4 to 8 channels, then attention."""

    image_channels = 3

    def __init__(self, structure_prior: str) -> None:
        super().__init__()
        self.structure_prior = structure_prior
        self.convolution = nn.Conv2d(4, 8, 3, padding=1)
        self.edges_seen: list[bool] = []
        self.holes: list[float] = []

    def forward(
        self, image_BCHW: torch.Tensor, mask_B1HW: torch.Tensor, edge_B1HW: torch.Tensor | None
    ) -> torch.Tensor:
        self.edges_seen.append(edge_B1HW is not None)
        self.holes.append(mask_B1HW.sum().item())
        features_BCHW = self.convolution(torch.cat([image_BCHW, mask_B1HW], 1))
        tokens_BNC = features_BCHW[..., ::4, ::4].flatten(2).transpose(1, 2)
        return scaled_dot_product_attention(tokens_BNC, tokens_BNC, tokens_BNC)


@pytest.mark.parametrize("prior", ["oracle", "none"])
def test_counts_equal_those_by_hand(prior: str):
    model = OneConvolutionAndAttention(prior)
    cost = multiply_adds(model, side=16, size=64)  # type: ignore[arg-type]
    convolution, tokens = 64 * 64 * 8 * 4 * 9, 16 * 16
    assert cost.convolutions == convolution
    assert cost.true == convolution + 2 * tokens * tokens * 8
    assert parameters(model) == 8 * 4 * 9 + 8
    assert model.edges_seen == [prior == "oracle"] and model.holes == [256.0]


def test_every_model_that_a_config_can_name_is_measured():
    measured = measure_models()
    assert tuple(measured) == get_args(ModelConfig.model_fields["name"].annotation)
    igll = measured["igll"]
    assert igll.parameters == 4_442_454
    assert igll.convolutions < igll.true[25] and igll.true[10] < igll.true[25] < igll.true[77]
    assert {percent: round(count / 1e9, 1) for percent, count in igll.true.items()} == {
        10: 17.2,
        25: 21.5,
        77: 28.6,
    }
