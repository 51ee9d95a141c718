"""Pictures read and written in their own mode, so that what is not filled comes back bit for bit.

Pillow's modes ``1``, ``L``, ``LA``, ``P``, ``RGB``, ``RGBA``, ``I;16``, ``I`` and ``F`` are handled. What
Pillow would reduce or misread without a word (16-bit colour, bands beyond RGBA, unsigned 32 bits, frames
after the first) is refused. EXIF orientation stays a tag, pixels are not turned; only that of TIFF is
applied, by Pillow while decoding.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from igll.data import tiffs
from igll.data.files import FILTERS, decode, png_bit_depth
from igll.errors import InputError
from igll.storage import replacing

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F")

# TIFF tags: BitsPerSample, SamplesPerPixel, ExtraSamples, SampleFormat; XResolution; NewSubfileType; and
# those that say where on Earth a picture lies: ModelPixelScale, ModelTiepoint, ModelTransformation, the three
# GeoKey tags, GDAL's metadata, no-data.
_BITS, _SAMPLES, _EXTRA_SAMPLES, _FORMAT = 258, 277, 338, 339
_UNASSOCIATED_ALPHA, _SIGNED = 2, 2
_X_RESOLUTION = 282
_SUBFILE, _OVERVIEW_OR_MASK, _BIG_TIFF = 254, 1 | 4, 43
_GEOGRAPHIC = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
_WIDE_UNSIGNED = "unsigned 32-bit integers, which Pillow would read as signed"
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Picture:
    """A decoded picture and what to save beside its pixels.

    Attributes:
        image: Pixels, mode, palette.
        extras: Arguments of ``Image.save``: ICC profile, resolution, and EXIF (PNG) or place and sign of
            16-bit integers (TIFF).
    """

    image: Image.Image
    extras: dict[str, Any]


def output_suffix(path: Path) -> str:
    """The lossless format that results of an input file are written in: ``.tif`` for TIFF, else ``.png``."""
    return ".tif" if path.suffix.lower() in (".tif", ".tiff") else ".png"


def read_picture(path: Path) -> Picture:
    """Read a picture in its own mode.

    Raises:
        InputError: The file is absent or damaged, or holds more than Pillow would read.
    """
    image = decode(path)
    frames = _frames(path, image)
    if frames > 1:
        raise InputError(
            f"{path}: holds {frames} pictures (frames or pages), all but the first of which would be lost; "
            "save the one to fill in a file of its own"
        )
    tags = getattr(image, "tag_v2", {})
    bands = len(image.getbands())
    bits = tags.get(_BITS, (8,))
    if image.mode not in _DEEP_GREY and image.mode != "I" and png_bit_depth(path) == 16:
        raise InputError(
            f"{path}: 16-bit colour PNG, which would be reduced to 8 bits; convert it to 8 bits per channel"
        )
    if bands > 1 and max(bits) > 8:
        raise InputError(
            f"{path}: {max(bits)}-bit colour TIFF, which would be reduced to 8 bits; "
            "convert it to 8 bits per channel"
        )
    alpha_unclear = (
        image.mode in ("LA", "RGBA") and tags and tags.get(_EXTRA_SAMPLES) != (_UNASSOCIATED_ALPHA,)
    )
    if tags.get(_SAMPLES, bands) != bands or alpha_unclear:
        raise InputError(
            f"{path}: TIFF with {tags.get(_SAMPLES, bands)} bands other than grey or RGB with or without "
            "unassociated alpha; keep one or three bands"
        )
    integers = tiffs.integers_of(image) if image.mode == "I" else None
    if integers == "uint32":
        raise InputError(
            f"{path}: TIFF of {_WIDE_UNSIGNED}; save it with 16 bits, or install igll[geo], by which it is "
            "filled as a scene"
        )
    # Old Pillow reads 16-bit grey PNG as 32-bit; byte order is no property of a picture.
    if image.mode in _DEEP_GREY[1:] or integers == "uint16":
        values, info = np.asarray(image).astype("<u2"), image.info
        image = Image.fromarray(values)
        image.info.update(info)
    if image.mode not in MODES:
        raise InputError(f"{path}: colour mode {image.mode} is not handled; convert it to RGB")
    return Picture(image, _extras(image, tags, output_suffix(path)))


def _frames(path: Path, image: Image.Image) -> int:
    """How many pictures a PNG, WebP or TIFF holds; a TIFF's overviews and masks are none."""
    if image.format in ("PNG", "WEBP"):
        return int(getattr(image, "n_frames", 1))
    if image.format != "TIFF":
        return 1  # of a JPEG the others are previews
    pages, seen = 0, set()
    with path.open("rb") as file, FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of damage after the first page
        header = file.read(8)
        page = ImageFileDirectory_v2(header + (file.read(8) if _BIG_TIFF in header[2:4] else b""))
        while page.next and page.next not in seen:
            seen.add(page.next)
            file.seek(page.next)
            page.load(file)
            pages += not page.get(_SUBFILE, 0) & _OVERVIEW_OR_MASK
    return pages


