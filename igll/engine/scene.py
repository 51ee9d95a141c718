"""Filling one georeferenced scene of any size: plan, fill tile by tile, put together, check.

Memory is bounded whatever the scene: everything as large as the scene lies in files, in a work folder beside
the result. Every tile's filling is a file of its own, so an interrupted run goes on where it stopped, and the
result is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from igll.engine.fillers import Filler
from igll.engine.infer_plan import synthetic_path
from igll.engine.scene_work import work_folder, work_path
from igll.engine.tiles import TileFiller, TileStore
from igll.errors import InputError
from igll.geo.blending import compose
from igll.geo.box import Box, blocks, working_side
from igll.geo.cells import is_missing, read_cells
from igll.geo.fill_mask import (
    COUNT_TAG,
    count_synthetic,
    is_cut_short,
    synthetic_before,
    write_fill_mask,
)
from igll.geo.fillable import fillable_bands
from igll.geo.gdal_session import gdal_session
from igll.geo.holes import ClassCounts, HoleSources, write_classes
from igll.geo.levels import Level, new_raster, reduce_level
from igll.geo.mask_files import VECTOR_SUFFIXES
from igll.geo.output import filled_copy, is_finished, refuse_target
from igll.geo.raster import open_raster, reading
from igll.geo.reference import open_reference
from igll.geo.scaling import Scaling, full_scaling, percentile_scaling
from igll.geo.tiling import Plan, TileSizes, plan_tiles, shows_ground
from igll.storage import replacing

# Changes whenever the same request may give another result.
_FORMAT = 3
_PART = 1024
# Per cent of the known pixels that lie beyond either limit of a band, unless told otherwise.
_CUT = 0.5


@dataclass(frozen=True)
class SceneOptions:
    """How scenes are filled.

    Attributes:
        sources: What counts as missing.
        sizes: How holes are cut.
        stretch: How bands are shown to the model: a number is the per cent of the known pixels beyond either
            limit, ``full`` the range of the raster's type, and ``auto`` the limits that the model was trained
            with, if it was trained with any, else 0.5.
        cog: Write a cloud-optimised GeoTIFF.
    """

    sources: HoleSources
    sizes: TileSizes = field(default_factory=TileSizes)
    stretch: float | Literal["auto", "full"] = "auto"
    cog: bool = False


class SceneResult(NamedTuple):
    """What became of a scene.

    Attributes:
        counts: Pixels of each class; None if the result was there already.
        tiles: Passes of the model.
        note: What else the user has to know, if anything.
    """

    counts: ClassCounts | None
    tiles: int
    note: str | None = None


def fill_scene(
    scene: Path, out: Path, options: SceneOptions, filler: Filler, reference: Path | None = None
) -> SceneResult:
    """Fill a scene's holes; everything else is preserved.

    Args:
        scene: Any raster that GDAL reads.
        out: GeoTIFF to write. A result of the same request is left as it is.
        options: What to fill, and how.
        filler: The model.
        reference: Another image of the place, for models that take one.

    Raises:
        InputError: An input cannot be read or does not fit, or ``out`` is a file that this function did not
            write; see the message.
        OutputError: The result cannot be written, known pixels of the written file differ, or another
            process is working on the same result.
    """
    request = _request(scene, options, filler, reference)
    tags = {"IGLL_MODEL": filler.name, "IGLL_REQUEST": request}
    if _is_there(out, tags) and not work_path(out).exists():
        return SceneResult(None, 0)
    # Else GDAL keeps decoded blocks up to a share of the machine's memory.
    with work_folder(out, request) as work, gdal_session():
        # Again, as another process may have ended a moment ago.
        if _is_there(out, tags):
            return SceneResult(None, 0)
        return _filled(scene, out, options, filler, reference, work, tags)


def _refuse_foreign(path: Path) -> None:
    """Refuse to replace a file that is somebody's own; an earlier result is replaced."""
    if not path.exists():
        return
    try:
        with open_raster(path) as dataset:
            ours = "IGLL_REQUEST" in dataset.tags()
    except InputError:
        ours = False
    if not ours:
        raise InputError(
            f"{path}: is there and no result of a scene (it has no tag IGLL_REQUEST); move it, or choose "
            "another --out"
        )


def _is_there(out: Path, tags: dict[str, str]) -> bool:
    mask = synthetic_path(out)
    return is_finished(out, tags) and is_finished(mask, tags) and not is_cut_short(out, mask)


