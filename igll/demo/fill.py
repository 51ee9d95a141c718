"""What the page does with files and pixels; knows nothing of the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from igll.data.files import read_mask
from igll.data.masks import grow_hole, make_mask
from igll.data.synthetic import render_scene
from igll.engine.picture_io import Picture, colour_of, read_picture, write_picture
from igll.engine.weights_source import find_weights
from igll.errors import InputError
from igll.inpainter import Inpainter
from igll.method_inpainter import MethodInpainter
from igll.registry import TITLES
from igll.report.figures import paint_hole
from igll.schema import ClassicalName
from igll.storage import replacing

BoolArray = NDArray[np.bool_]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
# What a network fills on a CPU while a visitor still waits, and every browser's canvas can hold.
MAX_PIXELS = 1024 * 1024
MAX_SIDE = 4096
MAX_GROWTH = 20

_EXAMPLE_SIZE = 384
_EXAMPLE_RATIO = 0.14
# Title: kind and seed of the scene, seed of its cloud.
EXAMPLES = {"Coast": ("coast", 7, 3), "Farmland": ("farmland", 21, 11), "Town": ("town", 4, 8)}


@dataclass(frozen=True)
class Method:
    """What fills.

    Attributes:
        title: Its name on the page.
        fill: Maps a picture and its hole, True = missing, to the filled picture, as ``Inpainter.inpaint``.
    """

    title: str
    fill: Callable[[Image.Image, BoolArray], Image.Image]


@dataclass(frozen=True)
class Hole:
    """What a visitor wants filled: all that is painted or marked in the mask file.

    Attributes:
        layers: Painted, RGBA of shape (H, W, 4), of the image's size.
        mask: A file, white = missing.
        growth: Pixels to grow the hole by, 0 to ``MAX_GROWTH``.
    """

    layers: Sequence[NDArray[np.uint8]] = ()
    mask: Path | None = None
    growth: int = 0


@dataclass(frozen=True)
class Filled:
    """A filling.

    Attributes:
        before_HWC: The image with its hole marked, uint8 RGB.
        after_HWC: The filled image, uint8 RGB, without alpha.
        picture: PNG file in the upload's own mode, known pixels bit-identical.
        mask: PNG file, white = filled.
        status: What was done, in one line.
    """

    before_HWC: NDArray[np.uint8]
    after_HWC: NDArray[np.uint8]
    picture: Path
    mask: Path
    status: str


def trained_method(checkpoint: str | Path | None = None, overrides: Sequence[str] = ()) -> Method:
    """A network by its weights, both arguments as ``Inpainter.from_checkpoint`` takes them.

    Raises:
        InputError: It cannot be loaded, or needs edges or a reference, which the page does not take.
    """
    source = find_weights(checkpoint)
    inpainter = Inpainter.from_checkpoint(source.path, overrides)
    inpainter.check_guide(edges=False, reference=False)
    name = TITLES[inpainter.config.model.name]
    return Method(f"{name} ({source.title})", inpainter.inpaint)


def classical_method(name: ClassicalName) -> Method:
    """A method without training.

    Raises:
        InputError: It needs a package that is not installed.
    """
    inpainter = MethodInpainter(name)
    return Method(inpainter.title, inpainter.inpaint)


def open_upload(path: Path) -> Picture:
    """Read an uploaded image as igll-infer would.

    Raises:
        InputError: It cannot be read, is too large for the page or has more than 8 bits per channel.
    """
    _check_size(path)
    picture = _naming(path, read_picture)
    if picture.image.mode in ("I;16", "I", "F"):
        raise InputError(
            f"{path.name}: more than 8 bits per channel, the page takes 8; fill it with igll-infer"
        )
    return picture


def open_mask(path: Path, size: tuple[int, int]) -> BoolArray:
    """Read an uploaded mask, white = missing.

    Args:
        path: The file.
        size: Width and height of the image.

    Returns:
        (H, W), True = missing.

    Raises:
        InputError: It cannot be read or has another size than the image.
    """
    _check_size(path)
    hole_HW = _naming(path, read_mask)
    if hole_HW.shape != size[::-1]:
        raise InputError(
            f"{path.name}: the mask has {hole_HW.shape[1]} × {hole_HW.shape[0]} pixels, "
            f"the image {size[0]} × {size[1]}; give a mask of the image's size"
        )
    return hole_HW


def painted_hole(layers: Sequence[NDArray[np.uint8]], size: tuple[int, int]) -> BoolArray:
    """Where anything was painted.

    Args:
        layers: RGBA of shape (H, W, 4), of the image's size.
        size: Width and height of the image.

    Returns:
        (H, W), True where a layer is not wholly transparent.

    Raises:
        InputError: Something was painted on a layer of another size than the image.
    """
    hole_HW = np.zeros(size[::-1], dtype=np.bool_)
    for layer_HW4 in layers:
        painted_HW = layer_HW4[:, :, 3] > 0
        if not painted_HW.any():
            continue
        if painted_HW.shape != hole_HW.shape:  # undoing can take the picture out of the editor
            raise InputError(
                "what is painted does not fit the image; press the bin beside the picture and paint again"
            )
        hole_HW |= painted_HW
    return hole_HW


def rgb_of(image: Image.Image) -> NDArray[np.uint8]:
    """The colours of a picture of 8 bits as RGB without alpha, (H, W, 3)."""
    colour = colour_of(image)
    return colour if colour.ndim == 3 else np.repeat(colour[:, :, None], 3, axis=2)


def marked(image: Image.Image, hole_HW: BoolArray) -> NDArray[np.uint8]:
    """The colours of a picture with its hole in one that stands out, (H, W, 3)."""
    return paint_hole(rgb_of(image), hole_HW)


def fill_upload(method: Method, path: Path, hole: Hole, out: Path) -> Filled:
    """Fill an uploaded image and write the results.

    Args:
        method: What fills.
        path: The uploaded file; its own pixels are used.
        hole: What to fill.
        out: Folder for the files.

    Raises:
        InputError: The image or the mask cannot be read or filled, or the hole is empty or everywhere.
        OutputError: The results cannot be written.
    """
    picture = open_upload(path)
    hole_HW = painted_hole(hole.layers, picture.image.size)
    if hole.mask is not None:
        hole_HW |= open_mask(hole.mask, picture.image.size)
    if not hole_HW.any():
        raise InputError("no hole yet; paint over what is to be filled, or add a mask file")
    hole_HW = grow_hole(hole_HW, hole.growth)
    if hole_HW.all():
        raise InputError("the hole covers the whole image, so nothing is known to fill from; make it smaller")
    start = time.perf_counter()
    image = _within_memory(method, picture.image, hole_HW)
    seconds = time.perf_counter() - start
    filled, mask = out / f"{path.stem}_filled.png", out / f"{path.stem}_mask.png"
    write_picture(filled, Picture(image, picture.extras), picture.image, hole_HW)
    _write_mask(mask, hole_HW)
    count = int(hole_HW.sum())
    status = (
        f"{count:,} {'pixel' if count == 1 else 'pixels'} filled ({100 * hole_HW.mean():.1f} % of the image) "
        f"in {seconds:.2f} s by {method.title}. Filled pixels are plausible, not measured."
    )
    return Filled(marked(picture.image, hole_HW), rgb_of(image), filled, mask, status)


def write_example(title: str, folder: Path) -> tuple[Path, Path]:
    """Draw an example of ``EXAMPLES``: an image and the mask of a cloud, as files.

    Returns:
        Paths of the image and the mask.
    """
    kind, seed, cloud_seed = EXAMPLES[title]
    image, mask = folder / f"{kind}.png", folder / f"{kind}_cloud.png"
    rng = np.random.default_rng(cloud_seed)
    hole_HW = make_mask("cloud", _EXAMPLE_SIZE, _EXAMPLE_SIZE, _EXAMPLE_RATIO, rng)
    with replacing(image) as temporary:
        Image.fromarray(render_scene(seed, _EXAMPLE_SIZE, kind)).save(temporary)
    _write_mask(mask, hole_HW)
    return image, mask


def _within_memory(method: Method, image: Image.Image, hole_HW: BoolArray) -> Image.Image:
    """Fill, with one line instead of what torch and SciPy raise where memory runs out."""
    try:
        return method.fill(image, hole_HW)
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError on CUDA, a bare RuntimeError on the CPU
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise InputError("not enough memory to fill it; take a smaller image or a smaller hole") from error


def _write_mask(path: Path, hole_HW: BoolArray) -> None:
    with replacing(path) as temporary:
        Image.fromarray(hole_HW.astype(np.uint8) * np.uint8(255)).save(temporary)


def _check_size(path: Path) -> None:
    """Refuse a picture that is too large, from its header, before it is decoded."""
    try:
        with Image.open(path) as header:
            width, height = header.size
    except Image.DecompressionBombError:
        width = height = MAX_SIDE + 1
    except Exception:  # whatever a damaged file raises: reading it will say what is wrong
        return
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError(
            f"{path.name}: larger than the page takes ({MAX_PIXELS:,} pixels, {MAX_SIDE:,} on a side); "
            "fill it with igll-infer, or cut out a part"
        )


def _naming(path: Path, read: Callable[[Path], Any]) -> Any:
    """Read a file; errors name it as the visitor does, not where the page keeps it."""
    try:
        return read(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), path.name)) from error
