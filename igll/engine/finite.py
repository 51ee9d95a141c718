"""Noticing values that are not finite without making the host wait for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_KEPT = 1_000  # values of so many updates are kept before somebody has to look at them


class Failure(NamedTuple):
    """The first value that was not finite.

    Attributes:
        step: Finished steps when it occurred.
        message: Names the value, the step and the images.
    """

    step: int
    message: str


class _Update(NamedTuple):
    """What is to be looked at of one update."""

    step: int
    names: tuple[str, ...]
    values: Tensor
    images: Callable[[], str]


class FiniteWatch:
    """Remembers on the device whether everything so far was finite, and on the host what it was.

    Updates and averages stand still from the first value on that is not finite, because they ask
    ``broken``; so whoever reads later finds networks that the bad step did not touch.

    Args:
        device: Where the values are.

    Attributes:
        broken: Scalar, float32: 0, and 1 for good after a value that is not finite. A fused optimiser
            that has it as ``found_inf`` (as ``torch.amp.GradScaler`` hands it over) skips its update.
        immediate: Whether looking costs nothing, so that every update may be looked at at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.broken = torch.zeros((), device=device)
        self.immediate = device.type == "cpu"
        self._updates: list[_Update] = []

    def note(self, step: int, values: Mapping[str, Tensor], images: Callable[[], str]) -> None:
        """Take note of the values of an update that is about to be made.

        Args:
            step: Finished steps.
            values: Scalars by name, on the device.
            images: Names the images, for the message.
        """
        stacked = torch.stack([value.float() for value in values.values()])
        self.broken.masked_fill_(stacked.isfinite().all().logical_not(), 1.0)
        self._updates.append(_Update(step, tuple(values), stacked, images))

    @property
    def full(self) -> bool:
        """Whether it is time to look, lest too much is kept."""
        return self.immediate or len(self._updates) >= _KEPT

    def failure(self) -> Failure | None:
        """Look at everything noted since the last time; waits for the device."""
        updates, self._updates = self._updates, []
        if not updates or not self.broken.item():
            return None
        for update in updates:
            for name, value in zip(update.names, update.values.tolist(), strict=True):
                if not math.isfinite(value):
                    message = f"step {update.step + 1}: '{name}' is {value}; images: {update.images()}"
                    return Failure(update.step, message)
        return None
