"""A filled copy keeps everything but the hole."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

pytest.importorskip("rasterio")

import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.shutil import copy as gdal_copy
from rasterio.windows import Window

from igll.geo.output import filled_copy
from igll.geo.raster import open_quietly
from tests.geo import scenes
from tests.geo.grounds import write_classes
from tests.geo.scenes import HEIGHT, HOLE, TAGS, WIDTH, pixels, square_hole, tell, write_described

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
RGBA = (*RGB, ColorInterp.alpha)
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}


def fill(scene: Path, out: Path, value: float = 7.4, classes_HW: Any = None, **options: Any) -> Path:
    """Fill a scene in overlapping windows with one value."""
    with open_quietly(scene) as raster:
        shape = raster.shape
    classes_HW = square_hole(shape) if classes_HW is None else classes_HW
    classes = write_classes(out.with_name("classes.tif"), classes_HW)
    with filled_copy(scene, classes, out, TAGS, progress=False, **options) as copy:
        count = len(copy._scene.bands)
        for top in range(0, shape[0], 50):
            for left in range(0, shape[1], 60):
                window = Window(left, top, min(70, shape[1] - left), min(64, shape[0] - top))
                copy.write(window, np.full((count, int(window.height), int(window.width)), value))
    return out


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def bits(values: Any) -> Any:
    return values.view(f"u{values.itemsize}") if values.dtype.kind == "f" else values


def expected_tale(scene: Path, **changes: Any) -> dict[str, Any]:
    tale = tell(scene)
    tale["tags"] = tale["tags"] | TAGS
    return tale | changes


def check_filled(scene: Path, out: Path, value: float, bands: list[int] | None = None) -> None:
    """Pixels outside the square hole are the scene's bits, those inside the value."""
    with open_quietly(scene) as before, open_quietly(out) as after:
        data, filled = before.read(), after.read()
        known = np.ones(before.shape, bool)
        known[HOLE] = False
        np.testing.assert_array_equal(bits(filled)[:, known], bits(data)[:, known])
        for band in before.indexes:
            inside = filled[band - 1][HOLE]
            if before.colorinterp[band - 1] == ColorInterp.alpha:
                assert (inside == np.iinfo(inside.dtype).max).all()
            elif bands is None or band in bands:
                assert (inside == inside.dtype.type(value)).all()
            else:
                np.testing.assert_array_equal(inside, data[band - 1][HOLE])
        assert (after.dataset_mask()[HOLE] == 255).all()
        np.testing.assert_array_equal(after.dataset_mask()[known], before.dataset_mask()[known])


FILES = {
    "uint8, striped, no compression": ("uint8", {"compress": None, "colorinterp": RGB}),
    "uint8, strips of one row": ("uint8", {"compress": "lzw", "blockysize": 1}),
    "uint8, one strip": ("uint8", {"compress": "packbits", "blockysize": HEIGHT}),
    "uint8, predictor, pixel": (
        "uint8",
        TILED | {"compress": "deflate", "predictor": 2, "interleave": "pixel"},
    ),
    "uint8, oblong tiles": ("uint8", {"tiled": True, "blockxsize": 128, "blockysize": 32, "nodata": 0}),
    "int8": ("int8", TILED | {"compress": "deflate", "nodata": -128}),
    "uint16, band, overviews": (
        "uint16",
        TILED | {"compress": "zstd", "predictor": 2, "interleave": "band", "overviews": [2, 4]},
    ),
    "int16, nodata": ("int16", {"compress": "lzw", "predictor": 2, "nodata": -9999}),
    "int32": ("int32", TILED | {"interleave": "band"}),
    "uint32": ("uint32", {"compress": "deflate", "nodata": 4294967295}),
    "float32, NaN nodata, predictor 3": (
        "float32",
        TILED | {"compress": "deflate", "predictor": 3, "nodata": np.nan},
    ),
    "float32, lowest as nodata": ("float32", {"compress": "lzw", "nodata": float(np.finfo("float32").min)}),
    "float64, predictor 3, LZMA": ("float64", TILED | {"compress": "lzma", "nodata": -1e30}),
    "float64, predictor 2": ("float64", TILED | {"compress": "zstd", "predictor": 2}),
    "BGR": ("uint16", {"colorinterp": RGB[::-1]}),
    "big": ("uint8", TILED | {"bigtiff": "yes"}),
}


