"""Choosing where to compute."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from igll import distributed
from igll.config import EvalConfig, TrainConfig
from igll.errors import InputError
from igll.launch import launch


def choose_device(name: str) -> torch.device:
    """The device that a configuration names; ``auto`` is CUDA where there is one.

    Of several processes each takes the GPU of its local rank.

    Raises:
        InputError: If CUDA is asked for and absent, or there are fewer GPUs than processes.
    """
    if distributed.size() > 1 and name != "cpu" and torch.cuda.is_available():
        return _own_gpu(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device: '{name}' was asked for, but torch sees no CUDA device; set device=cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: '{name}' is none of auto, cpu, cuda and cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device: '{name}' was asked for, but there are {torch.cuda.device_count()}; count from 0"
        )
    return device


def mixed_precision(train: TrainConfig, device: torch.device) -> torch.autocast:
    """The context in which a network runs in training: bf16 autocast, if it is wanted on this device."""
    wanted = train.amp and computes_in_bfloat16() if device.type == "cuda" else train.amp_cpu
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


@cache
def computes_in_bfloat16() -> bool:
    """Whether CUDA's device does by itself; those before Ampere's only imitate it."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def filling_precision(config: EvalConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which a trained network fills: bf16 autocast if it is wanted, else the caller's."""
    return torch.autocast(device.type, torch.bfloat16) if config.amp else nullcontext()


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions in float32 on every device: else torch lets CUDA's round their factors to TF32."""
    cudnn = torch.backends.cudnn
    others = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    with ExitStack() as stack:
        try:
            stack.enter_context(cudnn.flags(**others, allow_tf32=False))
        except RuntimeError:  # a caller has chosen precisions in torch's newer way, which bars the older one
            convolutions = cudnn.conv  # type: ignore[attr-defined]
            stack.callback(setattr, convolutions, "fp32_precision", convolutions.fp32_precision)
            convolutions.fp32_precision = "ieee"
        yield


def fixed_workspace(wanted: bool) -> None:
    """Give cuBLAS the workspace that equal bits take, if wanted; it asks when it starts, and never again."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Operators that give the same bits on every run, if wanted, and afterwards as it was.

    On a CPU with the same number of threads all of them do anyway. On CUDA an operator that has no such
    form is used as it is, and torch's warning names it; see also :func:`fixed_workspace`.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with ExitStack() as stack:
        stack.callback(
            torch.use_deterministic_algorithms,
            torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        for name in ("benchmark", "deterministic"):
            stack.callback(setattr, cudnn, name, getattr(cudnn, name))
        torch.use_deterministic_algorithms(True, warn_only=True)
        cudnn.benchmark, cudnn.deterministic = False, True
        # Fused kernels' gradients are deterministic only where an operator without such a form is an error.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _own_gpu(name: str) -> torch.device:
    """The GPU of this process among several; not yet run on GPUs."""
    local_rank, gpus = launch().local_rank, torch.cuda.device_count()
    if name not in ("auto", "cuda"):
        raise InputError(f"device: every process needs a GPU of its own, not '{name}'; set device=cuda")
    if local_rank >= gpus:
        raise InputError(
            f"device: this machine has {gpus} GPUs, and process {local_rank + 1} found none left; start as "
            "many processes as GPUs, or set device=cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
