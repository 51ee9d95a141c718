"""Pictures too large to be filled in one piece: filled tile by tile, as scenes are."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igll.engine.fillers import Filler
from igll.engine.picture_io import colour_of, with_colour
from igll.engine.scene import SceneOptions, fill_scene
from igll.errors import OutputError
from igll.geo.holes import HoleSources
from igll.geo.levels import new_raster
from igll.geo.raster import open_raster

LARGE = 1024  # longest side of a picture that is filled in one piece; attention grows with the fourth power
_WITHOUT_SCALE = ("I", "F")  # modes whose stored type does not tell what white is


def fills_in_tiles(image: Image.Image) -> bool:
    """Whether a picture is large, of a mode that can be cut, and rasterio is there to cut it."""
    rasterio = importlib.util.find_spec("rasterio") is not None
    return max(image.size) > LARGE and image.mode not in _WITHOUT_SCALE and rasterio


def fill_in_tiles(
    image: Image.Image, hole_HW: NDArray[np.bool_], out: Path, options: SceneOptions, filler: Filler
) -> Image.Image:
    """Fill a picture as a scene of the same values would be.

    Args:
        image: The picture, for which ``fills_in_tiles`` holds.
        hole_HW: True = missing; of the picture's size, and not all of it.
        out: Its result, beside which temporary rasters lie meanwhile.
        options: How scenes are cut.
        filler: The model.

    Raises:
        OutputError: There is no room for the temporary rasters.
    """
    colour_HWC = np.atleast_3d(colour_of(image))
    stretch: Literal["auto", "full"] = "full" if filler.limits is None else "auto"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.stem}.", dir=out.parent) as folder:
            values, mask, filled = (Path(folder) / f"{name}.tif" for name in ("values", "mask", "filled"))
            _write(values, colour_HWC)
            _write(mask, hole_HW[:, :, None].astype(np.uint8))
            sources = HoleSources(masks=mask, hole="nonzero")
            fill_scene(values, filled, replace(options, sources=sources, stretch=stretch), filler)
            with open_raster(filled) as raster:
                filled_HWC = raster.read().transpose(1, 2, 0)
    except OSError as error:
        raise OutputError(f"{out.parent}: cannot be written ({error.strerror or error})") from error
    return with_colour(image, filled_HWC.reshape(colour_of(image).shape), hole_HW)


def _write(path: Path, values_HWC: NDArray[Any]) -> None:
    height, width, count = values_HWC.shape
    with new_raster(path, (height, width), count, values_HWC.dtype.name) as raster:
        raster.write(values_HWC.transpose(2, 0, 1))