@pytest.mark.parametrize("name", FILES)
def test_everything_but_the_hole_survives(tmp_path: Path, name: str):
    dtype, profile = FILES[name]
    scene = write_described(tmp_path / "scene.tif", pixels(dtype), **profile)
    out = fill(scene, tmp_path / "out.tif")
    value = 7.4 if dtype.startswith("float") else 7
    check_filled(scene, out, value)
    assert tell(out) == expected_tale(scene)
    assert names_in(tmp_path) == ["classes.tif", "out.IMD", "out.tif", "scene.IMD", "scene.tif"]


def test_bits_and_masks_and_points_and_coefficients_survive(tmp_path: Path):
    rng = np.random.default_rng(1)
    mask = rng.random((HEIGHT, WIDTH)) > 0.2
    mask[60:80] = False
    files = {
        "twelve.tif": write_described(tmp_path / "twelve.tif", pixels("uint16", limit=4095), nbits=12),
        "half.tif": write_described(tmp_path / "half.tif", pixels("float16").astype("float32"), nbits=16),
        "mask.tif": write_described(
            tmp_path / "mask.tif", pixels("uint8"), mask=mask, overviews=[2], **TILED
        ),
        "points.tif": write_described(
            tmp_path / "points.tif", pixels("uint8"), gcps=scenes.control_points(), transform=None
        ),
        "rpc.tif": write_described(
            tmp_path / "rpc.tif", pixels("uint16"), rpcs=scenes.coefficients(), crs=None, transform=None
        ),
        "nowhere.tif": write_described(tmp_path / "nowhere.tif", pixels("uint8"), crs=None, transform=None),
    }
    (tmp_path / "out").mkdir()
    for name, scene in files.items():
        out = fill(scene, tmp_path / "out" / name)
        assert tell(out) == expected_tale(scene), name
        if name == "half.tif":
            check_filled(scene, out, np.float16(7.4))
        else:
            check_filled(scene, out, 7)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_becomes_opaque_in_the_hole(tmp_path: Path, dtype: str):
    data = pixels(dtype, 4)
    data[3, 50:70] = 0
    scene = write_described(
        tmp_path / "scene.tif", data, photometric="rgb", alpha="yes", colorinterp=RGBA, overviews=[2], **TILED
    )
    out = fill(scene, tmp_path / "out.tif")
    check_filled(scene, out, 7)
    assert tell(out) == expected_tale(scene)


def test_float_alpha_takes_the_highest_in_use(tmp_path: Path):
    data = pixels("float32", 2)
    data[1] = 0.8
    data[1, 50:60] = 0
    interpretation = (ColorInterp.gray, ColorInterp.alpha)
    scene = write_described(tmp_path / "scene.tif", data, colorinterp=interpretation, alpha="yes")
    with open_quietly(fill(scene, tmp_path / "out.tif")) as raster:
        assert (raster.read(2)[HOLE] == np.float32(0.8)).all()


def test_only_the_bands_asked_for_are_filled(tmp_path: Path):
    scene = write_described(tmp_path / "scene.tif", pixels("int16", 5), interleave="band")
    out = fill(scene, tmp_path / "out.tif", bands=[4, 2])
    check_filled(scene, out, 7, [2, 4])
    with open_quietly(out) as raster:
        stale = [any(key.startswith("STATISTICS_") for key in raster.tags(band)) for band in raster.indexes]
        assert stale == [True, False, True, False, True]
        assert raster.tags(1)["STATISTICS_MEAN"] == "3"


def test_statistics_stay_where_nothing_is_filled(tmp_path: Path):
    scene = write_described(tmp_path / "scene.tif", pixels("uint8"))
    out = fill(scene, tmp_path / "out.tif", classes_HW=np.zeros((HEIGHT, WIDTH)))
    with open_quietly(out) as raster, open_quietly(scene) as before:
        assert raster.tags(2) == before.tags(2)
        np.testing.assert_array_equal(raster.read(), before.read())