def _filled(
    scene: Path,
    out: Path,
    options: SceneOptions,
    filler: Filler,
    reference: Path | None,
    work: Path,
    tags: dict[str, str],
) -> SceneResult:
    """Find, fill, put together and check, in the work folder; see :func:`fill_scene`."""
    classes = work / "classes.tif"
    with open_raster(scene) as dataset:
        # What cannot be filled or written is refused now, not after the work.
        for path in (out, synthetic_path(out)):
            refuse_target(path, dataset.files)
            _refuse_foreign(path)
        level = Level(scene, classes, fillable_bands(scene, dataset, options.sources.bands(dataset)))
    earlier, note = _earlier(scene)
    counts = _classes(scene, options.sources, classes, work)
    synthetic = counts.hole + counts.gap if earlier is None else count_synthetic(classes, earlier)
    tags = tags | {
        COUNT_TAG: str(synthetic),
        "IGLL_NOTE": "filled pixels are plausible, not measured; the mask of the same name marks them",
    }
    solved = None
    if counts.hole + counts.gap:
        job = _Job(filler, _scaling(level, options, filler, work), options.sizes, work, scene, reference)
        solved = _fill_level(job, level)
    with filled_copy(scene, classes, out, tags, bands=level.bands, cog=options.cog) as copy:
        if solved:
            for part, unit_CHW in _parts(level, *solved):
                copy.write(part.window(), job.scaling.from_unit(unit_CHW))
    write_fill_mask(classes, synthetic_path(out), tags, filled=out, earlier=earlier)
    return SceneResult(counts, len(solved[0].tiles) if solved else 0, note)


def _earlier(scene: Path) -> tuple[Path | None, str | None]:
    """The mask of what is synthetic in the scene itself, being a result, and what to say of that."""
    mask = synthetic_path(scene)
    count = synthetic_before(scene, mask)
    if count is None:
        return None, None
    note = f"{count:,} of its pixels are synthetic, from an earlier filling, and are taken for known"
    if mask.is_file():
        return mask, note
    return None, f"{note}; their mask, {mask}, is not there, so the new one will not mark them"


class _Job(NamedTuple):
    """What all levels of a scene share."""

    filler: Filler
    scaling: Scaling
    sizes: TileSizes
    work: Path
    scene: Path
    reference: Path | None


def _fill_level(job: _Job, level: Level) -> tuple[Plan, TileStore]:
    """Fill the tiles of a level, after a coarser level if a hole is too large to see across."""
    grid = read_cells(level.classes)
    plan = plan_tiles(grid, job.sizes)
    coarse = None
    # A frame may hold nothing known, as around a hole far inside of what is to stay empty.
    blind = not all(shows_ground(grid, tile.frame) for tile in plan.tiles)
    if plan.guided and (blind or max(grid.height, grid.width) > job.sizes.tile):
        coarse = _filled_level(job, reduce_level(level, job.work))
    store = TileStore(job.work / f"tiles{level.number}")
    with ExitStack() as stack:
        reference = None
        if job.reference is not None:
            opened = open_reference(job.reference, job.scene, len(level.bands), level.number)
            reference = stack.enter_context(opened)
        values = stack.enter_context(open_raster(level.values))
        classes = stack.enter_context(open_raster(level.classes))
        fill = TileFiller(values, classes, level, plan, job.filler, job.scaling, coarse, reference)
        name = "fill" if level.number == 0 else f"fill 1/{4**level.number}"
        for tile in tqdm(plan.tiles, desc=name, unit="tile"):
            if not store.holds(tile):
                store.put(tile, fill(tile))
    return plan, store


def _filled_level(job: _Job, level: Level) -> Path:
    """The raster of a coarser level, complete."""
    filled = job.work / f"level{level.number}_filled.tif"
    if filled.is_file():
        return filled
    plan, store = _fill_level(job, level)
    size = plan.grid.height, plan.grid.width
    side = working_side(len(level.bands), _PART)
    tiles = plan.by_part(side)
    with (
        open_raster(level.values) as values,
        open_raster(level.classes) as classes,
        replacing(filled) as path,
        new_raster(path, size, len(level.bands), "float64") as target,
    ):
        for part in blocks(*size, side):
            values_CHW = values.read(window=part.window())
            missing_HW = is_missing(classes.read(1, window=part.window()))
            if missing_HW.any():
                unit_CHW = compose(part, missing_HW, store.read(tiles[part]), plan)
                values_CHW = np.where(missing_HW, job.scaling.from_unit(unit_CHW), values_CHW)
            target.write(values_CHW, window=part.window())
    return filled


