"""Another raster, read pixel by pixel of a scene's grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from igll.data.gdal_names import file_name
from igll.errors import InputError
from igll.geo.box import Box
from igll.geo.missing_values import BoolArray, data_bands, missing_values
from igll.geo.raster import open_raster, raster_errors, reading

# In pixels of the other raster; 0 would be exact, but GDAL's virtual warping does not take it.
_WARP_TOLERANCE = 1e-3
_SAME_GRID = 0.01  # grids that differ by less than this part of a pixel are one

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class AlignedRaster:
    """A raster as seen on a scene's grid.

    Attributes:
        path: The file.
        source: The open file on its own grid, without alpha.
        bands: Its data bands.
        on_grid: What is read for pixels of the scene: ``source`` itself or a virtual warp of it.
        trusts_nodata: Whether the file's own nodata values count as "no data".
    """

    path: Path
    source: Any
    bands: tuple[int, ...]
    on_grid: Any
    trusts_nodata: bool

    def read(self, box: Box) -> tuple[npt.NDArray[Any], BoolArray]:
        """Values of all bands and where there are any, both (bands, height, width)."""
        with reading(self.path):
            values = self.on_grid.read(self.bands, window=box.window())
            if self.on_grid is self.source and not self.trusts_nodata:
                return values, np.ones(values.shape, dtype=np.bool_)
            return values, ~missing_values(self.on_grid, self.bands, box)


@contextmanager
def aligned(path: Path, scene: Any, trusts_nodata: bool) -> Iterator[AlignedRaster]:
    """Open a raster to be read on the grid of a scene.

    A raster of another CRS, transform or size is resampled by nearest neighbour. If it or the scene has no
    CRS, both must have the same size and are laid on each other pixel by pixel. An alpha band is passed
    over.

    Args:
        path: The raster.
        scene: The open rasterio dataset of the scene.
        trusts_nodata: Whether its nodata values count as "no data"; outside its extent there is none in
            any case.

    Raises:
        InputError: The raster cannot be read, does not overlap the scene, or the two cannot be aligned.
    """
    with ExitStack() as stack:
        source = stack.enter_context(open_raster(path))
        bands = data_bands(source)
        if len(bands) < source.count:
            listed = ",".join(map(str, bands))
            if "?" in str(path):
                raise InputError(f"{path}: has an alpha band, and a name that GDAL cuts at its ?; rename it")
            source = stack.enter_context(open_raster(f"vrt://{file_name(path)}?bands={listed}"))
            bands = tuple(source.indexes)
        on_grid = source
        if not _same_grid(source, scene, path):
            _check_overlap(source, scene, path)
            with reading(path):
                on_grid = stack.enter_context(_warped(source, scene, trusts_nodata))
        yield AlignedRaster(path, source, bands, on_grid, trusts_nodata)


def bounds_of(dataset: Any) -> Bounds:
    """West, south, east and north of a raster's corners, also of a rotated one."""
    corners = [placed(dataset.transform, x, y) for x in (0, dataset.width) for y in (0, dataset.height)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def placed(transform: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Where an affine transform puts points, numbers or arrays; versions of its library differ in how."""
    return (
        transform.a * x + transform.b * y + transform.c,
        transform.d * x + transform.e * y + transform.f,
    )


def short_crs(crs: Any) -> str:
    """A CRS in few words."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else " ".join(crs.to_string().split())[:40]


def why_no_crs(scene: Any) -> str:
    """What a scene without CRS is placed by instead, in words: nothing, or what needs warping first."""
    placed_by = "control points" if scene.gcps[0] else "RPCs" if scene.rpcs else None
    if placed_by is None:
        return "the scene has no CRS to place it by"
    return f"the scene is placed by {placed_by} alone, which align nothing before it is warped"


def _same_grid(source: Any, scene: Any, path: Path) -> bool:
    same_size = source.shape == scene.shape
    if source.crs is None or scene.crs is None:
        if same_size:
            return True
        sizes = f"{source.width}×{source.height} pixels, the scene {scene.width}×{scene.height}"
        if scene.crs is None:
            raise InputError(f"{path}: {sizes}, and {why_no_crs(scene)}; give a file of the scene's size")
        raise InputError(
            f"{path}: {sizes}, and it has no CRS to align them by; give a georeferenced file or one of "
            "equal size"
        )
    if not same_size or source.crs != scene.crs:
        return False
    corners = np.array([(0, 0), (source.width, 0), (0, source.height)])
    on_scene = placed(~scene.transform, *placed(source.transform, *corners.T))
    return bool(np.allclose(np.stack(on_scene, axis=1), corners, rtol=0, atol=_SAME_GRID))


def _check_overlap(source: Any, scene: Any, path: Path) -> None:
    from rasterio.warp import transform_bounds

    own, ground = bounds_of(source), bounds_of(scene)
    try:
        west, south, east, north = transform_bounds(source.crs, scene.crs, *own)
    except raster_errors():
        west = south = east = north = np.inf
    if np.isfinite((west, south, east, north)).all():
        # West of east is how bounds across the antimeridian are given; those are left to the pixels.
        beside = west <= east and (east <= ground[0] or west >= ground[2])
        if not beside and north > ground[1] and south < ground[3]:
            return
    raise InputError(
        f"{path}: does not overlap the scene ({short_crs(source.crs)} {_rounded(own)}, scene "
        f"{short_crs(scene.crs)} {_rounded(ground)}); check both files' CRS"
    )


def _rounded(bounds: Bounds) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in bounds) + "]"


def _warped(source: Any, scene: Any, trusts_nodata: bool) -> Any:
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    ignoring = {} if trusts_nodata else {"src_nodata": None}
    return WarpedVRT(
        source,
        crs=scene.crs,
        transform=scene.transform,
        width=scene.width,
        height=scene.height,
        resampling=Resampling.nearest,
        tolerance=_WARP_TOLERANCE,
        add_alpha=True,  # 0 outside the raster's extent and where it has no data
        **ignoring,
    )
