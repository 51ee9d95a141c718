"""Shipped weights beside the methods without training: measured once, in tables that agree with images."""

from __future__ import annotations

import csv
import json
import math
import os
import runpy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from igll.config import load_config
from igll.data.files import read_image, read_mask
from igll.data.frozen import FROZEN_SETS, SEED, SIDE
from igll.data.synthetic import render_scene
from igll.engine import release_scores as engine
from igll.engine.compare import compare
from igll.engine.release_scores import FAMILIES
from igll.engine.release_tables import NAME, Score, write_release_tables
from igll.engine.results import load_results
from igll.engine.shared_weights import save_shared_weights
from igll.errors import InputError
from igll.registry import build_generator

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, TASK = ROOT / "scripts" / "release_scores.py", ROOT / "configs" / "release" / "scores.yaml"
Run = Callable[..., tuple[object, str]]


@pytest.fixture
def weights(small, tmp_path: Path) -> Callable[..., Path]:
    """Writes shared weights of a tiny network."""

    def write(name: str, seed: int = 0, prior: str = "learned") -> Path:
        config = small(model={"structure_prior": prior})
        torch.manual_seed(seed)
        generator = build_generator(config.model)
        with torch.no_grad():
            for value in generator.parameters():
                value.add_(0.02 * torch.randn_like(value))
        path = tmp_path / f"{name}.safetensors"
        save_shared_weights(path, generator, config, 7)
        return path

    return write


@pytest.fixture
def run(tmp_path: Path, monkeypatch, capsys) -> Run:
    """Calls the script on two small datasets, two methods and two families of holes."""
    for dataset, count in (("one", 4), ("two", 2)):
        for number in range(count):
            path = tmp_path / dataset / f"class_{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(render_scene(10 * count + number, 32)).save(path)
    cloud_HW = np.add.outer(np.arange(48), np.arange(48)) % 24 < 8
    Image.fromarray(cloud_HW.astype(np.uint8) * 255).save(tmp_path / "cloud.png")
    monkeypatch.setattr(engine, "FAMILIES", {name: FAMILIES[name] for name in ("irregular25", "clouds")})
    main = runpy.run_path(str(SCRIPT))["main"]

    def call(
        *arguments: object, methods: tuple[str, ...] = ("harmonic", "mean_of_known"), floors: str = "[]"
    ):
        given = [
            "--out", tmp_path / "out", "--data", f"one={tmp_path / 'one'}", f"two={tmp_path / 'two'}",
            "--clouds", tmp_path / "cloud.png", "--methods", *methods, *arguments,
            "--set", "data.crop_size=32", "eval.metrics=[psnr_hole]",
            f"edges.cache={tmp_path / 'maps'}", f"eval.floors={floors}",
        ]  # fmt: skip
        with pytest.raises(SystemExit) as end:
            main([str(text) for text in given])
        return end.value.code, capsys.readouterr().err

    return call


def stored(out: Path) -> dict:
    return json.loads((out / f"{NAME}.json").read_text())


def measured(out: Path) -> dict[Path, int]:
    return {path.relative_to(out): path.stat().st_mtime_ns for path in out.rglob("metrics.json")}


def test_made_holes_are_the_frozen_sets():
    made = {name: family for name, family in FAMILIES.items() if family.rules}
    assert made.keys() == {"square10", "square25", "square77", "irregular25"}
    for name, family in made.items():
        config = load_config(TASK, family.rules)
        assert (config.mask.kind, config.mask.ratio) == (FROZEN_SETS[name].kind, FROZEN_SETS[name].ratio)
        assert config.mask.placement == "paper"
        assert (config.data.crop_size, config.data.split_seed) == (SIDE, SEED)
    assert set(config.eval.metrics) == {"psnr_hole", "psnr", "ssim", "lpips"}
    assert config.eval.lpips_net == "squeeze" and config.eval.floors == []


