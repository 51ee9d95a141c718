"""A filled copy of a georeferenced raster in which everything but the hole stays as it was.

The copy is made under a temporary name, filled window by window, read back and compared with the source
bit by bit, and only then given its name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igll.errors import InputError, OutputError
from igll.geo.box import Box, stored_blocks
from igll.geo.gdal_session import WriteErrors, gdal_session
from igll.geo.layout import cog_options, geotiff_options, is_cog, is_kept_as_it_is, nbits, overview_resampling
from igll.geo.metadata import copy_domains, differing_metadata, drop_statistics, write_lost_domains
from igll.geo.missing_values import alpha_bands, data_bands, has_mask, nodata_of
from igll.geo.pixel_class import PixelClass
from igll.geo.raster import open_quietly, open_raster, reading
from igll.geo.temporaries import drop_needless_side_file, publish, rename_side_files, temporary_beside
from igll.geo.value_range import ValueRange
from igll.geo.verify import Scene, find_fault

_SUFFIXES = (".tif", ".tiff")
_MASK_TILE = 256
# A block that has grown goes behind the others and its old place stays unused; past this a file is rewritten.
_TOLERATED_GROWTH = 1.05


class FilledCopy:
    """The copy while it is being filled.

    Args:
        scene: What is filled.
        target: The copy, open for reading and writing.
        errors: Notices failures to write.
    """

    def __init__(self, scene: Scene, target: Any, errors: WriteErrors) -> None:
        self._scene = scene
        self._target = target
        self._errors = errors
        source = scene.dataset
        self._ranges = [_range_of(source, band) for band in scene.bands]
        self._opaque = {band: _opaque(scene, band) for band in alpha_bands(source)}
        self._masked = has_mask(source)
        self.touched_bands: set[int] = set()

    def write(self, window: Any, values_CHW: NDArray[np.float64]) -> None:
        """Write values where the window is to be filled, and nowhere else.

        Written are holes, in all bands that are filled, and gaps, in the bands that have no value there.
        Values are rounded and clipped to what the raster's type holds and step off the no-data value; the
        pixels become valid and opaque.

        Args:
            window: ``rasterio.windows.Window`` inside the raster, with whole numbers.
            values_CHW: In the raster's own units, the filled bands in order. Not looked at elsewhere.

        Raises:
            InputError: The scene or the classes cannot be read.
            OutputError: The copy cannot be written.
            ValueError: The shape is another than the window's, or a value to be written is not finite.
        """
        box = Box.of(window)
        expected = (len(self._scene.bands), box.height, box.width)
        if values_CHW.shape != expected:
            raise ValueError(f"values of shape {values_CHW.shape} for a window of {expected}")
        fill_CHW = self._scene.to_fill(box)
        if not fill_CHW.any():
            return
        if not np.isfinite(values_CHW[fill_CHW]).all():
            raise ValueError(f"values that are not finite, to be written in {window}")
        changed = _extent(fill_CHW, box)
        place = changed.within(box)
        with self._errors.writing():
            self._store(changed.window(), fill_CHW[place], values_CHW[place])

    def _store(self, window: Any, fill_CHW: NDArray[np.bool_], values_CHW: NDArray[np.float64]) -> None:
        bands = list(self._scene.bands)
        stored_CHW = self._target.read(bands, window=window)
        parts = zip(stored_CHW, fill_CHW, values_CHW, self._ranges, strict=True)
        for stored_HW, fill_HW, values_HW, held in parts:
            stored_HW[fill_HW] = held.hold(values_HW[fill_HW])
        self._target.write(stored_CHW, bands, window=window)
        touched_HW = fill_CHW.any(axis=0)
        for band, opaque in self._opaque.items():
            alpha_HW = self._target.read(band, window=window)
            alpha_HW[touched_HW] = opaque
            self._target.write(alpha_HW, band, window=window)
        if self._masked:
            mask_HW = self._target.read_masks(1, window=window)
            mask_HW[touched_HW] = 255
            self._target.write_mask(mask_HW, window=window)
        self.touched_bands |= {*bands, *self._opaque}


@contextmanager
def filled_copy(
    scene: Path,
    classes: Path,
    out: Path,
    tags: Mapping[str, str],
    *,
    bands: Sequence[int] | None = None,
    cog: bool = False,
    progress: bool = True,
) -> Iterator[FilledCopy]:
    """A copy of a raster to fill, which gets its name when the block ends well and has been checked.

    CRS, transform, control points, RPCs, types, no-data, scales, offsets, units, descriptions, tags of
    all domains, colours and masks are kept, and so are tiles, blocks, compression, predictor, bits and
    interleaving. Lossy compression becomes DEFLATE, so that known pixels stay what they decode to. Masks
    and overviews end up inside the file; overviews are made anew at the source's factors (see
    ``igll.geo.layout.overview_resampling``). Statistics of filled bands, being stale, are removed.

    Until the end, and if anything fails, an older file stays as it was and nothing else is left.

    Args:
        scene: The raster, of any format that GDAL reads.
        classes: uint8 raster of the scene's size with ``PixelClass`` values.
        out: Where the copy goes, a ``.tif``.
        tags: Dataset tags to add.
        bands: Numbers of the bands to fill, from 1; all but alpha by default. Others are copied.
        cog: Write a cloud-optimized GeoTIFF; a source that is one stays one anyway.
        progress: Show a bar while checking.

    Yields:
        What to write to.

    Raises:
        InputError: The scene cannot be read, or not be kept in GeoTIFF, or ``out`` is a file it is read from.
        OutputError: The copy cannot be written, or is not what it has to be when read back.
    """
    errors = WriteErrors(out)
    with (
        gdal_session(),
        errors.listening(),
        open_raster(scene) as source,
        open_raster(classes) as class_raster,
        temporary_beside(out, "work") as work,
        temporary_beside(out, "cog") as arranged,
    ):
        refuse_target(out, [*source.files, *class_raster.files])
        _refuse_classes(classes, class_raster, source)
        job = Scene(scene, source, classes, class_raster, fillable_bands(scene, source, bands))
        _copy(job, work, out, errors)
        copied_size = work.stat().st_size
        with _opened(job, work, tags, errors) as filled:
            yield filled
        with errors.writing():
            result = _arrange(source, work, arranged, cog, copied_size)
            drop_needless_side_file(result)
            fault = find_fault(job, result, tags, progress)
        if fault:
            raise errors.failure(f"not kept, {fault}")
        publish(result, out)


@contextmanager
def _opened(job: Scene, work: Path, tags: Mapping[str, str], errors: WriteErrors) -> Iterator[FilledCopy]:
    """A copy opened to be filled; at the end it says so in its tags, and no more what is stale."""
    with errors.writing():
        target = open_quietly(work, "r+", driver="GTiff")
    try:
        with errors.writing():
            copy_domains(target, job.dataset)
        filled = FilledCopy(job, target, errors)
        yield filled
        with errors.writing():
            drop_statistics(target, job.dataset, sorted(filled.touched_bands))
            target.update_tags(**tags)
    except BaseException:
        with suppress(Exception):  # what failed before matters
            target.close()
        raise
    with errors.writing():
        target.close()


def write_fill_mask(classes: Path, out: Path, tags: Mapping[str, str]) -> None:
    """Write which pixels of a filled copy are synthetic: a raster of one bit per pixel on the scene's grid.

    Args:
        classes: uint8 raster with ``PixelClass`` values.
        out: Where it goes, a ``.tif``: 1 in holes and gaps, else 0.
        tags: Dataset tags to add.

    Raises:
        InputError: The classes cannot be read, or are ``out`` itself.
        OutputError: The file cannot be written.
    """
    errors = WriteErrors(out)
    with (
        gdal_session(),
        errors.listening(),
        open_raster(classes) as source,
        temporary_beside(out, "mask") as temporary,
    ):
        refuse_target(out, source.files)
        profile = {
            "driver": "GTiff", "dtype": "uint8", "count": 1, "nbits": 1, "compress": "deflate",
            "width": source.width, "height": source.height, "crs": source.crs, "bigtiff": "if_safer",
            "tiled": True, "blockxsize": _MASK_TILE, "blockysize": _MASK_TILE,
        }  # fmt: skip
        points, points_crs = source.gcps
        if points:
            profile |= {"gcps": points, "crs": points_crs}
        elif not source.transform.is_identity:
            profile["transform"] = source.transform
        with errors.writing(), open_quietly(temporary, "w", **profile) as target:
            for box in stored_blocks(target):
                with reading(classes):
                    classes_HW = source.read(1, window=box.window())
                synthetic_HW = np.isin(classes_HW, (PixelClass.HOLE, PixelClass.GAP))
                target.write(synthetic_HW.astype(np.uint8), 1, window=box.window())
            if source.rpcs:
                target.rpcs = source.rpcs
            target.set_band_description(1, "synthetic")
            target.update_tags(**tags)
        publish(temporary, out)


def is_finished(out: Path, tags: Mapping[str, str]) -> bool:
    """Whether a raster is there, whole, and has these tags, so that writing it again would change nothing.

    Args:
        out: The raster.
        tags: What ``filled_copy`` or ``write_fill_mask`` were to add.
    """
    if not out.is_file():
        return False
    try:
        with open_raster(out) as dataset:
            return tags.items() <= dataset.tags().items()
    except InputError:
        return False


def refuse_target(out: Path, sources: Sequence[str]) -> None:
    """Refuse a name that a result cannot have, and make its folder.

    Args:
        out: Where the result is to go.
        sources: Files that are read meanwhile.

    Raises:
        InputError: It is no GeoTIFF's name, a folder or one of the sources.
        OutputError: Its folder cannot be made.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{out}: filled rasters are GeoTIFF; choose a name that ends in .tif")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; choose a file name for the result")
    for source in map(Path, sources):
        if out.exists() and source.exists() and out.samefile(source):
            raise InputError(f"{out}: is a file that is read from; choose another name for the result")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror})") from None


