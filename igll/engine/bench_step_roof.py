"""The roof over a training step's speed: its convolutions, forward and backward, replayed alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from igll.engine.bench_roof import TensorForm

_OPERATORS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


class Call(NamedTuple):
    """One convolution of a step.

    Attributes:
        operator: Which of the two.
        arguments: Its arguments, with a form in the place of each tensor.
    """

    operator: Any
    arguments: tuple[Any, ...]


def record_step(step: Callable[[], object]) -> list[Call]:
    """Take a step and list its convolutions, forward and backward, in order."""
    with _Recorder() as recorder:
        step()
    return recorder.calls


class _Recorder(TorchDispatchMode):
    """Writes down every convolution that is computed; autograd's own threads are seen as well."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _OPERATORS:
            self.calls.append(Call(func, tuple(_form(value) for value in args)))
        return func(*args, **(kwargs or {}))


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        return TensorForm(tuple(value.shape), tuple(value.stride()), value.dtype)
    return tuple(value) if isinstance(value, (list, tuple)) else value


class StepRoof:
    """Recorded convolutions on noise of the same forms, ready to be replayed.

    All tensors of a type share one stretch of noise, as long as the longest: a replay needs no more memory
    than its largest convolution.

    Args:
        calls: What to replay, in order.
        device: Where.
    """

    def __init__(self, calls: Sequence[Call], device: torch.device) -> None:
        longest: dict[torch.dtype, int] = {}
        for call in calls:
            for form in call.arguments:
                if isinstance(form, TensorForm):
                    longest[form.dtype] = max(longest.get(form.dtype, 0), form.extent)
        generator = torch.Generator(device).manual_seed(0)
        noise = {
            dtype: torch.empty(length, dtype=dtype, device=device).uniform_(-1.0, 1.0, generator=generator)
            for dtype, length in longest.items()
        }
        self._calls = [
            (
                call.operator,
                [
                    noise[value.dtype].as_strided(value.shape, value.stride)
                    if isinstance(value, TensorForm)
                    else value
                    for value in call.arguments
                ],
            )
            for call in calls
        ]

    @torch.no_grad()
    def replay(self) -> None:
        """Compute every convolution once; results are dropped."""
        for operator, arguments in self._calls:
            operator(*arguments)
