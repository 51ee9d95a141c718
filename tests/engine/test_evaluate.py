"""Evaluation: right numbers, honest labels, all promised files."""

from __future__ import annotations

import csv
import gc
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from igll import cli
from igll.baselines import harmonic
from igll.config import save_config
from igll.data.datasets import build_dataset
from igll.engine import evaluate as evaluation
from igll.engine.compare import compare
from igll.engine.evaluate import evaluate
from igll.engine.protocol import ProtocolRecorder
from igll.engine.results import load_results
from igll.engine.train import train
from igll.engine.trained import load_generator
from igll.engine.validate import fill_sample
from igll.errors import InputError
from igll.metrics import MetricSuite
from igll.weights import BEST, SHIPPED


@pytest.fixture
def run(small, tmp_path: Path):
    def make(**sections) -> str:
        train(small(train={"max_steps": 1}, **sections), tmp_path / "run")
        return str(tmp_path / "run" / "checkpoints" / "last.pt")

    return make


def test_all_promised_files_and_the_printed_table(small, run, tmp_path: Path, capsys):
    result = evaluate(small(), run(), tmp_path / "eval")
    out = tmp_path / "eval"
    written = json.loads((out / "metrics.json").read_text())
    assert written["methods"]["IGLL"]["psnr_hole"] == result["methods"]["IGLL"]["psnr_hole"]
    assert written["images"] == 2 and written["structure_prior"] == "learned" and written["label"] == ""
    assert written["methods"].keys() == {"mean of known", "IGLL"}
    rows = list(csv.DictReader((out / "per_image.csv").open()))
    assert len(rows) == 4 and {row["method"] for row in rows} == {"mean of known", "IGLL"}
    assert Image.open(out / "pictures.png").width > 300
    printed = capsys.readouterr().out
    assert "mean of known" in printed and "IGLL" in printed and "metrics.json" in printed
    assert (out / "table.md").read_text().count("|") > 10


def test_the_numbers_are_those_of_8_bit_composites(small, run, tmp_path: Path):
    config, checkpoint = small(), run()
    result = evaluate(config, checkpoint, tmp_path / "eval")
    generator = load_generator(checkpoint)[0]
    dataset = build_dataset(config, "test")
    whole, holes, floor = [], [], []
    for index in range(len(dataset)):
        sample = dataset[index]
        truth = np.rint((sample["target"].numpy().astype(np.float64) + 1) * 127.5)
        with torch.no_grad():
            filled = np.rint(
                (generator(sample["image"][None], sample["mask"][None])[1][0].numpy() + 1) * 127.5
            )
        hole = np.broadcast_to(sample["mask"].numpy() > 0, truth.shape)
        mean = np.stack(
            [np.full(band.shape, band[~gap].mean()) for band, gap in zip(truth, hole, strict=True)]
        )
        for values, error in (
            (whole, ((filled - truth) ** 2).mean()),
            (holes, ((filled - truth)[hole] ** 2).mean()),
            (floor, ((np.rint(mean) - truth)[hole] ** 2).mean()),
        ):
            values.append(10 * math.log10(255**2 / error))
    found = result["methods"]
    assert found["IGLL"]["psnr"] == pytest.approx(np.mean(whole), abs=1e-4)
    assert found["IGLL"]["psnr_hole"] == pytest.approx(np.mean(holes), abs=1e-4)
    assert found["mean of known"]["psnr_hole"] == pytest.approx(np.mean(floor), abs=1e-2)
    error = np.std(holes, ddof=1) / math.sqrt(len(holes))
    assert found["IGLL"]["standard_error"]["psnr_hole"] == pytest.approx(error, rel=1e-3)


def test_workers_and_batches_change_nothing(small, run, tmp_path: Path, monkeypatch):
    def fill(generator, sample, device):
        """A network whose result depends on what else is in the batch, as rounding does."""
        return fill_sample(generator, sample, device) * 0.9 + sample["image"].mean() * 0.1

    monkeypatch.setattr("igll.engine.evaluate.fill_sample", fill)
    checkpoint = run(data={"synthetic_images": 25})
    folders = []
    for workers, batch in ((0, 1), (2, 4)):
        data = {"synthetic_images": 25, "workers": workers}
        folders.append(tmp_path / f"eval_{workers}_{batch}")
        evaluate(small(data=data, eval={"batch_size": batch}), checkpoint, folders[-1])
    first, second = (load_results(folder) for folder in folders)
    assert len(first.images) == 5 and first.protocol == second.protocol and first.images == second.images
    for name, method in first.methods.items():
        assert method.means == pytest.approx(second.methods[name].means, abs=1e-6)
        for metric, values in method.values.items():
            np.testing.assert_allclose(values, second.methods[name].values[metric], rtol=0, atol=1e-6)


