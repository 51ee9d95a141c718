"""What a layer makes of its weights before it can use them, kept from pass to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Kept:
    """A kernel made of a layer's weights, made again only when those have changed.

    Beside it stands a copy of the weights, by whose values each pass sees whether they are still the same,
    also where they were changed behind autograd's back. Comparing waits for the device, so this is for CPUs.
    Copies of a layer, and what is pickled of it, hold neither.
    """

    _made: tuple[Tensor, Tensor] | None = None

    def of(self, weight: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """The kernel of these weights.

        Args:
            weight: The layer's weights as they are now, of any shape.
            make: Makes the kernel of them, the same way at each call.

        Returns:
            What ``make`` returns, without gradient.
        """
        if self._made is None or not torch.equal(self._made[0], weight):
            with torch.no_grad():
                self._made = weight.detach().clone(), make(weight)
        return self._made[1]

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: all of it can be made again."""
        return {}
