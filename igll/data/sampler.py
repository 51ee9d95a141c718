"""Which samples a training step takes: a function of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

ORDER = 3  # first word of the random stream's seed; see the others in datasets.py


class SampleKey(NamedTuple):
    """Which sample, and everything that its random choices derive from."""

    epoch: int
    image: int
    step: int


class StepSampler(Sampler[list[SampleKey]]):
    """Batches of sample keys for training steps, in an order that is a function of the seed alone.

    Every epoch is a new permutation; epochs follow one another without a gap, so no image is left out
    and a dataset may be smaller than a batch.

    Args:
        size: Number of samples.
        batch_size: Samples per step.
        seed: Seed of the order.
        first_step: Step to start with: resuming continues in the middle of an epoch.
        last_step: Step after the last one.
        part: Which of the step's samples are yielded; by default all.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        first_step: int,
        last_step: int,
        part: slice = slice(None),
    ) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.first_step, self.last_step, self.part = first_step, last_step, part

    def __len__(self) -> int:
        """Number of batches to come."""
        return max(self.last_step - self.first_step, 0)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield one list of keys per step."""
        for step in range(self.first_step, self.last_step):
            yield self.keys(step)[self.part]

    def keys(self, step: int) -> list[SampleKey]:
        """All samples of a step, whatever the part."""
        keys = []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, place = divmod(position, self.size)
            keys.append(SampleKey(epoch, int(_order(self.seed, epoch, self.size)[place]), step))
        return keys


@lru_cache(maxsize=4)  # a loader that reads ahead is in the next epoch before the last one is trained on
def _order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """Order of the samples in an epoch."""
    return np.random.default_rng([seed, ORDER, epoch]).permutation(size)
