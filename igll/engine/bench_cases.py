"""Cases of the benchmark, their inputs, and their multiply-adds, counted without computing them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from igll.config import ModelConfig
from igll.engine.cost import HOLES, SIZE, MultiplyAdds
from igll.models import InpaintingNetwork
from igll.models.products import plain_products
from igll.models.winograd import plain_convolutions
from igll.registry import build_generator

_BORDER = 32  # at 256 × 256, from the top and the left
# Networks whose work depends on where the hole is; of the others, following shapes alone is enough.
_HOLE_DECIDES = ("igll", "hifill")
_aten = torch.ops.aten
_ATTENTION_ON_CPU = _aten._scaled_dot_product_flash_attention_for_cpu
# What is answered by zeros: every product that is counted, and the softmax over scores, which is as large.
_SKIPPED = (
    _aten.convolution, _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten._softmax, _ATTENTION_ON_CPU,
)  # fmt: skip


class Case(NamedTuple):
    """One row of the benchmark.

    Attributes:
        model: Name of the network.
        size: Side of the images in pixels.
        batch: Images at once.
        hole: Missing pixels in percent, a key of ``cost.HOLES``.
        mode: ``eager``; ``compiled``; ``graph``, a CUDA graph of the pass, the hole's lists given; or
            ``compiled graph``, the same of a compiled pass.
        precision: ``fp32``, or ``bf16`` by autocast.
    """

    model: str
    size: int
    batch: int
    hole: int
    mode: str = "eager"
    precision: str = "fp32"

    @property
    def title(self) -> str:
        """The case in words."""
        return f"{self.model} {self.size} px × {self.batch}, hole {self.hole} %, {self.mode} {self.precision}"


class Inputs(NamedTuple):
    """What a network is given.

    Attributes:
        image_BCHW: Noise in [-1, 1].
        mask_B1HW: 1 = missing: the same square in every image.
        edge_B1HW: Noise in [0, 1], for networks that take an edge map.
    """

    image_BCHW: Tensor
    mask_B1HW: Tensor
    edge_B1HW: Tensor | None


def fresh_generator(config: ModelConfig) -> InpaintingNetwork:
    """A network with initial weights, always the same, that leaves torch's own random numbers alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_generator(config).eval()


def make_inputs(generator: InpaintingNetwork, case: Case, device: torch.device) -> Inputs:
    """Images of noise with the case's hole: the paper's square, scaled with the image."""
    random = torch.Generator().manual_seed(0)
    frame = (case.size, case.size)
    image_BCHW = torch.rand(case.batch, generator.image_channels, *frame, generator=random) * 2 - 1
    start, side = (round(length * case.size / SIZE) for length in (_BORDER, HOLES[case.hole]))
    mask_B1HW = torch.zeros(case.batch, 1, *frame)
    mask_B1HW[..., start : start + side, start : start + side] = 1
    edge_B1HW = None
    if generator.structure_prior in ("oracle", "reference"):
        edge_B1HW = torch.rand(case.batch, 1, *frame, generator=random).to(device)
    return Inputs(image_BCHW.to(device), mask_B1HW.to(device), edge_B1HW)


def autocast(case: Case, device: torch.device) -> AbstractContextManager[Any]:
    """The precision that a case asks for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "bf16")


def count_multiply_adds(config: ModelConfig, size: int, hole: int) -> MultiplyAdds:
    """Multiply-adds of filling one image, counted as by ``cost.multiply_adds`` but hardly computed.

    The products that are counted are answered by zeros, so that large images are counted in a part of their
    time and attention matrices never exist.
    """
    device = torch.device("cpu" if config.name in _HOLE_DECIDES else "meta")
    with device:
        generator = fresh_generator(config)
    inputs = make_inputs(generator, Case(config.name, size, 1, hole), device)
    # On the CPU the fused kernel, which is answered by zeros; for shapes alone, any.
    kernels = [SDPBackend.MATH] if device.type == "meta" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    mapping = {_ATTENTION_ON_CPU: _attention_flops}
    with (
        torch.no_grad(),
        sdpa_kernel(kernels),
        plain_convolutions(),
        plain_products(),
        _Zeros(),
        FlopCounterMode(display=False, custom_mapping=mapping) as counter,
    ):
        generator(*inputs)
    convolutions = counter.get_flop_counts()["Global"].get(_aten.convolution, 0)
    return MultiplyAdds(counter.get_total_flops() // 2, convolutions // 2)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Twice the multiply-adds of attention, from shapes."""
    flops: int = sdpa_flop_count(query, key, value)
    return flops


class _Zeros(TorchDispatchMode):
    """Answers convolutions, matrix products and softmax by zeros of the right shape."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket not in _SKIPPED or all(
            argument.is_meta for argument in args if isinstance(argument, Tensor)
        ):
            return func(*args, **(kwargs or {}))
        shapes = func(*tree_map_only(Tensor, lambda tensor: tensor.to("meta"), args), **(kwargs or {}))
        return tree_map_only(Tensor, lambda like: torch.zeros(like.shape, dtype=like.dtype), shapes)
