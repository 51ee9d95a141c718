"""A filled copy of a georeferenced raster in which everything but the hole stays as it was.

The copy is made under a temporary name, filled window by window, read back and compared with the source
bit by bit, and only then given its name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igll.data.gdal_names import file_name
from igll.errors import InputError, OutputError
from igll.geo.box import Box, stored_blocks
from igll.geo.fillable import fillable_bands
from igll.geo.gdal_session import WriteErrors, gdal_session
from igll.geo.layout import cog_options, geotiff_options, is_cog, is_kept_as_it_is, nbits, overview_resampling
from igll.geo.metadata import copy_domains, differing_metadata, drop_statistics, write_lost_domains
from igll.geo.missing_values import alpha_bands, has_mask, nodata_of
from igll.geo.overviews import build_overviews
from igll.geo.raster import open_quietly, open_raster, reading
from igll.geo.temporaries import drop_needless_side_file, publish, rename_side_files, temporary_beside
from igll.geo.value_range import ValueRange
from igll.geo.verify import Scene, find_fault

_SUFFIXES = (".tif", ".tiff")
_LONGEST_NAME = 230  # bytes: what temporary files of that name are called stays below 255
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
    and overviews end up inside the file; overviews are made anew in the source's sizes (see
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


def is_finished(out: Path, tags: Mapping[str, str]) -> bool:
    """Whether a raster is there and has these tags, so that writing it again would change nothing.

    Args:
        out: The raster.
        tags: What ``filled_copy`` or ``igll.geo.fill_mask`` were to add.
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
        InputError: It is no GeoTIFF's name, not UTF-8, too long, a folder or one of the sources.
        OutputError: Its folder cannot be made.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{out}: filled rasters are GeoTIFF; choose a name that ends in .tif")
    _ = file_name(out)  # refuses what GDAL cannot open
    if len(os.fsencode(out.name)) > _LONGEST_NAME:
        raise InputError(f"{out}: has a name of more than {_LONGEST_NAME} bytes; choose a shorter one")
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


def _copy(job: Scene, work: Path, out: Path, errors: WriteErrors) -> None:
    from rasterio.shutil import copy

    try:
        with errors.writing():
            if is_kept_as_it_is(job.dataset):
                shutil.copyfile(job.path, work)
            else:
                copy(job.dataset, file_name(work), driver="GTiff", **geotiff_options(job.dataset))
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
        build_overviews(work, source, resampling)
        with open_quietly(work) as filled:
            copy(filled, file_name(arranged), driver="COG", **cog_options(filled, source, resampling))
            rename_side_files(work, arranged)
            with open_quietly(arranged) as made:
                write_lost_domains(Path(f"{arranged}.aux.xml"), made, filled)
        return arranged
    if work.stat().st_size <= _TOLERATED_GROWTH * copied_size:
        build_overviews(work, source, resampling)
        return work
    with open_quietly(work) as filled:
        copy(filled, file_name(arranged), driver="GTiff", **geotiff_options(source))
        with open_quietly(arranged, "r+", driver="GTiff") as made:
            copy_domains(made, filled)
    build_overviews(arranged, source, resampling)
    return arranged


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
