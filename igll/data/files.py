"""Images and masks from files, by Pillow; pixels as they are stored, without colour management or rotation.

Georeferenced rasters with many bands are read elsewhere; a TIFF read here is a picture. Of a file with
several frames the first is read.
"""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from igll.data import tiffs
from igll.errors import InputError

FloatArray: TypeAlias = npt.NDArray[np.float32]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
HOLE_COLOURS = ("white", "black", "nonzero")

# What Pillow raises, and lets its decoders raise, for files that are cut short, damaged or malicious.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
# The warning filters belong to the whole process; two threads that change them at once would mix them up.
FILTERS = threading.Lock()
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in Pillow


def list_images(root: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """All images below a folder, in the order of their relative paths.

    Args:
        root: the folder. Subfolders are searched; files and folders whose names start with a dot, and
            files without one of the suffixes (in any case), are passed over. A link to nothing counts as
            an image that cannot be read: passed over, it would change the dataset without a word.
        suffixes: of the files to look for, in lower case.

    Returns:
        Paths that start with ``root``, sorted by relative path with forward slashes.

    Raises:
        InputError: ``root`` is absent, is not a folder, or holds no image.
    """
    root = Path(root)
    if not root.exists():
        raise InputError(f"{root}: no such folder; check the path")
    if not root.is_dir():
        raise InputError(f"{root}: is a file; give the folder that holds the images")
    images = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*")
        if path.suffix.lower() in suffixes and (path.is_file() or (path.is_symlink() and not path.exists()))
    }
    visible = sorted(name for name in images if not any(part.startswith(".") for part in name.split("/")))
    if not visible:
        raise InputError(f"{root}: holds no image; files with {', '.join(suffixes)} are looked for")
    return [images[name] for name in visible]


