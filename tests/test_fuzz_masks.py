"""Masks of any values and modes against a plain statement of the rule, and shapes of any form."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from igll.data.files import HOLE_COLOURS, read_mask
from igll.geo.box import Box
from igll.geo.mask_files import VectorMask
from tests.fuzzing import answer, examples

LEVELS = st.one_of(st.sampled_from([0, 1, 2, 127, 128, 129, 254, 255]), st.integers(0, 255))
FLOATS = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 1.5, 127.5, 128.0, 255.0, 256.0, 65535.0, 65536.0, -1.0, np.nan, np.inf]),
    st.floats(width=32),
)
DEEP = {"I;16": st.integers(0, 65535), "I": st.integers(-(2**31), 2**31 - 1), "F": FLOATS}
BANDS = {"1": 1, "L": 1, "LA": 2, "P": 1, "RGB": 3, "RGBA": 4}
Pixel = tuple[float, ...]


@st.composite
def masks(draw: st.DrawFn) -> tuple[str, list[list[Pixel]]]:
    """A mode and rows of pixels; few values that differ, as masks have, or many."""
    mode = draw(st.sampled_from([*BANDS, *DEEP]))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values: st.SearchStrategy[float] = DEEP.get(mode, st.sampled_from([0, 255]) if mode == "1" else LEVELS)
    if draw(st.booleans()):
        values = st.sampled_from(draw(st.lists(values, min_size=1, max_size=3)))
    pixel = st.tuples(*[values] * BANDS.get(mode, 1))
    row = st.lists(pixel, min_size=width, max_size=width)
    return mode, draw(st.lists(row, min_size=height, max_size=height))


def save(path: Path, mode: str, rows: list[list[Pixel]]) -> Path:
    kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    array = np.array(rows, kinds.get(mode, np.uint8))
    if array.shape[2] == 1:
        array = array[..., 0]
    if mode == "1":
        picture = Image.fromarray(array > 0)
    elif mode == "P":
        picture = Image.fromarray(array).convert("P")
        picture.putpalette(bytes((7 * index + shift) % 256 for index in range(256) for shift in (0, 50, 90)))
    else:
        picture = Image.fromarray(array)
    path = path.with_suffix(".tif" if mode in ("I", "F") else ".png")
    picture.save(path)
    return path


def colours(mode: str, pixel: Pixel) -> Pixel:
    """Red, green and blue of a pixel, or its one value."""
    if mode == "P":
        return tuple((7 * int(pixel[0]) + shift) % 256 for shift in (0, 50, 90))
    return pixel[:-1] if mode in ("LA", "RGBA") else pixel


def luminance(pixel: Pixel) -> float:
    """ITU-R BT.601 in 65,536ths, rounded, of a colour; of one value that value."""
    if len(pixel) == 1:
        return pixel[0]
    red, green, blue = (int(value) for value in pixel)
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) // 65536


def rule(mode: str, rows: list[list[Pixel]], hole: str) -> list[list[bool]] | None:
    """What the documentation says, pixel by pixel; None where it refuses."""
    pixels = [[colours(mode, pixel) for pixel in row] for row in rows]
    if not all(0 <= value < float("inf") for row in pixels for pixel in row for value in pixel):
        return None
    if hole == "nonzero":
        return [[any(value != 0 for value in pixel) for pixel in row] for row in pixels]
    grey = [[luminance(pixel) for pixel in row] for row in pixels]
    brightest = max(max(row) for row in grey)
    if brightest > 65535:
        return None
    full = 1 if brightest <= 1 else 255 if brightest <= 255 else 65535
    if full > 1 and not brightest > full / 2:
        return None
    return [[(value > full / 2) == (hole == "white") for value in row] for row in grey]


@examples(400)
@given(mask=masks(), hole=st.sampled_from(HOLE_COLOURS))
@example(mask=("L", [[(0,), (127,), (128,), (255,)]]), hole="white")
@example(mask=("L", [[(0,), (1,), (2,)]]), hole="white")
@example(mask=("I", [[(65536,)]]), hole="black")
@example(mask=("F", [[(np.nan,), (1.0,)]]), hole="white")
@example(mask=("1", [[(0,), (0,)]]), hole="black")
def test_a_mask_is_what_the_rule_says(tmp_path: Path, mask: tuple[str, list[list[Pixel]]], hole: str):
    path = save(tmp_path / "mask", *mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NaN and infinity included
        found = answer(partial(read_mask, path, hole))
    expected = rule(*mask, hole)
    assert (None if found is None else found.tolist()) == expected


# --- Shapes

NUMBERS = st.one_of(
    st.floats(-5, 25), st.floats(), st.sampled_from([0, 10, 1e308, -1e308, 1e-320, None, "x", True])
)
POSITIONS = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4), max_leaves=10)
SQUARE = [[[2, 2], [8, 2], [8, 8], [2, 8], [2, 2]]]
KINDS = [
    "Point",
    "LineString",
    "Polygon",
    "MultiPoint",
    "MultiLineString",
    "MultiPolygon",
    "GeometryCollection",
    "X",
]
GEOMETRIES = st.one_of(
    st.none(),
    st.builds(lambda kind, where: {"type": kind, "coordinates": where}, st.sampled_from(KINDS), POSITIONS),
    st.builds(
        lambda ring: {"type": "Polygon", "coordinates": [ring]},
        st.lists(st.lists(NUMBERS, min_size=2, max_size=3), max_size=6),
    ),
    st.just({"type": "Polygon", "coordinates": SQUARE}),
)
CRS_NAMES = st.sampled_from(
    [
        None,
        "urn:ogc:def:crs:EPSG::32633",
        "EPSG:4326",
        "EPSG:99999",
        "",
        "urn:ogc:def:crs:OGC:1.3:CRS84",
        "x",
        7,
    ]
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("pyogrio")
    from rasterio.transform import Affine

    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=20, height=20, count=1, dtype="uint8", crs="EPSG:32633",
        transform=Affine(1, 0, 0, 0, 1, 0),
    ) as file:  # fmt: skip
        file.write(np.zeros((1, 20, 20), np.uint8))
    with rasterio.open(path) as dataset:
        yield dataset


def marked(path: Path, scene: Any) -> None:
    found = VectorMask(path, scene).marked(Box(0, 0, 20, 20))
    assert found.shape == (20, 20) and found.dtype == bool


def test_shapes_of_any_form(tmp_path: Path, scene: Any):
    path = tmp_path / "shapes.geojson"

    @examples(150)
    @given(geometries=st.lists(GEOMETRIES, max_size=3), crs=CRS_NAMES, cut=st.integers(0, 400))
    @example(geometries=[{"type": "Polygon", "coordinates": SQUARE}], crs=None, cut=400)
    @example(geometries=[{"type": "Polygon", "coordinates": [[[0.0, 0.0]]]}], crs=None, cut=400)
    def attempt(geometries: list, crs: object, cut: int) -> None:
        features = [{"type": "Feature", "properties": {}, "geometry": geometry} for geometry in geometries]
        content: dict[str, object] = {"type": "FeatureCollection", "features": features}
        if crs is not None:
            content["crs"] = {"type": "name", "properties": {"name": crs}}
        text = json.dumps(content)
        path.write_text(text if cut > 300 else text[:cut])
        answer(partial(marked, path, scene))

    attempt()
