"""Choosing where to compute."""

from __future__ import annotations

import torch

from igll.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device that a configuration names; ``auto`` is CUDA where there is one.

    Raises:
        InputError: If CUDA is asked for and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device: '{name}' was asked for, but torch sees no CUDA device; set device=cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device: '{name}' was asked for, but there are {torch.cuda.device_count()}; count from 0"
        )
    return device