def test_no_image_is_held_once_it_was_measured(small, tmp_path: Path, monkeypatch):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(51):
        Image.effect_noise((32, 32), 60).convert("RGB").save(images / f"{number}.png")
    seen, held = [], []

    class Watching(ProtocolRecorder):
        def add(self, sample):
            seen.append(sample["index"])
            if len(seen) in (6, 51):
                gc.collect()
                living = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
                held.append(sum(one.numel() for one in living if one.ndim > 1))
            super().add(sample)

    monkeypatch.setattr(evaluation, "ProtocolRecorder", Watching)
    data = {"name": "folder", "root": str(images), "val_root": str(images)}
    config = small(data=data, eval={"batch_size": 1, "metrics": ["psnr", "psnr_hole", "l1_hole", "ssim"]})
    evaluate(config, None, tmp_path / "eval", ["nearest"])
    assert len(seen) == 51 and held[0] == held[1] > 0


def test_results_can_be_read_back_compared_and_not_forged(small, run, tmp_path: Path, capsys):
    checkpoint = run()
    result = evaluate(small(), checkpoint, tmp_path / "eval")
    assert f"protocol synthetic-square25-paper32-learned, {result['protocol']['sha256'][:12]}" in (
        capsys.readouterr().out
    )
    comparison = compare(tmp_path / "eval", tmp_path / "eval", ["mean of known", "IGLL"])
    numbers = result["methods"]
    gain = numbers["IGLL"]["psnr_hole"] - numbers["mean of known"]["psnr_hole"]
    assert comparison["metrics"]["psnr_hole"]["difference"] == pytest.approx(gain)

    evaluate(small(mask={"kind": "cloud"}), checkpoint, tmp_path / "cloud")
    with pytest.raises(InputError, match=r"eval and .*cloud differ in masks: not comparable"):
        compare(tmp_path / "eval", tmp_path / "cloud", ["IGLL"])

    path = tmp_path / "cloud" / "metrics.json"
    forged = json.loads(path.read_text())
    forged["protocol"] = result["protocol"]
    forged["protocol"]["parts"]["masks"]["sha256"] = "0" * 64
    path.write_text(json.dumps(forged))
    with pytest.raises(InputError, match=r"metrics.json: protocol\.task_sha256 .* the file was changed"):
        load_results(tmp_path / "cloud")


def test_oracle_edges_are_labelled_everywhere(small, run, tmp_path: Path, capsys):
    checkpoint = run(model={"structure_prior": "oracle"})
    result = evaluate(small(model={"structure_prior": "learned"}), checkpoint, tmp_path / "eval")
    assert result["structure_prior"] == "oracle" and result["label"] == "oracle edges"
    assert (
        result["methods"]["IGLL"]["oracle_edges"] and not result["methods"]["mean of known"]["oracle_edges"]
    )
    assert "oracle edges" in (tmp_path / "eval" / "table.md").read_text()
    assert "oracle edges" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "eval" / "per_image.csv").open()))
    assert {row["oracle_edges"] for row in rows if row["method"] == "IGLL"} == {"True"}