def test_statistics_of_a_side_file_do_not_come_back(tmp_path: Path):
    scene = write_described(tmp_path / "scene.tif", pixels("uint8"), bare=True)
    Path(f"{scene}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">128</MDI></Metadata>'
        "<Histograms><HistItem><HistMin>0</HistMin><HistMax>255</HistMax><BucketCount>2</BucketCount>"
        "<IncludeOutOfRange>0</IncludeOutOfRange><Approximate>0</Approximate><HistCounts>3|4</HistCounts>"
        "</HistItem></Histograms></PAMRasterBand></PAMDataset>"
    )
    out = fill(scene, tmp_path / "out.tif")
    with open_quietly(out) as raster:
        assert raster.tags(1) == {} and raster.files == [str(out)]


def test_a_side_file_that_says_more_is_kept(tmp_path: Path):
    scene = write_described(tmp_path / "scene.tif", pixels("uint8", 1), bare=True)
    Path(f"{scene}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><CategoryNames><Category>sea</Category></CategoryNames>'
        "</PAMRasterBand></PAMDataset>"
    )
    out = fill(scene, tmp_path / "out.tif")
    assert "sea" in Path(f"{out}.aux.xml").read_text()


def test_side_files_of_an_older_result_do_not_stay(tmp_path: Path):
    scene = write_described(tmp_path / "scene.tif", pixels("uint8"), bare=True)
    for suffix in ("", ".aux.xml", ".ovr", ".msk"):
        (tmp_path / f"out.tif{suffix}").write_text("old")
    fill(scene, tmp_path / "out.tif")
    assert names_in(tmp_path) == ["classes.tif", "out.tif", "scene.tif"]


@pytest.mark.parametrize("predictor", [None, 2])
def test_a_cog_stays_one(tmp_path: Path, predictor: int | None):
    plain = write_described(tmp_path / "plain.tif", pixels("uint16"), nodata=0, **TILED)
    scene = tmp_path / "scene.tif"
    gdal_copy(
        plain, scene, driver="COG", compress="LZW", predictor="YES" if predictor else "NO", blocksize=128,
        copy_src_mdd="YES",
    )  # fmt: skip
    out = fill(scene, tmp_path / "out.tif")
    check_filled(scene, out, 7)
    assert tell(out) == expected_tale(scene)
    assert tell(out)["structure"]["LAYOUT"] == "COG" and tell(out)["overviews"][0]


def test_a_cog_on_demand(tmp_path: Path):
    scene = write_described(tmp_path / "scene.tif", pixels("float32"), compress="zstd", predictor=3, **TILED)
    out = fill(scene, tmp_path / "out.tif", cog=True)
    check_filled(scene, out, 7.4)
    tale, before = tell(out), expected_tale(scene)
    assert tale["structure"].pop("LAYOUT") == "COG"
    for part in ("tags", "domains", "bands", "nodata", "structure"):
        assert tale[part] == before[part], part


@pytest.mark.parametrize("profile", [{}, {"overviews": [2]}, {"compress": "jpeg", "photometric": "ycbcr"}])
@pytest.mark.parametrize("cog", [False, True])
def test_a_colour_profile_is_kept_to_the_byte(tmp_path: Path, profile: dict[str, Any], cog: bool):
    scene = tmp_path / "scene.tif"
    colour_profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(np.moveaxis(pixels("uint8"), 0, -1)).save(tmp_path / "a.png", icc_profile=colour_profile)
    options = {key: value for key, value in profile.items() if key != "overviews"}
    gdal_copy(tmp_path / "a.png", scene, driver="GTiff", **options)
    if "overviews" in profile:
        with open_quietly(scene, "r+") as raster:
            raster.build_overviews(profile["overviews"])
    with open_quietly(fill(scene, tmp_path / "out.tif", cog=cog)) as filled:
        kept = filled.tags(ns="COLOR_PROFILE")["SOURCE_ICC_PROFILE"]
    assert base64.b64decode(kept) == colour_profile


