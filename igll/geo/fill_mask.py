"""The mask beside a filled raster: which of its pixels are synthetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igll.errors import InputError
from igll.geo.box import Box, stored_blocks
from igll.geo.gdal_session import WriteErrors, gdal_session
from igll.geo.output import refuse_target
from igll.geo.pixel_class import PixelClass
from igll.geo.raster import open_quietly, open_raster, reading
from igll.geo.temporaries import publish, temporary_beside

COUNT_TAG = "IGLL_SYNTHETIC_PIXELS"
_SIZE_TAG = "IGLL_FILLED_BYTES"
_TILE = 256


def write_fill_mask(
    classes: Path,
    out: Path,
    tags: Mapping[str, str],
    *,
    filled: Path | None = None,
    earlier: Path | None = None,
) -> None:
    """Write which pixels of a filled copy are synthetic: a raster of one bit per pixel on the scene's grid.

    Args:
        classes: uint8 raster with ``PixelClass`` values.
        out: Where it goes, a ``.tif``: 1 in holes and gaps, else 0.
        tags: Dataset tags to add.
        filled: The filled copy, whose size is noted too; see :func:`is_cut_short`.
        earlier: Such a mask of the scene itself, whose pixels are synthetic as well.

    Raises:
        InputError: The classes or the earlier mask cannot be read, or are ``out`` itself.
        OutputError: The file cannot be written.
    """
    errors = WriteErrors(out)
    with (
        gdal_session(),
        errors.listening(),
        # The grid is the copy's: a CRS that GeoTIFF cannot express is in its side file, not in the classes.
        open_raster(classes if filled is None else filled) as source,
        temporary_beside(out, "mask") as temporary,
    ):
        refuse_target(out, [*source.files, str(classes), *([] if earlier is None else [str(earlier)])])
        profile = {
            "driver": "GTiff", "dtype": "uint8", "count": 1, "nbits": 1, "compress": "deflate",
            "width": source.width, "height": source.height, "crs": source.crs, "bigtiff": "if_safer",
            "tiled": True, "blockxsize": _TILE, "blockysize": _TILE,
        }  # fmt: skip
        points, points_crs = source.gcps
        if points:
            profile |= {"gcps": points, "crs": points_crs}
        elif not source.transform.is_identity:
            profile["transform"] = source.transform
        size = {} if filled is None else {_SIZE_TAG: str(filled.stat().st_size)}
        with errors.writing(), open_quietly(temporary, "w", **profile) as target:
            for box, synthetic_HW in _synthetic(classes, earlier, target):
                target.write(synthetic_HW.astype(np.uint8), 1, window=box.window())
            if source.rpcs:
                target.rpcs = source.rpcs
            target.set_band_description(1, "synthetic")
            target.update_tags(**tags, **size)
        publish(temporary, out)


def count_synthetic(classes: Path, earlier: Path) -> int:
    """How many pixels are synthetic once a scene is filled that had some before.

    Raises:
        InputError: A file cannot be read.
    """
    with open_raster(classes) as grid:
        return sum(int(synthetic_HW.sum()) for _, synthetic_HW in _synthetic(classes, earlier, grid))


def synthetic_before(scene: Path, mask: Path) -> int | None:
    """How many pixels of a scene are synthetic by its own tags; None if none are.

    Args:
        scene: What is to be filled.
        mask: Where its mask would be.

    Raises:
        InputError: The scene cannot be read, or the mask is there and cannot, or is of another size.
    """
    with open_raster(scene) as dataset:
        stated, shape = dataset.tags().get(COUNT_TAG, "0"), dataset.shape
    if not (stated.isascii() and stated.isdigit() and int(stated)):
        return None
    if mask.is_file():
        with open_raster(mask) as dataset:
            if dataset.shape != shape:
                raise InputError(
                    f"{mask}: {dataset.width} × {dataset.height} pixels, but {scene}, whose synthetic pixels "
                    f"it is to mark, has {shape[1]} × {shape[0]}; move it away, or bring the right one"
                )
    return int(stated)


def is_cut_short(filled: Path, mask: Path) -> bool:
    """Whether a filled copy is smaller than when it was written, by what its mask notes of it."""
    with open_raster(mask) as dataset:
        return filled.stat().st_size < int(dataset.tags().get(_SIZE_TAG, "0"))


def _synthetic(classes: Path, earlier: Path | None, grid: Any) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
    """Which pixels are synthetic, block by block of a grid."""
    with ExitStack() as stack:
        source = stack.enter_context(open_raster(classes))
        before = None if earlier is None else (earlier, stack.enter_context(open_raster(earlier)))
        for box in stored_blocks(grid):
            with reading(classes):
                classes_HW = source.read(1, window=box.window())
            synthetic_HW = np.isin(classes_HW, (PixelClass.HOLE, PixelClass.GAP))
            if before is not None:
                with reading(before[0]):
                    synthetic_HW |= before[1].read(1, window=box.window()) != 0
            yield box, synthetic_HW
