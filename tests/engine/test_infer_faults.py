"""igll-infer on scenes and arguments that cannot be used: one clear line, and nothing is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rasterio", reason="scenes need rasterio")

from rasterio.transform import from_origin

from tests.engine.scene_files import (
    HARMONIC,
    SIZE,
    call,
    digest,
    gapped,
    hole_of,
    names,
    only_line,
    tiny,
    values,
)  # fmt: skip
from tests.geo.grounds import write_raster

FAR = {"transform": from_origin(900_000, 4_500_000, 10, 10)}


@pytest.fixture
def scene(tmp_path):
    return gapped(tmp_path / "in/scene.tif", values("uint16", 3), hole_of())


def refused(capsys, scene: Path, out: Path, *arguments: object, code: int = 2) -> str:
    """The line; and that the scene and its folder are as before and no result is there."""
    before = {path: digest(path) for path in scene.parent.iterdir()}
    arguments = arguments or HARMONIC
    assert call(scene, *arguments, "--out", out) == code
    assert {path: digest(path) for path in scene.parent.iterdir()} == before
    if out.resolve() != scene.resolve() and out.parent.is_dir():
        assert names(out.parent) == []
    line = only_line(capsys.readouterr().err)
    assert line.startswith("error: ")
    return line


def mask_file(path: Path, mask_HW: np.ndarray, **options) -> Path:
    return write_raster(path, mask_HW.astype(np.uint8)[None], **options)


@pytest.mark.parametrize("length", [0, 7, 300, 20_000, 60_000])
def test_a_truncated_scene(scene, tmp_path, capsys, length):
    data = scene.read_bytes()
    assert len(data) > 100_000
    scene.write_bytes(data[:length])
    line = refused(capsys, scene, tmp_path / "out/out.tif")
    assert line.startswith(f"error: {scene}: cannot be")


def test_a_scene_damaged_in_the_middle(tmp_path, capsys):
    scene = gapped(tmp_path / "in/scene.tif", values("uint16", 3), hole_of(), compress="deflate")
    data = bytearray(scene.read_bytes())
    data[len(data) // 2 :][:2000] = bytes(2000)
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    scene.write_bytes(data)
    line = refused(capsys, scene, tmp_path / "out/out.tif")
    assert line.startswith(f"error: {scene}: cannot be read")


def test_what_is_no_scene(tmp_path, capsys):
    text = tmp_path / "in/text.tif"
    text.parent.mkdir()
    text.write_text("not a raster\n" * 50)
    assert "text.tif: cannot be opened as a raster" in refused(capsys, text, tmp_path / "out/out.tif")
    strange = text.rename(text.with_suffix(".xyz"))
    line = refused(capsys, strange, tmp_path / "out/out.tif")
    assert "text.xyz: its name has the ending of no image; known are" in line
    absent = tmp_path / "in/absent.tif"
    assert "absent.tif: no such" in refused(capsys, absent, tmp_path / "out/out.tif")


def test_masks_that_do_not_fit(scene, tmp_path, capsys):
    small_HW = np.zeros(SIZE, bool)
    small_HW[3:9, 3:9] = True
    masks = tmp_path / "masks"
    cases = {
        mask_file(masks / "far.tif", small_HW, **FAR): "does not overlap the scene",
        mask_file(masks / "zone.tif", small_HW, crs="EPSG:32601"): "does not overlap the scene",
        mask_file(masks / "bare.tif", small_HW[:50], crs=None): "has no CRS to align them by",
        mask_file(masks / "full.tif", np.ones(SIZE, bool)): "every pixel is missing",
        masks / "absent.tif": "absent.tif",
        masks / "absent.geojson": "absent.geojson",
        masks / "broken.geojson": "cannot be read as a vector file",
        masks / "text.tif": "cannot be opened as a raster",
    }
    for name in ("broken.geojson", "text.tif"):
        (masks / name).write_text("no mask")
    for mask, reason in cases.items():
        line = refused(capsys, scene, tmp_path / "out/out.tif", *HARMONIC, "--masks", mask)
        assert reason in line, line


def test_a_scene_without_any_known_pixel(tmp_path, capsys):
    scene = write_raster(tmp_path / "in/scene.tif", np.zeros((2, *SIZE), np.uint16), nodata=0)
    assert "every pixel is missing" in refused(capsys, scene, tmp_path / "out/out.tif")


def test_results_in_impossible_places(scene, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("a file")
    assert "is an input and would be overwritten" in refused(capsys, scene, scene)
    for out, reason in (
        (file / "out.tif", "cannot be made"),
        (file / "sub/out.tif", "cannot be made"),
        (tmp_path / "out/out.png", "is written as .tif"),
        (tmp_path / "out/out.jp2", "is written as .tif"),
        (tmp_path / "out/out.jpg", "is written as .tif"),
    ):
        line = refused(capsys, scene, out)
        assert str(out.parent) in line and reason in line, line
    assert file.read_text() == "a file"
    # In a folder: what is in the way is found when it is that scene's turn.
    (tmp_path / "results/scene.tif").mkdir(parents=True)
    assert call(scene, *HARMONIC, "--out", tmp_path / "results") == 2
    assert "results/scene.tif: is a folder" in only_line(capsys.readouterr().err)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked/.scene.igll-work").write_text("a file")
    assert call(scene, *HARMONIC, "--out", tmp_path / "blocked") == 1
    assert "blocked/scene.tif: cannot be written" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--qa", "band:9", "--qa-flags", "bits:3"], "bands 1 to 3"),
        (["--qa", "band:x", "--qa-flags", "bits:3"], "band:N"),
        (["--qa", "band:1", "--qa-flags", "landsat-c3"], "landsat-c3"),
        (["--qa", "band:1", "--qa-flags", "bits:99"], "99"),
        (["--qa", "band:1", "--qa-flags", "landsat-c2:clowd"], "clowd"),
        (["--qa", "band:1"], "--qa and --qa-flags belong together"),
        (["--qa-flags", "bits:3"], "--qa and --qa-flags belong together"),
        (["--qa", "absent.tif", "--qa-flags", "bits:3"], "absent.tif"),
        (["--tile", "50"], "--tile 50: give a multiple of 16"),
        (["--tile", "-64"], "--tile -64: give a multiple of 16"),
        (["--context", "7"], "--context 7: give a multiple of 16"),
        (["--context", "32"], "--tile 64: give a multiple of 16, at least four times the context of 32"),
        (["--stretch", "70"], "--stretch 70: give a percentage"),
        (["--stretch", "nan"], "--stretch nan: give a percentage"),
        (["--stretch", "much"], "--stretch much: give a percentage"),
        (["--shard", "0/3"], "--shard 0/3: give NUMBER/COUNT"),
        (["--shard", "4/3"], "--shard 4/3: give NUMBER/COUNT"),
        (["--shard", "1"], "--shard 1: give NUMBER/COUNT"),
        (["--shard", "²/3"], "--shard ²/3: give NUMBER/COUNT"),
        (["--dilate", "-1"], "--dilate -1: give at least 0"),
        (["--dilate", "1000"], "dilate is 1000"),
        (["--hole", "white"], "--hole white: says how to read a mask; name it"),
        (["--edges", __file__], "scene takes no edge maps"),
        (["--reference", __file__], "looks at the image alone"),
        (["--edges", "absent.png"], "absent.png: no such file or folder of edge maps"),
        (["--reference", "absent.tif"], "absent.tif: no such file or folder of references"),
        (["--images", "absent"], "absent: no such file or folder; check the path"),
        (["--images", "eval.amp"], "eval.amp: no such file or folder; a setting is written key.sub=value"),
        (["--images", "amp=true"], "amp=true: no such file or folder; a setting is written key.sub=value"),
    ],
)
def test_wrong_arguments(scene, tmp_path, capsys, arguments, reason):
    assert reason in refused(capsys, scene, tmp_path / "out/out.tif", *HARMONIC, *arguments)


def test_models_that_cannot_be_used(scene, tmp_path, capsys):
    model = tiny(tmp_path / "models/model.pt")
    torn = model.with_name("torn.pt")
    torn.write_bytes(model.read_bytes()[:-1000])
    text = model.with_name("text.pt")
    text.write_text("no checkpoint")
    out = tmp_path / "out/out.tif"
    for arguments, reason in (
        (("--checkpoint", torn), "torn.pt"),
        (("--checkpoint", text), "text.pt"),
        (("--checkpoint", model.with_name("absent.pt")), "absent.pt: no such checkpoint"),
        (("--checkpoint", "igll-smal"), "igll-smal: no such checkpoint (did you mean 'igll-small'?)"),
        (("--checkpoint", model, "edges.detector=cany"), "edges.detector"),
    ):
        assert reason in refused(capsys, scene, out, *arguments)


def test_scenes_that_cannot_be_filled_are_refused_before_the_work(tmp_path, capsys, monkeypatch):
    """Complex numbers, and colour tables in other formats than TIFF."""
    complex_CHW = (values("float32") + 1j).astype(np.complex64)
    mask_HW = np.zeros(SIZE, bool)
    mask_HW[3:9, 3:9] = True
    mask = mask_file(tmp_path / "mask.tif", mask_HW)
    radar = write_raster(tmp_path / "in/radar.tif", complex_CHW)
    monkeypatch.setattr("igll.engine.tiles.TileFiller.__call__", None)
    line = refused(capsys, radar, tmp_path / "out/out.tif", *HARMONIC, "--masks", mask)
    assert "band 1 holds complex numbers" in line
    coloured = write_raster(tmp_path / "img/map.img", values("uint8"), driver="HFA")
    import rasterio

    with rasterio.open(coloured, "r+") as target:
        target.write_colormap(1, {0: (1, 2, 3, 255), 1: (4, 5, 6, 255)})
    line = refused(capsys, coloured, tmp_path / "out/out.tif", *HARMONIC, "--masks", mask)
    assert "band 1 holds indices of a colour table" in line


def test_one_bad_scene_among_good_ones(tmp_path, capsys):
    folder = tmp_path / "in"
    for name in ("a", "c", "d"):
        gapped(folder / f"{name}.tif", values("uint8"), hole_of())
    (folder / "b.tif").write_text("no raster")
    write_raster(folder / "e.tif", np.zeros((1, *SIZE), np.uint8), nodata=0)
    data = (folder / "d.tif").read_bytes()
    (folder / "d.tif").write_bytes(data[: len(data) // 2])
    out = tmp_path / "out"
    assert call(folder, *HARMONIC, "--out", out) == 1
    assert names(out) == ["a.tif", "a_synthetic.tif", "c.tif", "c_synthetic.tif"]
    errors = capsys.readouterr().err.replace("\r", "\n")
    lines = [line for line in errors.splitlines() if line.startswith(("failed", "error"))]
    assert len(lines) == 4
    assert lines[0].startswith(f"failed: {folder}/b.tif: cannot be opened as a raster")
    assert lines[1].startswith(f"failed: {folder}/d.tif: cannot be read")
    assert lines[2].startswith(f"failed: {folder}/e.tif: every pixel is missing")
    assert lines[3] == f"error: 3 of 5 failed; 2 in {out}/"


def test_pictures_refuse_what_is_for_scenes(tmp_path, capsys):
    from PIL import Image

    picture = tmp_path / "in/picture.png"
    picture.parent.mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(picture)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save(mask)
    out = tmp_path / "out/out.png"
    model = ("--method", "harmonic", "--masks", mask)
    for options in (["--clouds"], ["--nodata"], ["--cog"], ["--stretch", "full"]):
        line = refused(capsys, picture, out, *model, *options)
        assert (
            line == f"error: {picture}: is filled as a picture, and {options[0]} is for scenes; leave it out"
        )
    line = refused(capsys, picture, out, *model, "--qa", "band:1", "--qa-flags", "bits:1")
    assert "--qa is for rasters" in line
    assert "name its hole with --masks" in refused(capsys, picture, out, "--method", "harmonic")
