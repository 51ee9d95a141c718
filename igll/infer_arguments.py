"""The command line of ``igll-infer``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from igll.arguments import Parser
from igll.errors import InputError
from igll.schema import ClassicalName
from igll.weights import ACCEPTED, BEST

if TYPE_CHECKING:
    from igll.engine.infer import InferRequest
    from igll.geo.tiling import TileSizes

# What GDAL would open and is no file, such as vrt://scene.tif?bands=1 and /vsizip/scenes.zip/scene.tif.
_GDAL_NAME = re.compile(r"\w[\w+.-]*://|/vsi")
_OVERRIDE = re.compile(r"(device|\w+(\.\w+)+)=")
_EPILOG = """\
Images: TIFF, JPEG 2000, IMG and VRT (gdalbuildvrt wraps GDAL's other rasters) are filled as scenes, of any
size and number of bands; PNG, JPEG, WebP, BMP and TIFF with a palette or single bits as pictures, in tiles
too if longer than 1,024 pixels. Known pixels come back bit-identical, which is checked in the written file.
"""


def infer_parser() -> argparse.ArgumentParser:
    """The parser of ``igll-infer``."""
    parser = Parser(
        "igll-infer",
        description="Fill the holes of images and of whole georeferenced scenes.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "given",
        nargs="*",
        metavar="IMAGE | key=value",
        help="images, folders, or .txt files that list images, one a line; and settings that replace the "
        "checkpoint's: device=…, eval.weights=…, eval.amp=…, edges.*=…",
    )
    parser.add_argument("--images", action="append", default=[], help="the same as IMAGE")
    parser.add_argument(
        "--out",
        required=True,
        help="folder for the results; for a single image also a file; earlier results are replaced",
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--checkpoint", help=f"{ACCEPTED}; default: {BEST}")
    model.add_argument(
        "--method",
        choices=(*get_args(ClassicalName), "pasted_reference"),
        metavar="NAME",
        help=f"instead of a network, a method without training: {', '.join(get_args(ClassicalName))}; "
        "or pasted_reference: what --reference shows, in the scene's colours",
    )
    guide = parser.add_mutually_exclusive_group()
    guide.add_argument("--edges", help="edge map(s) of the complete picture, white = edge")
    guide.add_argument("--reference", help="image(s) of the same place at another time")
    parser.add_argument(
        "--shard", metavar="I/N", help="fill every N-th image from the I-th on (under torchrun: by rank)"
    )  # fmt: skip
    _add_holes(parser.add_argument_group("what is missing"))
    _add_scenes(parser.add_argument_group("scenes"))
    return parser


def _add_holes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--masks",
        help="a mask, or a folder of masks with the images' names; for scenes also vector files. "
        "Without any, what a raster itself says: no-data, NaN, alpha, mask",
    )
    group.add_argument(
        "--hole",
        choices=("white", "black", "nonzero"),
        help="what marks a missing pixel in a mask (default: white in pictures' masks, nonzero in scenes')",
    )
    group.add_argument("--qa", metavar="FILE", help="quality raster(s), or band:N for a band of the scene")
    group.add_argument(
        "--qa-flags",
        metavar="FLAGS",
        help="what in it is missing: landsat-c2, sentinel2-scl, landsat-c2:cloud, bits:3,4 or values:8,9",
    )
    group.add_argument("--clouds", action="store_true", help="bright white pixels, by a simple rule")
    group.add_argument(
        "--nodata",
        action="store_true",
        help="also what the raster itself says, besides masks, --qa or --clouds",
    )
    group.add_argument(
        "--collar",
        choices=("keep", "fill"),
        default="keep",
        help="no-data around the scene, outside the convex hull of its valid pixels (default: keep)",
    )
    group.add_argument(
        "--dilate", type=int, default=0, metavar="N", help="grow the holes by N pixels, for soft rims"
    )


def _add_scenes(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--cog", action="store_true", help="write cloud-optimised GeoTIFF")
    group.add_argument(
        "--stretch",
        default="auto",
        metavar="PERCENT",
        help="cut so many per cent at either end of a band's values for the model's eyes, or 'full' range "
        "(default: as the model was trained, else 0.5)",
    )
    group.add_argument(
        "--tile",
        type=int,
        default=512,
        metavar="N",
        help="longest side that is filled at once (default: 512)",
    )
    group.add_argument(
        "--context",
        type=int,
        default=64,
        metavar="N",
        help="ground seen around a hole, in pixels (default: 64)",
    )


def infer_request(options: argparse.Namespace) -> InferRequest:
    """What the arguments ask for.

    Raises:
        InputError: An argument is out of range, or no image is named.
    """
    from igll.engine.infer import InferRequest
    from igll.engine.infer_plan import Inputs, Share
    from igll.engine.scene import SceneOptions
    from igll.geo.holes import HoleSources

    images, overrides = _told_apart(options.given)
    images = [*options.images, *images]
    if not images:
        raise InputError("no image named; give an image, a folder of images, or a .txt list of them")
    for text in (*images, options.masks, options.qa, options.edges, options.reference, options.out):
        _check_is_path(text)
    if options.hole is not None and options.masks is None:
        raise InputError(f"--hole {options.hole}: says how to read a mask; name it with --masks")
    if (options.qa is None) != (options.qa_flags is None):
        raise InputError("--qa and --qa-flags belong together: which raster, and what in it is missing")
    sources = HoleSources(
        quality=options.qa,
        quality_flags=options.qa_flags,
        clouds=options.clouds,
        nodata=options.nodata or None,
        collar=options.collar,
        dilate=_at_least("--dilate", options.dilate, 0),
    )
    if not options.out:
        raise InputError("--out '': is empty; name a file or a folder")
    return InferRequest(
        inputs=Inputs(
            images=[Path(image) for image in images],
            out=Path(options.out),
            masks=_path(options.masks),
            quality=options.qa,
            edges=_path(options.edges),
            reference=_path(options.reference),
        ),
        checkpoint=options.checkpoint,
        method=options.method,
        hole=options.hole,
        scenes=SceneOptions(
            sources, tile_sizes(options.tile, options.context), _stretch(options.stretch), options.cog
        ),
        share=Share.of(options.shard),
        overrides=overrides,
    )


def _told_apart(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Images and overrides; a file of an override's name is an image."""
    overrides = [word for word in given if _OVERRIDE.match(word) and not Path(word).exists()]
    return [word for word in given if word not in overrides], overrides


def _check_is_path(text: str | None) -> None:
    """Refuse names that GDAL would open but that are no files, in the words that were given."""
    if text is not None and _GDAL_NAME.match(text) and not Path(text).parent.is_dir():
        raise InputError(
            f"{text}: is a name for GDAL and no file; name a file, such as "
            f"gdal_translate '{text}' FILE.tif makes"
        )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def tile_sizes(tile: int, context: int) -> TileSizes:
    """How scenes are cut.

    Raises:
        InputError: A size is none that a scene can be cut by.
    """
    from igll.geo.tiling import TileSizes

    if context < 16 or context % 16:
        raise InputError(f"--context {context}: give a multiple of 16, at least 16")
    if tile % 16 or tile < 4 * context:
        raise InputError(
            f"--tile {tile}: give a multiple of 16, at least four times the context of {context}"
        )
    return TileSizes(tile, context)


def _stretch(text: str) -> float | Literal["auto", "full"]:
    if text == "full":
        return "full"
    if text == "auto":
        return "auto"
    try:
        per_cent = float(text)
    except ValueError:
        per_cent = -1.0
    if not 0 <= per_cent < 50:
        raise InputError(f"--stretch {text}: give a percentage from 0 to below 50, 'full' or 'auto'")
    return per_cent


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise InputError(f"{name} {value}: give at least {least}")
    return value
