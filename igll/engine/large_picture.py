"""Pictures too large to be filled in one piece: filled tile by tile, as scenes are."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igll.engine.fillers import Filler
from igll.engine.picture_io import colour_of, with_colour
from igll.engine.scene import SceneOptions, fill_scene
from igll.engine.scene_work import work_folder
from igll.errors import OutputError
from igll.geo.holes import HoleSources
from igll.geo.levels import new_raster
from igll.geo.raster import one_line, open_raster, raster_errors
from igll.storage import replacing

LARGE = 1024  # longest side of a picture that is filled in one piece; attention grows with the fourth power
_WITHOUT_SCALE = ("I", "F")  # modes whose stored type does not tell what white is


def fills_in_tiles(image: Image.Image) -> bool:
    """Whether a picture is large, of a mode that can be cut, and rasterio is there to cut it."""
    rasterio = importlib.util.find_spec("rasterio") is not None
    return max(image.size) > LARGE and image.mode not in _WITHOUT_SCALE and rasterio


def fill_in_tiles(
    image: Image.Image, hole_HW: NDArray[np.bool_], out: Path, options: SceneOptions, filler: Filler
) -> Image.Image:
    """Fill a picture as a scene of the same values would be; what was interrupted goes on.

    Args:
        image: The picture, for which ``fills_in_tiles`` holds.
        hole_HW: True = missing; of the picture's size, and not all of it.
        out: Its result, beside which the work lies meanwhile.
        options: How scenes are cut.
        filler: The model.

    Raises:
        OutputError: The work cannot be written, or another process works on the same result.
    """
    colour = colour_of(image)
    arrays = {"values": np.atleast_3d(colour), "mask": hole_HW[:, :, None].astype(np.uint8)}
    stretch: Literal["auto", "full"] = "full" if filler.limits is None else "auto"
    settings = [repr(options.sizes), stretch, filler.fingerprint, colour.dtype.str, colour.shape]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for values_HWC in arrays.values():
        digest.update(values_HWC.tobytes())
    with work_folder(out, digest.hexdigest()) as work:
        paths = {name: work / f"{name}.tif" for name in (*arrays, "filled")}
        sources = HoleSources(masks=paths["mask"], hole="nonzero")
        try:
            for name, values_HWC in arrays.items():
                # Once: files that are as they were tell the scene's work to go on.
                if not paths[name].is_file():
                    _write(paths[name], values_HWC)
            tiles = replace(options, sources=sources, stretch=stretch)
            fill_scene(paths["values"], paths["filled"], tiles, filler)
        except OutputError as error:
            raise OutputError(f"{out}: its tiles cannot be written ({error})") from error.__cause__
        with open_raster(paths["filled"]) as raster:
            filled_HWC = raster.read().transpose(1, 2, 0)
    return with_colour(image, filled_HWC.reshape(colour.shape), hole_HW)


def _write(path: Path, values_HWC: NDArray[Any]) -> None:
    height, width, count = values_HWC.shape
    try:
        with (
            replacing(path) as temporary,
            new_raster(temporary, (height, width), count, values_HWC.dtype.name) as raster,
        ):
            raster.write(values_HWC.transpose(2, 0, 1))
    except raster_errors() as error:
        raise OutputError(f"{path}: cannot be written ({one_line(error)})") from error
