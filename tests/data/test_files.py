from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from igll.data.bands import read_bands
from igll.data.files import list_images, match_by_stem, png_bit_depth, read_image, read_mask
from igll.errors import InputError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = COLOUR[:, :, 0]
DEEP = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)


def save(array: np.ndarray, path: Path, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


def one_line(error: pytest.ExceptionInfo[InputError], path: Path) -> str:
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# --- list_images


def test_lists_recursively_in_order_of_relative_path(tmp_path):
    names = ["b/1.JPG", "a.tiff", "b/0.png", "b-c/9.webp", "Z.Bmp", "a/x/y.jpeg", "t.TIF"]
    for name in [*names, "notes.txt", ".hidden.png", ".cache/1.png", "b/._0.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == sorted(names)


def test_a_hidden_folder_above_the_root_does_not_hide_it(tmp_path):
    save(GREY, tmp_path / ".data/1.png")
    assert list_images(tmp_path / ".data") == [tmp_path / ".data/1.png"]


def test_folder_errors(tmp_path):
    file = save(GREY, tmp_path / "images/1.png")
    (tmp_path / "empty").mkdir()
    for path, reason in (
        (tmp_path / "absent", "no such folder"),
        (file, "is a file; give the folder"),
        (tmp_path / "empty", "holds no image"),
    ):
        with pytest.raises(InputError, match=reason) as error:
            list_images(path)
        one_line(error, path)


# --- read_image


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_eight_bit_colour_round_trips_exactly(tmp_path, suffix):
    path = tmp_path / f"1.{suffix}"
    Image.fromarray(COLOUR).save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = read_image(path)
    assert image.dtype == np.float32
    assert image.shape == (20, 30, 3)
    assert np.array_equal(image, COLOUR / np.float32(255))
    assert np.array_equal(np.rint(image * 255).astype(np.uint8), COLOUR)


def test_grey_is_repeated_and_alpha_dropped(tmp_path):
    expected = np.repeat(GREY[:, :, None], 3, axis=2) / np.float32(255)
    assert np.array_equal(read_image(save(GREY, tmp_path / "grey.png")), expected)
    alpha = np.zeros_like(GREY)
    assert np.array_equal(read_image(save(np.dstack([GREY, alpha]), tmp_path / "la.png")), expected)
    path = save(np.dstack([COLOUR, alpha]), tmp_path / "rgba.png")
    assert np.array_equal(read_image(path), COLOUR / np.float32(255))


def test_palette_is_expanded_and_one_bit_is_zero_or_one(tmp_path):
    indices = Image.frombytes("P", (30, 20), (GREY % 4).tobytes())
    palette = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [255, 0, 1]], dtype=np.uint8)
    indices.putpalette(palette.tobytes())
    indices.save(tmp_path / "palette.png", transparency=0)
    expected = palette[GREY % 4] / np.float32(255)
    assert np.array_equal(read_image(tmp_path / "palette.png"), expected)
    bits = GREY > 99
    assert np.array_equal(read_image(save(bits, tmp_path / "bits.png"), 1)[:, :, 0], bits.astype(np.float32))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["1.png", "1.tif", "big-endian.tif"])
def test_sixteen_bit_grey_keeps_its_sixteen_bits(tmp_path, name, channels):
    path = tmp_path / name
    if name == "big-endian.tif":
        Image.frombytes("I;16B", (30, 20), DEEP.astype(">u2").tobytes()).save(path)
    else:
        save(DEEP, path)
    image = read_image(path, channels)
    assert image.shape == (20, 30, channels)
    for channel in range(channels):
        assert np.array_equal(np.rint(image[:, :, channel] * 65535).astype(np.uint16), DEEP)


def test_floats(tmp_path):
    unit = RNG.random((20, 30), dtype=np.float32)
    assert np.array_equal(read_image(save(unit, tmp_path / "f.tif"), 1)[:, :, 0], unit)
    for name, array in (
        ("above one", unit + 0.5),
        ("not a number", np.where(unit > 0.5, np.float32("nan"), unit)),
    ):
        path = save(array, tmp_path / f"{name}.tif")
        with pytest.raises(InputError, match=r"outside 0 to 1; rescale.*data.stretch") as error:
            read_image(path)
        one_line(error, path)


