"""The roof over a network's speed: its own convolutions, recorded in one pass and replayed alone.

There are two: the convolutions that a pass computes, and the convolution layers of the network as its paper
lists them, over the whole frame. They differ for IGLL alone, which computes less than its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from igll.engine.bench_cases import Inputs
from igll.models import Generator, InpaintingNetwork
from igll.models.dense import plain_layers
from igll.models.products import plain_products

_CONVOLUTION = torch.ops.aten.convolution


class TensorForm(NamedTuple):
    """What a kernel's choice and speed depend on, of a tensor.

    Attributes:
        shape: Its sizes.
        stride: Its strides: memory formats differ in speed.
        dtype: Its type.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def extent(self) -> int:
        """Elements from the first to the last, gaps included."""
        steps = ((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return 1 + sum(steps) if all(self.shape) else 0


class Convolution(NamedTuple):
    """One call of ``aten.convolution``.

    Attributes:
        input: Form of its input.
        weight: Form of its weight.
        bias: Form of its bias, if any.
        rest: Stride, padding, dilation, transposed, output padding, groups.
    """

    input: TensorForm
    weight: TensorForm
    bias: TensorForm | None
    rest: tuple[Any, ...]

    def like(self, dtype: torch.dtype) -> Convolution:
        """The same call on tensors of another type and an input that is channels last in memory."""
        bias = None if self.bias is None else self.bias._replace(dtype=dtype)
        _, channels, height, width = self.input.shape
        stride = (channels * height * width, 1, width * channels, channels)
        return self._replace(
            input=self.input._replace(stride=stride, dtype=dtype),
            weight=self.weight._replace(dtype=dtype),
            bias=bias,
        )


def record_convolutions(forward: Callable[[], object]) -> list[Convolution]:
    """Run a pass and list its convolutions in order; not the products that are computed as such."""
    with plain_products(), _Recorder() as recorder:
        forward()
    return recorder.calls


def record_layers(
    generator: InpaintingNetwork, inputs: Inputs, computed: list[Convolution]
) -> list[Convolution]:
    """List the convolution layers of a network over the whole frame, by shapes alone.

    Args:
        generator: The network.
        inputs: What it is given.
        computed: What a pass computes, which is the answer for every network but IGLL.
    """
    if not isinstance(generator, Generator):
        return computed
    meta = torch.device("meta")
    plain = plain_layers(generator).to(meta)
    layout = plain.layout(inputs.mask_B1HW).to(meta)
    edge = None if inputs.edge_B1HW is None else inputs.edge_B1HW.to(meta)
    calls = record_convolutions(
        lambda: plain.fill(inputs.image_BCHW.to(meta), inputs.mask_B1HW.to(meta), edge, layout)
    )
    # Neither autocast nor the memory format of results reaches tensors without a device.
    half = [call.input.dtype for call in computed if torch.finfo(call.input.dtype).bits == 16]
    return [call.like(half[0] if half else call.input.dtype) for call in calls]


class _Recorder(TorchDispatchMode):
    """Writes down every convolution that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Convolution] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _CONVOLUTION.default:
            image, weight, bias, *rest = args
            self.calls.append(
                Convolution(
                    _form(image), _form(weight), None if bias is None else _form(bias), _as_tuple(rest)
                )
            )
        return func(*args, **(kwargs or {}))


def _form(tensor: Tensor) -> TensorForm:
    return TensorForm(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def _as_tuple(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(tuple(value) if isinstance(value, (list, tuple)) else value for value in values)


class Roof:
    """Recorded convolutions on noise of the same forms, ready to be replayed.

    Args:
        calls: What to replay, in order.
        inputs: Noise by type that inputs are cut from; see :func:`noise_for`.
        device: Where.
    """

    def __init__(
        self, calls: Sequence[Convolution], inputs: dict[torch.dtype, Tensor], device: torch.device
    ) -> None:
        self._arguments = [
            (
                inputs[call.input.dtype].as_strided(call.input.shape, call.input.stride),
                _noise(call.weight, device),
                None if call.bias is None else _noise(call.bias, device),
                *call.rest,
            )
            for call in calls
        ]

    @torch.no_grad()
    def replay(self) -> None:
        """Compute every convolution once; results are dropped."""
        for arguments in self._arguments:
            _CONVOLUTION.default(*arguments)


def noise_for(calls: Sequence[Convolution], device: torch.device) -> dict[torch.dtype, Tensor]:
    """One stretch of noise for each type of input, as long as the largest one.

    All inputs share it, so that a replay needs no more memory than its largest convolution; weights are small
    and have their own.
    """
    longest: dict[torch.dtype, int] = {}
    for call in calls:
        longest[call.input.dtype] = max(longest.get(call.input.dtype, 0), call.input.extent)
    return {
        dtype: _uniform(torch.empty(length, dtype=dtype, device=device)) for dtype, length in longest.items()
    }


def roof_multiply_adds(calls: Sequence[Convolution]) -> int:
    """Multiply-adds of a replay, counted on shapes alone."""
    meta = torch.device("meta")
    roof = Roof(calls, noise_for(calls, meta), meta)
    with FlopCounterMode(display=False) as counter:
        roof.replay()
    return counter.get_total_flops() // 2


def _noise(form: TensorForm, device: torch.device) -> Tensor:
    return _uniform(torch.empty(form.extent, dtype=form.dtype, device=device)).as_strided(
        form.shape, form.stride
    )


def _uniform(tensor: Tensor) -> Tensor:
    """Noise that neither overflows nor falls to denormal numbers, which are slow on some processors."""
    generator = None if tensor.is_meta else torch.Generator(tensor.device).manual_seed(0)
    return tensor.uniform_(-1.0, 1.0, generator=generator)
