"""What a generator costs: parameters, and multiply-adds counted at the paper's size."""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from igll.config import ModelConfig
from igll.models import InpaintingNetwork
from igll.models.products import plain_products
from igll.models.winograd import plain_convolutions
from igll.registry import build_generator
from igll.report.size_table import Measured

SIZE = 256
# Missing pixels as the paper calls them, in percent, to the side of its square hole at 256 × 256.
HOLES = {10: 80, 25: 128, 77: 224}
_BORDER = 32


class MultiplyAdds(NamedTuple):
    """Multiply-adds of one pass.

    Attributes:
        true: All of convolutions and matrix products, attention included.
        convolutions: Those of convolutions alone, which is what profilers see that hook into layers.
    """

    true: int
    convolutions: int


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(generator: InpaintingNetwork, side: int, size: int = SIZE) -> MultiplyAdds:
    """Count the multiply-adds of filling one image.

    Attention is computed by plain matrix products and every convolution as it is written meanwhile, so that
    nothing escapes the counter and nothing depends on the processor; what is done element by element, such as
    activations, is not counted, as usual.

    Args:
        generator: On any device; its weights do not matter.
        side: Side of the square hole, which lies as far from the top and the left as in the paper: 32 pixels
            of 256.
        size: Side of the image.
    """
    device = next(generator.parameters()).device
    image_1CHW = torch.zeros(1, generator.image_channels, size, size, device=device)
    mask_11HW = torch.zeros(1, 1, size, size, device=device)
    start = round(_BORDER * size / SIZE)
    mask_11HW[..., start : start + side, start : start + side] = 1
    edge_11HW = torch.zeros_like(mask_11HW) if generator.structure_prior in ("oracle", "reference") else None
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        plain_convolutions(),
        plain_products(),
    ):
        generator(image_1CHW, mask_11HW, edge_11HW)
    convolutions = counter.get_flop_counts()["Global"].get(torch.ops.aten.convolution, 0)
    return MultiplyAdds(counter.get_total_flops() // 2, convolutions // 2)


def measure_models() -> dict[str, Measured]:
    """Size and cost of every model that ``model.name`` knows, with all other settings at their defaults."""
    found = {}
    for name in get_args(ModelConfig.model_fields["name"].annotation):
        # The large peers cost the same whatever the hole, so that shapes alone need to be followed.
        with torch.device("cpu" if name in ("igll", "hifill") else "meta"):
            generator = build_generator(ModelConfig.model_validate({"name": name})).eval()
        costs = {percent: multiply_adds(generator, side) for percent, side in HOLES.items()}
        found[name] = Measured(
            parameters(generator),
            {percent: cost.true for percent, cost in costs.items()},
            costs[25].convolutions,
        )
    return found
