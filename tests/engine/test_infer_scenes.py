"""igll-infer on scenes: what is kept, what is filled, and by which account of what is missing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rasterio", reason="scenes need rasterio")

import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

from tests.engine.scene_files import (
    HARMONIC,
    SIZE,
    TILES,
    call,
    digest,
    gapped,
    hole_of,
    names,
    only_line,
    read,
    tags,
    tiny,
    values,
)  # fmt: skip
from tests.geo.grounds import NORTH, WEST, grid, write_raster

HOLE = hole_of()
SQUARE = np.zeros(SIZE, bool)
SQUARE[40:60, 50:80] = True


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("blind") / "best.pt")


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("oracle") / "best.pt", "oracle")


def synthetic(out: Path) -> np.ndarray:
    return read(out.with_name(f"{out.stem}_synthetic.tif"))[0].astype(bool)


def check(scene: Path, out: Path, hole_HW: np.ndarray) -> np.ndarray:
    """Everything promised of a result; gives its values back."""
    before_CHW, after_CHW = read(scene), read(out)
    assert after_CHW.dtype == before_CHW.dtype
    known_CHW = np.broadcast_to(~hole_HW, before_CHW.shape)
    assert after_CHW[known_CHW].tobytes() == before_CHW[known_CHW].tobytes()
    assert np.isfinite(after_CHW[~known_CHW]).all()
    assert np.array_equal(synthetic(out), hole_HW)
    with rasterio.open(scene) as source, rasterio.open(out) as result:
        for key in ("crs", "transform", "nodata", "descriptions", "units", "scales", "colorinterp"):
            assert getattr(result, key) == getattr(source, key), key
        assert source.tags().items() <= result.tags().items()
        if source.nodata is not None:
            assert not (after_CHW[:, hole_HW] == source.nodata).any()
    assert tags(out)["IGLL_SYNTHETIC_PIXELS"] == str(hole_HW.sum())
    assert len(tags(out)["IGLL_REQUEST"]) == 64
    return after_CHW


@pytest.mark.parametrize(
    ("dtype", "bands"),
    [("uint8", 1), ("uint8", 3), ("uint16", 2), ("uint16", 7), ("int16", 4), ("float32", 2), ("float32", 3)],
)
@pytest.mark.parametrize("model", ["harmonic", "network"])
def test_bands_and_types(blind, tmp_path, capsys, dtype, bands, model):
    scene = gapped(tmp_path / "scene.tif", values(dtype, bands), HOLE, compress="deflate", tiled=True)
    with rasterio.open(scene, "r+") as target:
        target.descriptions = [f"band {band}" for band in target.indexes]
        target.update_tags(SUN="42")
    before, out = digest(scene), tmp_path / "filled.tif"
    chosen = HARMONIC if model == "harmonic" else ("--checkpoint", blind, *TILES)
    assert call(scene, *chosen, "--out", out) == 0
    after_CHW = check(scene, out, HOLE)
    if model == "harmonic":  # the truth is smooth, so a smooth filling is near it
        truth_CHW = values(dtype, bands).astype(np.float64)
        error_CN = (after_CHW - truth_CHW)[:, HOLE]
        assert (np.sqrt((error_CN**2).mean(1)) < 0.04 * np.ptp(truth_CHW, axis=(1, 2))).all()
        assert tags(out)["IGLL_MODEL"] == "harmonic"
    else:
        assert "best.pt" in tags(out)["IGLL_MODEL"]
    assert digest(scene) == before
    assert names(tmp_path) == ["filled.tif", "filled_synthetic.tif", "scene.tif"]
    captured = capsys.readouterr()
    assert f"{out}: {HOLE.sum():,} of {HOLE.size:,} pixels filled" in captured.out
    assert captured.out.endswith(f"done: 1 image in {out}\n")
    assert "Warning" not in captured.err


def test_a_gap_in_one_band_alone_leaves_the_other_bands_as_they_are(blind, tmp_path):
    values_CHW = values("uint16", 2)
    values_CHW[0, HOLE] = 0
    scene = write_raster(tmp_path / "scene.tif", values_CHW, nodata=0)
    for chosen in (HARMONIC, ("--checkpoint", blind, *TILES)):
        assert call(scene, *chosen, "--out", tmp_path / "filled.tif") == 0
        after_CHW = read(tmp_path / "filled.tif")
        assert np.array_equal(after_CHW[1], values_CHW[1])
        assert (after_CHW[0] > 0).all() and np.array_equal(after_CHW[0][~HOLE], values_CHW[0][~HOLE])


# --- what is missing


def test_masks_of_every_kind(tmp_path):
    scene = write_raster(tmp_path / "scene.tif", values("uint8", 3))
    mask_1HW = SQUARE.astype(np.uint8)[None]
    sides = ((500, 400), (800, 400), (800, 600), (500, 600), (500, 400))
    corners = [(WEST + right, NORTH - down) for right, down in sides]
    shape = {"type": "Polygon", "coordinates": [corners]}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}}
    features = [{"type": "Feature", "properties": {}, "geometry": shape}]
    vector = tmp_path / "shape.geojson"
    vector.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    cases = {
        "nonzero": (["--masks", write_raster(tmp_path / "m1.tif", mask_1HW)], SQUARE),
        "white": (["--masks", write_raster(tmp_path / "m2.tif", mask_1HW * 255), "--hole", "white"], SQUARE),
        "black": (
            ["--masks", write_raster(tmp_path / "m3.tif", 255 - mask_1HW * 255), "--hole", "black"], SQUARE,
        ),
        "dilated": (["--masks", tmp_path / "m1.tif", "--dilate", 2], _grown(SQUARE, 2)),
        "quality": (
            ["--qa", write_raster(tmp_path / "qa.tif", mask_1HW * np.uint16(8)), "--qa-flags", "bits:3"],
            SQUARE,
        ),
    }  # fmt: skip
    for name, (arguments, hole_HW) in cases.items():
        out = tmp_path / f"out/{name}.tif"
        assert call(scene, *HARMONIC, "--out", out, *arguments) == 0, name
        check(scene, out, hole_HW)
    # A shape's border runs between pixels; whether those beside it are touched is up to rounding.
    out = tmp_path / "out/vector.tif"
    assert call(scene, *HARMONIC, "--out", out, "--masks", vector) == 0
    filled_HW = synthetic(out)
    assert filled_HW[SQUARE].all() and not filled_HW[~_grown(SQUARE, 1.5)].any()
    check(scene, out, filled_HW)


def test_a_quality_band_of_the_scene_itself_is_not_filled(tmp_path):
    values_CHW = values("uint16", 3)
    values_CHW[2] = np.where(SQUARE, 9, 4)
    scene = write_raster(tmp_path / "scene.tif", values_CHW)
    out = tmp_path / "filled.tif"
    assert call(scene, *HARMONIC, "--out", out, "--qa", "band:3", "--qa-flags", "values:8,9") == 0
    after_CHW = read(out)
    assert np.array_equal(after_CHW[2], values_CHW[2])
    assert np.array_equal(synthetic(out), SQUARE)
    assert (after_CHW[:2, SQUARE] != values_CHW[:2, SQUARE]).any()


def test_clouds_by_the_rule(tmp_path):
    values_CHW = values("uint8", 3) // 4
    values_CHW[:, SQUARE] = 250
    scene = write_raster(tmp_path / "scene.tif", values_CHW)
    out = tmp_path / "filled.tif"
    assert call(scene, *HARMONIC, "--out", out, "--clouds", "--dilate", 3) == 0
    filled_HW = synthetic(out)
    assert filled_HW[_grown(SQUARE, 3)].all()
    assert read(out)[:, SQUARE].max() < 120


@pytest.mark.parametrize("collar", ["keep", "fill"])
def test_the_collar(tmp_path, collar):
    outside_HW = np.zeros(SIZE, bool)
    outside_HW[:, :20] = outside_HW[:30] = True
    inside_HW = np.zeros(SIZE, bool)
    inside_HW[60:70, 60:90] = True
    scene = gapped(tmp_path / "scene.tif", values("uint16"), outside_HW | inside_HW)
    out = tmp_path / "filled.tif"
    assert call(scene, *HARMONIC, "--out", out, "--collar", collar) == 0
    after_CHW = read(out)
    filled_HW = inside_HW | outside_HW if collar == "fill" else inside_HW
    assert np.array_equal(synthetic(out), filled_HW)
    assert np.array_equal(after_CHW[0] == 0, outside_HW & ~filled_HW)


def test_a_mask_and_nodata_together(tmp_path):
    gap_HW = np.zeros(SIZE, bool)
    gap_HW[90:100, 20:40] = True
    scene = gapped(tmp_path / "scene.tif", values("uint16"), gap_HW)
    mask = write_raster(tmp_path / "mask.tif", SQUARE.astype(np.uint8)[None])
    out = tmp_path / "filled.tif"
    assert call(scene, *HARMONIC, "--out", out, "--masks", mask) == 0
    assert np.array_equal(synthetic(out), SQUARE)
    assert (read(out)[0][gap_HW] == 0).all()
    assert call(scene, *HARMONIC, "--out", out, "--masks", mask, "--nodata") == 0
    check(scene, out, SQUARE | gap_HW)


@pytest.mark.parametrize("model", ["harmonic", "network"])
def test_a_hole_far_inside_of_what_stays_empty(blind, tmp_path, model):
    """Its frame shows nothing known; a coarser filling leads."""
    values_CHW = values("uint16", 1, (200, 200))
    values_CHW[:, :, :150] = 0
    scene = write_raster(tmp_path / "scene.tif", values_CHW, nodata=0)
    hole_HW = np.zeros((200, 200), bool)
    hole_HW[80:100, 20:40] = True
    mask = write_raster(tmp_path / "mask.tif", hole_HW.astype(np.uint8)[None])
    chosen = ("--method", "harmonic") if model == "harmonic" else ("--checkpoint", blind)
    out = tmp_path / "filled.tif"
    assert call(scene, *chosen, "--masks", mask, "--out", out, "--tile", 256, "--context", 16) == 0
    after_CHW = check(scene, out, hole_HW)
    known = values_CHW[:, :, 150:]
    assert known.min() <= after_CHW[:, hole_HW].min() and after_CHW[:, hole_HW].max() <= known.max()


def test_a_piece_between_what_stays_empty_and_a_hole(blind, tmp_path):
    """The frame of the grid's piece left of the hole ends before known ground begins."""
    values_CHW = values("uint16", 1, (200, 200))
    values_CHW[:, :, :96] = 0
    scene = write_raster(tmp_path / "scene.tif", values_CHW, nodata=0)
    hole_HW = np.zeros((200, 200), bool)
    hole_HW[20:180, 96:112] = True
    mask = write_raster(tmp_path / "mask.tif", hole_HW.astype(np.uint8)[None])
    for chosen in (HARMONIC, ("--checkpoint", blind, *TILES)):
        out = tmp_path / "filled.tif"
        assert call(scene, *chosen, "--masks", mask, "--out", out) == 0
        check(scene, out, hole_HW)


