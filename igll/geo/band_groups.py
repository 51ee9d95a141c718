"""Any number of bands through a model of three channels, or of another number.

Bands go through in groups of as many as the model takes, in the raster's order: of seven bands, 1 2 3,
4 5 6 and 5 6 7. A last group that would not be full begins earlier, and only its new bands are kept; a
raster with fewer bands than the model takes repeats its last one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def group_bands(count: int, channels: int) -> NDArray[np.int64]:
    """Band of every channel of every group: index_GC, from 0.

    Args:
        count: Bands of the raster.
        channels: Channels of the model.
    """
    starts = [*range(0, max(count - channels, 0), channels), max(count - channels, 0)]
    return np.minimum(np.array(starts)[:, None] + np.arange(channels), count - 1)


def join_groups(filled_GCHW: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Bands of a raster from the groups that :func:`group_bands` made: filled_CHW.

    A band that several channels of the first group that has it hold is their mean.
    """
    index_GC = group_bands(count, filled_GCHW.shape[1])
    group_C = [int(np.flatnonzero((index_GC == band).any(1))[0]) for band in range(count)]
    return np.stack(
        [filled_GCHW[group, index_GC[group] == band].mean(0) for band, group in enumerate(group_C)]
    )
