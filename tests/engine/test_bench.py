"""The benchmark end to end, on networks so small that what they take means nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tqdm import tqdm

from igll.config import ModelConfig, build_config
from igll.engine import bench, bench_evaluation, bench_inference
from igll.engine.bench import BenchRequest, run_bench
from igll.engine.bench_cases import Case
from igll.engine.cost import parameters
from igll.errors import InputError
from igll.metrics import METRIC_NAMES
from igll.registry import build_generator

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml"
TINY = ("model.width=4",)


@pytest.fixture
def tiny(tmp_path: Path) -> BenchRequest:
    return BenchRequest(
        tmp_path / "out", QUICKSTART, ("igll",), (64,), (1,), (25,), ("inference",),
        memory=False, rounds=1, warmup=1, overrides=TINY,
    )  # fmt: skip


def read(request: BenchRequest) -> dict:
    return json.loads((request.out / "bench.json").read_text(encoding="utf-8"))


def test_the_script_measures_everything_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from scripts.bench import main

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no_weights"))

    arguments = [
        "--out", str(tmp_path / "new"), "--models", "igll", "hifill", "--sizes", "64", "--batches", "2",
        "--holes", "10", "--rounds", "3", "--steps", "2", "--workers", "0", "--crop", "32",
        "--batch", "2", "3", "--no-memory", "--set", "model.width=4", "data.synthetic_images=6",
        "losses.svd_leading=4", "losses.adversarial=0.01", "discriminator.width=4",
        f"edges.cache={tmp_path / 'edges'}", "eval.batch_size=2",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    found = json.loads((tmp_path / "new" / "bench.json").read_text(encoding="utf-8"))
    assert found["format"] == 2 and found["finished"] is True
    assert {"date", "cpu", "cores", "torch", "threads", "device"} <= set(found["machine"])
    assert [row["model"] for row in found["inference"]] == ["igll", "hifill"]
    sizes = {model["name"]: model["parameters"] for model in found["models"]}
    for row in found["inference"]:
        config = ModelConfig.model_validate({"name": row["model"], "width": 4})
        assert sizes[row["model"]] == parameters(build_generator(config))
        assert row["status"] == "measured" and row["reason"] == ""
        assert len(row["seconds"]) == len(row["roof_seconds"]) == 3
        assert row["seconds_median"] == sorted(row["seconds"])[1] and row["seconds_min"] == min(
            row["seconds"]
        )
        assert row["ratio"] == row["seconds_median"] / sorted(row["roof_seconds"])[1]
        assert row["layer_ratio"] == row["seconds_median"] / sorted(row["layer_seconds"])[1]
        assert (row["layer_multiply_adds"] > row["roof_multiply_adds"]) == (row["model"] == "igll")
        assert row["roof_multiply_adds"] == row["convolution_multiply_adds"] < row["multiply_adds"]
        assert row["memory_growth_bytes"] is None and "--no-memory" in row["memory_reason"]
    check_training(found["training"][0])
    assert [row["batch"] for row in found["training"]] == [2, 3]
    assert [(row["workers"], row["images"]) for row in found["loader"]] == [(0, 4)]
    check_evaluation(found["evaluation"])
    text = (tmp_path / "new" / "bench.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert Image.open(tmp_path / "new" / "bench.png").format == "PNG"

    older = ["--compare", str(tmp_path / "new" / "bench.json"), "--parts", "inference", "--models", "igll"]
    with pytest.raises(SystemExit):
        main([*arguments, *older])
    compared = json.loads((tmp_path / "new" / "bench_comparison.json").read_text(encoding="utf-8"))
    assert [row["row"] for row in compared["rows"]] == ["igll 64 px × 2, hole 10 %, eager fp32"]
    assert "hifill 64 px × 2, hole 10 %, eager fp32" in compared["only_old"]


def check_training(row: dict) -> None:
    assert row["status"] == "measured" and (row["crop"], row["batch"], row["steps"]) == (32, 2, 2)
    assert [part["name"] for part in row["parts"]] == [
        "data (loader wait)", "generator forward", "discriminator", "discriminator optimiser", "loss: local",
        "loss: log_error", "loss: adversarial", "loss: svd", "loss: edge", "generator backward",
        "generator optimiser", "EMA",
    ]  # fmt: skip
    assert all(part["seconds"] == part["forward"] + part["backward"] > 0 for part in row["parts"])
    assert row["parts_sum"] == pytest.approx(sum(part["seconds"] for part in row["parts"]), rel=1e-12)
    assert row["images_per_second"] == pytest.approx(2 / row["step_and_data_seconds"], rel=1e-12)
    (svd,) = [part["seconds"] for part in row["parts"] if part["name"] == "loss: svd"]
    assert row["svd_share"] == pytest.approx(svd / row["step_seconds"], rel=1e-12)
    assert row["roof_fraction"] == pytest.approx(row["roof_seconds"] / row["step_seconds"], rel=1e-12)
    assert row["roof_fraction"] > 0
    assert row["paper_hours"] == pytest.approx(320_000 / row["images_per_second"] / 3600, rel=1e-12)


def check_evaluation(rows: list[dict]) -> None:
    assert [row["name"] for row in rows] == ["all but the metrics", *METRIC_NAMES, "all metrics"]
    absent = {"lpips": "squeezenet", "fd_effnet_lite0": "efficientnet"}
    untrained = {"fid": ["fid"], "kid": ["kid"], "all metrics": ["fid", "kid"]}
    for row in rows:
        assert (row["size"], row["batch"]) == (256, 2)
        if row["name"] in absent:
            assert row["status"] == "n/a" and absent[row["name"]] in row["reason"]
            continue
        assert row["status"] == "measured" and len(row["seconds"]) == 2
        assert row["images_per_second"] == 2 / row["seconds_median"] > 0
        assert row.get("untrained", []) == untrained.get(row["name"], [])
    assert rows[-1]["left_out"] == list(absent)


def test_metrics_with_weights_are_measured_and_slow_ones_skipped(shared: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights" / "torch_home"))
    monkeypatch.setattr(bench_evaluation, "ROWS", ("lpips", "fd_effnet_lite0", "all but the metrics"))
    weights = shared / "weights" / "efficientnet-lite0-57934424.pth"
    settings = {"metrics": ["psnr"], "lpips_net": "squeeze", "fd_weights": str(weights), "batch_size": 1}
    config = build_config({"eval": settings})
    cpu = torch.device("cpu")
    with tqdm(disable=True) as bar:
        rows = list(bench_evaluation.measure_evaluation(config, cpu, 1, 60.0, bar))
        assert [row["status"] for row in rows] == ["measured"] * 3
        rows = list(bench_evaluation.measure_evaluation(config, cpu, 1, 1e-9, bar))
    assert all(row["status"] == "skipped" and "--limit" in row["reason"] for row in rows)


def test_without_inception_s_package_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(bench_evaluation, "ROWS", ("fid",))
    with tqdm(disable=True) as bar:
        config = build_config({"eval": {"batch_size": 1}})
        (row,) = bench_evaluation.measure_evaluation(config, torch.device("cpu"), 1, 60.0, bar)
    assert row["status"] == "n/a" and 'pip install "igll[fid]"' in row["reason"]


def test_cases_go_from_small_to_large_with_the_networks_side_by_side(tiny: BenchRequest):
    request = replace(tiny, models=("dmfn", "igll"), sizes=(128, 64), batches=(1, 2), compiled=True)
    cases = request.cases()
    assert len(cases) == 2 * 2 * 2 * 2
    assert cases[:3] == [
        Case("dmfn", 64, 1, 25), Case("igll", 64, 1, 25), Case("dmfn", 64, 1, 25, "compiled"),
    ]  # fmt: skip
    assert [case.size for case in cases] == sorted(case.size for case in cases)
    assert {case.precision for case in replace(tiny, device="cuda", amp=True).cases()} == {"fp32", "bf16"}
    modes = [case.mode for case in replace(tiny, models=("igll",), device="cuda", graphs=True).cases()]
    assert modes == ["eager", "graph"] * (len(modes) // 2)
    both = replace(tiny, models=("igll",), device="cuda", compiled=True, graphs=True)
    assert [case.mode for case in both.cases()] == ["eager", "compiled", "graph", "compiled graph"]


def test_all_names_that_a_config_knows_are_the_default(tmp_path: Path):
    request = BenchRequest(tmp_path, QUICKSTART)
    assert request.models == ("igll", "dmfn", "dmfn24", "hifill", "han", "hint")
    assert (request.sizes, request.batches, request.holes) == ((256, 512, 1024), (1, 8), (10, 25, 77))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": ("igll", "gan")}, "--models: there is no 'gan'"),
        ({"sizes": (100,)}, "--sizes: 100"),
        ({"sizes": (16,)}, "--sizes: 16"),
        ({"batches": (0,)}, "--batches: 0"),
        ({"holes": (50,)}, "--holes: 50 %"),
        ({"rounds": 0}, "--rounds: 0"),
        ({"limit": 0.0}, "--limit: 0 s"),
        ({"limit": float("nan")}, "--limit: nan s"),
        ({"amp": True}, "--amp"),
        ({"graphs": True}, "--graphs: CUDA graphs are measured on CUDA"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"overrides": ("model.depth=3",)}, "model.depth"),
        ({"config": Path("absent.yaml"), "parts": ("training",)}, "absent.yaml"),
        ({"compare": Path("absent.json")}, "absent.json"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_measured(tiny: BenchRequest, change: dict, words: str):
    with pytest.raises(InputError, match=words) as refused:
        run_bench(replace(tiny, **change))
    assert "\n" not in str(refused.value)
    assert not tiny.out.exists()


def test_the_script_says_one_line_and_leaves_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from scripts.bench import main

    with pytest.raises(SystemExit) as left:
        main(["--out", str(tmp_path / "out"), "--sizes", "65"])
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines() == ["error: --sizes: 65 is no multiple of 16 from 32 on"]


def test_an_interruption_keeps_what_was_measured(
    tiny: BenchRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    measure = bench_inference.InferenceBench.measure

    def interrupted(self, group, bar):
        if group[0].size == 128:
            raise KeyboardInterrupt
        return measure(self, group, bar)

    monkeypatch.setattr(bench_inference.InferenceBench, "measure", interrupted)
    request = replace(tiny, sizes=(64, 128))
    assert run_bench(request) == 130
    found = read(request)
    assert [(row["size"], row["status"]) for row in found["inference"]] == [(64, "measured")]
    assert found["finished"] is False
    assert "Interrupted" in capsys.readouterr().out


def test_a_training_step_that_takes_too_long_is_skipped_with_the_reason(tiny: BenchRequest, tmp_path: Path):
    settings = (
        *TINY, "data.synthetic_images=6", "losses.svd_leading=4", f"edges.cache={tmp_path / 'edges'}",
    )  # fmt: skip
    request = replace(tiny, parts=("training",), crop=32, batch=(2,), limit=1e-6, overrides=settings)
    assert run_bench(request) == 0
    (row,) = read(request)["training"]
    assert row["status"] == "skipped" and "--limit" in row["reason"]


def test_settings_of_one_network_hold_for_the_training_step_alone(tiny: BenchRequest):
    settings = (
        *TINY, "model.structure_prior=none", "model.residual=true", "data.synthetic_images=6",
        "losses.svd=0", "losses.edge=0",
    )  # fmt: skip
    request = replace(tiny, models=("dmfn",), crop=32, batch=(2,), steps=1, overrides=settings)
    assert run_bench(replace(request, parts=("training",))) == 0
    names = [part["name"] for part in read(request)["training"][0]["parts"]]
    assert "generator forward" in names and "loss: svd" not in names and "loss: edge" not in names
    with pytest.raises(InputError, match="dmfn has no such choice"):
        run_bench(replace(request, parts=("inference",)))


def test_the_script_and_the_engine_name_the_same_parts():
    import scripts.bench

    assert scripts.bench.PARTS == bench.PARTS


@pytest.mark.skipif(sys.platform != "linux", reason="the processor's name is read from /proc")
def test_the_machine_is_described():
    found = bench.machine(torch.device("cpu"))
    assert found["cpu"] and found["cores"] >= found["usable_cores"] >= 1
    assert found["threads"] == torch.get_num_threads() and found["device"] == "CPU"