# --- options


@pytest.mark.parametrize("stretch", ["full", "auto", "5", "0"])
def test_stretches(blind, tmp_path, stretch):
    scene = gapped(tmp_path / "scene.tif", values("uint16", 3), HOLE)
    out = tmp_path / "filled.tif"
    assert call(scene, "--checkpoint", blind, *TILES, "--out", out, "--stretch", stretch) == 0
    check(scene, out, HOLE)


@pytest.mark.parametrize(("dtype", "reason"), [("int32", "no natural range"), ("int16", "reach down to -")])
def test_stretch_full_needs_a_natural_range(tmp_path, capsys, dtype, reason):
    scene = gapped(tmp_path / "scene.tif", values("int16").astype(dtype) - 2000, HOLE)
    assert call(scene, *HARMONIC, "--out", tmp_path / "filled.tif", "--stretch", "full") == 2
    assert reason in only_line(capsys.readouterr().err)
    assert names(tmp_path) == ["scene.tif"]


def test_cog(tmp_path):
    scene = gapped(tmp_path / "scene.tif", values("uint16", 2), HOLE)
    out = tmp_path / "filled.tif"
    assert call(scene, *HARMONIC, "--out", out, "--cog") == 0
    check(scene, out, HOLE)
    with rasterio.open(out) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_nothing_to_fill_is_said_and_copied(tmp_path, capsys):
    scene = write_raster(tmp_path / "scene.tif", values("uint16", 2))
    out = tmp_path / "filled.tif"
    assert call(scene, *HARMONIC, "--out", out) == 0
    assert f"{scene}: nothing to fill; copied to {out}" in capsys.readouterr().out
    check(scene, out, np.zeros(SIZE, bool))


