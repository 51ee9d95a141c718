"""What Pillow does not say of TIFFs, told from their tags: misreadings, and the type of integers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import PREFIXES

REMEDY = (
    "to train on it set model.image_channels to its number of bands, or data.stretch=[LOW, HIGH] if that is "
    "1 or 3, and rasterio reads it; else save it as 8-bit grey or RGB"
)

# TIFF tags: BitsPerSample, PhotometricInterpretation, FillOrder, SamplesPerPixel, PlanarConfiguration,
# ExtraSamples, SampleFormat; and values of some.
_BITS, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _PLANES, _EXTRA_SAMPLES, _FORMAT = (
    258,
    262,
    266,
    277,
    284,
    338,
    339,
)
_WHITE_IS_ZERO, _GREY, _SEPARATE, _SIGNED = 0, (0, 1), 2, 2
_ALPHA = (1, 2)
_UNSIGNED_16_BITS = ("PNG", "PPM")  # formats; of PNG it is older Pillow that makes mode I


@contextmanager
def log_silenced() -> Iterator[None]:
    """Without Pillow's own words on standard error about TIFFs with more bands than it can show."""
    log = logging.getLogger("PIL.TiffImagePlugin")
    told, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = told


def is_tiff(path: Path) -> bool:
    """Whether a file that can be read begins as TIFFs do."""
    with path.open("rb") as file:
        return file.read(4) in PREFIXES


def misreading(image: Image.Image) -> str | None:
    """What of an opened TIFF Pillow would read wrongly.

    Args:
        image: As opened by Pillow, of any format; not decoded yet.

    Returns:
        What the file holds, to follow "TIFF of"; None if Pillow reads it right.
    """
    tags: Any = getattr(image, "tag_v2", None)
    if not tags:
        return None
    bits, photometric = tags.get(_BITS, (1,)), tags.get(_PHOTOMETRIC, 0)
    if photometric in _GREY:
        alpha = sum(kind in _ALPHA for kind in tags.get(_EXTRA_SAMPLES, ()))
        bands = tags.get(_SAMPLES, 1) - alpha
        if bands > 1:
            return f"{bands} bands, the first of which would be read alone"
        if bits[0] == 8 and tags.get(_FORMAT, (1,))[0] == _SIGNED:
            return "signed 8-bit values, which would be read as unsigned"
        if bits[0] > 8 and photometric == _WHITE_IS_ZERO:
            return f"{bits[0]}-bit grey whose 0 is white, which would be read as black"
    if image.mode in ("I", "F") and tags.prefix == b"MM" and image.info.get("compression") != "raw":
        return f"compressed {bits[0]}-bit values in big-endian order, whose bytes would be mixed up"
    if tags.get(_PLANES) == _SEPARATE and not _planes_are_read(image, tags, bits, photometric):
        return f"{bits[0]}-bit values in uncompressed separate planes, which would be misread"
    return None


def integers_of(image: Image.Image) -> str:
    """The type that the integers of mode ``I`` have in their file; Pillow keeps all of them in 32 bits.

    Args:
        image: Of mode ``I``, as opened by Pillow.

    Returns:
        ``uint16``, ``int16``, ``int32`` or ``uint32``; ``int32`` as well where nothing tells, as of copies
        and of arrays made into images.
    """
    if image.format in _UNSIGNED_16_BITS:
        return "uint16"
    tags: Any = getattr(image, "tag_v2", None)
    if not tags:
        return "int32"
    sign = "" if tags.get(_FORMAT, (1,))[0] == _SIGNED else "u"
    return f"{sign}int{tags[_BITS][0]}"


def _planes_are_read(image: Image.Image, tags: Any, bits: tuple[int, ...], photometric: int) -> bool:
    """Whether separate planes are read right.

    Of uncompressed ones Pillow keeps no more than the first letter of each plane's layout: not the depth,
    nor the order of bytes and bits, nor which end is white.
    """
    if image.info.get("compression") != "raw":
        return True
    plain = set(bits) <= {1, 8} or (set(bits) == {32} and tags.prefix == b"II")
    return plain and photometric != _WHITE_IS_ZERO and tags.get(_FILL_ORDER, 1) == 1