def _refuse_classes(path: Path, classes: Any, source: Any) -> None:
    if classes.shape != source.shape or classes.dtypes[0] != "uint8":
        raise InputError(
            f"{path}: {classes.dtypes[0]} of {classes.width} × {classes.height} pixels, but the classes of a "
            f"scene of {source.width} × {source.height} are uint8 of that size; make them anew"
        )


def fillable_bands(path: Path, source: Any, bands: Sequence[int] | None) -> tuple[int, ...]:
    """The numbers asked for, once they are known to be bands that can be filled.

    Args:
        path: The raster, for messages.
        source: It, open.
        bands: Numbers from 1; None for all but alpha.

    Raises:
        InputError: A band is absent, alpha, or holds what cannot be filled.
    """
    from rasterio.enums import ColorInterp

    usable = data_bands(source)
    chosen = tuple(bands) if bands is not None else usable
    if not set(chosen) <= set(usable) or not chosen or len(set(chosen)) < len(chosen):
        raise InputError(
            f"{path}: bands {list(chosen)} cannot be filled; name some of 1 to {source.count}, "
            "each once, without alpha"
        )
    for band in chosen:
        if source.colorinterp[band - 1] == ColorInterp.palette:
            raise InputError(
                f"{path}: band {band} holds indices of a colour table, which cannot be filled; "
                "expand it first: gdal_translate -expand rgb"
            )
        if source.dtypes[band - 1].startswith("complex"):
            raise InputError(f"{path}: band {band} holds complex numbers; fill its amplitude alone")
    if not all(source.mask_flag_enums):
        raise InputError(f"{path}: each band has a mask of its own, which GeoTIFF cannot hold; keep one mask")
    return chosen