def write_picture(path: Path, picture: Picture, original: Image.Image, hole_HW: NDArray[np.bool_]) -> None:
    """Write a filled picture without loss, after reading back that every known pixel is the original's.

    The file is whole or not there: it is written beside its place, checked, then moved.

    Args:
        path: Target with suffix ``.png`` or ``.tif``.
        picture: What to write.
        original: The picture before filling.
        hole_HW: True where pixels were filled.

    Raises:
        InputError: The format cannot hold the mode, the file cannot be written, or the check failed.
    """
    encoded = io.BytesIO()
    settings = (
        {"format": "TIFF", "compression": "tiff_deflate"} if path.suffix == ".tif" else {"format": "PNG"}
    )
    try:
        _as_stored(picture).save(encoded, **settings, **picture.extras)
    except (OSError, ValueError, TypeError, struct.error) as error:
        raise InputError(
            f"{path}: mode {picture.image.mode} cannot be written as {settings['format']} ({error}); "
            "if the input is a TIFF, name it .tif"
        ) from None
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())
        if not same_known_pixels(read_picture(temporary).image, original, hole_HW):
            raise InputError(f"{path}: not kept, its known pixels differ from the input's after writing")


def _as_stored(picture: Picture) -> Image.Image:
    """The image to save: of signed 16-bit integers their bits, which a tag among the extras calls signed.

    Pillow itself would write mode ``I`` with 32 bits, and then nothing told full scale any more.
    """
    tags = picture.extras.get("tiffinfo", {})
    if picture.image.mode != "I" or _FORMAT not in tags:
        return picture.image
    return Image.fromarray(np.asarray(picture.image).astype(np.int16).view(np.uint16))


def same_known_pixels(result: Image.Image, original: Image.Image, hole_HW: NDArray[np.bool_]) -> bool:
    """Whether two pictures agree in size, mode and every bit outside the hole, palette colours included."""
    if (result.size, result.mode) != (original.size, original.mode):
        return False
    views = [(result, original)]
    if original.mode == "P":
        views.append((result.convert("RGBA"), original.convert("RGBA")))
    return all(
        np.asarray(one)[~hole_HW].tobytes() == np.asarray(other)[~hole_HW].tobytes() for one, other in views
    )


def colour_of(image: Image.Image) -> NDArray[Any]:
    """The colours of a picture, without alpha.

    Returns:
        (H, W) for grey, (H, W, 3) for RGB and palettes, as stored: uint8; uint16 for ``I;16``; float32 for
        ``F``; for ``I`` what the file has, uint16, int16 or int32, and int32 where that is unknown.

    Raises:
        InputError: The mode is none of ``MODES``, or Pillow misreads the file that the image is of.
    """
    integers = tiffs.integers_of(image) if image.mode == "I" else None
    misread = _WIDE_UNSIGNED if integers == "uint32" else tiffs.misreading(image)
    if misread is not None:
        raise InputError(f"image: TIFF of {misread}; read it with rasterio and give the array")
    if image.mode in _DEEP_GREY:
        return np.asarray(image).astype(np.uint16)
    if integers is not None:
        return np.asarray(image).astype(integers)
    if image.mode not in MODES:
        raise InputError(f"colour mode {image.mode} is not handled; convert the image to RGB")
    if image.mode in ("1", "LA"):
        return np.asarray(image.convert("L"))
    if image.mode in ("P", "RGBA"):
        # Pillow warns of palettes with transparency that become RGB at once.
        return np.asarray(image.convert("RGBA").convert("RGB"))
    return np.asarray(image)