def test_metrics_that_cannot_be_had_say_why_and_the_rest_runs(small, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    config = small(eval={"metrics": ["psnr_hole", "ms_ssim", "lpips", "fid", "kid"]})
    result = evaluate(config, run(), tmp_path / "eval")
    reasons = result["unavailable"]
    assert "176" in reasons["ms_ssim"] and "alexnet" in reasons["lpips"]
    assert "inception" in reasons["fid"].lower() and "inception" in reasons["kid"].lower()
    assert math.isfinite(result["methods"]["IGLL"]["psnr_hole"])
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["methods"]["IGLL"]["lpips"] is None
    printed = capsys.readouterr().out
    assert "n/a" in printed and "176" in printed


def test_lpips_with_the_real_squeeze_weights(small, run, tmp_path: Path, shared: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights" / "torch_home"))
    config = small(eval={"metrics": ["psnr_hole", "lpips"], "lpips_net": "squeeze"})
    result = evaluate(config, run(), tmp_path / "eval")
    assert 0 < result["methods"]["IGLL"]["lpips"] < 1


def test_fid_of_few_images_warns_and_brings_kid(small, run, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    checkpoint = run()
    config = small(eval={"metrics": ["fid", "psnr"]})
    assert evaluate(config, checkpoint, tmp_path / "absent")["notes"] == [], (
        "without Inception there is no FID"
    )
    monkeypatch.setattr(MetricSuite, "unavailable", {})
    capsys.readouterr()
    result = evaluate(config, checkpoint, tmp_path / "eval")
    note = f"warning: FID over {result['images']} images, fewer than 2,048, is biased upwards"
    assert len(result["notes"]) == 1 and result["notes"][0].startswith(note)
    stored = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert stored["notes"] == result["notes"] and "kid" in stored["methods"]["IGLL"]
    assert stored["protocol"]["parts"]["metrics"]["names"] == ["fid", "kid", "psnr"]
    printed, table = capsys.readouterr().out, (tmp_path / "eval" / "table.md").read_text()
    for text in (printed, table):
        assert note in text and text.index("FID ↓") < text.index("KID ↓") < text.index("PSNR ↑")
    assert evaluate(small(eval={"metrics": ["psnr"]}), checkpoint, tmp_path / "psnr")["notes"] == []
    monkeypatch.setattr(evaluation, "SMALLEST_FID_SET", result["images"])
    enough = evaluate(small(eval={"metrics": ["fid"]}), checkpoint, tmp_path / "enough")
    assert enough["notes"] == [] and "kid" not in enough["methods"]["IGLL"]


def test_proxy_distance_has_its_own_name(small, run, tmp_path: Path, shared: Path, capsys):
    weights = str(shared / "weights" / "efficientnet-lite0-57934424.pth")
    config = small(eval={"metrics": ["fd_effnet_lite0"], "fd_weights": weights})
    result = evaluate(config, run(), tmp_path / "eval")
    assert result["methods"]["IGLL"]["fd_effnet_lite0"] > 0 and result["unavailable"] == {}
    printed = capsys.readouterr().out
    assert "FD-effnet-lite0 ↓" in printed and "its values are not FID" in printed and "FID ↓" not in printed


def test_fill_nodata_is_a_floor_of_the_same_table(small, run, tmp_path: Path):
    config = small(eval={"floors": ["mean_of_known", "fill_nodata"]})
    methods = evaluate(config, run(), tmp_path / "eval")["methods"]
    assert list(methods) == ["mean of known", "GDAL fill-nodata", "IGLL"]
    assert methods["GDAL fill-nodata"]["psnr_hole"] > methods["mean of known"]["psnr_hole"]


def test_the_weights_that_were_measured_are_named(small, tmp_path: Path):
    for decay, name in ((0.9, "ema"), (0, "raw")):
        run = tmp_path / name
        train(small(train={"max_steps": 1, "ema_decay": decay}), run)
        result = evaluate(small(), str(run / "checkpoints" / "last.pt"), run / "eval")
        assert result["weights"] == name


def test_bf16_is_measured_if_wanted_and_recorded(small, run, tmp_path: Path):
    checkpoint = run()
    plain, half = (
        evaluate(small(eval={"amp": wanted}), checkpoint, tmp_path / str(wanted)) for wanted in (False, True)
    )
    assert (plain["weights"], half["weights"]) == ("ema", "ema, bf16")
    floors, networks = (
        [result["methods"][name]["psnr_hole"] for result in (plain, half)]
        for name in ("mean of known", "IGLL")
    )
    assert floors[0] == floors[1] and networks[0] == pytest.approx(networks[1], abs=0.1)


def test_settings_of_another_network_than_the_checkpoints_are_told(small, run, tmp_path: Path, capsys):
    checkpoint = run()
    evaluate(small(), checkpoint, tmp_path / "same")
    assert "note: " not in capsys.readouterr().err
    evaluate(small(model={"width": 8, "structure_prior": "oracle"}), checkpoint, tmp_path / "eval")
    prior = small().model.structure_prior
    told = f"was trained: model.width=4, here 8; model.structure_prior={prior}, here oracle\n"
    assert told in capsys.readouterr().err


def test_shipped_weights_are_measured_by_name_and_recorded_with_their_content(small, tmp_path: Path):
    settings = small(eval={"metrics": ["psnr_hole"], "pictures": 0}, data={"test_limit": 1})
    result = evaluate(settings, BEST, tmp_path / "eval")
    assert (result["checkpoint"], result["checkpoint_sha256"]) == (BEST, SHIPPED[BEST].sha256)
    assert result["weights"] == "ema" and result["methods"]["IGLL"]["psnr_hole"] > 0


def test_reference_without_references_is_labelled_as_oracle(small, run, tmp_path: Path):
    checkpoint = run(model={"structure_prior": "reference"})
    assert evaluate(small(), checkpoint, tmp_path / "eval")["label"] == "oracle edges"
    sheet = np.asarray(Image.open(tmp_path / "eval" / "pictures.png"))
    plain = evaluate(small(), run_again(small, tmp_path), tmp_path / "plain")
    assert plain["label"] == ""
    assert not np.array_equal(sheet, np.asarray(Image.open(tmp_path / "plain" / "pictures.png")))


def run_again(small, tmp_path: Path) -> str:
    train(small(train={"max_steps": 1}), tmp_path / "blind")
    return str(tmp_path / "blind" / "checkpoints" / "last.pt")


def test_images_of_the_training_are_refused_as_test_images(small, run, tmp_path: Path):
    checkpoint = run()
    for change in ({"split_seed": 5}, {"test_fraction": 0.5}, {"synthetic_images": 20}):
        with pytest.raises(InputError, match=rf"data\.{next(iter(change))}: differs from the training"):
            evaluate(small(data=change), checkpoint, tmp_path / "eval")


def test_an_image_without_any_known_pixel_does_not_end_the_evaluation(small, tmp_path: Path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for number in range(5):
        Image.effect_noise((32, 32), 60).convert("RGB").save(images / f"{number}.png")
        Image.new("L", (32, 32), 255).save(masks / f"{number}.png")
    data = {"name": "folder", "root": str(images)}
    files = {"mask": {"kind": "files", "root": str(masks)}, "data": data}
    train(small(**files, train={"max_steps": 1}), tmp_path / "run")
    apart = {**data, "root": str(images.rename(tmp_path / "moved")), "test_fraction": 0.9}
    other = small(mask=files["mask"], data=apart)
    methods = evaluate(other, str(tmp_path / "run" / "checkpoints" / "last.pt"), tmp_path / "eval")["methods"]
    assert math.isfinite(methods["mean of known"]["psnr_hole"]) and math.isfinite(
        methods["IGLL"]["psnr_hole"]
    )


def test_pairs_are_captioned_as_cloud_removal(small, tmp_path: Path, capsys):
    root = tmp_path / "rice"
    for part in ("label", "cloud"):
        (root / part).mkdir(parents=True)
        for number in range(5):
            Image.effect_noise((32, 32), 40).convert("RGB").save(root / part / f"{number}.png")
    config = small(data={"name": "rice1", "root": str(root), "use": "pairs"}, train={"max_steps": 1})
    train(config, tmp_path / "run")
    evaluate(config, str(tmp_path / "run" / "checkpoints" / "last.pt"), tmp_path / "eval")
    assert "cloud removal (pairs)" in capsys.readouterr().out
    assert "square holes" not in (tmp_path / "eval" / "table.md").read_text()


def test_a_checkpoint_that_is_none_is_named(small, tmp_path: Path):
    with pytest.raises(InputError, match="no such checkpoint"):
        evaluate(small(), str(tmp_path / "absent.pt"), tmp_path / "eval")
    assert not (tmp_path / "eval").exists()


def test_methods_alone_need_no_checkpoint(small, tmp_path: Path, capsys):
    config = small(eval={"metrics": ["psnr_hole"]})
    result = evaluate(config, None, tmp_path / "eval", ["harmonic", "nearest", "harmonic"])
    assert list(result["methods"]) == ["mean of known", "harmonic (Laplace)", "nearest pixel"]
    for key in ("checkpoint", "checkpoint_sha256", "step", "weights", "structure_prior"):
        assert result[key] is None
    assert result["label"] == "" and not any(way["oracle_edges"] for way in result["methods"].values())
    read = load_results(tmp_path / "eval")
    assert read.protocol.structure == {"prior": "none", "edges_of": "nothing"} and len(read.images) == 2
    assert Image.open(tmp_path / "eval" / "pictures.png").width > 300
    assert "harmonic (Laplace)" in capsys.readouterr().out

    sample = build_dataset(config, "test")[0]
    filled = harmonic(sample["image"][None], sample["mask"][None])[0]
    levels = [np.rint((picture.double().numpy() + 1) * 127.5) for picture in (filled, sample["target"])]
    hole = np.broadcast_to(sample["mask"].numpy() > 0, levels[0].shape)
    error = ((levels[0] - levels[1])[hole] ** 2).mean()
    found = read.method("harmonic (Laplace)").values["psnr_hole"][0]
    assert found == pytest.approx(10 * math.log10(255**2 / error), abs=1e-3)


def test_methods_beside_a_checkpoint_are_of_the_same_task_as_without(small, run, tmp_path, monkeypatch):
    """So that both may be compared; even beside a network that is shown edges."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    config = small(eval={"metrics": ["psnr_hole", "fid"], "floors": []})
    checkpoint = run(model={"structure_prior": "oracle"})
    beside = evaluate(config, checkpoint, tmp_path / "beside", ["harmonic"])
    assert list(beside["methods"]) == ["harmonic (Laplace)", "IGLL"]
    assert [way["oracle_edges"] for way in beside["methods"].values()] == [False, True]
    alone = evaluate(config, None, tmp_path / "alone", ["harmonic"])
    assert alone["protocol"]["task_sha256"] == beside["protocol"]["task_sha256"]
    assert alone["protocol"]["sha256"] != beside["protocol"]["sha256"]
    assert alone["methods"]["harmonic (Laplace)"] == beside["methods"]["harmonic (Laplace)"]
    folders = tmp_path / "alone", tmp_path / "beside"
    assert compare(*folders, ["harmonic (Laplace)"])["metrics"]["psnr_hole"]["ties"] == 2
    assert compare(*folders, ["harmonic (Laplace)", "IGLL"])["mixed"] == []


def test_nothing_to_measure_is_refused(small, tmp_path: Path):
    with pytest.raises(InputError, match="nothing to measure; name a checkpoint, or a method"):
        evaluate(small(eval={"floors": []}), None, tmp_path / "eval")
    assert not (tmp_path / "eval").exists()


def called(capsys, *arguments: object) -> tuple[object, str]:
    """Exit code and error of igll-eval."""
    with pytest.raises(SystemExit) as end:
        cli.evaluate([str(argument) for argument in arguments])
    return end.value.code, capsys.readouterr().err


def test_methods_on_the_command_line(small, tmp_path: Path, capsys):
    save_config(small(eval={"metrics": ["psnr_hole"], "pictures": 0}), tmp_path / "c.yaml")
    given = ["--config", tmp_path / "c.yaml", "--out", tmp_path / "eval"]
    for arguments, said in (
        ([], "name a --checkpoint, or a --method that needs none"),
        (["--method", "teela"], "invalid choice: 'teela'"),
    ):
        code, error = called(capsys, *given, *arguments)
        assert code == 2 and said in error.splitlines()[-1] and not (tmp_path / "eval").exists()
    assert called(capsys, *given, "--method", "harmonic", "--method", "nearest", "eval.floors=[]")[0] == 0
    assert list(load_results(tmp_path / "eval").methods) == ["harmonic (Laplace)", "nearest pixel"]


@pytest.mark.parametrize(
    ("method", "module", "extra"),
    [
        ("telea", "cv2", "baselines"),
        ("biharmonic", "skimage.restoration", "baselines"),
        ("patch_match", "patchmatch", "baselines"),
        ("fill_nodata", "rasterio.fill", "geo"),
    ],
)
def test_a_missing_package_is_told_before_any_work(
    small, tmp_path: Path, capsys, monkeypatch, method: str, module: str, extra: str
):
    def work(*_):
        raise AssertionError("images were opened, or a checkpoint")

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(evaluation, "build_dataset", work)
    monkeypatch.setattr(evaluation, "load_generator", work)
    save_config(small(), tmp_path / "c.yaml")
    given = ["--config", tmp_path / "c.yaml", "--checkpoint", "last.pt", "--out", tmp_path / "eval"]
    for arguments in (["--method", "halrtc", "--method", method], [f"eval.floors=[{method}]"]):
        code, error = called(capsys, *given, *arguments)
        assert code == 2 and error.count("\n") == 1 and not (tmp_path / "eval").exists()
        assert error.startswith(f"error: {method}: needs the package") and f'"igll[{extra}]"' in error


def test_names_that_are_not_utf8_and_images_that_are_filled_exactly(small, tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, grey in ((b"caf\xe9.png", 90), (b"cafe.png", 91)):
        Image.new("RGB", (32, 32), (grey,) * 3).save(folder / os.fsdecode(name))
    Image.effect_noise((32, 32), 60).convert("RGB").save(folder / "noise.png")
    config = small(
        data={"name": "folder", "root": str(tmp_path), "val_root": str(folder)},
        eval={"metrics": ["psnr_hole", "psnr_hole"], "floors": []},
    )
    evaluate(config, None, tmp_path / "eval", ["mean_of_known"])
    results = load_results(tmp_path / "eval")
    assert results.images == ["cafe.png", "caf\\udce9.png", "noise.png"]
    table = (tmp_path / "eval" / "table.md").read_text(encoding="utf-8")
    assert table.count("PSNR hole \u2191") == 1
    assert "PSNR hole: images filled exactly are infinite, and left out of mean of known 2\n" in table
