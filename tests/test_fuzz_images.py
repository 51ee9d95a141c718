"""Damaged picture and raster files: an array of the promised kind, or one line."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from igll.data.bands import read_bands
from igll.data.files import HOLE_COLOURS, decode, png_bit_depth, read_image, read_mask
from igll.geo.box import Box
from igll.geo.missing_values import data_bands, missing_values
from igll.geo.raster import open_raster, reading
from tests.fuzzing import answer, examples, mutated

MOST = 2**20  # pixels, so that a header that lies costs a test run little memory
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture(autouse=True, scope="module")
def few_pixels() -> Iterator[None]:
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST
    yield
    Image.MAX_IMAGE_PIXELS = before


def written(kind: str, array: np.ndarray, mode: str | None = None, **options) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(stream, kind, **options)
    return stream.getvalue()


FILES = {
    "png": [
        written("PNG", COLOUR),
        written("PNG", COLOUR, "P"),
        written("PNG", COLOUR, "1"),
        written("PNG", COLOUR, "RGBA"),
        written("PNG", RNG.integers(0, 65536, (20, 30), dtype=np.uint16)),
    ],
    "jpg": [
        written("JPEG", COLOUR),
        written("JPEG", COLOUR, "L", progressive=True),
        written("JPEG", COLOUR, "CMYK"),
    ],
    "tif": [
        *(written("TIFF", COLOUR, compression=kind) for kind in (None, "tiff_lzw", "tiff_deflate", "jpeg")),
        written("TIFF", RNG.random((20, 30)).astype(np.float32)),
        written("TIFF", RNG.integers(0, 65536, (20, 30), dtype=np.uint16)),
        written("TIFF", RNG.integers(0, 2**31, (20, 30), dtype=np.int32)),
    ],
    "webp": [written("WEBP", COLOUR), written("WEBP", COLOUR, lossless=True)],
    "bmp": [written("BMP", COLOUR), written("BMP", COLOUR, "P"), written("BMP", COLOUR, "1")],
}


def read_in_every_way(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    picture = answer(lambda: decode(path))
    if picture is not None:
        assert 0 < picture.width * picture.height <= MOST
    for channels in (1, 3):
        image = answer(partial(read_image, path, channels))
        if image is not None:
            assert picture is not None and image.shape == (picture.height, picture.width, channels)
            assert image.dtype == np.float32 and 0 <= image.min() <= image.max() <= 1
    for hole in HOLE_COLOURS:
        mask = answer(partial(read_mask, path, hole))
        if mask is not None:
            assert (
                picture is not None and mask.shape == (picture.height, picture.width) and mask.dtype == bool
            )
    assert answer(lambda: png_bit_depth(path)) in (None, 1, 2, 4, 8, 16)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_pictures(tmp_path: Path, kind: str):
    @examples(120)
    @given(content=mutated(FILES[kind]))
    def attempt(content: bytes) -> None:
        read_in_every_way(tmp_path / f"a.{kind}", content)

    attempt()


BEGINNINGS = st.sampled_from(
    [
        *(
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff\xe0",
            b"II*\0",
            b"MM\0*",
            b"II+\0\x08\0\0\0",
            b"BM",
            b"GIF89a",
        ),
        *(
            b"RIFF\x20\0\0\0WEBP",
            b"P6\n",
            b"\0\0\1\0",
            b"8BPS",
            b"\0\0\0\x0cjP  \r\n\x87\n",
            b"DDS ",
            b"%!PS",
        ),
    ]
)


@examples(100)
@given(
    content=st.one_of(st.binary(max_size=200), st.tuples(BEGINNINGS, st.binary(max_size=100)).map(b"".join))
)
def test_anything_named_as_a_picture(tmp_path: Path, content: bytes):
    read_in_every_way(tmp_path / "a.png", content)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


SIDES = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))
BYTES = st.integers(0, 255)
EXTRAS = st.sampled_from(
    [b"tRNS", b"PLTE", b"gAMA", b"iCCP", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"eXIf", b"cHRM"]
)


@examples(150)
@given(
    width=SIDES,
    height=SIDES,
    depth=st.one_of(st.sampled_from([1, 2, 4, 8, 16]), BYTES),
    colour=st.one_of(st.sampled_from([0, 2, 3, 4, 6]), BYTES),
    rest=st.tuples(*[st.one_of(st.just(0), BYTES)] * 3),
    extra=st.lists(st.tuples(EXTRAS, st.binary(max_size=30)), max_size=2),
)
@example(width=60_000, height=60_000, depth=8, colour=2, rest=(0, 0, 0), extra=[])
@example(
    width=1400, height=1400, depth=8, colour=2, rest=(0, 0, 0), extra=[]
)  # a warning of Pillow's, no error
@example(width=0, height=0, depth=8, colour=2, rest=(0, 0, 0), extra=[])
def test_png_headers_with_sound_checksums(tmp_path: Path, width, height, depth, colour, rest, extra):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, *rest)
    pixels = chunk(b"IDAT", zlib.compress(bytes(5000))) + chunk(b"IEND", b"")
    chunks = chunk(b"IHDR", header) + b"".join(chunk(*part) for part in extra) + pixels
    read_in_every_way(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n" + chunks)


# --- Rasters


def raster(**profile) -> bytes:
    """A small GeoTIFF."""
    rasterio = pytest.importorskip("rasterio")
    values = {"driver": "GTiff", "width": 24, "height": 20, "count": 4, "dtype": "uint8", **profile}
    with rasterio.MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with memory.open(**values) as file:
            data = RNG.integers(0, 200, (values["count"], 20, 24))
            file.write(data.astype(values["dtype"]))
        return bytes(memory.getbuffer())


@pytest.fixture(scope="module")
def rasters() -> list[bytes]:
    return [
        raster(),
        raster(dtype="uint16", nodata=7, compress="deflate"),
        raster(dtype="float32", nodata=float("nan"), tiled=True, blockxsize=16, blockysize=16),
        raster(compress="lzw", photometric="RGB", alpha="yes"),
        raster(dtype="int16", interleave="band", predictor=2, compress="deflate"),
    ]


def known_kinds(path: Path) -> None:
    """As whole scenes are read: band by band, in windows."""
    with open_raster(path) as dataset:
        if dataset.width * dataset.height > MOST or dataset.count > 99:
            return
        box = Box(0, 0, min(dataset.height, 64), min(dataset.width, 64))
        with reading(path):
            bands = data_bands(dataset)
            missing = missing_values(dataset, bands, box)
        assert missing.shape == (len(bands), box.height, box.width) and missing.dtype == bool


def test_damaged_rasters(tmp_path: Path, rasters: list[bytes]):
    path = tmp_path / "a.tif"

    @examples(250)
    @given(content=mutated(rasters, header=400))
    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        for count, stretch in ((4, None), (4, (0, 200)), (3, None)):
            image = answer(partial(read_bands, path, count, stretch))
            if image is not None:
                assert image.shape[2] == count and image.shape[0] * image.shape[1] <= MOST
                known = image[~np.isnan(image[..., 0])]
                assert image.dtype == np.float32 and (known >= 0).all() and (known <= 1).all()
        answer(lambda: known_kinds(path))

    attempt()
