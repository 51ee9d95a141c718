"""A simple rule for clouds: bright and white."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from igll.errors import InputError
from igll.geo.box import Box, stored_blocks
from igll.geo.missing_values import BoolArray, missing_values
from igll.geo.raster import reading

_BANDS = 3
_RANGE = (2, 98)  # percentiles of a band that become 0 and 1
_BRIGHT = 0.5
_SATURATION = 0.3
_SAMPLES = 1_000_000
_SPECK = np.ones((3, 3), dtype=np.bool_)
_REACH = 2  # pixels from which an opening by 3×3 draws


class CloudRule:
    """Marks what is bright and white in the first three bands that hold measurements.

    Each band is stretched so that its 2nd and 98th percentile in the scene become 0 and 1. A pixel is cloud
    if its darkest band exceeds 0.5 and its saturation, (max − min) / max, is below 0.3; an opening by 3×3
    then removes specks. Where one of the bands has no value there is no cloud.

    The rule knows neither shadows nor thin cirrus and takes snow, salt, sand and bright roofs for cloud.
    It is for scenes that are known to be cloudy: as it stretches what it is given, it marks the brightest
    ground of a cloudless one (0 to 25 % of the pixels of five such scenes). A product's quality band is
    better where there is one.

    Against another tool's masks of three cloudy scenes of 512×512 pixels, precision and recall are
    0.91 and 0.87 (Sentinel-2), 0.96 and 0.82 (Landsat 5), 0.97 and 0.73 (Landsat 7).

    Args:
        dataset: The open rasterio dataset of the scene.
        path: Its file, for errors.
        bands: Bands that hold measurements.

    Raises:
        InputError: There are fewer than three such bands, or the scene cannot be read.
    """

    def __init__(self, dataset: Any, path: Path, bands: tuple[int, ...]) -> None:
        if len(bands) < _BANDS:
            raise InputError(
                f"{path}: the cloud rule looks at three bands and this raster has {len(bands)}; "
                f"give a mask or a quality band instead"
            )
        self._dataset, self._path, self._bands = dataset, path, bands[:_BANDS]
        sample = self._sample()
        if not sample.size:
            sample = np.zeros((_BANDS, 1))
        low, high = np.percentile(sample, _RANGE, axis=1)
        self._low, self._span = low[:, None, None], (high - low)[:, None, None]

    def marked(self, box: Box) -> BoolArray:
        """Whether pixels are cloud: (height, width)."""
        wide = box.grown(_REACH, *self._dataset.shape)
        with reading(self._path):
            values = self._dataset.read(self._bands, window=wide.window())
            missing = missing_values(self._dataset, self._bands, wide).any(axis=0)
        if not (self._span > 0).all():  # a band of one value says nothing of brightness
            return np.zeros((box.height, box.width), dtype=np.bool_)
        with np.errstate(invalid="ignore"):  # NaN and infinities are missing
            stretched = (values - self._low) / self._span
            darkest, brightest = stretched.min(axis=0), stretched.max(axis=0)
            cloud = (darkest > _BRIGHT) & (brightest - darkest < _SATURATION * brightest) & ~missing
        opened: BoolArray = ndimage.binary_opening(cloud, _SPECK)
        return opened[box.within(wide)]

    def _sample(self) -> npt.NDArray[Any]:
        """Values of about a million pixels on a regular grid over the scene: (3, pixels)."""
        height, width = self._dataset.shape
        step = max(1, int(np.sqrt(height * width / _SAMPLES)))
        sample = []
        for box in stored_blocks(self._dataset):
            every = np.s_[:, -box.top % step :: step, -box.left % step :: step]
            with reading(self._path):
                values = self._dataset.read(self._bands, window=box.window())[every]
                missing = missing_values(self._dataset, self._bands, box)[every]
            sample.append(values[:, ~missing.any(axis=0)].astype(np.float64))
        return np.concatenate(sample, axis=1)
