"""Reading a filled copy back: everything outside the hole is the source's to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from igll.geo.box import Box, stored_blocks
from igll.geo.metadata import differing_metadata
from igll.geo.missing_values import alpha_bands, has_mask, missing_values
from igll.geo.overviews import overview_sizes, sizes_made
from igll.geo.pixel_class import PixelClass
from igll.geo.raster import open_quietly, reading


@dataclass(frozen=True)
class Scene:
    """A raster that is being filled.

    Attributes:
        path: Its file.
        dataset: It, open.
        classes_path: Raster of ``PixelClass`` values of the same size.
        classes: That, open.
        bands: Numbers of the bands that are filled, from 1.
    """

    path: Path
    dataset: Any
    classes_path: Path
    classes: Any
    bands: tuple[int, ...]

    def to_fill(self, box: Box) -> NDArray[np.bool_]:
        """Where values are to be written: in holes, and in gaps where the band itself has no value.

        Returns:
            (C, H, W) for the bands that are filled.

        Raises:
            InputError: The scene or the classes cannot be read.
        """
        with reading(self.classes_path):
            classes_HW = self.classes.read(1, window=box.window())
        fill_CHW = np.repeat((classes_HW == PixelClass.HOLE)[None], len(self.bands), axis=0)
        gap_HW = classes_HW == PixelClass.GAP
        if gap_HW.any():
            with reading(self.path):
                fill_CHW |= gap_HW & missing_values(self.dataset, self.bands, box)
        return fill_CHW


def find_fault(scene: Scene, result: Path, tags: Mapping[str, str], progress: bool) -> str | None:
    """What is wrong with a filled copy, if anything.

    Args:
        scene: What was filled.
        result: The copy, closed.
        tags: Dataset tags that were added.
        progress: Show a bar.

    Returns:
        Which metadata or how many pixels are not as they have to be; None where all is well.

    Raises:
        InputError: The scene or the classes cannot be read.
    """
    with open_quietly(result) as copy:
        if names := differing_metadata(scene.dataset, copy):
            return f"the {', '.join(names)} would differ from the input's"
        if not tags.items() <= copy.tags().items():
            return "its tags would not be kept"
        levels = copy.overviews(1)
        same_for_all = all(copy.overviews(band) == levels for band in copy.indexes)
        expected = sizes_made(scene.dataset)
        if expected and not (same_for_all and overview_sizes(copy) == expected):
            return "its overviews would not be kept"
        if has_mask(copy) != has_mask(scene.dataset):
            return "the mask would not be kept"
        boxes = list(stored_blocks(copy))
        for box in tqdm(boxes, desc="check", unit="block", leave=False, disable=not progress):
            if fault := _fault_in(scene, copy, box):
                return fault
    for level in range(len(levels)):
        _read_through(result, level)
    return None


def _read_through(result: Path, level: int) -> None:
    """Decode all of an overview, which fails where writing it has: GDAL does not always say so."""
    with open_quietly(result, overview_level=level) as overview:
        for box in stored_blocks(overview):
            overview.read(window=box.window())
            overview.read_masks(1, window=box.window())


def _fault_in(scene: Scene, copy: Any, box: Box) -> str | None:
    fill_CHW, window = scene.to_fill(box), box.window()
    touched_HW = fill_CHW.any(axis=0)
    with reading(scene.path):
        before_CHW = scene.dataset.read(window=window)
    changed_CHW = _bits(before_CHW) != _bits(copy.read(window=window))
    for band, fill_HW in zip(scene.bands, fill_CHW, strict=True):
        changed_CHW[band - 1] &= ~fill_HW
    for band in alpha_bands(scene.dataset):
        changed_CHW[band - 1] &= ~touched_HW
    if changed_CHW.any():
        return f"{np.count_nonzero(changed_CHW.any(axis=0))} known pixels would differ from the input's"
    if has_mask(scene.dataset):
        with reading(scene.path):
            before_HW = scene.dataset.read_masks(1, window=window) == 0
        changed_HW = before_HW != (copy.read_masks(1, window=window) == 0)
        if (changed_HW & ~touched_HW).any():
            return "the mask of known pixels would differ from the input's"
    if touched_HW.any():
        empty_CHW = missing_values(copy, scene.bands, box) & fill_CHW
        if empty_CHW.any():
            return f"{np.count_nonzero(empty_CHW.any(axis=0))} pixels of the hole were left without a value"
    return None


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    """Floats as integers of the same bits, so that NaN is equal to itself and 0.0 is not -0.0."""
    return values.view(f"u{values.itemsize}") if values.dtype.kind == "f" else values
