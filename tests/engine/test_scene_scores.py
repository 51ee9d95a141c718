"""Scores of fillings where the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio

pytest.importorskip("rasterio", reason="scenes need rasterio")

from igll.data.masks import make_mask
from igll.engine.fillers import MethodFiller, NetworkFiller
from igll.engine.scene import SceneOptions
from igll.engine.scene_scores import ScoreRequest, rim_step, score_scenes
from igll.engine.weights_source import find_weights
from igll.errors import InputError
from igll.geo.holes import HoleSources
from igll.geo.tiling import TileSizes
from igll.inpainter import Inpainter
from scripts import scene_scores as script
from tests.engine.scene_files import digest, read, tiny
from tests.geo.grounds import smooth_scene, write_raster

SIZE = (72, 88)
OPTIONS = SceneOptions(HoleSources(), TileSizes(64, 16))


@pytest.fixture
def scene(tmp_path):
    values_CHW = (smooth_scene(*SIZE, 3) * 3000 + 100).astype(np.uint16)
    values_CHW[1] = 700  # a band without contrast counts for nothing
    values_CHW[:, :20, :30] = 0
    return write_raster(tmp_path / "ground.tif", values_CHW, nodata=0)


def test_scores_against_numpy(scene, tmp_path):
    before, out = digest(scene), tmp_path / "out"
    fillers = {"near one": MethodFiller("nearest"), "harmonic": MethodFiller("harmonic")}
    request = ScoreRequest([scene], ("square", "slc_off"), 0.1, 3, OPTIONS)
    rows = score_scenes(request, fillers, out)
    assert [(row["scene"], row["hole"], row["method"]) for row in rows] == [
        ("ground", hole, name) for hole in ("square", "slc_off") for name in fillers
    ]
    truth_CHW = read(scene).astype(np.float64)
    valid_HW = (truth_CHW > 0).all(0)
    for row in rows:
        drawn_HW = make_mask(row["hole"], *SIZE, 0.1, np.random.default_rng(3))
        hole_HW = drawn_HW & valid_HW
        assert np.array_equal(read(out / f"ground_{row['hole']}_mask.tif")[0] > 0, hole_HW)
        filled = out / f"ground_{row['hole']}_{row['method'].replace(' ', '-')}.tif"
        filled_CHW = read(filled).astype(np.float64)
        assert np.array_equal(filled_CHW[:, ~hole_HW], truth_CHW[:, ~hole_HW])
        psnr, nrmse = [], []
        for band in (0, 2):
            ground = truth_CHW[band][valid_HW]
            rmse = np.sqrt(np.mean((filled_CHW[band] - truth_CHW[band])[hole_HW] ** 2))
            psnr.append(20 * np.log10((ground.max() - ground.min()) / rmse))
            nrmse.append(rmse / ground.std())
        assert row["psnr_hole"] == pytest.approx(np.mean(psnr))
        assert row["nrmse"] == pytest.approx(np.mean(nrmse))
        assert row["rim"] == pytest.approx(np.mean([_rim(filled_CHW[b], hole_HW, valid_HW) for b in (0, 2)]))
    assert json.loads((out / "scores.json").read_text()) == rows
    assert (out / "scores.png").stat().st_size > 1000
    text = (out / "scores.md").read_text()
    best = max(np.mean([row["psnr_hole"] for row in rows if row["method"] == name]) for name in fillers)
    assert f"**{best:.2f}**" in text.split("mean of 2")[2 if text.count("mean of 2") > 1 else 1]
    assert digest(scene) == before


def _rim(band_HW, hole_HW, valid_HW) -> float:
    """Pixel by pixel."""
    across, around = [], []
    height, width = hole_HW.shape
    for row in range(height):
        for column in range(width):
            for other in ((row + 1, column), (row, column + 1)):
                if other[0] == height or other[1] == width:
                    continue
                if not (valid_HW[row, column] and valid_HW[other]):
                    continue
                step = abs(band_HW[other] - band_HW[row, column])
                if hole_HW[row, column] != hole_HW[other]:
                    across.append(step)
                elif not hole_HW[row, column]:
                    around.append(step)
    return float(np.mean(across) / np.mean(around))


def test_the_step_at_the_rim_is_1_on_a_slope_and_more_with_an_offset():
    ramp_1HW = np.tile(np.arange(20.0), (20, 1))[None] + np.arange(20.0)[:, None]
    hole_HW = np.zeros((20, 20), bool)
    hole_HW[5:12, 5:12] = True
    valid_HW = np.ones((20, 20), bool)
    assert rim_step(ramp_1HW, hole_HW, valid_HW) == pytest.approx(1)
    shifted_1HW = ramp_1HW + 10 * hole_HW
    assert rim_step(shifted_1HW, hole_HW, valid_HW) == pytest.approx(10)  # 11 and 9 by turns


def test_references_go_to_the_models_that_look_at_them(scene, tmp_path):
    path = tiny(tmp_path / "net.pt", "reference")
    oracle = NetworkFiller(Inpainter.from_checkpoint(path, ["device=cpu"]), find_weights(path))
    texture = np.random.default_rng(0).integers(0, 255, (1, *SIZE), dtype=np.uint8)
    other = write_raster(tmp_path / "other.tif", texture)
    fillers = {"network": oracle, "nearest": MethodFiller("nearest")}
    request = ScoreRequest([scene], ("square",), 0.1, 0, OPTIONS, references={scene: other})
    rows = score_scenes(request, fillers, tmp_path / "out")
    assert len(rows) == 2 and all(np.isfinite(row["psnr_hole"]) for row in rows)


def test_a_hole_without_ground_is_refused(tmp_path):
    values_CHW = np.zeros((1, *SIZE), np.uint8)
    values_CHW[:, 0, 0] = 5
    scene = write_raster(tmp_path / "scene.tif", values_CHW, nodata=0)
    with pytest.raises(InputError, match="no valid pixel lies in a hole of kind square"):
        score_scenes(
            ScoreRequest([scene], ("square",), options=OPTIONS),
            {"nearest": MethodFiller("nearest")}, tmp_path / "out",
        )  # fmt: skip


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        script.main([str(argument) for argument in arguments])
    return left.value.code


def test_the_script(scene, tmp_path, capsys):
    model, out = tiny(tmp_path / "net.pt"), tmp_path / "out"
    common = (scene, "--out", out, "--kinds", "square", "--tile", 64, "--context", 16)
    code = run(*common, "--checkpoint", f"tiny={model}", "--method", "nearest", "--ratio", 0.05)
    assert code == 0
    assert "| tiny" in capsys.readouterr().out
    rows = json.loads((out / "scores.json").read_text())
    assert [row["method"] for row in rows] == ["tiny", "nearest pixel"]
    for arguments, reason in (
        ((), "nothing to measure"),
        (("--method", "best"), "--method best: choose one of"),
        (("--checkpoint", model), "give it a title, NAME=WEIGHTS"),
        (("--checkpoint", "x=absent.pt"), "absent.pt: no such checkpoint"),
        (("--checkpoint", f"oracle={tiny(tmp_path / 'oracle.pt', 'oracle')}"), "cannot fill a real hole"),
        (("--method", "nearest", "--kinds", "hexagon"), "hexagon"),
        (("--method", "nearest", "--tile", "50"), "--tile 50"),
    ):
        assert run(*common, *arguments) == 2, reason
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and reason in error


def test_what_is_unknown_is_neither_scored_nor_learned_from(scene, tmp_path):
    from PIL import Image

    with rasterio.open(scene) as dataset:
        profile, values_CHW = dataset.profile, dataset.read()
    cloud_HW = np.zeros(SIZE, bool)
    cloud_HW[40:50, 40:60] = True
    Image.fromarray(cloud_HW.astype(np.uint8) * 255).save(tmp_path / "cloud.png")
    values_CHW[:, cloud_HW] = 65_000
    cloudy = tmp_path / "cloudy.tif"
    with rasterio.open(cloudy, "w", **profile) as target:
        target.write(values_CHW)
    rows = {}
    for path in (scene, cloudy):
        request = ScoreRequest(
            [path], ("square",), 0.2, 0, OPTIONS, unknown={path: tmp_path / "cloud.png"}
        )  # fmt: skip
        (rows[path],) = score_scenes(request, {"nearest": MethodFiller("nearest")}, tmp_path / path.stem)
    for key in ("psnr_hole", "nrmse", "rim"):
        assert rows[cloudy][key] == rows[scene][key]
    request = ScoreRequest([scene], ("square",), options=OPTIONS, unknown={scene: tmp_path / "small.png"})
    Image.new("L", (5, 5)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"small\.png: .* give its own mask"):
        score_scenes(request, {"nearest": MethodFiller("nearest")}, tmp_path / "out")
