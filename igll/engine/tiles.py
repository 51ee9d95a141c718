"""Filling the tiles of a scene one at a time, and keeping what was filled."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from igll.engine.fillers import Filler
from igll.geo.box import Box
from igll.geo.cells import is_missing
from igll.geo.levels import Level, read_enlarged, smooth
from igll.geo.pixel_class import PixelClass
from igll.geo.raster import reading
from igll.geo.reference import Reference
from igll.geo.scaling import Scaling
from igll.geo.tiling import Plan, Tile
from igll.models.prefill import prefill_pyramid
from igll.storage import replacing, uninterrupted

# Width of the strip along a frame's border in which a hole is given a coarser filling as if it were known.
_ANCHOR = 16
# What reading a damaged archive raises.
_DAMAGED = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class TileFiller:
    """Fills tiles of one level.

    Where ground is too far away to be seen, a filling of the next coarser level leads in two ways: in a strip
    along the frame's border it stands in for known pixels, and far from known ground the result's coarse
    content is made equal to it. So neighbouring tiles agree on what the middle of a large hole looks like.

    Args:
        values: The level's values, an open raster.
        classes: Its classes, an open raster.
        level: The level.
        plan: Its tiles.
        filler: The model.
        scaling: From the scene's units to the model's.
        coarse: Raster of the next coarser level, complete, if a tile needs it.
        reference: Another image of the place, on the level's grid.
    """

    def __init__(
        self,
        values: Any,
        classes: Any,
        level: Level,
        plan: Plan,
        filler: Filler,
        scaling: Scaling,
        coarse: Path | None,
        reference: Reference | None,
    ) -> None:
        self._values, self._classes, self._level, self._plan = values, classes, level, plan
        self._filler, self._scaling, self._coarse, self._reference = filler, scaling, coarse, reference

    def __call__(self, tile: Tile) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Fill a tile.

        Returns:
            values_CN in [0, 1] of the pixels that the tile fills, and where in its reach they are, filled_HW.

        Raises:
            InputError: A raster cannot be read.
        """
        window = tile.frame.window()
        with reading(self._level.values):
            values_CHW = self._values.read(self._level.bands, window=window)
            class_HW = self._classes.read(1, window=window)
        place = tile.reach.within(tile.frame)
        filled_HW = is_missing(class_HW[place]) & self._plan.owned(tile)
        if not filled_HW.any():
            return np.zeros((len(values_CHW), 0), np.float32), filled_HW
        known_HW = class_HW == PixelClass.KNOWN
        # Missing pixels may hold NaN, or values far outside.
        unit_CHW = np.where(known_HW, self._scaling.to_unit(np.where(known_HW, values_CHW, 0)), 0.0)
        result_CHW = self._fill(tile, unit_CHW.astype(np.float32), known_HW)
        return result_CHW[place][:, filled_HW], filled_HW

    def _fill(
        self, tile: Tile, unit_CHW: NDArray[np.float32], known_HW: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """The tile's frame, filled: unit_CHW."""
        reference_CHW = None if self._reference is None else _complete(*self._reference.read(tile.frame))
        if not tile.guided or self._coarse is None:
            return self._filler.fill(unit_CHW, ~known_HW, reference_CHW)
        guide_CHW = self._scaling.to_unit(read_enlarged(self._coarse, tile.frame))
        anchored_HW = self._border(tile.frame) & ~known_HW
        seen_CHW = np.where(anchored_HW, guide_CHW, unit_CHW)
        filled_CHW = self._filler.fill(seen_CHW, ~known_HW & ~anchored_HW, reference_CHW)
        lead_HW = _distance(known_HW, self._plan.sizes.context)
        led_CHW = filled_CHW + lead_HW * (guide_CHW - smooth(filled_CHW))
        return np.where(known_HW, filled_CHW, led_CHW.clip(0, 1)).astype(np.float32)

    def _border(self, frame: Box) -> NDArray[np.bool_]:
        """A strip inside the frame's border, except where the scene itself ends."""
        border_HW = np.zeros((frame.height, frame.width), bool)
        if frame.top > 0:
            border_HW[:_ANCHOR] = True
        if frame.left > 0:
            border_HW[:, :_ANCHOR] = True
        if frame.bottom < self._plan.grid.height:
            border_HW[-_ANCHOR:] = True
        if frame.right < self._plan.grid.width:
            border_HW[:, -_ANCHOR:] = True
        return border_HW


class TileStore:
    """Fillings of tiles, a file each.

    Args:
        folder: Where they are; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def holds(self, tile: Tile) -> bool:
        """Whether a tile's filling is there and whole."""
        try:
            with np.load(self._path(tile), allow_pickle=False) as arrays:
                # Reading compares with the checksums.
                return bool(arrays["values_CN"].shape[1] == np.count_nonzero(arrays["filled_HW"]))
        except _DAMAGED:
            return False

    def put(self, tile: Tile, filling: tuple[NDArray[np.float32], NDArray[np.bool_]]) -> None:
        """Keep a tile's filling as :class:`TileFiller` gives it.

        Raises:
            OutputError: It cannot be written.
        """
        values_CN, filled_HW = filling
        with uninterrupted(), replacing(self._path(tile)) as path, path.open("wb") as file:
            np.savez(file, values_CN=values_CN, filled_HW=filled_HW)

    def read(self, tiles: Iterable[Tile]) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
        """Tiles, one after the other, with values_CHW over their reach, NaN around."""
        for tile in tiles:
            with np.load(self._path(tile), allow_pickle=False) as arrays:
                values_CN, filled_HW = arrays["values_CN"], arrays["filled_HW"]
            values_CHW = np.full((len(values_CN), *filled_HW.shape), np.nan, np.float32)
            values_CHW[:, filled_HW] = values_CN
            yield tile, values_CHW

    def _path(self, tile: Tile) -> Path:
        return self._folder / f"{tile.number}.npz"


def _complete(unit_CHW: NDArray[np.float32], missing_HW: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A reference without holes: filled smoothly, which shows no edge."""
    if not missing_HW.any():
        return unit_CHW
    missing_11HW = torch.from_numpy(missing_HW).float()[None, None]
    filled_1CHW = prefill_pyramid(torch.from_numpy(unit_CHW)[None], missing_11HW)
    filled_CHW: NDArray[np.float32] = filled_1CHW[0].clamp(0, 1).numpy()
    return filled_CHW


def _distance(known_HW: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """Distance from known ground as a share of ``reach``, at most 1."""
    from scipy.ndimage import distance_transform_edt

    if not known_HW.any():
        return np.ones(known_HW.shape, np.float32)
    distance_HW = distance_transform_edt(~known_HW) / reach
    return np.minimum(distance_HW, 1.0).astype(np.float32)