def read_image(path: Path, channels: int = 3) -> FloatArray:
    """Read an image.

    Grey is repeated to three channels, a palette is expanded, an alpha channel is dropped. Values are
    divided by the largest that their type in the file holds: 1, 255, 65,535, or 32,767 of signed 16-bit
    grey. Pillow reduces 16-bit *colour* to 8 bits (see ``png_bit_depth``).

    Args:
        path: the file.
        channels: 3, or 1 for luminance (0.299 R + 0.587 G + 0.114 B).

    Returns:
        float32 array of shape (height, width, channels) in [0, 1].

    Raises:
        InputError: the file is absent, damaged, not an image or too large for Pillow's limit against
            decompression bombs; its integers have more than 16 bits or are negative, or its floats exceed
            [0, 1]; ``channels`` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise InputError(f"channels is {channels}; images are read with 1 or 3 channels")
    image = decode(path)
    if _is_deep_grey(image):
        grey = _scaled_grey(path, image)
        return np.repeat(grey[:, :, None], channels, axis=2)
    colour = (np.asarray(image.convert("RGB")) / np.float32(255)).astype(np.float32)
    if channels == 3:
        return colour
    # A weighted sum of equal channels is only nearly equal to them, so grey files go their own way.
    if image.mode in ("1", "L", "LA"):
        return colour[:, :, :1].copy()
    return (colour @ _LUMINANCE).clip(0, 1)[:, :, None]


def read_mask(path: Path, hole: str = "white") -> npt.NDArray[np.bool_]:
    """Read a hole mask from an image; True = missing.

    Colours are first reduced to luminance; an alpha channel is dropped, not looked at. The range of a
    file is 0 ... 1 if no value exceeds 1, else 0 ... 255 if none exceeds 255, else 0 ... 65,535, whatever
    its bit depth; a pixel is *white* above the middle of the range, so from 128 up in a file of 0 and 255.

    - ``hole="white"``: white pixels are missing.
    - ``hole="black"``: the other pixels are missing.
    - ``hole="nonzero"``: pixels with any colour channel other than 0 are missing, for label files such
      as 0, 1, 2.

    Args:
        path: the file, of any sort that ``read_image`` reads.
        hole: one of ``HOLE_COLOURS``.

    Returns:
        Boolean array of shape (height, width).

    Raises:
        InputError: the file is not readable as an image, has negative or non-finite values, or has
            values above 1 yet nothing white, so that "white" and "black" would be a guess; ``hole`` is
            unknown.
    """
    if hole not in HOLE_COLOURS:
        raise InputError(f"hole colour {hole!r} is unknown; choose one of {', '.join(HOLE_COLOURS)}")
    image = decode(path)
    if hole == "nonzero":
        return (_stored_values(path, image, "RGB") != 0).any(axis=2)
    values = _stored_values(path, image, "L")[:, :, 0]
    brightest = values.max()
    full = next((full for full in (1, 255, 65535) if brightest <= full), None)
    if full is None:
        raise InputError(f"{path}: mask values reach {brightest}; save the mask with 8 or 16 bits")
    if full > 1 and brightest <= full / 2:
        raise InputError(
            f"{path}: the brightest mask value is {brightest} of {full}, so nothing is white; "
            f"use 0 and {full}, or hole 'nonzero' for labels"
        )
    white = values > full / 2
    return white if hole == "white" else ~white


def png_bit_depth(path: Path) -> int | None:
    """Bits per sample of a PNG file, read from its header, for callers that promise to lose nothing.

    Args:
        path: the file.

    Returns:
        1, 2, 4, 8 or 16; None if the file is not a PNG.

    Raises:
        InputError: the file is absent or unreadable, or its PNG header is cut short or invalid.
    """
    try:
        with Path(path).open("rb") as file:
            header = file.read(25)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)})") from error
    if not header.startswith(_PNG_SIGNATURE):
        return None
    # Signature (8), chunk length (4), "IHDR" (4), width (4), height (4), bit depth (1).
    if header[12:16] != b"IHDR" or len(header) < 25 or header[24] not in (1, 2, 4, 8, 16):
        raise InputError(f"{path}: damaged PNG header; replace the file")
    return header[24]


def printable(name: str) -> str:
    """A file's name as UTF-8 holds it: bytes that are none are escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def full_scale(path: Path, dtype: np.dtype[Any]) -> int:
    """The stored value that is 1 unless a stretch says otherwise.

    Args:
        path: The file, for the error.
        dtype: Of its values: integers or floats.

    Returns:
        The largest value of integers of 8 and 16 bits, signed or not; 1 of floats.

    Raises:
        InputError: Integers of more bits, which hardly any values fill.
    """
    if dtype.kind == "f":
        return 1
    if dtype.itemsize > 2:
        raise InputError(
            f"{path}: of {dtype} values, full scale says nothing; set data.stretch=[LOW, HIGH], the raw "
            "values for 0 and 1, or save it with 16 bits"
        )
    return int(np.iinfo(dtype).max)