def test_the_numbers_are_those_of_the_images(run, weights, tmp_path: Path):
    out = tmp_path / "out"
    assert run("--checkpoint", weights("a"))[0] == 0
    content = stored(out)
    assert len(content["rows"]) == 2 * 2 * 3 and content["oracle_edges"] == []

    # By hand: the mean of the known pixels in the hole of real shape, rounded to 8 bits.
    (masks,) = (out / "masks" / "one" / "clouds").iterdir()
    values = []
    for path in sorted((tmp_path / "one").rglob("*.png")):
        image_HWC = read_image(path).astype(np.float64)
        hole_HW = read_mask(masks / path.relative_to(tmp_path / "one"))
        mean_C = np.rint(255 * image_HWC[~hole_HW].mean(0)) / 255
        values.append(-10 * math.log10(((image_HWC[hole_HW] - mean_C) ** 2).mean()))
    rows = {(row["dataset"], row["holes"], row["method"]): row for row in content["rows"]}
    (holes,) = {holes for _, holes, _ in rows if holes.startswith("real clouds")}
    row = rows["one", holes, "mean of known"]
    assert row["psnr_hole"] == pytest.approx(np.mean(values), abs=1e-4)
    assert row["psnr_hole_standard_error"] == pytest.approx(np.std(values, ddof=1) / 2, abs=1e-4)
    assert (
        holes
        == f"real clouds, {100 * np.mean([read_mask(path).mean() for path in masks.rglob('*.png')]):.0f} %"
    )

    # Differences and intervals are those of igll-eval compare.
    (network,) = (out / "networks").iterdir()
    for dataset, family in (("one", "clouds"), ("two", "irregular25")):
        folders = [network / dataset / family, out / "methods" / dataset / family / "mean_of_known"]
        expected = compare(*folders, ["IGLL", "mean of known"])["metrics"]["psnr_hole"]
        title = FAMILIES[family].title if family != "clouds" else holes
        row = rows[dataset, title, "mean of known"]
        assert [row[f"psnr_hole_{part}"] for part in ("difference", "low", "high")] == [
            expected[part] for part in ("difference", "low", "high")
        ]
    text = (out / f"{NAME}.md").read_text()
    assert "structure prior learned" in text and "Oracle edges" not in text and "n/a" in text  # no LPIPS
    assert len(list(csv.DictReader((out / f"{NAME}.csv").open()))) == len(content["rows"])


def test_methods_are_measured_once_for_all_weights(run, weights, tmp_path: Path):
    out, path = tmp_path / "out", weights("a")
    assert run("--only", "methods")[0] == 0
    methods = measured(out)
    assert len(methods) == 2 * 2 * 2 and not (out / f"{NAME}.md").exists()
    assert run("--checkpoint", path)[0] == 0
    before = measured(out)
    assert len(before) == len(methods) + 2 * 2 and methods.items() <= before.items()
    # Neither a newer date of the same weights nor floors that are set for all change what is there.
    later = time.time() + 60
    os.utime(path, (later, later))
    assert run("--checkpoint", path, floors="[nearest]")[0] == 0 and measured(out) == before

    # Other weights under the same name: measured anew, and only these are in the table.
    first = {row["method"]: row["psnr_hole"] for row in stored(out)["rows"] if row["dataset"] == "two"}
    assert run("--checkpoint", weights("a", seed=1))[0] == 0
    assert len(measured(out)) == len(before) + 2 * 2 and before.items() <= measured(out).items()
    second = {row["method"]: row["psnr_hole"] for row in stored(out)["rows"] if row["dataset"] == "two"}
    assert {name for name in first if first[name] != second[name]} == {"IGLL"}

    # Tables of what is there; what is not is named.
    assert run("--checkpoint", path, "--only", "tables", methods=("harmonic", "nearest"))[0] == 0
    text = (out / f"{NAME}.md").read_text()
    assert "Not measured yet: nearest pixel on one, irregular25." in text and "| nearest" not in text


def test_a_folder_of_weights_is_measured_once_under_its_own_name(run, weights, tmp_path: Path):
    folder = tmp_path / "mine"
    folder.mkdir()
    weights("a").rename(folder / "model.safetensors")
    assert run("--checkpoint", folder, methods=("harmonic",))[0] == 0
    before = measured(tmp_path / "out")
    assert run("--checkpoint", folder, methods=("harmonic",))[0] == 0
    assert measured(tmp_path / "out") == before
    assert "IGLL: `mine`, SHA-256" in (tmp_path / "out" / f"{NAME}.md").read_text()


def test_fewer_images_for_a_slow_method(run, weights, tmp_path: Path):
    out, path = tmp_path / "out", weights("a")
    assert run("--checkpoint", path)[0] == 0
    folder = out / "methods" / "one" / "irregular25" / "harmonic"
    whole = load_results(folder)
    assert run("--checkpoint", path, "--limit", "harmonic=2")[0] == 0
    few = load_results(folder)
    places = [whole.images.index(image) for image in few.images]
    assert len(places) == 2 and len(whole.images) == 4
    values = whole.methods["harmonic (Laplace)"].values["psnr_hole"][places]
    assert np.array_equal(values, few.methods["harmonic (Laplace)"].values["psnr_hole"]), "the same holes"
    (network,) = (out / "networks").iterdir()
    own = load_results(network / "one" / "irregular25").methods["IGLL"].values["psnr_hole"][places]
    row = next(
        row
        for row in stored(out)["rows"]
        if (row["dataset"], row["holes"], row["images"]) == ("one", "irregular 25 %", 2)
    )
    assert row["psnr_hole_difference"] == pytest.approx((values - own).mean(), abs=1e-12)
    assert row["psnr_hole_reference"] == pytest.approx(own.mean(), abs=1e-12)
    assert "| harmonic (Laplace) ‡ (2) " in (out / f"{NAME}.md").read_text()