@pytest.mark.parametrize("mode", ["CMYK", "LAB"])
def test_colours_that_gdal_converts_stay_as_it_shows_them(tmp_path: Path, mode: str):
    values_CHW = pixels("uint8", 4 if mode == "CMYK" else 3)
    Image.fromarray(np.ascontiguousarray(np.moveaxis(values_CHW, 0, -1)), mode).save(tmp_path / "scene.tif")
    check_filled(tmp_path / "scene.tif", fill(tmp_path / "scene.tif", tmp_path / "out.tif"), 7)


def test_lossy_sources_keep_what_they_decode_to(tmp_path: Path):
    for name, profile in {
        "jpeg": {"compress": "jpeg", "photometric": "ycbcr", "overviews": [2]} | TILED,
        "webp": {"compress": "webp", "photometric": "rgb"},
        "lerc": {"compress": "lerc", "max_z_error": 3, "photometric": "rgb"},
    }.items():
        scene = write_described(tmp_path / f"{name}.tif", pixels("uint8"), **profile)
        out = fill(scene, tmp_path / "out.tif")
        check_filled(scene, out, 7)
        tale, before = tell(out), expected_tale(scene)
        assert tale["structure"]["COMPRESSION"] == "DEFLATE"
        for part in ("tags", "domains", "bands", "nodata", "overviews"):
            assert tale[part] == before[part], (name, part)


@pytest.mark.parametrize("driver, suffix", [("PNG", "png"), ("ENVI", "img"), ("HFA", "img"), ("VRT", "vrt")])
def test_other_formats_become_geotiff(tmp_path: Path, driver: str, suffix: str):
    plain = write_described(tmp_path / "plain.tif", pixels("uint8"), bare=True, colorinterp=RGB)
    scene = tmp_path / f"scene.{suffix}"
    gdal_copy(plain, scene, driver=driver)
    out = fill(scene, tmp_path / "out.tif")
    check_filled(scene, out, 7)
    tale, before = tell(out), tell(scene)
    assert (tale["profile"]["driver"], tale["profile"]["compress"]) == ("GTiff", "deflate")
    assert tale["profile"]["blockxsize"] == tale["profile"]["blockysize"] == 256
    assert tale["profile"]["crs"] == before["profile"]["crs"] is not None
    assert tale["profile"]["transform"] == before["profile"]["transform"]


@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize("driver, suffix", [("HFA", "img"), ("JP2OpenJPEG", "jp2")])
def test_bands_without_a_colour_become_geotiff(tmp_path: Path, driver: str, suffix: str, count: int):
    plain = write_described(tmp_path / "plain.tif", pixels("uint16", count), bare=True)
    scene = tmp_path / f"scene.{suffix}"
    gdal_copy(plain, scene, driver=driver)
    check_filled(scene, fill(scene, tmp_path / "out.tif"), 7)


def test_blocks_that_grow_leave_no_holes_in_the_file(tmp_path: Path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (3, HEIGHT, WIDTH)).astype(np.uint8)
    profile = TILED | {"compress": "deflate", "predictor": 2, "interleave": "band", "overviews": [2]}
    scene = write_described(tmp_path / "scene.tif", np.full_like(noise, 9), mask=noise[0] > 20, **profile)
    fresh = write_described(tmp_path / "fresh.tif", noise, **profile)
    classes = write_classes(tmp_path / "classes.tif", np.ones((HEIGHT, WIDTH)))
    out = tmp_path / "out.tif"
    with filled_copy(scene, classes, out, TAGS, progress=False) as copy:
        for top in range(0, HEIGHT, 10):
            window = Window(0, top, WIDTH, 10)
            copy.write(window, noise[:, top : top + 10].astype(float))
    assert tell(out) == expected_tale(scene)
    assert out.stat().st_size < 1.1 * fresh.stat().st_size
    with open_quietly(out) as raster:
        np.testing.assert_array_equal(raster.read(), noise)
        assert raster.tags(1) == {"wavelength": "100"}
    assert names_in(tmp_path) == ["classes.tif", "fresh.IMD", "fresh.tif", "out.IMD", "out.tif", "scene.IMD",
                                  "scene.tif"]  # fmt: skip


