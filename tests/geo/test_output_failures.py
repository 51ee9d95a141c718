"""What a filled copy does with values, gaps and everything that can go wrong."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rasterio")

from rasterio.enums import ColorInterp
from rasterio.shutil import copy as gdal_copy
from rasterio.windows import Window

from igll.errors import InputError, OutputError
from igll.geo.fill_mask import write_fill_mask
from igll.geo.output import FilledCopy, filled_copy, is_finished
from igll.geo.pixel_class import PixelClass
from igll.geo.raster import open_quietly
from tests.geo.grounds import write_classes
from tests.geo.scenes import HEIGHT, HOLE, TAGS, WIDTH, pixels, square_hole, write_described

WHOLE = Window(0, 0, WIDTH, HEIGHT)


def full(count: int, value: float) -> Any:
    return np.full((count, HEIGHT, WIDTH), float(value))


def prepare(folder: Path, data: Any, classes_HW: Any = None, **profile: Any) -> tuple[Path, Path, Path]:
    scene = write_described(folder / "scene.tif", data, bare=True, **profile)
    classes = write_classes(folder / "classes.tif", square_hole() if classes_HW is None else classes_HW)
    return scene, classes, folder / "out.tif"


def filled_with(paths: tuple[Path, Path, Path], value: float, count: int = 1, **options: Any) -> Any:
    scene, classes, out = paths
    with filled_copy(scene, classes, out, TAGS, progress=False, **options) as copy:
        copy.write(WHOLE, full(count, value))
    with open_quietly(out) as raster:
        return raster.read()


@pytest.mark.parametrize(
    "dtype, nodata, value, stored",
    [
        ("uint8", 0, -30.0, 1),
        ("uint8", 0, 0.4, 1),
        ("uint8", 255, 1e9, 254),
        ("uint8", 100, 100.3, 101),
        ("uint8", 200, 199.6, 199),
        ("uint8", None, 0.5, 0),
        ("int8", -128, -1e9, -127),
        ("int16", -9999, -9999.0, -9998),
        ("uint16", 65535, 65535.0, 65534),
        ("uint32", None, 1e12, 4294967295),
        ("int32", -2147483648, -1e12, -2147483647),
        ("int64", None, 1e30, 9223372036854774784),
        ("float32", None, 1e300, np.finfo("float32").max),
    ],
)
def test_values_are_rounded_clipped_and_never_nodata(
    tmp_path: Path, dtype: str, nodata: float | None, value: float, stored: float
):
    filled = filled_with(prepare(tmp_path, pixels(dtype, 1), nodata=nodata), value)
    assert filled.dtype == dtype and (filled[0][HOLE] == filled.dtype.type(stored)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nodata", [0.0, -9999.0, 1e-3, "lowest", "highest"])
def test_floats_step_off_nodata_so_far_that_gdal_sees_it(tmp_path: Path, dtype: str, nodata: Any):
    limits = np.finfo(dtype)
    nodata = {"lowest": float(limits.min), "highest": float(limits.max)}.get(nodata, nodata)
    paths = prepare(tmp_path, pixels(dtype, 1), nodata=nodata)
    filled = filled_with(paths, nodata)[0][HOLE]
    assert (filled != np.dtype(dtype).type(nodata)).all()
    if abs(nodata) < limits.max:  # that far out GDAL's comparison overflows: most is no-data to it
        np.testing.assert_allclose(filled, nodata, rtol=1e-5, atol=1e-30)
    with open_quietly(paths[2]) as raster:
        assert (raster.read_masks(1)[HOLE] == 255).all()


def test_bits_limit_the_range(tmp_path: Path):
    filled = filled_with(prepare(tmp_path, pixels("uint16", 1, limit=4095), nbits=12, nodata=4095), 9e9)
    assert (filled[0][HOLE] == 4094).all()


def test_gaps_are_filled_band_by_band(tmp_path: Path):
    data = pixels("int16", 3)
    data[data == -9999] = 5
    data[0, :20], data[1, 10:30] = -9999, -9999
    classes_HW = np.full((HEIGHT, WIDTH), PixelClass.KNOWN)
    classes_HW[:30, :100], classes_HW[:30, 100:] = PixelClass.GAP, PixelClass.VOID
    filled = filled_with(prepare(tmp_path, data, classes_HW, nodata=-9999), 7, count=3)
    expected = data.copy()
    expected[:, :, :100][data[:, :, :100] == -9999] = 7
    np.testing.assert_array_equal(filled, expected)


def test_gaps_of_floats_and_of_a_mask(tmp_path: Path):
    data = pixels("float32", 2)
    data[0, :5], data[1, 3:8], data[1, 8] = np.nan, np.inf, -5
    classes_HW = np.full((HEIGHT, WIDTH), PixelClass.GAP)
    (tmp_path / "a").mkdir()
    filled = filled_with(prepare(tmp_path / "a", data, classes_HW, nodata=-5), 7, count=2)
    lacking = ~np.isfinite(data) | (data == -5)
    np.testing.assert_array_equal(filled, np.where(lacking, np.float32(7), data))
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[20:30] = False
    (tmp_path / "b").mkdir()
    plain = pixels("uint8", 2)
    paths = prepare(tmp_path / "b", plain, classes_HW, mask=mask)
    np.testing.assert_array_equal(filled_with(paths, 7, count=2), np.where(mask, plain, 7))
    with open_quietly(paths[2]) as raster:
        assert (raster.dataset_mask() == 255).all()


def test_gap_pixels_written_twice_take_the_second_value(tmp_path: Path):
    data = pixels("uint8", 1)
    data[0, 0] = 0
    scene, classes, out = prepare(tmp_path, data, np.full((HEIGHT, WIDTH), PixelClass.GAP), nodata=0)
    with filled_copy(scene, classes, out, TAGS, progress=False) as copy:
        copy.write(WHOLE, full(1, 3))
        copy.write(WHOLE, full(1, 9))
    with open_quietly(out) as raster:
        np.testing.assert_array_equal(raster.read(), np.where(data == 0, 9, data))


def left_beside(paths: tuple[Path, Path, Path]) -> list[str]:
    return sorted(file.name for file in paths[2].parent.iterdir() if file not in paths)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_inside_leaves_what_was_there(tmp_path: Path, error: type[BaseException]):
    paths = prepare(tmp_path, pixels("uint8"), mask=np.ones((HEIGHT, WIDTH), bool))
    for older in (None, b"older"):
        if older:
            paths[2].write_bytes(older)
        with pytest.raises(error), filled_copy(*paths, TAGS, progress=False) as copy:
            copy.write(WHOLE, full(3, 7))
            assert not older or paths[2].read_bytes() == older
            raise error
        assert left_beside(paths) == [] and paths[2].exists() == bool(older)
    assert paths[2].read_bytes() == b"older"


def test_values_that_are_not_finite_or_of_another_shape_are_refused(tmp_path: Path):
    paths = prepare(tmp_path, pixels("uint8"))
    values = full(3, 7)
    values[0, 50, 50] = np.inf
    with pytest.raises(ValueError, match="not finite"), filled_copy(*paths, TAGS, progress=False) as copy:
        copy.write(WHOLE, values)
    with pytest.raises(ValueError, match="shape"), filled_copy(*paths, TAGS, progress=False) as copy:
        copy.write(WHOLE, full(2, 7))
    values[0, 50, 50], values[0, 0, 0] = 7, np.nan  # outside the hole nothing is looked at
    with filled_copy(*paths, TAGS, progress=False) as copy:
        copy.write(WHOLE, values)
    assert paths[2].exists()


@pytest.mark.parametrize("cog", [False, True])
def test_a_touched_pixel_is_found(tmp_path: Path, monkeypatch, cog: bool):
    paths = prepare(tmp_path, pixels("float32"), tiled=True, blockxsize=64, blockysize=64)
    paths[2].write_bytes(b"older")

    def tamper(self: FilledCopy, window: Any, values_CHW: Any) -> None:
        one = Window(120, 130, 1, 1)
        value = self._target.read(2, window=one)
        self._target.write(-value, 2, window=one)

    with (
        pytest.raises(
            OutputError, match=r"out\.tif: cannot be written \(not kept, 1 known pixels would differ"
        ),
        filled_copy(*paths, TAGS, progress=False, cog=cog) as copy,
    ):
        monkeypatch.setattr(FilledCopy, "write", tamper)
        copy.write(WHOLE, full(3, 7))
    assert left_beside(paths) == [] and paths[2].read_bytes() == b"older"


def test_changed_metadata_and_masks_and_unfilled_pixels_are_found(tmp_path: Path):
    data = np.maximum(pixels("uint8"), 1)
    data[:, 50, 50] = 0
    paths = prepare(tmp_path, data, nodata=0)
    with (
        pytest.raises(OutputError, match="the CRS, scales would differ"),
        filled_copy(*paths, TAGS, progress=False) as copy,
    ):
        copy.write(WHOLE, full(3, 7))
        copy._target.crs, copy._target.scales = "EPSG:32632", (1, 2, 3)
    match = "1 pixels of the hole were left without a value"
    with pytest.raises(OutputError, match=match), filled_copy(*paths, TAGS, progress=False):
        pass
    paths = prepare(tmp_path, pixels("uint8"), mask=np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5)
    with (
        pytest.raises(OutputError, match="the mask of known pixels would differ"),
        filled_copy(*paths, TAGS, progress=False) as copy,
    ):
        copy.write(WHOLE, full(3, 7))
        copy._target.write_mask(True)
    assert left_beside(paths) == [] and not paths[2].exists()


LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from rasterio.windows import Window
from igll.errors import OutputError
from igll.geo.raster import open_quietly
from igll.geo.output import filled_copy
scene, classes, out = map(Path, sys.argv[1:4])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
noise = np.random.default_rng(0).uniform(0, 255, (3, 150, 170))
try:
    with filled_copy(scene, classes, out, {"A": "B"}, cog=sys.argv[5] == "cog", progress=False) as copy:
        copy.write(Window(0, 0, 170, 150), noise)
except OutputError as error:
    print("refused:", error)
else:
    print("written")
"""


