"""Passing over a raster in windows that fit its blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

MEMORY = 32 * 2**20  # bytes of one window of all bands


def block_windows(dataset: Any, memory: int = MEMORY) -> Iterator[Any]:
    """Windows that together cover a raster once, each made of whole blocks of its first band.

    Args:
        dataset: An open rasterio dataset.
        memory: Most bytes that all bands of a window take, unless one block is more.

    Yields:
        ``rasterio.windows.Window``, from top to bottom, each row of them from left to right.
    """
    from rasterio.windows import Window

    pixel_bytes = sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
    block_height, block_width = dataset.block_shapes[0]
    block_height, block_width = min(block_height, dataset.height), min(block_width, dataset.width)
    budget = max(1, memory // (pixel_bytes * block_height * block_width))
    across = min(budget, -(-dataset.width // block_width))
    down = max(1, budget // across) if across * block_width >= dataset.width else 1
    height, width = down * block_height, across * block_width
    for top in range(0, dataset.height, height):
        for left in range(0, dataset.width, width):
            yield Window(left, top, min(width, dataset.width - left), min(height, dataset.height - top))
