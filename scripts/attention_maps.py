"""Draws where GAM and FFSM look for a pixel of the hole, like the paper's Figure 11, as PNG and PDF.

Usage: python scripts/attention_maps.py --checkpoints A [B ...] --image I --mask M --pixel ROW COLUMN --out maps.png

One row per checkpoint and pixel (--pixel may be given again), so that one head and three stand below each other.
A checkpoint with oracle edges needs --edges or --reference; the complete image itself may be the reference.
"""  # noqa: E501

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igll.cli import exit_with
from igll.data.files import read_image, read_mask
from igll.engine.attention_maps import attention_maps, draw_attention
from igll.engine.weights_source import column_title
from igll.errors import InputError
from igll.inpainter import Inpainter


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; a relative path is looked for below the working folder."""
    parser = argparse.ArgumentParser("attention_maps", description="Draw where GAM and FFSM look.")
    parser.add_argument("--checkpoints", nargs="+", required=True, help="each whatever igll.load takes")
    parser.add_argument(
        "--names", nargs="+", help="one per checkpoint (default: the run's folder, or the name given)"
    )
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--mask", type=Path, required=True, help="of the image's size")
    parser.add_argument("--hole", choices=("white", "black", "nonzero"), default="white")
    parser.add_argument(
        "--pixel", nargs=2, type=int, action="append", required=True, metavar=("ROW", "COLUMN")
    )
    parser.add_argument(
        "--crop",
        nargs=3,
        type=int,
        metavar=("TOP", "LEFT", "SIDE"),
        help="this part alone; --pixel counts in it",
    )
    guide = parser.add_mutually_exclusive_group()
    guide.add_argument("--edges", type=Path, help="edge map of the complete scene, white = edge")
    guide.add_argument("--reference", type=Path, help="image of the same place, for its edges")
    parser.add_argument("--out", type=Path, required=True, help="PNG or PDF; both are written")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="device=…, edges.weights=…")
    return parser.parse_args(arguments)


def read_part(path: Path, mask_HW: NDArray[np.bool_], crop: list[int] | None) -> NDArray[np.uint8]:
    """An image of the mask's size as uint8 RGB, cut to the part that is looked at."""
    image_HWC = read_image(path)
    if image_HWC.shape[:2] != mask_HW.shape:
        height, width = image_HWC.shape[:2]
        mask = f"{mask_HW.shape[0]}×{mask_HW.shape[1]}"
        raise InputError(f"{path}: is {height}×{width} pixels (height × width), but the mask is {mask}")
    return cut(np.rint(image_HWC * 255).astype(np.uint8), crop)


def cut(array: NDArray[Any], crop: list[int] | None) -> NDArray[Any]:
    """The square part named by --crop."""
    if crop is None:
        return array
    top, left, side = crop
    if min(top, left, side - 1) < 0 or top + side > array.shape[0] or left + side > array.shape[1]:
        raise InputError(f"--crop {top} {left} {side}: reaches beyond the image")
    return array[top : top + side, left : left + side]


def main(arguments: list[str]) -> int:
    """Compute and draw the maps of every checkpoint and pixel."""
    options = read_arguments(arguments)
    names = options.names or [column_title(given) for given in options.checkpoints]
    if len(names) != len(options.checkpoints):
        raise InputError(f"--names: {len(names)} for {len(options.checkpoints)} checkpoints")
    mask_HW = read_mask(options.mask, options.hole)
    image_HWC = read_part(options.image, mask_HW, options.crop)
    guides: dict[str, NDArray[np.uint8]] = {}
    if options.edges:
        guides["edges"] = read_part(options.edges, mask_HW, options.crop)[:, :, 0]
    if options.reference:
        guides["reference"] = read_part(options.reference, mask_HW, options.crop)
    rows = []
    for name, path in zip(names, options.checkpoints, strict=True):
        inpainter = Inpainter.from_checkpoint(path, options.set)
        takes = inpainter.generator.structure_prior in ("oracle", "reference")
        for row, column in options.pixel:
            # Beside others, a checkpoint that completes its own edges goes without the guide.
            used = guides if takes or len(names) == 1 else {}
            maps = attention_maps(inpainter, image_HWC, cut(mask_HW, options.crop), (row, column), **used)
            rows.append((name, maps))
    draw_attention(rows, options.out)
    print(f"written: {options.out.with_suffix('.png')} and .pdf")
    return 0


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))