def with_colour(image: Image.Image, colour: NDArray[Any], hole_HW: NDArray[np.bool_]) -> Image.Image:
    """A copy of a picture whose hole has new colours and is opaque; the rest is untouched.

    Args:
        image: The picture.
        colour: New colours, of the shape and type that ``colour_of`` gives; read in the hole alone.
        hole_HW: True where to write.
    """
    stored, new = np.array(image), colour[hole_HW]
    if image.mode == "1":
        stored[hole_HW] = new >= 128
    elif image.mode == "P":
        stored[hole_HW] = _nearest_in_palette(image, new, np.unique(stored[~hole_HW]))
    elif image.mode == "LA":
        stored[hole_HW] = np.stack([new, np.full_like(new, 255)], axis=-1)
    elif image.mode == "RGBA":
        stored[hole_HW] = np.concatenate([new, np.full_like(new[:, :1], 255)], axis=-1)
    else:
        stored[hole_HW] = _off_transparent_colour(image, new)
    result = image.copy()
    if image.mode == "1":
        result.frombytes((stored * np.uint8(255)).tobytes(), "raw", "1;8")
    else:
        result.frombytes(stored.tobytes())
    return result


def _nearest_in_palette(
    image: Image.Image, colours_N3: NDArray[np.uint8], known_K: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Index of the nearest opaque colour that known pixels have; without one, of any opaque one, or of any.

    Distances are Euclidean. A palette may list colours that stand for nothing: TIFF's always has 256.
    """
    from scipy.spatial import cKDTree

    count = len(image.getpalette() or ()) // 3
    ramp = image.resize((count, 1), Image.Resampling.NEAREST)
    ramp.frombytes(bytes(range(count)))
    palette_K4 = np.asarray(ramp.convert("RGBA"))[0]
    every = np.arange(count)
    opaque = every[palette_K4[:, 3] == 255]
    known = np.intersect1d(opaque, known_K)
    usable = known if known.size else opaque if opaque.size else every
    _, nearest = cKDTree(palette_K4[usable, :3].astype(np.float32)).query(colours_N3.astype(np.float32))
    return usable[nearest].astype(np.uint8)


def _off_transparent_colour(image: Image.Image, colours: NDArray[Any]) -> NDArray[Any]:
    """Colours moved by one level where they equal the one that a PNG declares transparent."""
    transparent = image.info.get("transparency")
    if not isinstance(transparent, (int, tuple)) or colours.dtype.kind != "u":
        return colours
    moved = colours.reshape(len(colours), -1).copy()
    moved[(moved == np.asarray(transparent)).all(axis=1), 0] ^= 1
    return moved.reshape(colours.shape)


def _extras(image: Image.Image, tags: Any, suffix: str) -> dict[str, Any]:
    """What to save beside the pixels."""
    extras: dict[str, Any] = {}
    if image.info.get("icc_profile"):
        extras["icc_profile"] = image.info["icc_profile"]
    # Of a TIFF that states none, Pillow says 1.
    stated = () if tags and _X_RESOLUTION not in tags else image.info.get("dpi", ())
    resolution = tuple(float(value) for value in stated)
    if len(resolution) == 2 and all(math.isfinite(value) and value > 0 for value in resolution):
        extras["dpi"] = resolution
    if suffix == ".png" and image.info.get("exif"):
        extras["exif"] = image.info["exif"]
    if suffix == ".tif" and tags:
        kept = ImageFileDirectory_v2()
        for tag in _GEOGRAPHIC:
            if tag in tags:
                kept.tagtype[tag] = tags.tagtype[tag]
                kept[tag] = tags[tag]
        if image.mode == "I" and tiffs.integers_of(image) == "int16":
            kept[_FORMAT] = _SIGNED
        extras["tiffinfo"] = kept
    return extras
