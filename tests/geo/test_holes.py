from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, signal

from igll.errors import InputError, OutputError
from igll.geo.holes import ClassCounts, HoleSources, write_classes
from igll.geo.pixel_class import PixelClass
from tests.geo.grounds import UTM, WEST, blobs, grid, ground, load, write_raster
from tests.geo.test_footprint import hull_by_shapely

pytest.importorskip("rasterio")

SHAPE = (150, 210)
KNOWN, HOLE, GAP, VOID = PixelClass


def classes(scene: Path, **sources: Any) -> np.ndarray:
    out = scene.with_name("classes.tif")
    counts = write_classes(scene, HoleSources(**sources), out, progress=False)
    found = load(out)
    assert counts == ClassCounts(*(int((found == kind).sum()) for kind in PixelClass))
    return found


def rotated(shape: tuple[int, int]) -> np.ndarray:
    """A rotated rectangle of ground."""
    y, x = np.mgrid[: shape[0], : shape[1]] - np.array(shape)[:, None, None] / 2
    return (np.abs(x + 0.25 * y) < shape[1] * 0.38) & (np.abs(y - 0.25 * x) < shape[0] * 0.35)


def collar_scene(tmp_path: Path, **options: Any) -> tuple[Path, np.ndarray, np.ndarray]:
    """A file, where a band of it is missing, and where its complete pixels are."""
    bands = ground((2, *SHAPE), dtype="uint16")
    bands[:, ~rotated(SHAPE)] = 0
    bands[0, blobs(SHAPE, 1, 0.05)] = 0
    bands[1, blobs(SHAPE, 2, 0.05)] = 0
    complete = (bands != 0).all(axis=0)
    return write_raster(tmp_path / "scene.tif", bands, nodata=0, **options), ~complete, complete


@pytest.mark.usefixtures("small_pieces")
class TestClasses:
    def test_gaps_inside_and_collar_outside(self, tmp_path: Path) -> None:
        scene, missing, complete = collar_scene(tmp_path)
        hull, undecided = hull_by_shapely(complete)
        expected = np.where(missing, np.where(hull, GAP, VOID), KNOWN)
        found = classes(scene)
        assert (found == expected)[~undecided].all()
        assert {int(kind) for kind in np.unique(found)} == {KNOWN, GAP, VOID}
        assert (classes(scene, collar="fill") == np.where(missing, GAP, KNOWN)).all()
        assert (classes(scene, nodata=False) == np.where(missing, VOID, KNOWN)).all()

    def test_rows_and_tiles_give_the_same(self, tmp_path: Path) -> None:
        tiles = classes(collar_scene(tmp_path)[0], dilate=3)
        rows = collar_scene(tmp_path, tiled=False, blockxsize=None, blockysize=7)[0]
        assert (classes(rows, dilate=3) == tiles).all()

    @pytest.mark.parametrize("nodata", [None, False, True])
    def test_explicit_sources_win_and_are_united(self, nodata: bool | None, tmp_path: Path) -> None:
        scene, missing, complete = collar_scene(tmp_path)
        mask, quality = blobs(SHAPE, 7), blobs(SHAPE, 8)
        found = classes(
            scene,
            masks=write_raster(tmp_path / "mask.tif", mask.astype(np.uint8)),
            quality=str(write_raster(tmp_path / "quality.tif", quality.astype(np.uint16) * 24)),
            quality_flags="landsat-c2:cloud",
            nodata=nodata,
        )
        hull, undecided = hull_by_shapely(complete)
        lacking = np.where(hull & bool(nodata), GAP, VOID)
        expected = np.where(mask | quality, HOLE, np.where(missing, lacking, KNOWN))
        assert (found == expected)[~undecided].all()

    @pytest.mark.parametrize("pixels", [1, 5, 70])
    def test_dilation_equals_that_of_the_whole(self, pixels: int, tmp_path: Path) -> None:
        """By a disc, over strips and swaths, into known pixels only."""
        scene, _, _ = collar_scene(tmp_path)
        mask = write_raster(tmp_path / "mask.tif", blobs(SHAPE, 7, 0.02).astype(np.uint8))
        sources = {"masks": mask, "nodata": True}
        before = classes(scene, **sources)
        y, x = np.mgrid[-pixels : pixels + 1, -pixels : pixels + 1]
        disc = x * x + y * y <= pixels * pixels
        near = signal.fftconvolve((before == HOLE) | (before == GAP), disc, mode="same") > 0.5
        expected = np.where(near & (before == KNOWN), HOLE, before)
        if (expected == KNOWN).any():
            assert (classes(scene, **sources, dilate=pixels) == expected).all()
        else:
            with pytest.raises(InputError, match="missing once holes are dilated, so nothing is known"):
                classes(scene, **sources, dilate=pixels)

    def test_quality_band_of_the_scene(self, tmp_path: Path) -> None:
        """It is no data band: its zeros are not missing, and what it marks is a hole."""
        bands = ground((3, *SHAPE), dtype="uint16")
        cloud = blobs(SHAPE, 1)
        bands[1] = np.where(cloud, 8, 0)
        bands[2, blobs(SHAPE, 2)] = 0
        scene = write_raster(tmp_path / "scene.tif", bands, nodata=0)
        found = classes(scene, quality="band:2", quality_flags="bits:3", nodata=True, collar="fill")
        assert (found == np.where(cloud, HOLE, np.where(bands[2] == 0, GAP, KNOWN))).all()
        with open_dataset(scene) as dataset:
            assert HoleSources(quality="band:2", quality_flags="bits:3").bands(dataset) == (1, 3)

    def test_quality_of_half_the_resolution(self, tmp_path: Path) -> None:
        """Declared nodata is a flag like any other; outside the raster nothing is marked."""
        scene = write_raster(tmp_path / "scene.tif", ground(SHAPE))
        labels = np.random.default_rng(0).integers(0, 12, size=(75, 90)).astype(np.uint8)
        place = grid(WEST, pixel=20.0)
        quality = write_raster(tmp_path / "scl.tif", labels, transform=place, nodata=0)
        flags = "sentinel2-scl:nodata,cloud"
        expected = np.zeros(SHAPE, dtype=bool)
        expected[:, :180] = np.isin(labels, (0, 8, 9)).repeat(2, axis=0).repeat(2, axis=1)
        found = classes(scene, quality=str(quality), quality_flags=flags)
        assert (found == np.where(expected, HOLE, KNOWN)).all()

    def test_a_scene_without_georeference(self, tmp_path: Path) -> None:
        band = ground(SHAPE, dtype="float64")
        holes = blobs(SHAPE, 1)
        band[holes] = np.nan
        scene = write_raster(tmp_path / "scene.tif", band, crs=None, transform=None)
        assert (classes(scene, collar="fill") == np.where(holes, GAP, KNOWN)).all()


