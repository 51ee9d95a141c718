"""Finding out what is missing in a scene, and writing it down beside it, window by window."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from tqdm import tqdm

from igll.errors import InputError
from igll.geo.box import Box, stored_blocks, strips
from igll.geo.clouds import CloudRule
from igll.geo.footprint import Footprint
from igll.geo.gdal_session import gdal_session
from igll.geo.grid import aligned
from igll.geo.mask_files import VECTOR_SUFFIXES, RasterMask, VectorMask
from igll.geo.missing_values import BoolArray, data_bands, missing_values
from igll.geo.pixel_class import PixelClass
from igll.geo.quality import QualityFlags, parse_quality_flags
from igll.geo.raster import open_quietly, open_raster, reading
from igll.storage import replacing

ClassArray = npt.NDArray[np.uint8]
Marker = Callable[[Box], BoolArray]

LARGEST_DILATION = 512
_TILE = 512
_SWATH = 2048  # columns of which distances are computed at a time
_BAND = "band:"


@dataclass(frozen=True)
class HoleSources:
    """Where to learn what is to be filled; what several sources say is united.

    Attributes:
        masks: A mask raster of any driver and grid, or a vector file (``VECTOR_SUFFIXES``).
        hole: What marks a pixel of a mask raster: 'white', 'black' or 'nonzero'. None = 'nonzero'.
        quality: Path of a quality raster, or 'band:N' for band N of the scene itself.
        quality_flags: What marks a pixel there, see ``igll.geo.quality.parse_quality_flags``.
        clouds: Whether to mark what the rule of ``igll.geo.clouds`` takes for cloud.
        nodata: Whether to fill what the raster itself gives as missing. None = if there is no other source.
        collar: Whether missing pixels outside the convex hull of the complete ones stay as they are
            ('keep') or count as gaps ('fill').
        dilate: Pixels by which holes and gaps grow, as a disc: Euclidean distance at most this.

    Raises:
        InputError: A value is unknown, out of range or lacks its counterpart.
    """

    masks: Path | None = None
    hole: str | None = None
    quality: str | None = None
    quality_flags: str | None = None
    clouds: bool = False
    nodata: bool | None = None
    collar: Literal["keep", "fill"] = "keep"
    dilate: int = 0

    def __post_init__(self) -> None:
        if self.collar not in ("keep", "fill"):
            raise InputError(f"collar {self.collar!r} is unknown; choose keep or fill")
        if not 0 <= self.dilate <= LARGEST_DILATION:
            raise InputError(f"dilate is {self.dilate}; give 0 to {LARGEST_DILATION} pixels")
        if (self.quality is None) != (self.quality_flags is None):
            given, lacks = "quality", "quality flags, such as landsat-c2, sentinel2-scl, bits:3 or values:8,9"
            if self.quality is None:
                given, lacks = "quality flags", "a quality raster, or band:N for a band of the scene"
            raise InputError(f"{given} are given without {lacks}")
        if self.hole is not None and (self.masks is None or self._masks_are_shapes):
            raise InputError(f"hole {self.hole!r} says how to read a mask raster, and none is given")
        _ = self.flags, self.quality_band  # a mistake in them is told before a file is opened

    @property
    def flags(self) -> QualityFlags | None:
        """``quality_flags``, parsed."""
        return None if self.quality_flags is None else parse_quality_flags(self.quality_flags)

    @property
    def quality_band(self) -> int | None:
        """The scene's band of quality flags, counted from 1, if it is one."""
        if self.quality is None or not self.quality.startswith(_BAND):
            return None
        number = self.quality[len(_BAND) :]
        if not (number.isascii() and number.isdigit()):
            raise InputError(f"quality {self.quality!r}: give band:N with the number of a band, from 1")
        return int(number)

    @property
    def fills_nodata(self) -> bool:
        """Whether the raster's own missing pixels are filled, with None decided."""
        if self.nodata is None:
            return self.masks is None and self.quality is None and not self.clouds
        return self.nodata

    @property
    def _masks_are_shapes(self) -> bool:
        return self.masks is not None and Path(self.masks).suffix.lower() in VECTOR_SUFFIXES

    def bands(self, dataset: Any) -> tuple[int, ...]:
        """The scene's bands that hold measurements, counted from 1: neither alpha nor quality.

        Args:
            dataset: The open rasterio dataset of the scene.

        Raises:
            InputError: There is none, or the quality band is not among the scene's bands.
        """
        band = self.quality_band
        if band is not None and band not in dataset.indexes:
            raise InputError(
                f"quality {self.quality!r}: {dataset.name} has bands 1 to {dataset.count}; choose one of them"
            )
        bands = data_bands(dataset, band)
        if not bands:
            raise InputError(f"{dataset.name}: no band holds measurements; there is nothing to fill")
        return bands


