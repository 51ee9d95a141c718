"""Losses are computed in full precision, whatever the networks run in; VGG itself may be asked for less."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context in which autocast is off on the tensor's device.

    Gram matrices, singular values and sums over a batch lose their leading digits in 16 bits.
    """
    return torch.autocast(device_type=tensor.device.type, enabled=False)
