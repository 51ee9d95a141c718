"""Rasters with something of everything that GeoTIFF can say, and reading all of that back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.rpc import RPC

from igll.geo.pixel_class import PixelClass
from igll.geo.raster import open_quietly
from tests.geo.grounds import UTM, grid

HEIGHT, WIDTH = 150, 170
TAGS = {"IGLL_MODEL": "abc123", "IGLL_HOLE": "square"}
HOLE = (slice(40, 90), slice(30, 101))

Data = np.ndarray[Any, np.dtype[Any]]


def pixels(dtype: str, count: int = 3, seed: int = 0, limit: int | None = None) -> Data:
    """Noise over a slope over the whole range of a type, small values for floats."""
    rng = np.random.default_rng(seed)
    shape = (count, HEIGHT, WIDTH)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    high = info.max if limit is None else limit
    low = info.min if limit is None else 0
    return rng.integers(low, high, size=shape, endpoint=True, dtype=np.dtype(dtype))


def write_described(path: Path, data: Data, *, mask: Data | None = None, **profile: Any) -> Path:
    """A GeoTIFF with tags, scales, units and statistics (not if ``bare``), and whatever else is asked for."""
    settings: dict[str, Any] = {
        "driver": "GTiff", "count": len(data), "height": data.shape[1], "width": data.shape[2],
        "dtype": data.dtype, "crs": UTM, "transform": grid(),
    }  # fmt: skip
    extra = {key: profile.pop(key, None) for key in ("overviews", "colorinterp", "bare")}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with open_quietly(path, "w", **settings | profile) as raster:
            raster.write(data)
            if extra["colorinterp"]:
                raster.colorinterp = extra["colorinterp"]
            if mask is not None:
                raster.write_mask(mask)
            if not extra["bare"]:
                _describe(raster)
        if extra["overviews"]:
            with open_quietly(path, "r+") as raster:
                raster.build_overviews(extra["overviews"], Resampling.average)
    return path


def _describe(raster: Any) -> None:
    raster.scales = [0.5 * band for band in raster.indexes]
    raster.offsets = [10.0 * band for band in raster.indexes]
    raster.units = ["W/m2"] * raster.count
    raster.descriptions = [f"band {band}" for band in raster.indexes]
    raster.update_tags(TIFFTAG_SOFTWARE="camera", TIFFTAG_XRESOLUTION="300", AREA_OR_POINT="Point", SUN="42")
    raster.update_tags(ns="IMD", numRows="150")
    raster.update_tags(ns="MY_DOMAIN", key="value = 1; ü")
    for band in raster.indexes:
        raster.update_tags(band, wavelength=f"{band}00", STATISTICS_MEAN="3", STATISTICS_MAXIMUM="9")
        raster.update_tags(band, ns="MY_DOMAIN", band=str(band))


def square_hole(shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Data:
    classes_HW = np.full(shape, PixelClass.KNOWN, np.uint8)
    classes_HW[HOLE] = PixelClass.HOLE
    return classes_HW


def tell(path: Path, **options: Any) -> dict[str, Any]:
    """Everything that rasterio says of a raster beside its pixels, statistics and file structure aside."""
    with open_quietly(path, **options) as raster:
        domains = [d for d in raster.tag_namespaces() if d not in ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS")]
        points, points_crs = raster.gcps
        return {
            "profile": {k: v for k, v in raster.profile.items() if k != "nodata"},
            "nodata": repr(raster.nodatavals),
            "tags": raster.tags(),
            "domains": {domain: raster.tags(ns=domain) for domain in sorted(domains)},
            "structure": raster.tags(ns="IMAGE_STRUCTURE"),
            "bands": [_tell_band(raster, band) for band in raster.indexes],
            "gcps": [(p.row, p.col, p.x, p.y, p.z, p.id, p.info) for p in points],
            "gcps crs": points_crs,
            "rpcs": raster.rpcs and raster.rpcs.to_gdal(),
            "overviews": [raster.overviews(band) for band in raster.indexes],
            "masks": raster.mask_flag_enums,
            "photometric": raster.photometric,
        }


def _tell_band(raster: Any, band: int) -> dict[str, Any]:
    at = band - 1
    return {
        "tags": {k: v for k, v in raster.tags(band).items() if not k.startswith("STATISTICS_")},
        "domains": {ns: raster.tags(band, ns=ns) for ns in raster.tag_namespaces(band)},
        "scale": (raster.scales[at], raster.offsets[at], raster.units[at], raster.descriptions[at]),
        "colour": raster.colorinterp[at],
        "colormap": raster.colormap(band) if raster.colorinterp[at] == ColorInterp.palette else None,
    }


def control_points() -> list[GroundControlPoint]:
    corners = [(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH)]
    return [
        GroundControlPoint(row=r, col=c, x=5e5 + 10 * c + r, y=5e6 - 10 * r, z=3, id=str(number), info="")
        for number, (r, c) in enumerate(corners)
    ]


def coefficients() -> RPC:
    line = [float(n) / 7 for n in range(20)]
    return RPC(
        height_off=100, height_scale=500, lat_off=45.5, lat_scale=0.1, line_den_coeff=line,
        line_num_coeff=line, line_off=75, line_scale=75, long_off=3.5, long_scale=0.1,
        samp_den_coeff=line, samp_num_coeff=line, samp_off=85, samp_scale=85, err_bias=1, err_rand=2,
    )  # fmt: skip
