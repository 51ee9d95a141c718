"""From a raster's units to what a model looks at, and back.

Each band is mapped linearly; a filling goes back through the exact inverse. Known pixels never make the
trip: they are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from igll.errors import InputError
from igll.geo.box import stored_blocks
from igll.geo.pixel_class import PixelClass
from igll.geo.raster import open_raster, reading

# Rows and columns of a scene, at least, that are looked at for its percentiles.
_SAMPLE = 1024
# Room beyond the percentiles, as a share of their span: a model's output ends where its range ends.
_HEADROOM = 0.05


class Scaling(NamedTuple):
    """A linear map for each band.

    Attributes:
        low_C: Values that become 0.
        high_C: Values that become 1; above ``low_C``.
    """

    low_C: tuple[float, ...]
    high_C: tuple[float, ...]

    def to_unit(self, values_CHW: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Raster units to [0, 1]; values beyond the limits are cut, for the model's eyes alone."""
        low_C11, span_C11 = self._limits()
        with np.errstate(over="ignore"):  # far beyond the narrow limits of a constant band
            return ((values_CHW - low_C11) / span_C11).clip(0, 1).astype(np.float32)

    def from_unit(self, unit_CHW: NDArray[np.floating]) -> NDArray[np.float64]:
        """[0, 1] to raster units, float64: the inverse of :meth:`to_unit` between the limits."""
        low_C11, span_C11 = self._limits()
        return low_C11 + unit_CHW * span_C11

    def _limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        low_C11 = np.array(self.low_C)[:, None, None]
        return low_C11, np.array(self.high_C)[:, None, None] - low_C11


def percentile_scaling(values: Path, classes: Path, bands: Sequence[int], cut: float) -> Scaling:
    """A scaling from the scene's own percentiles, a little room added at both ends.

    Looks at about a million pixels, evenly spread, of larger scenes.

    Args:
        values: The scene.
        classes: Its class raster.
        bands: Numbers of its bands, from 1.
        cut: Per cent of the pixels that may lie beyond either limit.

    Raises:
        InputError: The scene cannot be read, or its values' span exceeds what float64 holds.
    """
    lows: list[float] = []
    highs: list[float] = []
    for values_N in _sample(values, classes, bands):
        sample_N = values_N[np.isfinite(values_N)].astype(np.float64)
        if sample_N.size == 0:
            raise InputError(f"{values}: too few known pixels to tell its range from")
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = (float(value) for value in np.percentile(sample_N, (cut, 100 - cut)))
            room = _HEADROOM * (high - low)
            if high == low:
                # Constant but for what is cut. In the narrowest span there is, whatever a model makes of it
                # comes back as the constant; in a wider one its errors would show, in units unknown to it.
                high = float(np.nextafter(low, np.inf))
        lows.append(low - room)
        highs.append(high + room)
        if not np.isfinite([lows[-1], highs[-1], highs[-1] - lows[-1]]).all():
            raise InputError(
                f"{values}: known values reach from {sample_N.min():g} to {sample_N.max():g}, too far to "
                "count with; mark those that mean no data, by gdal_edit -a_nodata or a mask"
            )
    return Scaling(tuple(lows), tuple(highs))


def _sample(values: Path, classes: Path, bands: Sequence[int]) -> NDArray[Any]:
    """Known pixels on a regular grid: values_CN.

    Read at full resolution: a pixel of an overview need not be of the class that is read beside it.
    """
    sample = []
    with open_raster(values) as scene, open_raster(classes) as known, reading(values):
        step = max(1, scene.height // _SAMPLE), max(1, scene.width // _SAMPLE)
        for box in stored_blocks(scene):
            every = np.s_[..., -box.top % step[0] :: step[0], -box.left % step[1] :: step[1]]
            known_HW = known.read(1, window=box.window())[every] == PixelClass.KNOWN
            if known_HW.any():
                sample.append(scene.read(list(bands), window=box.window())[every][:, known_HW])
    return np.concatenate(sample, axis=1) if sample else np.empty((len(bands), 0))


def full_scaling(values: Path, classes: Path, bands: Sequence[int]) -> Scaling:
    """A scaling by the range of the raster's type from 0 on: to 255, 65,535, 32,767 of int16; 1 of floats.

    Looks for values below 0 where :func:`percentile_scaling` looks.

    Args:
        values: The scene.
        classes: Its class raster.
        bands: Numbers of its bands, from 1.

    Raises:
        InputError: The scene cannot be read; or its type is signed and of more than 16 bits, or known values
            are below 0, so that its full range says nothing.
    """
    with open_raster(values) as scene:
        kinds = [np.dtype(scene.dtypes[band - 1]) for band in bands]
    for kind in kinds:
        if kind.kind == "i" and kind.itemsize > 2:
            raise InputError(f"{values}: values of {kind} have no natural range; leave --stretch out")
    if any(kind.kind == "i" for kind in kinds):
        least = _sample(values, classes, bands).min(initial=0)
        if least < 0:
            raise InputError(
                f"{values}: known values reach down to {least}, and the full range begins at 0; leave "
                "--stretch out"
            )
    highs = tuple(float(np.iinfo(kind).max) if kind.kind in "ui" else 1.0 for kind in kinds)
    return Scaling((0.0,) * len(highs), highs)
