"""A scene at lower resolution, for holes that are too large to be seen whole at full resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from igll.geo.box import Box, blocks, working_side
from igll.geo.pixel_class import PixelClass
from igll.geo.raster import open_quietly, open_raster, reading
from igll.storage import replacing

FACTOR = 4
_BLOCK = 2048


class Level(NamedTuple):
    """A scene at one resolution.

    Attributes:
        values: Raster of its bands, in the scene's units.
        classes: Raster of ``PixelClass`` values.
        bands: Numbers of the bands that are filled, from 1.
        number: 0 at full resolution; each further one is ``FACTOR`` times coarser.
    """

    values: Path
    classes: Path
    bands: tuple[int, ...]
    number: int = 0


def reduce_level(level: Level, folder: Path) -> Level:
    """Write the next coarser level: the mean of the known pixels of each cell.

    A cell without a known pixel is missing, even where the scene is to keep nothing: a coarse filling leads
    the finer one, and has to be complete.

    Args:
        level: The finer one.
        folder: Where the two rasters go; those that are there already are taken as they are.

    Raises:
        InputError: The finer one cannot be read.
        OutputError: The coarser one cannot be written.
    """
    number = level.number + 1
    coarse = Level(
        folder / f"level{number}.tif",
        folder / f"level{number}_classes.tif",
        tuple(range(1, len(level.bands) + 1)),
        number,
    )
    if coarse.values.is_file() and coarse.classes.is_file():
        return coarse
    with (
        open_raster(level.values) as values,
        open_raster(level.classes) as classes,
        replacing(coarse.values) as values_path,
        replacing(coarse.classes) as classes_path,
        new_raster(values_path, _coarse(values), len(level.bands), "float64") as values_out,
        new_raster(classes_path, _coarse(values), 1, "uint8") as classes_out,
    ):
        for block in blocks(values.height, values.width, working_side(len(level.bands), _BLOCK)):
            with reading(level.values):
                values_CHW = values.read(level.bands, window=block.window())
                class_HW = classes.read(1, window=block.window())
            mean_CHW, coarse_HW = _reduced(values_CHW, class_HW)
            top, left = block.top // FACTOR, block.left // FACTOR
            place = Box(top, left, top + coarse_HW.shape[0], left + coarse_HW.shape[1]).window()
            values_out.write(mean_CHW, window=place)
            classes_out.write(coarse_HW, 1, window=place)
    return coarse


def new_raster(path: Path, size: tuple[int, int], count: int, dtype: str) -> Any:
    """A raster for work in progress, opened for writing.

    Args:
        path: The file.
        size: Height and width.
        count: Number of bands.
        dtype: Of all bands.
    """
    height, width = size
    return open_quietly(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=dtype,
        tiled=True, blockxsize=256, blockysize=256, interleave="pixel", bigtiff="IF_SAFER",
    )  # fmt: skip


def read_enlarged(coarse: Path, box: Box) -> NDArray[np.float64]:
    """A part of a filled coarser level at the finer one's resolution, by bilinear interpolation.

    Args:
        coarse: Raster of the coarser level, complete.
        box: The part, in pixels of the finer level.

    Returns:
        values_CHW.
    """
    with open_raster(coarse) as dataset:
        part = Box(
            box.top // FACTOR, box.left // FACTOR, -(-box.bottom // FACTOR), -(-box.right // FACTOR)
        ).grown(1, dataset.height, dataset.width)
        values_CHW = dataset.read(window=part.window())
    wide_1CHW = F.interpolate(
        torch.from_numpy(values_CHW)[None], scale_factor=FACTOR, mode="bilinear", align_corners=False
    )
    wide = Box(*(edge * FACTOR for edge in part))
    enlarged_CHW: NDArray[np.float64] = wide_1CHW[0].numpy()[box.within(wide)]
    return enlarged_CHW


def smooth(values_CHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of an image after it was reduced by ``FACTOR`` and enlarged again."""
    height, width = values_CHW.shape[1:]
    padded_1CHW = F.pad(
        torch.from_numpy(values_CHW)[None], (0, -width % FACTOR, 0, -height % FACTOR), mode="replicate"
    )
    small_1CHW = F.avg_pool2d(padded_1CHW, FACTOR)
    wide_1CHW = F.interpolate(small_1CHW, scale_factor=FACTOR, mode="bilinear", align_corners=False)
    smoothed_CHW: NDArray[np.float32] = wide_1CHW[0, :, :height, :width].numpy()
    return smoothed_CHW


def _coarse(dataset: Any) -> tuple[int, int]:
    return -(-dataset.height // FACTOR), -(-dataset.width // FACTOR)


def _reduced(
    values_CHW: NDArray[Any], class_HW: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Mean of the known pixels of each cell (0 without any), and the cells' classes."""
    known_HW = class_HW == PixelClass.KNOWN
    count_HW = _sums(known_HW.astype(np.float64))
    total_CHW = np.stack([_sums(np.where(known_HW, band_HW, 0).astype(np.float64)) for band_HW in values_CHW])
    coarse_HW = np.where(count_HW > 0, PixelClass.KNOWN, PixelClass.HOLE).astype(np.uint8)
    return total_CHW / np.maximum(count_HW, 1), coarse_HW


def _sums(values_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over the cells; those at the end may be smaller."""
    height, width = values_HW.shape
    rows = np.add.reduceat(values_HW, np.arange(0, height, FACTOR), axis=0)
    sums_HW: NDArray[np.float64] = np.add.reduceat(rows, np.arange(0, width, FACTOR), axis=1)
    return sums_HW
