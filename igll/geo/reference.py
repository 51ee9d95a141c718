"""Another image of the same place, on a scene's grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igll.errors import InputError
from igll.geo.box import Box
from igll.geo.levels import FACTOR
from igll.geo.missing_values import data_bands
from igll.geo.raster import open_raster, reading

_SAMPLE = 1024
# Per cent of the reference's values that are cut at either end.
_CUT = 0.5


class Reference:
    """Reads parts of a reference image as the scene's pixels see it.

    Band i of the scene is set beside band i of the reference; where the reference has fewer bands, beside
    its last one. Values are spread between the reference's own percentiles, as edges are looked for and not
    brightness.
    """

    def __init__(self, grid: Any, path: Path, bands: tuple[int, ...], limits_2C: NDArray[np.float64]) -> None:
        self._grid, self._path, self._bands, self._limits_2C = grid, path, bands, limits_2C

    def read(self, box: Box) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The reference's values in a part of the scene.

        Returns:
            unit_CHW in [0, 1], and missing_HW, where the reference has no value either.
        """
        with reading(self._path):
            values_CHW = self._grid.read(self._bands, window=box.window()).astype(np.float64)
            missing_HW = _missing(self._grid, values_CHW, window=box.window())
        low_C11, high_C11 = self._limits_2C[:, :, None, None]
        unit_CHW = ((values_CHW - low_C11) / (high_C11 - low_C11)).clip(0, 1).astype(np.float32)
        return np.where(missing_HW, np.float32(0), unit_CHW), missing_HW


@contextmanager
def open_reference(path: Path, scene: Path, count: int, level: int) -> Iterator[Reference]:
    """Open a reference image on a scene's grid.

    It is resampled bilinearly where grid or coordinate system differ; at coarser levels by averaging.

    Args:
        path: The reference.
        scene: The scene.
        count: Bands of the scene that are filled.
        level: Level of the scene, ``FACTOR`` times coarser each.

    Raises:
        InputError: It cannot be read, has no coordinate system while its size is another than the scene's,
            or lies elsewhere.
    """
    from affine import Affine
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    factor = FACTOR**level
    with open_raster(scene) as target, open_raster(path) as reference:
        same_size = (reference.width, reference.height) == (target.width, target.height)
        located = reference.crs is not None and target.crs is not None
        if not located and not same_size:
            raise InputError(
                f"{path}: {reference.width}×{reference.height} pixels without a common coordinate system do "
                f"not fit the scene's {target.width}×{target.height}; georeference both"
            )
        crs = target.crs if located else "EPSG:3857"
        transform = target.transform if located else Affine.identity()
        a, b, left, d, e, top = transform[:6]
        source = {} if located else {"src_crs": crs, "src_transform": transform}
        with WarpedVRT(
            reference,
            crs=crs,
            transform=Affine(a * factor, b * factor, left, d * factor, e * factor, top),
            width=-(-target.width // factor),
            height=-(-target.height // factor),
            resampling=Resampling.average if level else Resampling.bilinear,
            # 0 beyond the reference's extent, and where it has no value; one of its own is passed on.
            add_alpha=len(data_bands(reference)) == reference.count,
            **source,
        ) as grid:
            bands = data_bands(reference)
            shown = tuple(bands[min(place, len(bands) - 1)] for place in range(count))
            yield Reference(grid, path, shown, _limits(grid, path, shown))


def _missing(grid: Any, values_CHW: NDArray[np.float64], **where: Any) -> NDArray[np.bool_]:
    from rasterio.enums import ColorInterp

    alpha_HW = grid.read(grid.colorinterp.index(ColorInterp.alpha) + 1, **where)
    missing_HW: NDArray[np.bool_] = (alpha_HW == 0) | ~np.isfinite(values_CHW).all(0)
    return missing_HW


def _limits(grid: Any, path: Path, bands: tuple[int, ...]) -> NDArray[np.float64]:
    """Lower and upper percentile of each band where the reference overlaps the scene: limits_2C."""
    shape = (min(grid.height, _SAMPLE), min(grid.width, _SAMPLE))
    with reading(path):
        values_CHW = grid.read(bands, out_shape=(len(bands), *shape)).astype(np.float64)
        missing_HW = _missing(grid, values_CHW, out_shape=shape)
    if missing_HW.all():
        raise InputError(f"{path}: shows no part of the scene; check its place and coordinate system")
    low_C, high_C = np.percentile(values_CHW[:, ~missing_HW], (_CUT, 100 - _CUT), axis=1)
    return np.stack([low_C, np.where(high_C > low_C, high_C, low_C + 1)])