WITH_LITTLE_DISK = """
import resource, signal, sys
from pathlib import Path
from igll.errors import OutputError
from igll.geo import holes

def find_then_limit(*arguments, find=holes._find):
    found = find(*arguments)
    arguments[5].flush()  # the intermediate file still fits
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return found

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit, folder = int(sys.argv[1]), Path(sys.argv[2])
holes._find = find_then_limit
try:
    holes.write_classes(folder / "scene.tif", holes.HoleSources(), folder / "c.tif", progress=False)
except OutputError as error:
    print(error)
"""


def open_dataset(path: Path) -> Any:
    import rasterio

    return rasterio.open(path)


def test_the_file_beside_the_scene(tmp_path: Path) -> None:
    """Larger than a tile either way, so that tiles at the borders are cut."""
    band = ground((600, 1100))
    band[500:530, 100:900] = 0
    scene = write_raster(tmp_path / "scene.tif", band, nodata=0)
    found = classes(scene, dilate=2)
    expected = ndimage.distance_transform_edt(band != 0) <= 2
    assert (found == np.where(band == 0, GAP, np.where(expected, HOLE, KNOWN))).all()
    with open_dataset(tmp_path / "classes.tif") as dataset:
        assert dataset.profile["blockxsize"] == dataset.profile["blockysize"] == 512
        assert dataset.profile["compress"] == "deflate"
        assert (dataset.dtypes, dataset.count, dataset.nodata) == (("uint8",), 1, None)
        assert (dataset.crs, dataset.transform, dataset.shape) == (UTM, grid(), (600, 1100))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.tif", "scene.tif"]


def test_nothing_missing_is_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scene = write_raster(tmp_path / "scene.tif", ground(SHAPE))
    counts = write_classes(scene, HoleSources(), tmp_path / "classes.tif")
    assert counts == ClassCounts(known=SHAPE[0] * SHAPE[1], hole=0, gap=0, void=0)
    assert "find holes" in capfd.readouterr().err