def test_oracle_edges_stand_apart(run, weights, tmp_path: Path):
    out, oracle = tmp_path / "out", weights("oracle", prior="oracle")
    code, error = run("--checkpoint", oracle)
    assert code == 2 and "oracle.safetensors: is given the ground truth's edges" in error
    assert not measured(out)
    assert run("--checkpoint", weights("a"), "--also", f"told={oracle}", methods=("harmonic",))[0] == 0
    content = stored(out)
    assert {row["method"] for row in content["rows"]} == {"IGLL", "harmonic (Laplace)"}
    assert {row["method"] for row in content["oracle_edges"]} == {"told"}
    blind, apart = (out / f"{NAME}.md").read_text().split("## Oracle edges")
    assert "| told" not in blind and "| told" in apart and "| harmonic" not in apart and "†" in apart


def test_what_is_wrong_is_said(run, weights, tmp_path: Path):
    for arguments, said in (
        ((), "--checkpoint: nothing to compare the methods with"),
        (("--checkpoint", tmp_path / "none.safetensors"), "none.safetensors: no such checkpoint"),
        (("--only", "methods", "--limit", "harmonic=0"), "--limit: 'harmonic=0' is no METHOD=N"),
        (("--only", "methods", "--limit", "harmonic=1", "--images", "2"), "--limit: goes without --images"),
        (("--only", "methods", "--also", "b"), "--also: 'b' is not written NAME=VALUE"),
    ):
        code, error = run(*arguments)
        assert code == 2 and said in error.splitlines()[-1]


def test_who_is_best_and_by_how_much(write_results, tmp_path: Path):
    """By hand; a method of fewer images wins by the difference on them, not by its mean."""
    values = {
        "IGLL": {"psnr_hole": [20.0, 30.0, 25.0], "lpips": [0.2, 0.1, 0.3]},
        "calm": {"psnr_hole": [21.0, 30.0, 24.5], "lpips": [0.3, 0.2, 0.4]},
        "rough": {"psnr_hole": [18.0, 27.0, 22.0], "lpips": [0.1, 0.1, 0.2]},
    }
    scores = []
    for name, metrics in values.items():
        results = load_results(write_results(name, {name: metrics}))
        scores.append(Score("d", "h", name, name == "IGLL", results, results.methods[name]))
    (cell,) = write_release_tables(scores, "IGLL", tmp_path / "out", [], [])
    assert [score.name for score in cell.scores] == ["IGLL", "calm", "rough"]
    (summary,) = stored(tmp_path / "out")["summary"]
    assert (summary["best_psnr_hole"], summary["best_lpips"]) == ("calm", "rough")
    assert summary["margin_psnr_hole_difference"] == pytest.approx(-0.5 / 3)
    assert summary["margin_lpips_difference"] == pytest.approx(0.2 / 3)
    text = (tmp_path / "out" / f"{NAME}.md").read_text()
    assert "**25.17** ± 2.62" in text and "**0.133** ± 0.033" in text and "25.00 ± 2.89" in text

    few = {"lucky": {"psnr_hole": [28.0], "lpips": [0.1]}}
    results = load_results(write_results("lucky", few))
    lucky = Score("d", "h", "lucky", False, results, results.methods["lucky"])
    results.images[0] = "scene_1.png"  # on which IGLL has 30 dB
    (cell,) = write_release_tables([*scores, lucky], "IGLL", tmp_path / "out", [], [])
    assert cell.differences["lucky"]["psnr_hole"].difference == -2.0
    best = cell.best("psnr_hole")
    assert best is not None and best.name == "calm"


def test_unlike_evaluations_never_share_a_table(write_results, tmp_path: Path):
    one = load_results(write_results("one", {"IGLL": {"psnr_hole": [20.0, 30.0]}}))
    other = load_results(write_results("other", {"calm": {"psnr_hole": [20.0, 30.0]}}, masks={"sha256": "n"}))
    less = load_results(write_results("less", {"calm": {"psnr_hole": [20.0]}}, crop={"size": 64}))
    for results, said in ((other, "differ in masks"), (less, "other images, crops or metrics")):
        scores = [
            Score("d", "h", name, name == "IGLL", found, found.methods[name])
            for name, found in (("IGLL", one), ("calm", results))
        ]
        with pytest.raises(InputError, match=said):
            write_release_tables(scores, "IGLL", tmp_path / "out", [], [])