def raster(path: Path, values: np.ndarray, **profile) -> Path:
    """Grey as GDAL writes it, of types that Pillow does not write."""
    rasterio = pytest.importorskip("rasterio")
    height, width = values.shape
    keys = {"width": width, "height": height, "count": 1, "dtype": values.dtype, "driver": "GTiff"} | profile
    with rasterio.open(path, "w", **keys) as file:
        file.write(values, 1)
    return path


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize(("dtype", "full"), [("uint8", 255), ("uint16", 65535), ("int16", 32767)])
@pytest.mark.parametrize("profile", [{}, {"compress": "deflate"}, {"endianness": "BIG"}])
def test_one_band_is_read_alike_as_a_picture_and_as_a_raster(tmp_path, dtype, full, profile):
    stored = RNG.integers(0, full, (20, 30), dtype=dtype, endpoint=True)
    path = raster(tmp_path / "1.tif", stored, **profile)
    image = read_image(path, 1)
    assert np.array_equal(image[:, :, 0], stored / np.float32(full))
    assert np.array_equal(read_bands(path, 1), image)
    assert np.array_equal(read_image(path, 3), np.repeat(image, 3, axis=2))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_signed_values_below_zero_and_nodata_need_a_stretch(tmp_path):
    stored = RNG.integers(0, 3000, (20, 30), dtype=np.int16)
    stored[3, 4] = -9999
    path = raster(tmp_path / "1.tif", stored, nodata=-9999)
    with pytest.raises(InputError, match=r"-9999 to 29\d\d, outside 0 to 32767;.*data\.stretch") as error:
        read_image(path)
    one_line(error, path)
    assert np.argwhere(np.isnan(read_bands(path, 1, (0, 3000))[:, :, 0])).tolist() == [[3, 4]]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("dtype", ["int32", "uint32"])
def test_grey_of_32_bits_is_refused_as_a_picture_and_as_a_raster(tmp_path, dtype):
    """It may hold 16-bit values, signed or not, and no guess fits both."""
    path = raster(tmp_path / "1.tif", DEEP.astype(dtype))
    for read in (read_image, lambda path: read_bands(path, 1)):
        with pytest.raises(InputError, match=rf"of {dtype} values, full scale says nothing; set data\."):
            read(path)
    assert np.array_equal(read_mask(path, "nonzero"), DEEP != 0)


