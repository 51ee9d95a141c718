"""When a layer may be computed in another way than it is written."""

from __future__ import annotations

import torch
from torch import Tensor

_MEASURED = ("AVX2", "AVX512")


def may_shorten(input: Tensor) -> bool:
    """Whether a result that differs by rounding alone may be had in a way that serves eager CPUs alone.

    It may on a CPU in float32, where no gradient is asked for and nobody traces the network.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_grad_enabled():
        return False
    on_cpu = input.device.type == "cpu" and input.dtype == torch.float32
    return on_cpu and not torch.is_autocast_enabled("cpu")


def onednn_is_measured() -> bool:
    """Whether oneDNN may be asked, and has kernels for AVX2 or AVX-512.

    Whether others, on other processors, gain by being asked for something else is not known.
    """
    onednn = torch.backends.mkldnn
    may_be_asked = onednn.is_available() and bool(onednn.enabled)
    return may_be_asked and torch.backends.cpu.get_cpu_capability() in _MEASURED
