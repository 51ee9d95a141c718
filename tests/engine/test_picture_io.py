from __future__ import annotations

import errno
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from igll.engine.picture_io import (
    Picture,
    colour_of,
    output_suffix,
    read_picture,
    same_known_pixels,
    with_colour,
    write_picture,
)
from igll.errors import InputError, OutputError

X_RESOLUTION = 282  # a tag of TIFF
RNG = np.random.default_rng(11)
COLOUR = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)
GREY = COLOUR[:, :, 0]
HOLE = np.zeros((13, 17), dtype=bool)
HOLE[8:, 5:] = True
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def sample(mode: str) -> Image.Image:
    if mode == "P":
        return Image.fromarray(COLOUR).quantize(20)
    arrays = {
        "1": GREY > 127,
        "L": GREY,
        "LA": COLOUR[:, :, :2],
        "RGB": COLOUR,
        "RGBA": np.dstack([COLOUR, GREY]),
        "I;16": GREY.astype(np.uint16) * 251,
        "I": GREY.astype(np.int32) * 251,
        "F": (GREY / 255).astype(np.float32),
    }
    return Image.fromarray(arrays[mode])


def filled(image: Image.Image) -> Image.Image:
    return with_colour(image, np.zeros_like(colour_of(image)), HOLE)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(mode, ".tif") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F")]
    + [(mode, ".png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
)
def test_every_mode_comes_back_from_its_file(tmp_path, mode, suffix):
    sample(mode).save(tmp_path / f"in{suffix}", dpi=(240, 120), icc_profile=PROFILE)
    picture = read_picture(tmp_path / f"in{suffix}")
    assert picture.image.mode == mode
    out = tmp_path / "deep" / f"out{suffix}"
    write_picture(out, Picture(filled(picture.image), picture.extras), picture.image, HOLE)
    with Image.open(out) as result:
        assert (result.mode, result.size) == (mode, (17, 13))
        assert result.info["dpi"] == pytest.approx((240, 120), rel=1e-3)
        assert result.info["icc_profile"] == PROFILE
        after, before = np.asarray(result), np.asarray(sample(mode))
        assert after[~HOLE].tobytes() == before[~HOLE].tobytes()
        colours = np.asarray(result.convert("RGBA"))
    if mode in ("LA", "RGBA"):
        assert (colours[HOLE] == (0, 0, 0, 255)).all()
    if mode == "P":
        # A TIFF's palette always has 256 colours, the unused ones black; they stand for nothing.
        palette = np.array(picture.image.getpalette()).reshape(-1, 3)[np.unique(before[~HOLE])]
        assert (colours[HOLE][:, :3] == palette[(palette**2).sum(1).argmin()]).all()
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_palette_pixels_take_the_nearest_colour():
    image = sample("P")
    palette = np.array(image.getpalette()).reshape(-1, 3)
    new = RNG.integers(0, 256, COLOUR.shape, dtype=np.uint8)
    after = np.asarray(with_colour(image, new, HOLE))
    distance = ((new[HOLE][:, None].astype(int) - palette[None]) ** 2).sum(2)
    assert np.array_equal(distance[np.arange(len(distance)), after[HOLE]], distance.min(1))


def test_palette_pixels_become_opaque(tmp_path):
    image = Image.new("P", (17, 13))
    image.putpalette([0, 0, 0, 255, 255, 255, 9, 9, 9])
    image.save(tmp_path / "in.png", transparency=0)
    picture = read_picture(tmp_path / "in.png")
    result = with_colour(picture.image, np.zeros_like(COLOUR), HOLE)
    assert set(np.asarray(result)[HOLE]) == {2}
    write_picture(tmp_path / "out.png", Picture(result, picture.extras), picture.image, HOLE)
    with Image.open(tmp_path / "out.png") as written:
        assert np.array_equal(np.asarray(written.convert("RGBA"))[..., 3] == 255, HOLE)


def test_filled_pixels_avoid_the_colour_that_means_transparent(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "in.png", transparency=(4, 5, 6))
    picture = read_picture(tmp_path / "in.png")
    new = np.zeros_like(COLOUR)
    new[:, :9] = (4, 5, 6)
    result = with_colour(picture.image, new, HOLE)
    assert (np.asarray(result.convert("RGBA"))[HOLE][:, 3] == 255).all()
    assert np.abs(np.asarray(result).astype(int) - new)[HOLE].max() == 1


def test_result_formats():
    names = {"a.jpg": ".png", "a.JPEG": ".png", "a.webp": ".png", "a.bmp": ".png", "a.png": ".png"}
    for name, suffix in (names | {"a.tif": ".tif", "a.TIFF": ".tif"}).items():
        assert output_suffix(Path(name)) == suffix


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_other_formats_are_read_as_pillow_decodes_them(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn, for viewers
    Image.fromarray(COLOUR).save(tmp_path / f"in{suffix}", **({} if suffix == ".bmp" else {"exif": exif}))
    picture = read_picture(tmp_path / f"in{suffix}")
    assert picture.image.size == (17, 13)
    write_picture(tmp_path / "out.png", Picture(filled(picture.image), picture.extras), picture.image, HOLE)
    with Image.open(tmp_path / f"in{suffix}") as before, Image.open(tmp_path / "out.png") as after:
        assert np.array_equal(np.asarray(before)[~HOLE], np.asarray(after)[~HOLE])
        assert after.getexif().get(0x0112) == (None if suffix == ".bmp" else 6)


def test_big_endian_grey_keeps_its_values(tmp_path):
    values = (GREY.astype(np.uint16) * 251).astype(">u2")
    Image.frombytes("I;16B", (17, 13), values.tobytes()).save(tmp_path / "in.tif")
    picture = read_picture(tmp_path / "in.tif")
    assert picture.image.mode == "I;16"
    assert np.array_equal(np.asarray(picture.image), values)
    assert np.array_equal(colour_of(Image.frombytes("I;16B", (17, 13), values.tobytes())), values)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
def test_signed_16_bits_stay_so(tmp_path, order):
    rasterio = pytest.importorskip("rasterio")
    values = RNG.integers(-32768, 32767, (13, 17), dtype=np.int16, endpoint=True)
    keys = {"width": 17, "height": 13, "count": 1, "dtype": "int16", "nodata": -9999, "endianness": order}
    with rasterio.open(tmp_path / "in.tif", "w", driver="GTiff", **keys) as file:
        file.write(values, 1)
    picture = read_picture(tmp_path / "in.tif")
    assert colour_of(picture.image).dtype == np.int16
    assert np.array_equal(colour_of(picture.image), values)
    new = np.flip(values)
    result = with_colour(picture.image, new, HOLE)
    write_picture(tmp_path / "out.tif", Picture(result, picture.extras), picture.image, HOLE)
    with rasterio.open(tmp_path / "out.tif") as file:
        assert (file.dtypes, file.nodata) == (("int16",), -9999)
        assert np.array_equal(file.read(1), np.where(HOLE, new, values))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_unsigned_32_bits_are_refused(tmp_path):
    """Pillow reads and writes them as signed."""
    rasterio = pytest.importorskip("rasterio")
    keys = {"width": 17, "height": 13, "count": 1, "dtype": "uint32", "driver": "GTiff"}
    with rasterio.open(tmp_path / "a.tif", "w", **keys) as file:
        file.write(np.full((13, 17), 2**32 - 1, np.uint32), 1)
    with pytest.raises(InputError, match=r"a\.tif: TIFF of unsigned 32-bit integers.*igll\[geo\]"):
        read_picture(tmp_path / "a.tif")
    with (
        Image.open(tmp_path / "a.tif") as image,
        pytest.raises(InputError, match=r"image: TIFF of unsigned 32.*give the array"),
    ):
        colour_of(image)


def test_deep_grey_as_older_pillow_opens_it():
    """In 32 bits."""
    image = sample("I")
    assert colour_of(image).dtype == np.int32
    image.format = "PNG"
    assert colour_of(image).dtype == np.uint16
    assert np.array_equal(colour_of(image), GREY.astype(np.uint16) * 251)


def deep_png(path: Path, colour_type: int, samples: int) -> None:
    """A 16-bit PNG, which Pillow cannot write."""
    rows = RNG.integers(0, 65536, (4, 5 * samples), dtype=np.uint16).astype(">u2")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, colour_type, 0, 0, 0)),
        (b"IDAT", data),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(("colour_type", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_deep_colour_png_is_refused(tmp_path, colour_type, samples):
    deep_png(tmp_path / "a.png", colour_type, samples)
    with pytest.raises(InputError, match=r"a\.png: 16-bit colour PNG"):
        read_picture(tmp_path / "a.png")


def test_deep_grey_png_is_not(tmp_path):
    deep_png(tmp_path / "a.png", 0, 1)
    assert read_picture(tmp_path / "a.png").image.mode == "I;16"


@pytest.mark.parametrize(
    ("dtype", "bands", "reason"),
    [
        ("uint16", 3, "16-bit colour TIFF, which would be reduced to 8 bits"),
        ("float64", 1, "TIFF of bands or values that Pillow cannot read"),
        ("uint8", 4, "TIFF with 4 bands other than grey or RGB"),
        ("uint8", 5, "TIFF with 5 bands"),
    ],
)
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_tiffs_that_would_lose_something_are_refused(tmp_path, dtype, bands, reason):
    rasterio = pytest.importorskip("rasterio")
    data = np.ones((bands, 6, 7), dtype)
    keys = {"width": 7, "height": 6, "count": bands, "dtype": dtype, "interleave": "pixel"}
    if bands >= 3:
        keys |= {"photometric": "RGB", "ALPHA": "NO"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **keys) as file:
        file.write(data)
    with pytest.raises(InputError, match=reason) as error:
        read_picture(tmp_path / "a.tif")
    assert str(tmp_path / "a.tif") in str(error.value)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_files_of_several_pictures_are_refused(tmp_path, name):
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"holds 2 pictures .* all but the first of which would be lost"):
        read_picture(tmp_path / name)
    frames[0].save(tmp_path / name, save_all=True)
    assert read_picture(tmp_path / name).image.size == (17, 13)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_overviews_and_masks_are_no_further_pictures(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    keys = {"width": 64, "height": 64, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    for size in ("NO", "YES"):
        path = tmp_path / f"{size}.tif"
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            with rasterio.open(path, "w", driver="GTiff", BIGTIFF=size, **keys) as file:
                file.write(np.ones((3, 64, 64), np.uint8))
                file.write_mask(np.ones((64, 64), bool))
            with rasterio.open(path, "r+") as file:
                file.build_overviews([2, 4])
        assert read_picture(path).image.mode == "RGB"


def test_the_place_on_earth_is_kept(tmp_path, shared):
    rasterio = pytest.importorskip("rasterio")
    source = shared / "data/geotiff/rasterio_RGB.byte.tif"
    picture = read_picture(source)
    hole = np.zeros(picture.image.size[::-1], dtype=bool)
    hole[300:400, 300:400] = True
    result = with_colour(picture.image, np.full((*hole.shape, 3), 77, np.uint8), hole)
    write_picture(tmp_path / "out.tif", Picture(result, picture.extras), picture.image, hole)
    with rasterio.open(source) as before, rasterio.open(tmp_path / "out.tif") as after:
        assert (after.crs, after.transform, after.nodata) == (before.crs, before.transform, before.nodata)
        expected = before.read()
        expected[:, hole] = 77
        assert np.array_equal(after.read(), expected)


def test_other_modes_are_refused(tmp_path):
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="colour mode CMYK is not handled"):
        read_picture(tmp_path / "a.jpg")


def test_a_float_picture_needs_a_tiff(tmp_path):
    image = sample("F")
    with pytest.raises(InputError, match=r"mode F cannot be written as PNG .* name it \.tif"):
        write_picture(tmp_path / "out.png", Picture(image, {}), image, HOLE)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_known_pixel_is_never_kept(tmp_path):
    original = sample("RGB")
    (tmp_path / "out.png").write_bytes(b"earlier")
    wrong = np.array(original)
    wrong[0, 0, 2] ^= 1
    with pytest.raises(InputError, match="not kept, its known pixels differ"):
        write_picture(tmp_path / "out.png", Picture(Image.fromarray(wrong), {}), original, HOLE)
    assert (tmp_path / "out.png").read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_same_known_pixels_sees_mode_size_and_palette():
    image = sample("P")
    assert same_known_pixels(filled(image), image, HOLE)
    other = image.copy()
    other.putpalette(image.getpalette()[::-1])
    assert not same_known_pixels(other, image, HOLE)
    assert not same_known_pixels(image.convert("RGB"), image, HOLE)
    assert not same_known_pixels(image.crop((0, 0, 16, 13)), image, HOLE)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    real = Path.write_bytes

    def full(self, data):
        real(self, bytes(data)[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    image = sample("L")
    with pytest.raises(OutputError, match=r"out\.png: cannot be written \(No space left on device\)"):
        write_picture(tmp_path / "out.png", Picture(image, {}), image, HOLE)
    assert list(tmp_path.iterdir()) == []


def test_a_tiff_that_states_no_resolution_gets_none(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "in.tif")
    original = read_picture(tmp_path / "in.tif")
    write_picture(tmp_path / "out.tif", original, original.image, HOLE)
    for name in ("in.tif", "out.tif"):
        with Image.open(tmp_path / name) as image:
            assert X_RESOLUTION not in image.tag_v2