def test_one_channel_is_luminance(tmp_path):
    image = read_image(save(COLOUR, tmp_path / "1.png"), channels=1)
    assert image.shape == (20, 30, 1)
    assert image.dtype == np.float32
    expected = (COLOUR.astype(float) @ [0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(image[:, :, 0], expected, atol=1e-6)
    white = read_image(save(np.full_like(COLOUR, 255), tmp_path / "white.png"), channels=1)
    assert white.max() <= 1
    grey = read_image(save(GREY, tmp_path / "grey.png"), channels=1)
    assert np.array_equal(grey[:, :, 0], GREY / np.float32(255))


def test_other_colour_spaces_become_rgb(tmp_path):
    smooth = np.full_like(COLOUR, (90, 140, 60))
    lab = tmp_path / "lab.tif"
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    ImageCms.applyTransform(Image.fromarray(smooth), transform).save(lab)
    assert Image.open(lab).mode == "LAB"
    np.testing.assert_allclose(read_image(lab), smooth / 255, atol=3 / 255)
    cmyk = save(smooth, tmp_path / "cmyk.tif", "CMYK")
    np.testing.assert_allclose(read_image(cmyk), smooth / 255, atol=1 / 255)


def test_other_channel_counts_are_refused(tmp_path):
    with pytest.raises(InputError, match="channels is 4"):
        read_image(save(COLOUR, tmp_path / "1.png"), channels=4)


def test_unreadable_files_are_named_with_the_reason(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    cut = save(COLOUR, tmp_path / "cut.png")
    cut.write_bytes(cut.read_bytes()[:-200])
    for path, reason in (
        (tmp_path / "absent.png", "no such file"),
        (tmp_path, "cannot be read"),
        (text, "not an image in a known format"),
        (empty, "not an image in a known format"),
        (cut, "damaged image"),
    ):
        for read in (read_image, read_mask):
            with pytest.raises(InputError, match=reason) as error:
                read(path)
            one_line(error, path)


@pytest.mark.parametrize("pixels", [400, 200])
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, pixels):
    # Pillow warns above its limit and refuses above twice the limit; here both are errors.
    path = save(COLOUR, tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    with pytest.raises(InputError, match=r"image too large .*600 pixels") as error:
        read_image(path)
    one_line(error, path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_damage_anywhere_is_an_input_error_or_an_image(tmp_path, form):
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, form)
    intact, path, rng = buffer.getvalue(), tmp_path / f"1.{form.lower()}", np.random.default_rng(1)
    refused = 0
    for trial in range(150):
        damaged = bytearray(intact)
        if trial % 2:
            damaged = damaged[: rng.integers(0, len(damaged))]
        else:
            damaged[rng.integers(0, min(len(damaged), 200))] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            image = read_image(path)
        except InputError as error:
            refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            assert image.ndim == 3
            assert 0 <= image.min() <= image.max() <= 1
    assert refused > 40


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize(
    ("dtype", "bands", "layout", "reason"),
    [
        ("uint16", 3, {"photometric": "RGB", "interleave": "band"}, "16-bit values in uncompressed separate"),
        ("uint16", 1, {"interleave": "band"}, "16-bit values in uncompressed separate planes"),
        ("uint8", 1, {"photometric": "MINISWHITE", "interleave": "band"}, "8-bit values in uncompressed"),
        ("uint16", 3, {"interleave": "band", "compress": "deflate"}, "3 bands, the first of which"),
        ("uint8", 5, {"interleave": "band", "compress": "lzw"}, "5 bands, the first of which"),
        ("uint8", 7, {"interleave": "pixel"}, "bands or values that Pillow cannot read"),
        ("float32", 3, {"photometric": "RGB"}, "bands or values that Pillow cannot read"),
        ("int16", 3, {"photometric": "RGB"}, "bands or values that Pillow cannot read"),
        ("int8", 1, {}, "signed 8-bit values"),
        ("uint16", 1, {"photometric": "MINISWHITE"}, "16-bit grey whose 0 is white"),
        (
            "int16",
            1,
            {"compress": "deflate", "endianness": "BIG"},
            "compressed 16-bit values in big-endian order",
        ),
    ],
)
def test_tiffs_that_pillow_misreads_are_refused_and_read_as_bands(
    tmp_path, capfd, dtype, bands, layout, reason
):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "1.tif"
    keys = {"width": 30, "height": 20, "count": bands, "dtype": dtype, "driver": "GTiff"} | layout
    stored = RNG.integers(0, 2 if dtype == "float32" else 100, (bands, 20, 30)).astype(dtype)
    with rasterio.open(path, "w", **keys) as file:
        file.write(stored)
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=rf"TIFF of {reason}.*image_channels.*data\.stretch") as error:
            read(path)
        one_line(error, path)
    assert capfd.readouterr().err == ""
    np.testing.assert_allclose(read_bands(path, bands, (0, 100)), stored.transpose(1, 2, 0) / 100, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("compress", ["none", "deflate"])
@pytest.mark.parametrize(("dtype", "full"), [("uint8", 255), ("uint16", 65535)])
def test_colour_tiffs_are_read_right_or_refused(tmp_path, interleave, compress, dtype, full):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "1.tif"
    keys = {"width": 30, "height": 20, "count": 3, "dtype": dtype, "driver": "GTiff", "photometric": "RGB"}
    stored = RNG.integers(0, full + 1, (3, 20, 30)).astype(dtype)
    with rasterio.open(path, "w", **keys, interleave=interleave, compress=compress) as file:
        file.write(stored)
    if (interleave, compress, dtype) == ("band", "none", "uint16"):
        with pytest.raises(InputError, match="would be misread"):
            read_image(path)
    else:
        np.testing.assert_allclose(read_image(path), stored.transpose(1, 2, 0) / full, atol=1 / 255)


# --- read_mask


def test_mask_colours(tmp_path):
    values = np.array([[0, 1, 127], [128, 254, 255]], dtype=np.uint8)
    path = save(values, tmp_path / "1.png")
    assert np.array_equal(read_mask(path), values >= 128)
    assert np.array_equal(read_mask(path, "black"), values < 128)
    assert np.array_equal(read_mask(path, "nonzero"), values != 0)
    with pytest.raises(InputError, match="hole colour 'red' is unknown; choose one of white, black, nonzero"):
        read_mask(path, "red")


@pytest.mark.parametrize(
    ("name", "mode", "low", "high", "dtype"),
    [
        ("bits.png", "1", 0, 255, np.uint8),
        ("zero-one.png", None, 0, 1, np.uint8),
        ("bytes.jpg", None, 0, 255, np.uint8),
        ("colour.png", "RGB", 0, 255, np.uint8),
        ("colour-zero-one.png", "RGB", 0, 1, np.uint8),
        ("palette.png", "P", 0, 255, np.uint8),
        ("alpha.png", "LA", 0, 255, np.uint8),
        ("deep.png", None, 0, 65535, np.uint16),
        ("deep-255.png", None, 0, 255, np.uint16),
        ("deep-one.tif", None, 0, 1, np.uint16),
        ("wide.tif", None, 0, 255, np.int32),
        ("float.tif", None, 0, 1, np.float32),
        ("float-255.tif", None, 0, 255, np.float32),
    ],
)
def test_every_storage_of_a_two_valued_mask_reads_the_same(tmp_path, name, mode, low, high, dtype):
    hole = np.zeros((16, 24), dtype=bool)
    hole[:8, 8:] = True
    path = save(np.where(hole, high, low).astype(dtype), tmp_path / name, mode)
    mask = read_mask(path)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, hole)
    assert np.array_equal(read_mask(path, "black"), ~hole)
    if not name.endswith("jpg"):
        assert np.array_equal(read_mask(path, "nonzero"), hole)


def test_uniform_masks(tmp_path):
    assert not read_mask(save(np.zeros((16, 16), np.uint8), tmp_path / "0.png")).any()
    assert read_mask(save(np.ones((16, 16), np.uint8), tmp_path / "1.png")).all()
    assert read_mask(save(np.full((16, 16), 255, np.uint8), tmp_path / "255.png")).all()


def test_transparency_is_no_hole(tmp_path):
    path = save(np.dstack([GREY > 99, GREY > 150]).astype(np.uint8) * 255, tmp_path / "1.png")
    assert np.array_equal(read_mask(path), GREY > 99)


def test_faintest_colour_counts_as_nonzero(tmp_path):
    array = np.zeros((16, 16, 3), np.uint8)
    array[3, 4, 2] = 1
    assert np.argwhere(read_mask(save(array, tmp_path / "1.png"), "nonzero")).tolist() == [[3, 4]]


def test_masks_that_would_be_a_guess_are_refused(tmp_path):
    labels = save((GREY % 4), tmp_path / "labels.png")
    deep = save((DEEP // 4), tmp_path / "deep.png")
    nodata = save(np.where(GREY > 99, -9999, 1).astype(np.int32), tmp_path / "nodata.tif")
    nan = save(np.where(GREY > 99, np.float32("nan"), np.float32(1)), tmp_path / "nan.tif")
    wide = save(DEEP.astype(np.int32) + 65536, tmp_path / "wide.tif")
    for path, reason in (
        (labels, "brightest mask value is 3 of 255, so nothing is white"),
        (deep, "brightest mask value is 16[0-9]+ of 65535"),
        (nodata, "negative or non-finite"),
        (nan, "negative or non-finite"),
        (wide, "mask values reach [0-9]+; save the mask with 8 or 16 bits"),
    ):
        for hole in ("white", "black"):
            with pytest.raises(InputError, match=reason) as error:
                read_mask(path, hole)
            one_line(error, path)
    assert np.array_equal(read_mask(labels, "nonzero"), GREY % 4 != 0)


def test_real_gap_masks_lie_on_the_black_gaps_of_their_images(shared):
    for path in sorted((shared / "data/slc_off").glob("*_gapmask.png")):
        mask = read_mask(path)
        image = read_image(path.with_name(path.name.replace("_gapmask", "")))
        assert image.shape == (*mask.shape, 3)
        assert 0.1 < mask.mean() < 0.4
        assert image[mask].mean() < 0.02 < 0.2 < image[~mask].mean()


def test_real_folders_are_read_whole(shared):
    images = list_images(shared / "data/aid_150")
    assert len(images) == 300
    image = read_image(images[0])
    assert image.shape == (150, 150, 3)
    assert len(list_images(shared / "data/rsscn7/val")) == 140
    cloudy = list_images(shared / "data/rice1/cloud")
    clear = match_by_stem(cloudy, shared / "data/rice1/cloud", shared / "data/rice1/label")
    assert [path.name for path in clear] == [path.name for path in cloudy]


# --- png_bit_depth


def test_bit_depth_of_png_files(tmp_path):
    assert png_bit_depth(save(GREY > 99, tmp_path / "1.png")) == 1
    assert png_bit_depth(save(COLOUR, tmp_path / "8.png")) == 8
    assert png_bit_depth(save(DEEP, tmp_path / "16.png")) == 16
    disguised = tmp_path / "jpeg.png"
    Image.fromarray(COLOUR).save(disguised, "JPEG")
    assert png_bit_depth(disguised) is None
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "8.png").read_bytes()[:24])
    for path, reason in ((cut, "damaged PNG header"), (tmp_path / "absent.png", "cannot be read")):
        with pytest.raises(InputError, match=reason) as error:
            png_bit_depth(path)
        one_line(error, path)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_sixteen_bit_colour_is_recognised_where_pillow_reduces_it(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "colour.png"
    deep = RNG.integers(0, 65536, (3, 20, 30), dtype=np.uint16)
    with rasterio.open(path, "w", driver="PNG", width=30, height=20, count=3, dtype="uint16") as file:
        file.write(deep)
    assert png_bit_depth(path) == 16
    np.testing.assert_allclose(read_image(path), deep.transpose(1, 2, 0) / 65535, atol=1 / 255)


# --- match_by_stem


def touch(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [root / name for name in names]


def test_same_subfolder_comes_before_the_plain_name(tmp_path):
    images = touch(tmp_path / "images", "b/2.tif", "a/1.jpg", "b/1.jpg", "x.y.png")
    masks = touch(tmp_path / "masks", "2.png", "a/1.png", "b/1.PNG", "deep/x.y.bmp", "unused.png")
    assert match_by_stem(images, tmp_path / "images", tmp_path / "masks") == masks[:4]


def test_one_mask_file_serves_all(tmp_path):
    images = touch(tmp_path / "images", "1.png", "2.png")
    mask = touch(tmp_path, "mask.png")[0]
    assert match_by_stem(images, tmp_path / "images", mask) == [mask, mask]


@pytest.mark.parametrize(
    ("image_names", "mask_names", "culprit", "reason"),
    [
        (["1.png", "2.png", "3.png"], ["1.png"], "2.png", r"no mask named 2\.\* .* \(3 images, 1 masks\)"),
        (["a/1.png"], ["1.png", "b/1.png"], "a/1.png", "more than one mask fits"),
        (["1.png"], ["1.png", "1.tif"], "1.png", "more than one mask fits"),
        (["a/1.png", "b/1.png"], ["1.png"], "a/1.png", "fits 2 images of that name; sort the masks"),
    ],
)
def test_first_image_without_a_certain_mask_is_named(tmp_path, image_names, mask_names, culprit, reason):
    images = touch(tmp_path / "images", *image_names)
    touch(tmp_path / "masks", *mask_names)
    with pytest.raises(InputError, match=reason) as error:
        match_by_stem(images, tmp_path / "images", tmp_path / "masks")
    one_line(error, tmp_path / "images" / culprit)


def test_absent_mask_folder(tmp_path):
    images = touch(tmp_path / "images", "1.png")
    with pytest.raises(InputError, match="no such file or folder of masks"):
        match_by_stem(images, tmp_path / "images", tmp_path / f"masks{os.sep}none")
