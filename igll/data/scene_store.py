"""Decoded scenes in memory that all loader processes share."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
_FULL = np.float32(255)


class SceneStore:
    """Keeps 8-bit scenes, edge maps and masks as they were decoded, one slot for each scene.

    What comes out equals what went in bit for bit: layers with values between the 256 levels are not kept,
    nor are scenes of another size than the first or with missing pixels. Memory is taken as slots fill;
    processes that are forked after the store was made share it, others (started afresh) have an empty one
    without room.

    Args:
        count: Number of scenes.
        first: The layers of some scene, which set the size of a slot; each (H, W, C) in [0, 1].
        megabytes: Most memory to take, in 10⁶ bytes; the scenes that do not fit are not kept.
    """

    def __init__(self, count: int, first: Sequence[FloatArray], megabytes: int) -> None:
        self._shapes = [layer.shape for layer in first]
        size = sum(layer.size for layer in first)
        self.slots = min(count, megabytes * 1_000_000 // (size + 1))
        # Anonymous memory, not /dev/shm, which containers keep small. The first byte of a slot says full.
        self._memory = mmap.mmap(-1, max(self.slots * (size + 1), 1))
        self._bytes = np.frombuffer(self._memory, np.uint8)[: self.slots * (size + 1)].reshape(-1, size + 1)

    def __getstate__(self) -> dict[str, object]:
        """A copy in a process that shares no memory has no slot."""
        return {"_shapes": self._shapes, "slots": 0, "_memory": None, "_bytes": np.empty((0, 1), np.uint8)}

    def get(self, number: int) -> list[NDArray[np.uint8]] | None:
        """The layers of a scene in 256 levels, views of (H, W, C); None if they are not kept."""
        if number >= self.slots or not self._bytes[number, 0]:
            return None
        ends = np.cumsum([1, *(int(np.prod(shape)) for shape in self._shapes)])
        return [
            self._bytes[number, start:end].reshape(shape)
            for start, end, shape in zip(ends, ends[1:], self._shapes, strict=False)
        ]

    def put(self, number: int, layers: Sequence[FloatArray]) -> None:
        """Keep the layers of a scene, if there is room and nothing of them would be lost."""
        if number >= self.slots or [layer.shape for layer in layers] != self._shapes:
            return
        with np.errstate(invalid="ignore"):  # NaN becomes some level, and is found to be no longer itself
            levels = [np.rint(layer * _FULL).astype(np.uint8) for layer in layers]
        if all(np.array_equal(to_unit(level), layer) for level, layer in zip(levels, layers, strict=True)):
            self._bytes[number, 1:] = np.concatenate([level.ravel() for level in levels])
            self._bytes[number, 0] = 1


def to_unit(levels: NDArray[np.uint8]) -> FloatArray:
    """From 256 levels to [0, 1], as files are read."""
    return (levels / _FULL).astype(np.float32)
