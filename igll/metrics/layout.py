"""How images lie in memory and how many are measured at once: what is fastest, at the same values.

On a CPU, convolutions over few channels are about twice as fast where the channels of a pixel lie side by
side, and one image at a time is faster than a batch, whose intermediate results leave the cache. It also
makes a value independent of the batch that its image came in, to the last bit. Other devices get whole
batches as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def for_convolutions(image_BCHW: Tensor) -> Tensor:
    """The same images in the memory layout in which convolutions are fastest on their device."""
    if image_BCHW.device.type != "cpu":
        return image_BCHW
    return image_BCHW.contiguous(memory_format=torch.channels_last)


def place(network: Network, device: torch.device | str) -> Network:
    """Move a network to a device, its weights in the layout of :func:`for_convolutions`."""
    network = network.to(device)
    if torch.device(device).type == "cpu":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def pieces(batch: int, device: torch.device) -> Iterator[slice]:
    """Which images of a batch to measure at once."""
    step = 1 if device.type == "cpu" else max(batch, 1)
    return (slice(start, start + step) for start in range(0, batch, step))