def _parts(level: Level, plan: Plan, store: TileStore) -> Iterator[tuple[Box, NDArray[np.float64]]]:
    """The filling of every part of a level that holds something to fill: unit_CHW."""
    parts = plan.by_part(working_side(len(level.bands), _PART))
    with open_raster(level.classes) as classes:
        for part, tiles in tqdm(parts.items(), desc="write", unit="part"):
            with reading(level.classes):
                missing_HW = is_missing(classes.read(1, window=part.window()))
            if missing_HW.any():
                yield part, compose(part, missing_HW, store.read(tiles), plan)


def _request(scene: Path, options: SceneOptions, filler: Filler, reference: Path | None) -> str:
    """A digest of everything that the result depends on; files count by name, size and time of change."""
    sources = options.sources
    quality = None if sources.quality is None or sources.quality_band else Path(sources.quality)
    files = [None if path is None else _state(path) for path in (scene, sources.masks, quality, reference)]
    settings = asdict(options)
    if sources.quality_band is None:
        del settings["sources"]["quality"]
    del settings["sources"]["masks"]
    text = json.dumps([_FORMAT, files, settings, filler.fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _state(path: Path) -> list[Any]:
    """What tells whether a raster or vector file is still the same, with the files that belong to it."""
    if path.suffix.lower() in VECTOR_SUFFIXES:
        parts, facts = [path, path.with_suffix(".prj"), path.with_suffix(".shx")], []
    else:
        with open_raster(path) as dataset:
            # Statistics and overviews, which viewers add, change nothing; the rest of .aux.xml is below.
            parts = [path, *(Path(name) for name in dataset.files if not name.endswith((".aux.xml", ".ovr")))]
            facts = [
                [None if value is None else str(value) for value in dataset.nodatavals],
                [sorted(flag.name for flag in flags) for flags in dataset.mask_flag_enums],
                [kind.name for kind in dataset.colorinterp],
                None if dataset.crs is None else dataset.crs.to_wkt(),
                list(dataset.transform),
                [dataset.scales, dataset.offsets, dataset.units, dataset.descriptions],
                [_lasting_tags(dataset, band) for band in (0, *dataset.indexes)],
            ]
    try:
        states = [
            [str(part.resolve()), part.stat().st_size, part.stat().st_mtime_ns]
            for part in dict.fromkeys(parts)
            if part == path or part.is_file()
        ]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return [states, facts]


def _lasting_tags(dataset: Any, band: int) -> dict[str, str]:
    """Tags of a band, or of the raster (0), but for statistics."""
    return {key: text for key, text in dataset.tags(band).items() if not key.startswith("STATISTICS_")}


def _classes(scene: Path, sources: HoleSources, classes: Path, work: Path) -> ClassCounts:
    """Find the holes, or take what an interrupted run found."""
    note = work / "counts.json"
    if classes.is_file() and (noted := _noted(note)):
        return ClassCounts(**noted)
    counts = write_classes(scene, sources, classes)
    with replacing(note) as path:
        path.write_text(json.dumps(asdict(counts)))
    return counts


def _scaling(level: Level, options: SceneOptions, filler: Filler, work: Path) -> Scaling:
    """The bands' limits; kept, as a resumed run has to use the same."""
    note = work / "scaling.json"
    if noted := _noted(note):
        return Scaling(tuple(noted["low_C"]), tuple(noted["high_C"]))
    count = len(level.bands)
    if options.stretch == "full":
        scaling = full_scaling(level.values, level.classes, level.bands)
    elif options.stretch == "auto" and filler.limits is not None:
        scaling = Scaling((filler.limits[0],) * count, (filler.limits[1],) * count)
    else:
        cut = _CUT if options.stretch == "auto" else options.stretch
        scaling = percentile_scaling(level.values, level.classes, level.bands, cut)
    with replacing(note) as path:
        path.write_text(json.dumps(scaling._asdict()))
    return scaling


def _noted(note: Path) -> dict[str, Any] | None:
    """What an interrupted run wrote down; None if it did not, or a power cut left the file empty."""
    try:
        noted: dict[str, Any] = json.loads(note.read_text())
    except (OSError, ValueError):
        return None
    return noted