@pytest.mark.parametrize("cog", ["", "cog"])
def test_a_file_that_cannot_grow_is_no_result(tmp_path: Path, cog: str):
    data = np.full((3, HEIGHT, WIDTH), 9, np.uint8)  # small until it is filled with noise
    paths = prepare(tmp_path, data, square_hole() * 0 + 1, compress="deflate", overviews=[2],
                    tiled=True, blockxsize=64, blockysize=64)  # fmt: skip
    whole = filled_size(paths, cog)
    for limit in (200, whole // 3, int(whole * 0.783), int(whole * 0.9), whole - 30):
        paths[2].write_bytes(b"older")
        result = subprocess.run(
            [sys.executable, "-c", LIMITED, *map(str, paths), str(limit), cog], capture_output=True, text=True
        )
        assert result.stdout.startswith(f"refused: {paths[2]}: cannot be written ("), (limit, result)
        assert result.stdout.count("\n") == 1
        assert left_beside(paths) == [] and paths[2].read_bytes() == b"older", limit


def filled_size(paths: tuple[Path, Path, Path], cog: str) -> int:
    noise = np.random.default_rng(0).uniform(0, 255, (3, HEIGHT, WIDTH))
    with filled_copy(*paths, {"A": "B"}, cog=bool(cog), progress=False) as copy:
        copy.write(WHOLE, noise)
    return paths[2].stat().st_size


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch):
    paths = prepare(tmp_path, pixels("uint8"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    monkeypatch.setattr("shutil.copyfile", lambda *_, **__: Path(tmp_path / "no" / "file").read_bytes())
    with (
        pytest.raises(OutputError, match=r"out\.tif: cannot be written \(disk full\? ") as caught,
        filled_copy(*paths, TAGS, progress=False),
    ):
        pass
    cause = caught.value.__cause__
    assert isinstance(cause, OSError) and cause.errno == errno.ENOSPC


def test_a_scene_cut_short_is_named(tmp_path: Path):
    paths = prepare(tmp_path, pixels("uint16"), compress="deflate")
    scene = paths[0].read_bytes()
    paths[0].write_bytes(scene[: len(scene) * 2 // 3])
    with (
        pytest.raises(InputError, match=r"scene\.tif: cannot be read .*damaged or cut short"),
        filled_copy(*paths, TAGS, progress=False),
    ):
        pass
    assert left_beside(paths) == [] and not paths[2].exists()


def refused(paths: tuple[Path, Path, Path], match: str, **options: Any) -> None:
    with pytest.raises(InputError, match=match) as caught, filled_copy(*paths, TAGS, **options):
        pass
    assert "\n" not in str(caught.value) and left_beside(paths) == []


def test_what_cannot_be_filled_is_refused_before_anything_is_written(tmp_path: Path):
    scene, classes, _ = paths = prepare(tmp_path, pixels("uint8", 1), photometric="palette")
    with open_quietly(scene, "r+") as raster:
        raster.write_colormap(1, {0: (0, 0, 0, 255), 1: (255, 0, 0, 255)})
    refused(paths, "expand it first: gdal_translate -expand rgb")
    write_described(scene, pixels("float32").astype("complex64"), bare=True)
    refused(paths, "complex numbers")
    rgba = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    write_described(scene, pixels("uint8", 4), bare=True, colorinterp=rgba, photometric="rgb", alpha="yes")
    for bands in ([4], [5], [0], [], [1, 1]):
        refused(paths, "cannot be filled; name some of 1 to 4", bands=bands)
    refused((scene, classes, scene), "is a file that is read from")
    refused((scene, classes, classes), "is a file that is read from")
    (tmp_path / "linked.tif").symlink_to(scene)
    with (
        pytest.raises(InputError, match="is read from"),
        filled_copy(scene, classes, tmp_path / "linked.tif", {}),
    ):
        pass
    (tmp_path / "linked.tif").unlink()
    refused((scene, classes, tmp_path / "out.png"), "ends in .tif")
    refused((scene, classes, tmp_path / f"{'a' * 240}.tif"), "name of more than 230 bytes")


def test_rasters_that_geotiff_would_not_hold_all_of_are_refused(tmp_path: Path):
    scene, classes, _ = prepare(tmp_path, pixels("int16", 1))
    out = tmp_path / "results" / "out.tif"
    page = Image.fromarray(pixels("uint8", 1)[0])
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    refused(
        (tmp_path / "pages.tif", classes, out), "holds 2 rasters, all but the first of which would be lost"
    )
    mixed = tmp_path / "mixed.vrt"
    write_described(tmp_path / "other.tif", pixels("uint16", 1), bare=True)
    gdal_copy(scene, mixed, driver="VRT")
    text = mixed.read_text()
    band = text[text.index("  <VRTRasterBand") : text.index("</VRTDataset>")]
    band = band.replace('band="1"', 'band="2"').replace("Int16", "UInt16").replace("scene.tif", "other.tif")
    mixed.write_text(text.replace("</VRTDataset>", f"{band}</VRTDataset>"))
    refused((mixed, classes, out), "has bands of int16 and uint16, and a GeoTIFF holds one type")


def test_sources_of_a_virtual_raster_are_not_overwritten(tmp_path: Path):
    scene, classes, _ = prepare(tmp_path, pixels("uint8"))
    gdal_copy(scene, tmp_path / "scene.vrt", driver="VRT")
    with (
        pytest.raises(InputError, match="is a file that is read from"),
        filled_copy(tmp_path / "scene.vrt", classes, scene, TAGS),
    ):
        pass


def test_what_geotiff_cannot_hold_is_said_at_once(tmp_path: Path):
    scene, classes, out = prepare(tmp_path, pixels("uint8"))
    gdal_copy(scene, tmp_path / "scene.vrt", driver="VRT")
    text = (tmp_path / "scene.vrt").read_text()
    for band in (1, 2):
        text = re.sub(
            f'(<VRTRasterBand[^>]*band="{band}"[^>]*>)', rf"\1<NoDataValue>{band}</NoDataValue>", text
        )
    (tmp_path / "scene.vrt").write_text(text)
    with (
        pytest.raises(InputError, match="GeoTIFF cannot hold its no-data values"),
        filled_copy(tmp_path / "scene.vrt", classes, out, TAGS),
    ):
        pass


def test_classes_of_another_size_are_refused(tmp_path: Path):
    paths = prepare(tmp_path, pixels("uint8"), square_hole((HEIGHT + 1, WIDTH)))
    refused(paths, r"classes\.tif: uint8 of 170 × 151 pixels")


def test_the_fill_mask_says_what_is_synthetic(tmp_path: Path):
    classes_HW = np.random.default_rng(0).integers(0, 4, (300, 280)).astype(np.uint8)
    classes = write_classes(tmp_path / "classes.tif", classes_HW)
    write_fill_mask(classes, tmp_path / "out.mask.tif", TAGS)
    with open_quietly(tmp_path / "out.mask.tif") as mask, open_quietly(classes) as source:
        np.testing.assert_array_equal(mask.read(1), np.isin(classes_HW, (PixelClass.HOLE, PixelClass.GAP)))
        assert (mask.crs, mask.transform, mask.nodata) == (source.crs, source.transform, None)
        assert mask.descriptions == ("synthetic",) and TAGS.items() <= mask.tags().items()
        assert mask.tags(1, ns="IMAGE_STRUCTURE") == {"NBITS": "1"}
        assert (mask.profile["compress"], mask.block_shapes) == ("deflate", [(256, 256)])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["classes.tif", "out.mask.tif"]
    with pytest.raises(InputError, match="is read from"):
        write_fill_mask(classes, classes, TAGS)


def test_whether_a_result_is_finished(tmp_path: Path):
    paths = prepare(tmp_path, pixels("uint8"))
    assert not is_finished(paths[2], TAGS)
    filled_with(paths, 7, count=3)
    assert is_finished(paths[2], TAGS) and not is_finished(paths[2], {**TAGS, "IGLL_MODEL": "other"})
    paths[2].write_bytes(b"II*\0 no raster")
    assert not is_finished(paths[2], TAGS)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    absent = tmp_path / "a.tif"
    match = r'pip install "igll\[geo\]"'
    with pytest.raises(InputError, match=match), filled_copy(absent, absent, tmp_path / "b.tif", {}):
        pass
    with pytest.raises(InputError, match=match):
        write_fill_mask(absent, tmp_path / "b.tif", {})


def test_an_absent_scene_is_named(tmp_path: Path):
    paths = prepare(tmp_path, pixels("uint8"))
    paths[0].rename(tmp_path / "moved.tif")
    with pytest.raises(InputError, match=r"scene\.tif: no such file"), filled_copy(*paths, TAGS):
        pass