def match_by_stem(
    images: list[Path],
    image_root: Path,
    partners_root: Path,
    kind: str = "mask",
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
) -> list[Path]:
    """Find the mask (or another partner) of every image.

    A mask belongs to an image if it has the same path below its root but for the suffix. Failing that,
    if it has the same name but for the suffix, in whatever folder, and no other mask and no other image
    has that name. Masks that belong to no image are left out.

    Args:
        images: image files below ``image_root``.
        image_root: the folder that the images' relative paths count from.
        partners_root: folder of masks, or a single mask file that serves every image.
        kind: what an error calls a partner.
        suffixes: of the masks to look for, in lower case.

    Returns:
        One mask file per image, in the order of ``images``.

    Raises:
        InputError: no mask, or more than one, for an image (the first such image is named);
            ``partners_root`` is absent or holds no image.
    """
    if not Path(partners_root).exists():
        raise InputError(f"{partners_root}: no such file or folder of {kind}s; check the path")
    if Path(partners_root).is_file():
        return [Path(partners_root)] * len(images)
    partners = list_images(partners_root, suffixes)
    by_path = _grouped(partners, (_relative_stem(partner, partners_root) for partner in partners))
    by_name = _grouped(partners, (partner.stem for partner in partners))
    namesakes = Counter(image.stem for image in images)
    matched = []
    for image in images:
        relative = _relative_stem(image, image_root)
        candidates = by_path.get(relative) or by_name.get(image.stem, [])
        if not candidates:
            names = " or ".join(f"{name}.*" for name in dict.fromkeys((relative, image.stem)))
            raise InputError(
                f"{image}: no {kind} named {names} in {partners_root} "
                f"({len(images)} images, {len(partners)} {kind}s); each image needs one of its name"
            )
        if len(candidates) > 1:
            names = " and ".join(str(partner) for partner in candidates[:2])
            raise InputError(f"{image}: more than one {kind} fits, {names}; keep one")
        if relative not in by_path and namesakes[image.stem] > 1:
            raise InputError(
                f"{image}: {candidates[0]} fits {namesakes[image.stem]} images of that name; "
                f"sort the {kind}s into the images' subfolders"
            )
        matched.append(candidates[0])
    return matched


def decode(path: Path) -> Image.Image:
    """Open and decode a file completely, in any thread; any failure becomes one line that names it."""
    try:
        with FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of odd metadata, which has no say here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with tiffs.log_silenced():
                opened = Image.open(path)  # reads the header alone
        with opened as image:
            misread = tiffs.misreading(image)
            if misread is not None:
                raise InputError(f"{path}: TIFF of {misread}; {tiffs.REMEDY}")
            image.load()
            return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: image too large ({_reason(error)}); cut it into smaller ones") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except Image.UnidentifiedImageError as error:
        if tiffs.is_tiff(Path(path)):
            raise InputError(
                f"{path}: TIFF of bands or values that Pillow cannot read; {tiffs.REMEDY}"
            ) from error
        raise InputError(f"{path}: not an image in a known format; replace or remove the file") from error
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)})") from error
    except _DECODING_ERRORS as error:
        raise InputError(f"{path}: damaged image ({_reason(error)}); replace or remove the file") from error


def _reason(error: Exception) -> str:
    """What an exception says, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _scaled_grey(path: Path, image: Image.Image) -> FloatArray:
    """Grey of more than 8 bits, scaled to [0, 1]."""
    values = np.asarray(image)
    full = full_scale(path, np.dtype(tiffs.integers_of(image)) if image.mode == "I" else values.dtype)
    # Written so that a NaN fails too.
    if not (values.min() >= 0 and values.max() <= full):
        raise InputError(
            f"{path}: values span {values.min()} to {values.max()}, outside 0 to {full}; rescale the image, "
            "or to train on it set data.stretch=[LOW, HIGH], the raw values for 0 and 1"
        )
    return (values / np.float32(full)).astype(np.float32)


def _stored_values(path: Path, image: Image.Image, mode: str) -> npt.NDArray[Any]:
    """Values as stored if grey of more than 8 bits, else 8-bit in ``mode``: (height, width, channels)."""
    if _is_deep_grey(image):
        values = np.asarray(image)
        if not (values.min() >= 0 and np.isfinite(values.max())):
            raise InputError(f"{path}: mask with negative or non-finite values; use 0 and 255")
    else:
        values = np.asarray(image.convert("RGB").convert(mode))
    return np.atleast_3d(values)


def _is_deep_grey(image: Image.Image) -> bool:
    """Whether a file holds one channel of 16-bit or 32-bit integers or of floats."""
    return image.mode.startswith("I") or image.mode == "F"


def _relative_stem(path: Path, root: Path) -> str:
    return Path(path).relative_to(root).with_suffix("").as_posix()


def _grouped(paths: Iterable[Path], keys: Iterable[str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, key in zip(paths, keys, strict=True):
        groups[key].append(path)
    return dict(groups)