def test_what_stays_without_a_value_is_counted(tmp_path, capsys):
    values_CHW = values("uint16", 2)
    values_CHW[:, :10, :10] = 0
    scene = gapped(tmp_path / "scene.tif", values_CHW, SQUARE)
    assert call(scene, *HARMONIC, "--out", tmp_path / "filled.tif") == 0
    told = capsys.readouterr().out
    assert "pixels filled" in told and "without a value stay so (--collar fill fills them)" in told
    mask = write_raster(tmp_path / "mask.tif", np.zeros((1, *SIZE), np.uint8))
    assert call(scene, *HARMONIC, "--masks", mask, "--out", tmp_path / "other.tif") == 0
    told = capsys.readouterr().out
    assert (
        "nothing to fill; copied to" in told and f"; {100 + SQUARE.sum():,} without a value stay so" in told
    )


def test_what_was_filled_before_stays_marked(tmp_path, capsys):
    scene = gapped(tmp_path / "scene.tif", values("uint16", 2), SQUARE)
    first, second = tmp_path / "first.tif", tmp_path / "second.tif"
    assert call(scene, *HARMONIC, "--out", first) == 0
    mask_1HW = np.zeros((1, *SIZE), np.uint8)
    mask_1HW[0, 55:70, 60:70] = 1
    mask = write_raster(tmp_path / "mask.tif", mask_1HW)
    assert call(first, *HARMONIC, "--masks", mask, "--out", second) == 0
    assert f"{first}: {SQUARE.sum()} of its pixels are synthetic" in capsys.readouterr().out
    both_HW = SQUARE | (mask_1HW[0] > 0)
    assert np.array_equal(synthetic(second), both_HW)
    assert tags(second)["IGLL_SYNTHETIC_PIXELS"] == str(both_HW.sum())
    write_raster(tmp_path / "first_synthetic.tif", np.zeros((1, 5, 5), np.uint8))
    assert call(first, *HARMONIC, "--masks", mask, "--out", second, "--dilate", 1) == 2
    assert "first_synthetic.tif: 5 × 5 pixels, but" in only_line(capsys.readouterr().err)
    (tmp_path / "first_synthetic.tif").unlink()
    assert call(first, *HARMONIC, "--masks", mask, "--out", second) == 0
    assert call(first, *HARMONIC, "--masks", mask, "--out", second, "--dilate", 1) == 0
    assert "first_synthetic.tif, is not there" in capsys.readouterr().out