def test_masks_and_overviews_beside_the_file_move_into_it(tmp_path: Path):
    scene = write_described(tmp_path / "scene.tif", pixels("uint8"), bare=True)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), open_quietly(scene, "r+") as raster:
        raster.write_mask(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.2)
    with rasterio.Env(TIFF_USE_OVR=True), open_quietly(scene, "r+") as raster:
        raster.build_overviews([2, 4], Resampling.average)
    assert {"scene.tif.msk", "scene.tif.ovr"} < set(names_in(tmp_path))
    (tmp_path / "out").mkdir()
    out = fill(scene, tmp_path / "out" / "out.tif")
    check_filled(scene, out, 7)
    assert tell(out) == expected_tale(scene) and names_in(out.parent) == ["classes.tif", "out.tif"]


def test_a_combination_of_values_that_means_none_is_avoided(tmp_path: Path):
    scene = write_described(tmp_path / "scene.tif", pixels("uint8"), bare=True)
    with open_quietly(scene, "r+") as raster:
        raster.update_tags(NODATA_VALUES="7 7 7")
    with open_quietly(fill(scene, tmp_path / "out.tif")) as raster:
        assert (raster.read()[:, HOLE[0], HOLE[1]] == 8).all() and (raster.dataset_mask()[HOLE] == 255).all()


@pytest.mark.parametrize("rows", [1, 2500])
def test_a_high_image_in_strips_of_a_row_or_a_single_one(tmp_path: Path, rows: int):
    """GDAL presents both row by row, and does not write to a single strip of more than 2,000 rows."""
    data = np.random.default_rng(0).integers(1, 255, (2, 2500, WIDTH), dtype=np.uint8)
    scene = write_described(tmp_path / "scene.tif", data, bare=True, compress="deflate", blockysize=rows)
    check_filled(scene, fill(scene, tmp_path / "out.tif"), 7)


def test_a_jpeg2000_becomes_geotiff(tmp_path: Path):
    plain = write_described(tmp_path / "plain.tif", pixels("uint8"), bare=True, colorinterp=RGB)
    scene = tmp_path / "scene.jp2"
    gdal_copy(plain, scene, driver="JP2OpenJPEG", reversible="yes", quality="100")
    out = fill(scene, tmp_path / "out.tif")
    check_filled(scene, out, 7)
    assert tell(out)["profile"]["crs"] == tell(scene)["profile"]["crs"]


def test_not_a_number_keeps_its_payload(tmp_path: Path):
    data = pixels("float32", 1)
    bits(data)[0, 0] = np.random.default_rng(0).integers(0x7F800001, 0x7FFFFFFF, WIDTH)
    data[0, 1] = -0.0
    scene = write_described(tmp_path / "scene.tif", data, compress="deflate", predictor=3)
    check_filled_bits = fill(scene, tmp_path / "out.tif")
    with open_quietly(check_filled_bits) as raster:
        np.testing.assert_array_equal(bits(raster.read())[0, :2], bits(data)[0, :2])


def test_real_scenes(shared: Path, tmp_path: Path):
    files = sorted((shared / "data" / "geotiff").glob("*.tif"))
    assert files
    rng = np.random.default_rng(0)
    for scene in files:
        with open_quietly(scene) as raster:
            classes_HW = (rng.random(raster.shape) < 0.1).astype(np.uint8)
            data = raster.read()
        out = fill(scene, tmp_path / "out.tif", classes_HW=classes_HW)
        assert tell(out) == expected_tale(scene), scene.name
        with open_quietly(out) as raster:
            filled = raster.read()
        np.testing.assert_array_equal(filled[:, classes_HW == 0], data[:, classes_HW == 0])
        assert (filled[:, classes_HW == 1] == 7).all()
        shutil.copy(out, tmp_path / "again.tif")  # it stands alone
        assert tell(tmp_path / "again.tif") == expected_tale(scene)
        (tmp_path / "again.tif").unlink()
