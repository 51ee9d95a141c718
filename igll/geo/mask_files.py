"""Masks that a user gives beside a scene, as a raster or as shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from igll.data.files import HOLE_COLOURS
from igll.data.gdal_names import vector_file_name
from igll.errors import InputError
from igll.geo.box import Box, stored_blocks
from igll.geo.grid import AlignedRaster, bounds_of, placed, short_crs, why_no_crs
from igll.geo.missing_values import BoolArray, missing_values
from igll.geo.raster import one_line, raster_errors, reading

VECTOR_SUFFIXES = (".geojson", ".json", ".geojsonl", ".gpkg", ".shp", ".fgb", ".gml", ".kml")
_LUMINANCE = (19595, 38470, 7471)  # ITU-R BT.601 in 65,536ths, as Pillow has them
_FULL_RANGES = (1, 255, 65535)
_GRAIN = 1e6  # shapes are placed to a millionth of a pixel, so that the window does not sway rounding


class RasterMask:
    """Pixels that a mask raster marks.

    The conventions are those of ``igll.data.files.read_mask``, for a mask of any size:

    - ``hole="nonzero"``: any band other than 0 marks.
    - ``"white"``, ``"black"``: luminance (of one band, or of three as red, green, blue) above the middle
      of the file's range, or not above. The range is 0 ... 1, 0 ... 255 or 0 ... 65,535, the smallest that
      holds the whole file's values.

    Of a palette the colours count as white and black, and the indices as nonzero: those are often labels.
    A band that is NaN, infinite or nodata marks nothing.

    Args:
        raster: The mask, on the scene's grid.
        hole: One of ``HOLE_COLOURS``.

    Raises:
        InputError: The colour is unknown, or the file's values do not fit it.
    """

    def __init__(self, raster: AlignedRaster, hole: str) -> None:
        if hole not in HOLE_COLOURS:
            raise InputError(f"hole colour {hole!r} is unknown; choose one of {', '.join(HOLE_COLOURS)}")
        self._raster, self._hole = raster, hole
        self._palette_I = None if hole == "nonzero" else _palette(raster)
        self._full = 0 if hole == "nonzero" else 255 if self._palette_I is not None else self._full_range()

    def marked(self, box: Box) -> BoolArray:
        """Whether pixels are holes: (height, width)."""
        values, valid = self._raster.read(box)
        if self._hole == "nonzero":
            return ((values != 0) & valid).any(axis=0)
        grey = _luminance(values)
        white = (grey if self._palette_I is None else self._palette_I[grey]) > self._full / 2
        return (white if self._hole == "white" else ~white) & valid.all(axis=0)

    def _full_range(self) -> int:
        path, source, bands = self._raster.path, self._raster.source, self._raster.bands
        if len(bands) not in (1, 3):
            raise InputError(
                f"{path}: hole {self._hole!r} needs a mask of one or three bands and this has {len(bands)}; "
                f"use hole 'nonzero'"
            )
        lowest, brightest = 0.0, 0.0
        for box in stored_blocks(source):
            with reading(path):
                values = _luminance(source.read(bands, window=box.window()))
                values = values[~missing_values(source, bands, box).any(axis=0)]
            if values.size:
                lowest, brightest = min(lowest, values.min()), max(brightest, values.max())
        full = next((full for full in _FULL_RANGES if brightest <= full), None)
        if full is None or lowest < 0:
            raise InputError(
                f"{path}: mask values span {lowest:g} to {brightest:g}; save the mask with 8 or 16 bits"
            )
        if full > 1 and brightest <= full / 2:
            raise InputError(
                f"{path}: the brightest mask value is {brightest:g} of {full}, so nothing is white; "
                f"use 0 and {full}, or hole 'nonzero' for labels"
            )
        return full


class VectorMask:
    """Pixels that shapes touch, of a vector file of one layer.

    Points and lines count too. A file without CRS is taken to be in the scene's.

    Args:
        path: The file.
        scene: The open rasterio dataset of the scene.

    Raises:
        InputError: The file cannot be read or reprojected, has no shape in the scene or several layers with
            shapes; the scene has no CRS; pyogrio or shapely is not installed.
    """

    def __init__(self, path: Path, scene: Any) -> None:
        try:
            import pyogrio  # noqa: F401 - only to know that it is there
            import shapely
        except ImportError as error:
            raise InputError(
                f'{path}: vector files need the packages pyogrio and shapely; pip install "igll[geo]"'
            ) from error
        if scene.crs is None:
            raise InputError(f"{path}: {why_no_crs(scene)}; give a mask raster of its size")
        shapes = _read_shapes(path, scene)
        shapes = shapely.transform(shapes, lambda xy: _to_pixels(xy, scene.transform))
        frame = shapely.box(0, 0, scene.width, scene.height)
        self._shapes = shapes[shapely.STRtree(shapes).query(frame)]
        if not self._shapes.size:
            raise _nothing_inside(path, scene)
        self._tree = shapely.STRtree(self._shapes)

    def marked(self, box: Box) -> BoolArray:
        """Whether pixels are touched by a shape: (height, width)."""
        import shapely
        from rasterio.features import rasterize
        from rasterio.transform import Affine

        near = self._tree.query(shapely.box(box.left - 1, box.top - 1, box.right + 1, box.bottom + 1))
        if not near.size:
            return np.zeros((box.height, box.width), dtype=np.bool_)
        burned = rasterize(
            self._shapes[np.sort(near)],
            out_shape=(box.height, box.width),
            transform=Affine.translation(box.left, box.top),
            all_touched=True,
            dtype="uint8",
        )
        return burned != 0


def _palette(raster: AlignedRaster) -> npt.NDArray[Any] | None:
    """Luminance of each index of a raster's colour table; None if it has none."""
    from rasterio.enums import ColorInterp

    source = raster.source
    if source.count != 1 or source.colorinterp[0] != ColorInterp.palette:
        return None
    colours_I3 = np.zeros((np.iinfo(source.dtypes[0]).max + 1, 3), dtype=np.uint8)
    for index, colour in source.colormap(1).items():
        colours_I3[index] = colour[:3]
    return _luminance(colours_I3.T[:, None])[0]


