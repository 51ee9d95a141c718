from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from igll.errors import InputError
from igll.geo.holes import HoleSources, write_classes
from igll.geo.pixel_class import PixelClass
from tests.geo.grounds import blobs, ground, load, write_raster

pytest.importorskip("rasterio")

pytestmark = pytest.mark.usefixtures("small_pieces")


def cloudy(shape: tuple[int, int]) -> np.ndarray:
    bands = ground((4, *shape), 3, "float32")
    bands[:3, blobs(shape, 4, 0.15)] += 600
    bands[:, 5:9, 10:40] = np.nan
    return bands


def rule_on_the_whole(bands: np.ndarray) -> np.ndarray:
    first = bands[:3].astype(np.float64)
    low, high = (np.nanpercentile(first, q, axis=(1, 2))[:, None, None] for q in (2, 98))
    first = (first - low) / (high - low)
    with np.errstate(invalid="ignore"):
        cloud = (first.min(0) > 0.5) & ((first.max(0) - first.min(0)) / first.max(0) < 0.3)
    return ndimage.binary_opening(cloud, np.ones((3, 3)))


def test_windows_make_no_difference(tmp_path: Path) -> None:
    bands = cloudy((150, 210))
    scene = write_raster(tmp_path / "a.tif", bands)
    counts = write_classes(scene, HoleSources(clouds=True), tmp_path / "c.tif", progress=False)
    expected = rule_on_the_whole(bands)
    assert ((load(tmp_path / "c.tif") == PixelClass.HOLE) == expected).all()
    assert counts.hole == expected.sum() > 1000
    assert counts.void == 4 * 30


def test_a_scene_of_one_value_has_no_clouds(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "a.tif", np.full((3, 40, 50), 255, dtype=np.uint8))
    counts = write_classes(scene, HoleSources(clouds=True), tmp_path / "c.tif", progress=False)
    assert (counts.known, counts.hole) == (2000, 0)


def test_needs_three_bands(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "a.tif", ground((2, 40, 50)))
    with pytest.raises(InputError, match="has 2"):
        write_classes(scene, HoleSources(clouds=True), tmp_path / "c.tif", progress=False)


@pytest.mark.parametrize(
    ("name", "precision", "recall"),
    [("sentinel2", 0.91, 0.87), ("landsat5", 0.96, 0.82), ("landsat7", 0.97, 0.73)],
)
def test_documented_precision_and_recall(
    name: str, precision: float, recall: float, shared: Path, tmp_path: Path
) -> None:
    folder = shared / "data" / "cloudmask"
    scene, out = folder / f"{name}_rgb.png", tmp_path / "c.tif"
    write_classes(scene, HoleSources(clouds=True), out, progress=False)
    found = load(out) == PixelClass.HOLE
    truth = np.asarray(Image.open(folder / f"{name}_cloudmask.png")) > 0
    hit = (found & truth).sum()
    assert hit / found.sum() == pytest.approx(precision, abs=0.006)
    assert hit / truth.sum() == pytest.approx(recall, abs=0.006)