@pytest.mark.parametrize("more", [(), ("--cog",)])
def test_a_result_that_was_cut_short_is_made_again(tmp_path, more):
    scene = gapped(tmp_path / "scene.tif", np.random.default_rng(0).random((2, *SIZE)).astype("f4"), SQUARE)
    out = tmp_path / "filled.tif"
    assert call(scene, *HARMONIC, "--out", out, *more) == 0
    whole = out.read_bytes()
    with rasterio.open(out, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.build_overviews([2, 4])
    grown = out.read_bytes()
    assert call(scene, *HARMONIC, "--out", out, *more) == 0 and out.read_bytes() == grown
    if more:  # tags of other files stand at the end, and they no longer open
        out.write_bytes(whole[: len(whole) // 2])
        assert call(scene, *HARMONIC, "--out", out, *more) == 0
        assert out.read_bytes() == whole


def test_control_points_place_the_mask_too(tmp_path):
    scene = tmp_path / "scene.tif"
    points = [GroundControlPoint(r, c, 5e5 + c, 5e6 - r) for r, c in ((0, 0), (0, 150), (120, 0), (120, 150))]
    with rasterio.open(gapped(tmp_path / "a.tif", values("uint8"), SQUARE)) as source:
        profile = {key: value for key, value in source.profile.items() if key != "transform"}
        with rasterio.open(scene, "w", **profile, gcps=points) as target:
            target.write(source.read())
    assert call(scene, *HARMONIC, "--out", tmp_path / "filled.tif") == 0
    for result in ("filled.tif", "filled_synthetic.tif"):
        with rasterio.open(tmp_path / result) as dataset:
            assert [(p.row, p.col, p.x, p.y) for p in dataset.gcps[0]] == [
                (p.row, p.col, p.x, p.y) for p in points
            ]


def test_a_file_of_several_rasters_is_refused(tmp_path, capsys):
    pages = [Image.fromarray(values("uint8")[0]), Image.fromarray(values("uint8")[0])]
    pages[0].save(tmp_path / "in.tif", save_all=True, append_images=pages[1:])
    assert call(tmp_path / "in.tif", *HARMONIC, "--out", tmp_path / "out.tif") == 2
    line = only_line(capsys.readouterr().err)
    assert "in.tif: holds 2 rasters" in line and "gdal_translate GTIFF_DIR:1:" in line


def test_a_scene_without_a_place_on_earth(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scene = gapped(tmp_path / "scene.tif", values("uint8"), HOLE, crs=None, transform=None)
    assert call(scene, *HARMONIC, "--out", tmp_path / "filled.tif") == 0
    assert "Warning" not in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(scene, tmp_path / "filled.tif", HOLE)


# --- models


def test_models_of_four_bands_and_with_a_stretch(tmp_path):
    scene = gapped(tmp_path / "scene.tif", values("uint16", 7), HOLE)
    results = {}
    for name, channels, stretch in (("four", 4, None), ("one", 1, None), ("stretched", 4, [0, 12_000])):
        model = tiny(tmp_path / f"{name}.pt", channels=channels, stretch=stretch)
        out = tmp_path / f"out/{name}.tif"
        assert call(scene, "--checkpoint", model, *TILES, "--out", out) == 0
        results[name] = check(scene, out, HOLE)
    # A stretch of the model is its eyes; another one that is asked for wins.
    asked = tmp_path / "out/asked.tif"
    assert (
        call(scene, "--checkpoint", tmp_path / "stretched.pt", *TILES, "--out", asked, "--stretch", 0.5) == 0
    )
    assert np.array_equal(read(asked)[:, ~HOLE], results["four"][:, ~HOLE])
    assert not np.array_equal(read(asked), results["stretched"])


def test_references_on_any_grid(oracle, tmp_path):
    scene = gapped(tmp_path / "scene.tif", values("uint16", 3), HOLE)
    rng = np.random.default_rng(0)
    texture_1HW = rng.integers(1, 200, (1, 300, 300), dtype=np.uint8)
    texture_1HW[:, 40:90, 40:90] = 0
    rgba_CHW = np.concatenate([texture_1HW] * 4)
    references = [
        write_raster(tmp_path / "same.tif", values("uint8", 3)),
        write_raster(tmp_path / "fine.tif", texture_1HW, nodata=0, transform=grid(pixel=5)),
        write_raster(tmp_path / "half.tif", texture_1HW[:, :60, :75]),
        write_raster(tmp_path / "alpha.tif", rgba_CHW, photometric="RGB", alpha="YES"),
        write_raster(
            tmp_path / "degrees.tif", texture_1HW, nodata=0, crs="EPSG:4326",
            transform=from_origin(-76.184, 40.646, 1e-4, 7e-5),
        ),
    ]  # fmt: skip
    filled = {}
    for reference in references:
        out = tmp_path / "out" / reference.name
        assert call(scene, "--checkpoint", oracle, *TILES, "--out", out, "--reference", reference) == 0
        filled[reference.name] = check(scene, out, HOLE)
    assert not np.array_equal(filled["same.tif"], filled["fine.tif"])  # the reference is looked at


def test_references_that_do_not_fit(blind, oracle, tmp_path, capsys):
    scene = gapped(tmp_path / "scene.tif", values("uint16", 3), HOLE)
    far = {"transform": from_origin(WEST + 400_000, NORTH, 10, 10)}
    cases = [
        (blind, write_raster(tmp_path / "same.tif", values("uint8")), "looks at no edge map"),
        (oracle, write_raster(tmp_path / "far.tif", values("uint8"), **far), "shows no part of the scene"),
        (
            oracle, write_raster(tmp_path / "far0.tif", values("uint8"), nodata=0, **far),
            "shows no part of the scene",
        ),
        (oracle, tmp_path / "absent.tif", "absent.tif"),
        (oracle, None, "cannot fill a real hole"),
    ]  # fmt: skip
    before = names(tmp_path)
    for model, reference, reason in cases:
        given = [] if reference is None else ["--reference", reference]
        out = tmp_path / "filled.tif"
        assert call(scene, "--checkpoint", model, *TILES, "--out", out, *given) == 2, reason
        assert reason in only_line(capsys.readouterr().err)
        assert names(tmp_path) == before


def test_without_a_model_the_shipped_weights_fill_any_number_of_bands(tmp_path, capsys):
    size = (48, 64)
    hole_HW = np.zeros(size, bool)
    hole_HW[20:30, 25:40] = True
    for bands in (1, 4):
        ground_CHW = values("uint16", bands, size)
        scene = gapped(tmp_path / f"in/{bands}.tif", ground_CHW, hole_HW)
        out = tmp_path / f"out/{bands}.tif"
        assert call(scene, "--out", out) == 0
        assert "fills with igll-small, which ships with igll" in capsys.readouterr().out
        filled_CHW = read(out)
        assert np.array_equal(filled_CHW[:, ~hole_HW], ground_CHW[:, ~hole_HW])
        assert (filled_CHW[:, hole_HW] > 0).all()
        assert tags(out)["IGLL_MODEL"] == "igll, structure prior learned, igll-small"
    assert call(scene, "--out", out, "--checkpoint", "igll-small") == 0
    told = capsys.readouterr().out
    assert "is there already, of the same request" in told and "ships with igll" not in told


def _grown(mask_HW: np.ndarray, pixels: float) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(~mask_HW) <= pixels


def test_another_date_can_be_pasted(tmp_path, capsys):
    ground_CHW = values("uint16", 3)
    scene = gapped(tmp_path / "scene.tif", ground_CHW, HOLE)
    other = write_raster(tmp_path / "other.tif", (ground_CHW // 2 + 50).astype(np.uint16))
    out, pasted = tmp_path / "out/filled.tif", ("--method", "pasted_reference", *TILES)
    assert call(scene, *pasted, "--out", out, "--reference", other) == 0
    error_CN = np.abs(check(scene, out, HOLE) - ground_CHW.astype(float))[:, HOLE]
    assert (error_CN.mean(1) < 0.02 * np.ptp(ground_CHW, axis=(1, 2))).all()
    assert call(scene, *pasted, "--out", tmp_path / "none.tif") == 2
    assert "pasted_reference: name the image" in capsys.readouterr().err
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(picture)
    arguments = ("--masks", picture, "--reference", other, "--out", tmp_path / "pictures")
    assert call(picture, "--method", "pasted_reference", *arguments) == 2
    assert "is for scenes" in capsys.readouterr().err