def _copy(job: Scene, work: Path, out: Path, errors: WriteErrors) -> None:
    from rasterio.shutil import copy

    try:
        with errors.writing():
            if is_kept_as_it_is(job.dataset):
                shutil.copyfile(job.path, work)
            else:
                copy(job.dataset, work, driver="GTiff", **geotiff_options(job.dataset))
    except OutputError:
        with reading(job.path):  # a source cut short is the likelier cause and names itself
            for box in stored_blocks(job.dataset):
                job.dataset.read(window=box.window())
        raise
    with errors.writing(), open_quietly(work) as made:
        lost = differing_metadata(job.dataset, made)
    if lost:
        raise InputError(
            f"{job.path}: GeoTIFF cannot hold its {', '.join(lost)}; convert it to GeoTIFF first"
        )


def _arrange(source: Any, work: Path, arranged: Path, cog: bool, copied_size: int) -> Path:
    """Build overviews, and lay the file out anew where it is to be a COG or is full of outdated blocks.

    Args:
        source: The scene, open.
        work: The filled copy.
        arranged: Where the file goes if it is laid out anew.
        cog: Make it a COG even if the source is none.
        copied_size: Bytes of the copy before it was filled.

    Returns:
        The file that is the result.
    """
    from rasterio.shutil import copy

    resampling = overview_resampling(source)
    if cog or is_cog(source):
        _build_overviews(work, source, resampling)
        with open_quietly(work) as filled:
            copy(filled, arranged, driver="COG", **cog_options(filled, source, resampling))
            rename_side_files(work, arranged)
            with open_quietly(arranged) as made:
                write_lost_domains(Path(f"{arranged}.aux.xml"), made, filled)
        return arranged
    if work.stat().st_size <= _TOLERATED_GROWTH * copied_size:
        _build_overviews(work, source, resampling)
        return work
    with open_quietly(work) as filled:
        copy(filled, arranged, driver="GTiff", **geotiff_options(source))
        with open_quietly(arranged, "r+", driver="GTiff") as made:
            copy_domains(made, filled)
    _build_overviews(arranged, source, resampling)
    return arranged


def _build_overviews(raster: Path, source: Any, resampling: str) -> None:
    from rasterio.enums import Resampling

    if factors := source.overviews(1):
        # In a session of its own: GDAL cannot add overviews of a mask to a file whose tags it rewrites.
        with open_quietly(raster, "r+", driver="GTiff") as target:
            target.build_overviews(factors, Resampling[resampling])


def _range_of(source: Any, band: int) -> ValueRange:
    return ValueRange(np.dtype(source.dtypes[band - 1]), nodata_of(source, band), nbits(source, band))


def _opaque(scene: Scene, band: int) -> float:
    """The highest value of an alpha band: of its type, or for floats the highest in use."""
    held = _range_of(scene.dataset, band)
    if held.dtype.kind != "f":
        return held.highest
    with reading(scene.path):
        windows = (box.window() for box in stored_blocks(scene.dataset))
        highest = max(float(np.nanmax(scene.dataset.read(band, window=window))) for window in windows)
    return highest if highest > 0 else 1.0


def _extent(chosen_CHW: NDArray[np.bool_], box: Box) -> Box:
    """The smallest box that holds every chosen pixel of all bands of a box."""
    rows, columns = np.flatnonzero(chosen_CHW.any(axis=(0, 2))), np.flatnonzero(chosen_CHW.any(axis=(0, 1)))
    top, left = box.top + int(rows[0]), box.left + int(columns[0])
    return Box(top, left, box.top + int(rows[-1]) + 1, box.left + int(columns[-1]) + 1)