@dataclass(frozen=True)
class ClassCounts:
    """Number of pixels of each ``PixelClass``."""

    known: int
    hole: int
    gap: int
    void: int


def write_classes(scene: Path, sources: HoleSources, out: Path, progress: bool = True) -> ClassCounts:
    """Write what is known, to be filled and to be left of a scene, as values of ``PixelClass``.

    - A pixel that a mask, quality flag or the cloud rule marks is HOLE, whatever the raster says of it.
    - A pixel that lacks a value in one data band or more (see ``missing_values``) is else GAP if such
      pixels are filled; with ``collar="keep"`` it is VOID if it lies outside the convex hull of the pixels
      complete in all bands. If they are not filled it is VOID.
    - With ``dilate``, KNOWN pixels near a HOLE or GAP become HOLE, as what was measured at a cloud's or
      gap's rim is not to be trusted; GAP stays GAP and VOID stays VOID.

    Memory does not grow with the scene but for its width. For the while, a nameless file of one byte per
    pixel lies in the folder of ``out``.

    Args:
        scene: The raster, georeferenced or not.
        sources: Where to learn what is missing.
        out: The class raster: GeoTIFF of one uint8 band in tiles of 512×512, DEFLATE, with the scene's
            size, CRS and transform. Nothing of that name appears if anything fails.
        progress: Whether to show a bar.

    Raises:
        InputError: A file cannot be read or does not fit the scene, or no pixel is known.
        OutputError: ``out`` cannot be written.
    """
    with ExitStack() as stack:
        stack.enter_context(gdal_session())
        dataset = stack.enter_context(open_raster(scene))
        bands = sources.bands(dataset)
        markers = _open_markers(stack, dataset, scene, sources, bands)
        temporary = stack.enter_context(replacing(out))
        raw = stack.enter_context(TemporaryFile(dir=temporary.parent))
        total = 2 * len(list(strips(*dataset.shape)))
        bar = stack.enter_context(tqdm(total=total, desc="find holes", unit="strip", disable=not progress))
        footprint = _find(dataset, scene, sources, bands, markers, raw, bar)
        counts = _finish(dataset, raw, footprint, sources.dilate, temporary, bar)
        if not counts.known:
            raise InputError(f"{scene}: {_why_nothing_is_known(dataset, scene, sources, bands)}")
    return counts


def _why_nothing_is_known(dataset: Any, scene: Path, sources: HoleSources, bands: tuple[int, ...]) -> str:
    """What to say of a scene without a known pixel, and what to look at."""
    has_value_C = np.zeros(len(bands), dtype=np.bool_)
    for box in stored_blocks(dataset):
        with reading(scene):
            has_value_C |= ~missing_values(dataset, bands, box).all(axis=(1, 2))
    if has_value_C.any() and not has_value_C.all():
        empty = ", ".join(str(bands[place]) for place in np.flatnonzero(~has_value_C))
        return f"band {empty} has no value anywhere; leave it out first: gdal_translate -b for all others"
    cause = " once holes are dilated" if sources.dilate else ""
    marking = [
        *([f"{sources.masks} and what marks a hole there"] if sources.masks else []),
        *([f"{sources.quality} and the flags '{sources.quality_flags}'"] if sources.quality else []),
        *(["the rule for clouds"] if sources.clouds else []),
    ]
    advice = f"; check {', '.join(marking)}" if marking and has_value_C.all() else ""
    return f"every pixel is missing{cause}, so nothing is known to fill from{advice}"


def _open_markers(
    stack: ExitStack, dataset: Any, scene: Path, sources: HoleSources, bands: tuple[int, ...]
) -> list[Marker]:
    """One function per explicit source that says which pixels of an area it marks."""
    markers: list[Marker] = []
    if sources.masks is not None:
        path = Path(sources.masks)
        if path.suffix.lower() in VECTOR_SUFFIXES:
            markers.append(VectorMask(path, dataset).marked)
        else:
            raster = stack.enter_context(aligned(path, dataset, trusts_nodata=True))
            markers.append(RasterMask(raster, sources.hole or "nonzero").marked)
    if sources.quality is not None:
        markers.append(_quality_marker(stack, dataset, scene, sources))
    if sources.clouds:
        markers.append(CloudRule(dataset, scene, bands).marked)
    return markers


def _quality_marker(stack: ExitStack, dataset: Any, scene: Path, sources: HoleSources) -> Marker:
    flags, band = sources.flags, sources.quality_band
    assert flags is not None and sources.quality is not None  # noqa: S101 - checked when sources are made
    if band is not None:
        _check_integers(scene, dataset.dtypes[band - 1])

        def marked_in_scene(box: Box) -> BoolArray:
            with reading(scene):
                return flags.marked(dataset.read(band, window=box.window()))

        return marked_in_scene
    # A product may declare a flag's value as nodata ("fill"), which a user can ask for.
    raster = stack.enter_context(aligned(Path(sources.quality), dataset, trusts_nodata=False))
    if len(raster.bands) != 1:
        raise InputError(f"{raster.path}: a quality raster has one band and this has {len(raster.bands)}")
    _check_integers(raster.path, raster.source.dtypes[0])

    def marked_in_file(box: Box) -> BoolArray:
        values, valid = raster.read(box)
        return flags.marked(values[0]) & valid[0]

    return marked_in_file