def _luminance(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Grey of one band or of red, green and blue: (bands, height, width) -> (height, width)."""
    if len(values) == 1:
        return values[0]
    weighted = np.tensordot(np.array(_LUMINANCE, dtype=np.float64), values.astype(np.float64), axes=1) / 65536
    return np.floor(weighted + 0.5) if np.issubdtype(values.dtype, np.integer) else weighted


def _read_shapes(path: Path, scene: Any) -> npt.NDArray[np.object_]:
    """Single shapes that may lie in the scene, in its CRS."""
    import pyogrio
    import shapely
    from pyogrio.errors import DataLayerError, DataSourceError
    from rasterio.crs import CRS
    from rasterio.warp import transform, transform_bounds

    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    source = vector_file_name(path)
    try:
        names = [str(name) for name, geometry in pyogrio.list_layers(source) if geometry is not None]
        if len(names) > 1:
            raise InputError(
                f"{path}: holds the layers {', '.join(names)}; save the one that marks holes in a file of "
                f"its own: ogr2ogr -f GeoJSON mask.geojson {path} {names[0]}"
            )
        name = names[0] if names else 0
        layer = pyogrio.read_info(source, layer=name)
        crs = CRS.from_user_input(layer["crs"]) if layer["crs"] else scene.crs
        west, south, east, north = transform_bounds(scene.crs, crs, *bounds_of(scene))
        # West of east is how bounds across the antimeridian are given; then the whole file is read.
        nearby = None if west > east else (west, south, east, north)
        _, _, encoded, _ = pyogrio.raw.read(source, layer=name, columns=[], force_2d=True, bbox=nearby)
    except (DataSourceError, DataLayerError) as error:
        raise InputError(f"{path}: cannot be read as a vector file ({one_line(error)})") from error
    except raster_errors() as error:
        raise InputError(f"{path}: its CRS cannot be related to the scene's ({one_line(error)})") from error
    if encoded is None:
        raise InputError(f"{path}: has no layer with shapes; give a file that has one")
    try:
        shapes = shapely.get_parts(shapely.from_wkb([code for code in encoded if code is not None]))
    except shapely.GEOSException as error:
        raise InputError(f"{path}: holds a shape that is none ({one_line(error)}); mend it") from error
    shapes = shapes[~shapely.is_empty(shapes)]
    if not shapes.size:
        raise _nothing_inside(path, scene)
    if crs != scene.crs:
        shapes = shapely.transform(
            shapes, lambda xy: np.stack(transform(crs, scene.crs, xy[:, 0], xy[:, 1]), axis=1)
        )
    if not np.isfinite(shapely.bounds(shapes)).all():
        raise InputError(
            f"{path}: a shape reaches where {short_crs(scene.crs)} is not defined; cut it to the scene"
        )
    return shapes


def _to_pixels(xy: npt.NDArray[np.float64], transform: Any) -> npt.NDArray[np.float64]:
    column, row = placed(~transform, xy[:, 0], xy[:, 1])
    return np.round(np.stack((column, row), axis=1) * _GRAIN) / _GRAIN


def _nothing_inside(path: Path, scene: Any) -> InputError:
    return InputError(f"{path}: no shape lies in the scene ({short_crs(scene.crs)}); check the file's CRS")
