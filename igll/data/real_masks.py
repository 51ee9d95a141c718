"""Holes of real shapes: windows of mask files, cut to the size of the images that are to have them."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from igll.data.files import decode, list_images, read_mask
from igll.data.masks import BoolArray, mask_bytes
from igll.errors import InputError, OutputError
from igll.storage import replacing

SHARES = (0.05, 0.6)  # of missing pixels in a window that is taken
_DRAWS = 200


def cut_window(
    sources: Sequence[BoolArray], height: int, width: int, rng: np.random.Generator
) -> BoolArray | None:
    """A window of one of some masks, as it is or mirrored.

    Args:
        sources: Masks, True = missing.
        height: Rows of the window.
        width: Its columns.
        rng: Draws mask, place and mirroring.

    Returns:
        mask_HW with a share of missing pixels within ``SHARES``; None if none was found.
    """
    large = [mask_HW for mask_HW in sources if mask_HW.shape[0] >= height and mask_HW.shape[1] >= width]
    for _ in range(_DRAWS if large else 0):
        mask_HW = large[int(rng.integers(len(large)))]
        top = int(rng.integers(mask_HW.shape[0] - height + 1))
        left = int(rng.integers(mask_HW.shape[1] - width + 1))
        down, right = (-1 if rng.integers(2) else 1 for _ in range(2))
        window_HW = mask_HW[top : top + height, left : left + width][::down, ::right]
        if SHARES[0] <= window_HW.mean() <= SHARES[1]:
            return window_HW
    return None


def write_masks(images: Path, files: Sequence[Path], out: Path, seed: int = 0) -> Path:
    """Give every image of a folder a hole cut out of mask files; image number n has the same on every call.

    Args:
        images: Folder of images.
        files: Masks, white = missing.
        out: The masks go into a folder below it whose name holds a hash of the mask files' content, so that
            holes of other files never pass for these. What is there is looked at: a mask that is another
            than it should be is written anew, and one that belongs to no image is removed.
        seed: Another seed, other windows.

    Returns:
        That folder; one PNG of each image's size under the image's name.

    Raises:
        InputError: A file cannot be read, two images differ in their suffix alone, or no window of the size
            holds a share of missing pixels within ``SHARES``.
        OutputError: A mask cannot be written or removed.
    """
    sources = [read_mask(path) for path in files]
    content = b"".join(mask_bytes(mask_HW) for mask_HW in sources) + f"{SHARES} {seed}".encode()
    folder = out / hashlib.sha256(content).hexdigest()[:8]
    targets = _targets(images, folder)
    for number, (target, path) in enumerate(targets.items()):
        width, height = decode(path).size
        mask_HW = cut_window(sources, height, width, np.random.default_rng([seed, number]))
        if mask_HW is None:
            raise InputError(
                f"{path}: no window of {width}×{height} pixels in {', '.join(map(str, files))} has "
                f"{SHARES[0]:.0%} to {SHARES[1]:.0%} missing; give larger masks, or others"
            )
        pixels_HW = mask_HW.astype(np.uint8) * 255
        if not _holds(target, pixels_HW):
            with replacing(target) as temporary:
                Image.fromarray(pixels_HW).save(temporary, "PNG")
    _remove_others(folder, targets)
    return folder


def _targets(images: Path, folder: Path) -> dict[Path, Path]:
    """Mask to write → image, in the order of the images."""
    targets: dict[Path, Path] = {}
    for path in list_images(images):
        target = folder / path.relative_to(images).with_suffix(".png")
        if target in targets:
            raise InputError(
                f"{path}: has the name of {targets[target].name} beside it but for the suffix, and a mask "
                "belongs to a name; rename one"
            )
        targets[target] = path
    return targets


def _holds(path: Path, pixels_HW: npt.NDArray[np.uint8]) -> bool:
    """Whether a file is there and has just these pixels; pixels, since encoders differ in the bytes."""
    if not path.exists():
        return False
    try:
        return np.array_equal(np.asarray(decode(path)), pixels_HW)
    except InputError:  # damaged
        return False


def _remove_others(folder: Path, kept: Container[Path]) -> None:
    """Remove masks of images that are no longer there, which would count among the holes."""
    for path in list_images(folder, (".png",)):
        if path not in kept:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{path}: belongs to no image and cannot be removed ({error.strerror or error})"
                ) from error