def _check_integers(path: Path, dtype: str) -> None:
    if not np.issubdtype(np.dtype(dtype), np.integer):
        raise InputError(f"{path}: quality flags are integers and this band is {dtype}; give the original")


def _find(
    dataset: Any,
    scene: Path,
    sources: HoleSources,
    bands: tuple[int, ...],
    markers: list[Marker],
    raw: IO[bytes],
    bar: tqdm[Any],
) -> Footprint | None:
    """Write the classes as the sources give them, row by row, without collar and dilation.

    Returns:
        The hull beyond which a gap is void, None if all are to be filled or none.
    """
    keeps_collar = sources.fills_nodata and sources.collar == "keep"
    footprint = Footprint(*dataset.shape) if keeps_collar else None
    lacking = PixelClass.GAP if sources.fills_nodata else PixelClass.VOID
    for strip in strips(*dataset.shape):
        classes = np.empty((strip.height, strip.width), dtype=np.uint8)
        for box in stored_blocks(dataset, strip):
            with reading(scene):
                missing: BoolArray = np.any(missing_values(dataset, bands, box), axis=0)
            if footprint is not None:
                footprint.add(np.logical_not(missing), box)
            part = np.where(missing, np.uint8(lacking), np.uint8(PixelClass.KNOWN))
            for marked in markers:
                part[marked(box)] = PixelClass.HOLE
            classes[box.within(strip)] = part
        raw.write(classes.tobytes())
        bar.update()
    return footprint


def _finish(
    dataset: Any, raw: IO[bytes], footprint: Footprint | None, dilate: int, out: Path, bar: tqdm[Any]
) -> ClassCounts:
    """Write the final classes from the raw ones: collar, then dilation."""
    counts = np.zeros(len(PixelClass), dtype=np.int64)
    with _class_raster(out, dataset) as target:
        for strip in strips(*dataset.shape):
            wide = strip.grown(dilate, *dataset.shape)
            raw.seek(wide.top * wide.width)
            content = bytearray(raw.read(wide.height * wide.width))
            classes = np.frombuffer(content, dtype=np.uint8).reshape(wide.height, wide.width)
            if footprint is not None and (classes == PixelClass.GAP).any():
                classes[(classes == PixelClass.GAP) & ~footprint.inside(wide)] = PixelClass.VOID
            if dilate:
                classes = _grown(classes, strip.within(wide)[1], dilate)
            target.write(classes, 1, window=strip.window())
            counts += np.bincount(classes.ravel(), minlength=len(PixelClass))
            bar.update()
    _check_written(out, counts)
    return ClassCounts(**{kind.name.lower(): int(counts[kind]) for kind in PixelClass})


def _check_written(path: Path, counts: npt.NDArray[np.int64]) -> None:
    """Read a class raster once more: GDAL keeps quiet about what it could not write when it was closed."""
    try:
        with open_raster(path) as dataset:
            for strip in strips(*dataset.shape):
                classes = dataset.read(1, window=strip.window())
                counts = counts - np.bincount(classes.ravel(), minlength=len(PixelClass))
    except InputError as error:
        raise OSError("it does not open again; is the disk full?") from error
    if counts.any():
        raise OSError("it does not read back as written; is the disk full?")


def _grown(classes: ClassArray, rows: slice, pixels: int) -> ClassArray:
    """Some rows of ``classes`` with holes and gaps grown into known pixels."""
    grown = classes[rows].copy()
    for left in range(0, classes.shape[1], _SWATH):
        first, right = max(0, left - pixels), left + _SWATH
        swath = classes[:, first : right + pixels]
        marked = (swath == PixelClass.HOLE) | (swath == PixelClass.GAP)
        if not marked.any():
            continue
        near = ndimage.distance_transform_edt(~marked) <= pixels
        core = grown[:, left:right]
        core[near[rows, left - first : right - first] & (core == PixelClass.KNOWN)] = PixelClass.HOLE
    return grown


def _class_raster(path: Path, scene: Any) -> Any:
    place = {"crs": scene.crs, "transform": scene.transform}
    if scene.gcps[0]:
        place = dict(zip(("gcps", "crs"), scene.gcps, strict=True))
    return open_quietly(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=1,
        width=scene.width,
        height=scene.height,
        tiled=True,
        blockxsize=_TILE,
        blockysize=_TILE,
        compress="deflate",
        bigtiff="if_safer",
        rpcs=scene.rpcs,
        **place,
    )
