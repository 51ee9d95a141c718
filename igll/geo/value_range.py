"""Which values a band of a raster can hold, and rounding to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HALF_BITS = 16


@dataclass(frozen=True)
class ValueRange:
    """The values that one band of a raster can hold.

    Attributes:
        dtype: Type of its pixels.
        nodata: Value that means none.
        bits: Bits that the file keeps of each pixel where that is less than the type has (``NBITS``).
    """

    dtype: np.dtype[Any]
    nodata: float | None = None
    bits: int | None = None

    @property
    def _stored(self) -> np.dtype[Any]:
        half = self.dtype.kind == "f" and self.bits == _HALF_BITS
        return np.dtype(np.float16) if half else self.dtype

    @property
    def highest(self) -> float:
        """The largest finite value."""
        if self.dtype.kind == "f":
            return float(np.finfo(self._stored).max)
        if self.bits is not None:
            return float(2**self.bits - 1)
        top = np.iinfo(self.dtype).max
        # The largest 64-bit integers have no float64 of their own.
        return float(top) if int(float(top)) <= top else float(np.nextafter(float(top), 0))

    @property
    def lowest(self) -> float:
        """The smallest finite value."""
        return -self.highest if self.dtype.kind == "f" else float(np.iinfo(self.dtype).min)

    def hold(self, values: NDArray[np.float64]) -> NDArray[Any]:
        """The nearest values that the band can hold and that do not mean none.

        Args:
            values: Finite values of any shape, in the band's units.

        Returns:
            Values of the same shape and of the band's type.
        """
        if self.dtype.kind != "f":
            values = np.rint(values)
        held = np.clip(values, self.lowest, self.highest).astype(self._stored)
        if self.nodata is None or np.isnan(self.nodata):
            return held.astype(self.dtype)
        held[self._means_none(held)] = self._beside_nodata()
        return held.astype(self.dtype)

    def _means_none(self, held: NDArray[Any]) -> NDArray[np.bool_]:
        assert self.nodata is not None  # noqa: S101 - for the type checker
        if self._stored.kind != "f" or not np.isfinite(self.nodata):
            return held == self.nodata
        # GDAL takes floats within four of these steps for equal, and those whose sum is beyond the range.
        values = held.astype(np.float64)
        with np.errstate(over="ignore"):
            beyond = ~np.isfinite(held + self._stored.type(self.nodata))
            distance = np.abs(values - self.nodata)
        nearness = np.maximum(np.abs(values), abs(self.nodata)) * (4 * self._step)
        return (distance <= nearness) | beyond

    @property
    def _step(self) -> float:
        """The relative distance of neighbouring floats; GDAL compares those of 64 bits as if they had 32."""
        return max(float(np.finfo(self._stored).eps), float(np.finfo(np.float32).eps))

    def _beside_nodata(self) -> float:
        """The neighbour of the no-data value towards the middle of the range."""
        assert self.nodata is not None  # noqa: S101 - for the type checker
        if self.dtype.kind != "f":
            return self.nodata + (1 if self.nodata < (self.lowest + self.highest) / 2 else -1)
        if abs(self.nodata) < np.finfo(self._stored).tiny:
            return float(np.finfo(self._stored).tiny)
        if abs(self.nodata) > self.highest / 2:
            return self.nodata * float(np.finfo(self._stored).eps) / 8
        return self.nodata * (1 - 8 * self._step)
