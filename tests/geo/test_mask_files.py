from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from igll.data.files import read_mask
from igll.errors import InputError
from igll.geo.grid import placed
from igll.geo.holes import HoleSources, write_classes
from igll.geo.pixel_class import PixelClass
from tests.geo.grounds import NORTH, PIXEL, UTM, WEST, blobs, grid, ground, load, write_raster
from tests.geo.scenes import coefficients, control_points

pytest.importorskip("rasterio")
pytestmark = pytest.mark.usefixtures("small_pieces")

SHAPE = (150, 210)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "scene.tif", ground((2, *SHAPE)))


def holes(scene: Path, **sources: Any) -> np.ndarray:
    out = scene.with_name("classes.tif")
    write_classes(scene, HoleSources(**sources), out, progress=False)
    return load(out) == PixelClass.HOLE


def nearest(mask: np.ndarray, mask_grid: Any, mask_crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Value of the mask at the centre of each pixel of the scene, and whether it reaches there."""
    from rasterio.warp import transform

    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    x, y = WEST + columns.ravel() * PIXEL, NORTH - rows.ravel() * PIXEL
    x, y = (np.array(v) for v in transform(UTM, mask_crs, x, y))
    column, row = (np.floor(v).astype(int) for v in placed(~mask_grid, x, y))
    reaches = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
    values = mask[row.clip(0, mask.shape[0] - 1), column.clip(0, mask.shape[1] - 1)]
    return values.reshape(SHAPE), reaches.reshape(SHAPE)


@pytest.mark.parametrize("hole", ["white", "black", "nonzero"])
@pytest.mark.parametrize("kind", ["grey", "colour", "labels", "deep"])
def test_pictures_are_read_as_other_masks_are(hole: str, kind: str, scene: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, size=(*SHAPE, 3), dtype=np.uint8)
    values[blobs(SHAPE, 1, 0.3)] = 0
    picture = {
        "grey": values[:, :, 0],
        "colour": values,
        "labels": values[:, :, 0] % 2,
        "deep": values[:, :, 0].astype(np.uint16) * 257,
    }[kind]
    Image.fromarray(picture).save(tmp_path / "mask.png")
    expected = read_mask(tmp_path / "mask.png", hole)
    assert (holes(scene, masks=tmp_path / "mask.png", hole=hole) == expected).all()
    assert 0 < expected.mean() < 1


@pytest.mark.parametrize("white_first", [True, False])
def test_colours_of_a_palette_are_white_and_black_and_its_indices_labels(
    white_first: bool, scene: Path, tmp_path: Path
) -> None:
    index = blobs(SHAPE, 1, 0.3).astype(np.uint8)
    picture = Image.fromarray(index, "P")
    picture.putpalette([255, 250, 255, 9, 0, 0] if white_first else [0, 0, 9, 255, 255, 250])
    picture.save(tmp_path / "mask.png")
    white = index == 0 if white_first else index == 1
    assert (read_mask(tmp_path / "mask.png", "white") == white).all()
    for hole, expected in (("white", white), ("black", ~white), ("nonzero", index == 1)):
        assert (holes(scene, masks=tmp_path / "mask.png", hole=hole) == expected).all()


def test_a_mask_cut_short_is_refused(scene: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, SHAPE, dtype=np.uint8) * 255
    Image.fromarray(noise).save(tmp_path / "mask.png")
    whole = (tmp_path / "mask.png").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / "mask.png").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"mask\.png: .*damaged or cut short"):
            holes(scene, masks=tmp_path / "mask.png")


def test_default_is_nonzero_in_any_band_but_alpha(scene: Path, tmp_path: Path) -> None:
    bands = np.zeros((4, *SHAPE), dtype=np.uint8)
    bands[0, 3:9, 70:90], bands[2, 60:70, 5:80], bands[3, :100] = 1, 2, 255
    path = write_raster(tmp_path / "mask.tif", bands, photometric="RGB", alpha="yes")
    assert (holes(scene, masks=path) == bands[:3].any(axis=0)).all()
    moved = write_raster(
        tmp_path / "moved.tif", bands, transform=grid(WEST + 50), photometric="RGB", alpha="yes"
    )
    expected = np.zeros(SHAPE, dtype=bool)
    expected[:, 5:] = bands[:3].any(axis=0)[:, :-5]
    assert (holes(scene, masks=moved) == expected).all()


@pytest.mark.parametrize(
    ("crs", "shape", "west", "north", "pixel"),
    [
        (UTM, (75, 105), WEST, NORTH, 20.0),
        (UTM, (70, 60), WEST + 333, NORTH - 217, 13.0),
        (UTM, (600, 800), WEST - 500, NORTH + 100, 2.5),
        ("EPSG:32617", (240, 330), 906_900, 4_510_800, 10.0),
        ("EPSG:4326", (130, 200), -76.183, 40.645, 0.00009),
    ],
)
@pytest.mark.parametrize("hole", ["nonzero", "black"])
def test_another_grid(
    crs: str,
    shape: tuple[int, int],
    west: float,
    north: float,
    pixel: float,
    hole: str,
    scene: Path,
    tmp_path: Path,
) -> None:
    """Each pixel takes the mask's value at its centre; where there is no mask nothing is marked."""
    mask = np.where(blobs(shape, 5, 0.4), 255, 0).astype(np.uint8)
    place = grid(west, north, pixel)
    path = write_raster(tmp_path / "mask.tif", mask, crs=crs, transform=place)
    values, reaches = nearest(mask, place, crs)
    expected = (values != 0 if hole == "nonzero" else values == 0) & reaches
    assert 0.05 < expected.mean() < 0.95
    different = holes(scene, masks=path, hole=hole) != expected
    # GDAL may place a centre a thousandth of a mask pixel beside, so a few on a mask pixel's border differ.
    assert different.mean() <= (0 if crs == UTM else 1e-3)


@pytest.mark.parametrize("west", [WEST, WEST + 30])
def test_nodata_of_a_mask_marks_nothing(west: float, scene: Path, tmp_path: Path) -> None:
    mask = np.where(blobs(SHAPE, 1), 1, 0).astype(np.uint8)
    mask[blobs(SHAPE, 2)] = 9
    path = write_raster(tmp_path / "mask.tif", mask, nodata=9, transform=grid(west))
    values, reaches = nearest(mask, grid(west), UTM)
    assert (holes(scene, masks=path) == ((values == 1) & reaches)).all()
    assert (holes(scene, masks=path, hole="black") == ((values == 0) & reaches)).all()


@pytest.mark.parametrize(
    ("options", "sources", "message"),
    [
        ({"transform": grid(WEST + 9000)}, {}, r"does not overlap the scene \(EPSG:32618 \["),
        ({"crs": "EPSG:32633"}, {}, "does not overlap the scene"),
        ({"crs": "EPSG:4326"}, {}, "does not overlap the scene"),
        ({"scale": 60}, {"hole": "white"}, "brightest mask value is 60 of 255"),
        ({"scale": 70000, "dtype": "uint32"}, {"hole": "white"}, "span 0 to 70000"),
        ({"scale": -3, "dtype": "int16"}, {"hole": "black"}, "span -3 to 0"),
        ({"count": 2}, {"hole": "white"}, "one or three bands and this has 2"),
        ({"crs": None, "cut": 5}, {}, "it has no CRS"),
    ],
)
def test_mistakes_with_mask_rasters(
    options: dict[str, Any], sources: dict[str, Any], message: str, scene: Path, tmp_path: Path
) -> None:
    options = dict(options)
    dtype, scale, cut = options.pop("dtype", "uint8"), options.pop("scale", 255), options.pop("cut", 0)
    mask = np.where(blobs(SHAPE, 1), scale, 0).astype(dtype)[cut:]
    path = write_raster(
        tmp_path / "mask.tif", np.repeat(mask[None], options.pop("count", 1), axis=0), **options
    )
    with pytest.raises(InputError, match=message) as error:
        holes(scene, masks=path, **sources)
    assert str(error.value).startswith(f"{path}: ")
    assert not scene.with_name("classes.tif").exists()


def to_wgs84(columns: Any, rows: Any) -> list[list[float]]:
    from rasterio.warp import transform

    x, y = WEST + np.asarray(columns, float) * PIXEL, NORTH - np.asarray(rows, float) * PIXEL
    return [list(point) for point in zip(*transform(UTM, "EPSG:4326", x, y), strict=True)]


def stars(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Polygons in pixels of the scene, some of which reach beyond it."""
    generator, angle = np.random.default_rng(3), np.linspace(0, 2 * np.pi, 12)[:-1]
    polygons = []
    for _ in range(count):
        radius = generator.uniform(2, 22, angle.shape)
        centre = generator.uniform(-10, SHAPE[1]), generator.uniform(-10, SHAPE[0])
        polygons.append((centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)))
    return polygons


def save_geojson(path: Path, geometries: list[dict[str, Any] | None]) -> Path:
    features = [{"type": "Feature", "properties": {}, "geometry": geometry} for geometry in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def polygon(columns: Any, rows: Any) -> dict[str, Any]:
    ring = to_wgs84(columns, rows)
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def test_shapes_equal_rasterising_the_whole(scene: Path, tmp_path: Path) -> None:
    from rasterio.features import rasterize
    from rasterio.warp import transform_geom

    pytest.importorskip("pyogrio")
    geometries = [polygon(*star) for star in stars(14)]
    geometries += [
        {"type": "Point", "coordinates": to_wgs84([100.3], [77.7])[0]},
        {"type": "LineString", "coordinates": to_wgs84([3.3, 190.4], [140.2, 5.1])},
        {"type": "MultiPolygon", "coordinates": [polygon(*star)["coordinates"] for star in stars(16)[14:]]},
    ]
    path = save_geojson(tmp_path / "clouds.geojson", [*geometries, None])
    in_scene = [transform_geom("EPSG:4326", UTM, geometry) for geometry in geometries]
    expected = rasterize(in_scene, out_shape=SHAPE, transform=grid(), all_touched=True) != 0
    assert (holes(scene, masks=path) == expected).all()
    assert 0.1 < expected.mean() < 0.9


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".fgb"])
@pytest.mark.parametrize("crs", [UTM, None])
def test_other_vector_files_with_and_without_crs(
    suffix: str, crs: str | None, scene: Path, tmp_path: Path
) -> None:
    """A box on pixel borders marks exactly its pixels; without CRS it is taken to be in the scene's."""
    pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
    path = tmp_path / f"clouds{suffix}"
    box = shapely.box(WEST + 600, NORTH - 700, WEST + 900, NORTH - 640)
    geometry = np.array([shapely.to_wkb(box)], dtype=object)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        pyogrio.raw.write(path, geometry, field_data=[], fields=[], geometry_type="Polygon", crs=crs)
    expected = np.zeros(SHAPE, dtype=bool)
    expected[64:70, 60:90] = True
    assert (holes(scene, masks=path) == expected).all()


def test_mistakes_with_vector_files(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
    far = save_geojson(tmp_path / "far.geojson", [{"type": "Point", "coordinates": [12.0, 50.0]}])
    empty = save_geojson(tmp_path / "empty.geojson", [])
    inside = save_geojson(tmp_path / "inside.geojson", [polygon([3, 9, 9], [3, 3, 9])])
    damaged = tmp_path / "damaged.geojson"
    damaged.write_text("{ no")
    layers = tmp_path / "layers.gpkg"
    for name in ("aoi", "clouds"):
        pyogrio.raw.write(
            layers, np.array([shapely.to_wkb(shapely.box(0, 0, 1, 1))], dtype=object), field_data=[],
            fields=[], geometry_type="Polygon", crs=UTM, layer=name, append=layers.exists(),
        )  # fmt: skip
    plain = write_raster(tmp_path / "plain.tif", ground(SHAPE), crs=None)
    for where, path, message in (
        (scene, layers, "holds the layers aoi, clouds; save the one"),
        (scene, far, r"no shape lies in the scene \(EPSG:32618\)"),
        (scene, empty, "no shape lies in the scene"),
        (scene, damaged, "cannot be read as a vector file"),
        (scene, tmp_path / "absent.gpkg", "no such file"),
        (plain, inside, "the scene has no CRS"),
    ):
        with pytest.raises(InputError, match=message) as error:
            holes(where, masks=path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyogrio", None)
        with pytest.raises(InputError, match=r'pyogrio and shapely; pip install "igll\[geo\]"'):
            holes(scene, masks=inside)


def with_alpha(path: Path, marked_HW: np.ndarray) -> Path:
    """A mask of one band and alpha; written elsewhere, as GDAL takes some names for more than a name."""
    values = np.stack([marked_HW, np.ones_like(marked_HW)]).astype(np.uint8)
    return write_raster(path.with_name("plain.tif"), values, alpha="yes").rename(path)


def test_masks_whose_names_say_something_to_gdal(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    marked_HW = blobs(SHAPE, 1)
    path = with_alpha(Path("GTIFF_DIR:1:mask.tif"), marked_HW)
    np.testing.assert_array_equal(holes(scene, masks=path), marked_HW)
    save_geojson(Path("zip:mask.geojson"), [polygon([10, 20, 20, 10, 10], [10, 10, 20, 20, 10])])
    assert holes(scene, masks=Path("zip:mask.geojson"))[12:18, 12:18].all()
    with pytest.raises(InputError, match=r"^what\?\.tif: has an alpha band, and .* its \?; rename it"):
        holes(scene, masks=with_alpha(Path("what?.tif"), marked_HW))


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp", ".fgb"])
def test_vector_files_whose_names_say_something_to_pyogrio(
    suffix: str, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the files that belong to them: the CRS of a Shapefile is in another."""
    pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
    north = NORTH + 10_000_000  # as counted for the southern hemisphere
    box = shapely.to_wkb(shapely.box(WEST + 600, north - 700, WEST + 900, north - 640))
    plain, path = tmp_path / "plain", Path("zip:x!") / f"a!b;c{suffix}"
    plain.mkdir()
    pyogrio.raw.write(
        plain / f"mask{suffix}", np.array([box], dtype=object), field_data=[], fields=[],
        geometry_type="Polygon", crs="EPSG:32718",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path.parent.mkdir()
    for part in plain.iterdir():
        part.rename(path.with_suffix(part.suffix))
    expected = np.zeros(SHAPE, dtype=bool)
    expected[64:70, 60:90] = True
    for named in (path, path.absolute()):
        assert (holes(scene, masks=named) == expected).all()


@pytest.mark.parametrize("kind", ["control points", "RPCs"])
def test_scenes_without_a_grid_say_by_what_they_are_placed(kind: str, tmp_path: Path) -> None:
    place: dict[str, Any] = {"crs": None, "rpcs": coefficients()}
    if kind == "control points":
        place = {"gcps": control_points()}
    scene = write_raster(tmp_path / "scene.tif", ground((2, *SHAPE)), transform=None, **place)
    small = write_raster(tmp_path / "small.tif", blobs((40, 50), 1).astype(np.uint8))
    shapes = save_geojson(tmp_path / "shapes.geojson", [polygon([10, 20, 20], [10, 10, 20])])
    for path, advice in (
        (small, "give a file of the scene's size"),
        (shapes, "give a mask raster of its size"),
    ):
        match = f"placed by {kind} alone, which align nothing before it is warped; {advice}"
        with pytest.raises(InputError, match=match):
            holes(scene, masks=path)