@pytest.mark.parametrize("collar", ["keep", "fill"])
def test_everything_missing(collar: str, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", np.zeros(SHAPE, dtype=np.uint8), nodata=0)
    with pytest.raises(InputError, match="every pixel is missing, so nothing is known to fill from"):
        classes(scene, collar=collar)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_everything_missing_by_one_account_names_it(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", ground((3, *SHAPE)))
    mask = write_raster(tmp_path / "mask.tif", np.ones(SHAPE, dtype=np.uint8))
    with pytest.raises(
        InputError, match=r"every pixel is missing, .*; check .*mask\.tif and what marks a hole"
    ):
        classes(scene, masks=mask)
    with pytest.raises(
        InputError, match=r"; check .*mask\.tif and the flags 'values:1', the rule for clouds"
    ):
        classes(scene, quality=str(mask), quality_flags="values:1", clouds=True)
    values = ground((3, *SHAPE))
    values[1] = 0
    scene = write_raster(tmp_path / "scene.tif", values, nodata=0)
    with pytest.raises(InputError, match=r"scene\.tif: band 2 has no value anywhere; leave it out"):
        classes(scene)


@pytest.mark.parametrize("which", ["scene", "mask"])
def test_a_file_cut_short_leaves_nothing_behind(which: str, tmp_path: Path) -> None:
    """The one that is damaged is named."""
    values = {"scene": ground((300, 400)), "mask": blobs((300, 400), 1) * ground((300, 400))}
    paths = {name: write_raster(tmp_path / f"{name}.tif", band, nodata=0) for name, band in values.items()}
    paths[which].write_bytes(paths[which].read_bytes()[:-60_000])
    with pytest.raises(InputError, match="damaged or cut short") as error:
        classes(paths["scene"], masks=paths["mask"])
    assert str(error.value).startswith(f"{paths[which]}: cannot be read")
    assert len(list(tmp_path.iterdir())) == 2


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", ground(SHAPE))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_classes(scene, HoleSources(), tmp_path / "file" / "classes.tif", progress=False)


@pytest.mark.parametrize("bytes_on_disk", [100, 5_000, 12_000, 40_000])
def test_a_full_disk(bytes_on_disk: int, tmp_path: Path) -> None:
    """Also where only what is written last does not fit, of which GDAL says nothing."""
    band = ground((300, 300)) * (np.random.default_rng(1).random((300, 300)) < 0.5)
    write_raster(tmp_path / "scene.tif", band.astype(np.uint8), nodata=0, crs=None)
    command = [sys.executable, "-W", "ignore", "-c", WITH_LITTLE_DISK, str(bytes_on_disk), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    fits = bytes_on_disk == 40_000
    assert ("c.tif: cannot be written (" in done.stdout) != fits
    assert (tmp_path / "c.tif").exists() == fits


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"collar": "drop"}, "choose keep or fill"),
        ({"dilate": -1}, "give 0 to 512 pixels"),
        ({"dilate": 513}, "give 0 to 512 pixels"),
        ({"quality": "qa.tif"}, "quality are given without quality flags"),
        ({"quality_flags": "bits:3"}, "flags are given without a quality raster, or band:N"),
        ({"quality": "qa.tif", "quality_flags": "bits"}, "bits:3,4"),
        ({"quality": "band:x", "quality_flags": "bits:3"}, "give band:N"),
        ({"hole": "white"}, "none is given"),
        ({"hole": "white", "masks": Path("a.gpkg")}, "none is given"),
    ],
)
def test_mistakes_in_the_sources(sources: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HoleSources(**sources)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"quality": "band:3", "quality_flags": "bits:3"}, "has bands 1 to 2"),
        ({"quality": "band:0", "quality_flags": "bits:3"}, "has bands 1 to 2"),
        ({"quality": "scene.tif", "quality_flags": "bits:3"}, "has one band and this has 2"),
        ({"quality": "float.tif", "quality_flags": "bits:3"}, "this band is float32"),
        ({"quality": "absent.tif", "quality_flags": "bits:3"}, "no such file"),
        ({"masks": "scene.tif", "hole": "grey"}, "choose one of white, black, nonzero"),
    ],
)
def test_mistakes_that_the_files_tell(
    sources: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scene = write_raster(tmp_path / "scene.tif", ground((2, *SHAPE)))
    write_raster(tmp_path / "float.tif", ground(SHAPE, dtype="float32"))
    with pytest.raises(InputError, match=message):
        classes(scene, **sources)


def test_a_scene_of_quality_alone(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", ground(SHAPE))
    with pytest.raises(InputError, match="no band holds measurements"):
        classes(scene, quality="band:1", quality_flags="bits:3")


def test_a_real_scene_in_its_collar(shared: Path, tmp_path: Path) -> None:
    """A photograph in a collar of zeros, with scattered zeros in single bands inside."""
    scene = shared / "data" / "geotiff" / "rasterio_RGB.byte.tif"
    out = tmp_path / "classes.tif"
    write_classes(scene, HoleSources(), out, progress=False)
    with open_dataset(scene) as dataset:
        complete = (dataset.read() != 0).all(axis=0)
    hull, undecided = hull_by_shapely(complete)
    expected = np.where(complete, KNOWN, np.where(hull, GAP, VOID))
    found = load(out)
    assert (found == expected)[~undecided].all()
    assert (found == VOID).mean() == pytest.approx(0.32, abs=0.01)
    assert (found == GAP).sum() > 1000
