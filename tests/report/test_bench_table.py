"""Tables, picture and comparison of benchmarks, on numbers made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from igll.errors import InputError
from igll.report.bench_compare import compare_results, read_results, write_comparison
from igll.report.bench_table import draw_results, markdown, write_results


def row(model: str, size: int = 256, median: float = 0.5, **changes: Any) -> dict[str, Any]:
    return {
        "model": model, "size": size, "batch": 1, "hole": 25, "mode": "eager", "precision": "fp32",
        "status": "measured", "reason": "", "multiply_adds": 2_000_000_000,
        "convolution_multiply_adds": 1_000_000_000, "memory_growth_bytes": 3_000_000, "memory_reason": "",
        "seconds": [median], "seconds_median": median, "seconds_min": median / 2,
        "roof_seconds": [median / 4], "roof_median": median / 4, "ratio": 4.0,
        "layer_seconds": [median / 2], "layer_median": median / 2, "layer_ratio": 2.0, **changes,
    }  # fmt: skip


def skipped(model: str, reason: str, status: str = "skipped") -> dict[str, Any]:
    kept = ("model", "size", "batch", "hole", "mode", "precision", "multiply_adds")
    found = {key: value for key, value in row(model).items() if key in kept}
    return {**found, "status": status, "reason": reason, "memory_growth_bytes": None, "memory_reason": ""}


def metric(name: str, median: float | None, **changes: Any) -> dict[str, Any]:
    found = {"name": name, "size": 256, "batch": 8, "status": "measured", "reason": "", **changes}
    times = {} if median is None else {"seconds_median": median, "images_per_second": 8 / median}
    return {**found, **times}


def results(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    task = {"config": "quickstart", "model": "igll", "width": 16, "crop": 64, "batch": 16}
    parts = [
        {"name": "generator forward", "forward": 0.3, "backward": 0.0, "seconds": 0.3},
        {"name": "loss: svd", "forward": 0.1, "backward": 0.2, "seconds": 0.1 + 0.2},
    ]
    return {
        "format": 2,
        "finished": True,
        "machine": {"cpu": "a processor", "threads": 2, "device": "CPU", "torch": "2.0"},
        "settings": {"memory_kind": "some kind", "rounds": 3, "warmup": 1, "overrides": ("model.width=4",)},
        "models": [{"name": "igll", "parameters": 4_442_454}],
        "multiply_adds": [
            {"model": "igll", "size": 256, "hole": 25, "true": 34_123_456_789, "convolutions": 25e9},
        ],
        "inference": list(rows),
        "training": [{
            **task, "status": "measured", "reason": "", "parts": parts, "parts_sum": 0.6, "step_seconds": 0.7,
            "step_and_data_seconds": 0.8, "images_per_second": 20.0, "steps": 3, "svd_share": 0.0123,
            "roof_seconds": 0.35, "roof_fraction": 0.5, "paper_hours": 4.444,
        }],
        "loader": [{**task, "workers": 0, "images": 32, "seconds": 2.0, "images_per_second": 16.0}],
        "evaluation": [metric("ssim", 0.4), metric("fid", None, status="n/a", reason="no weights")],
        **changes,
    }  # fmt: skip


def line(text: str, first: str) -> list[str]:
    found = [cells for cells in text.splitlines() if cells.startswith(f"| {first} ")]
    assert len(found) == 1
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def section(text: str, title: str) -> str:
    return text.split(f"## {title}")[1].split("\n## ")[0]


def test_numbers_are_printed_with_their_units():
    text = markdown(results(row("igll")))
    assert line(section(text, "Multiply-adds"), "igll") == ["igll", "4.442", "256", "25", "34.123", "25.000"]
    # 2 G in half a second are 4 G/s.
    assert line(section(text, "Latency"), "igll") == [
        "igll", "256", "1", "25", "eager fp32", "500.00", "250.00", "125.00", "4.00", "250.00",
        "2.00", "3.0", "4.0",
    ]  # fmt: skip
    step = section(text, "Training step")
    assert "Low-rank loss 1.23 % of the step." in step
    assert "and backward, take 350.00 ms: the step reaches 0.500 of that roof." in step
    assert "(40 epochs of 8,000 images) takes 4.44 h at this rate" in step
    assert line(step, "loss: svd") == ["loss: svd", "100.00", "200.00", "300.00", "37.5"]
    assert "Sum of the parts 600.00 ms; step and data as a whole 800.00 ms (0.750), 20.00 images/s" in step
    assert "do not add up" in step
    assert "|       0 |     16.0 |" in section(text, "Loader")
    evaluation = section(text, "Evaluation: 256 px × 8")
    assert line(evaluation, "ssim") == ["ssim", "50.00", "20.0"]
    assert line(evaluation, "fid") == ["fid", "n/a <sup>1</sup>", "n/a <sup>1</sup>"]
    assert "n/a: no weights" in evaluation and "without" not in evaluation
    assert "processor: a processor" in text and "some kind" in text and "Interrupted" not in text


def test_what_all_metrics_leave_out_is_said():
    rows = [metric("all metrics", 2.0, left_out=["fid", "kid"])]
    text = section(markdown(results(evaluation=rows)), "Evaluation")
    assert line(text, "all metrics") == ["all metrics", "250.00", "4.0"]
    assert "All metrics: without fid, kid." in text


def test_metrics_measured_with_random_weights_are_named_once():
    rows = [metric("fid", 0.4, untrained=["fid"]), metric("all metrics", 2.0, untrained=["fid", "kid"])]
    text = section(markdown(results(evaluation=rows)), "Evaluation")
    assert line(text, "fid") == ["fid", "50.00", "20.0"]
    assert "over batches. fid, kid: Inception with random weights" in text


def test_cases_without_numbers_carry_their_reason():
    rows = [row("igll"), skipped("han", "takes long"), skipped("hint", "torch.compile: no", "n/a")]
    text = section(markdown(results(*rows)), "Latency")
    assert line(text, "han")[5:] == ["n/a <sup>1</sup>"] * 8
    assert line(text, "hint")[5:] == ["n/a <sup>2</sup>"] * 8
    assert "[1] " in text and "skipped: takes long" in text and "n/a: torch.compile: no" in text


def test_missing_memory_alone_says_why():
    text = section(
        markdown(results(row("igll", memory_growth_bytes=None, memory_reason="not asked for"))), "Latency"
    )
    assert line(text, "igll")[-2:] == ["n/a <sup>1</sup>", "4.0"] and "Memory (MB): not asked for" in text


def test_a_skipped_training_step_and_an_interruption_are_said():
    task = results()["training"][0]
    text = markdown(results(training=[{**task, "status": "skipped", "reason": "too slow"}], finished=False))
    assert "quickstart, igll width 16, 64 px × 16: skipped: too slow" in text and "Interrupted" in text


def test_files_are_written_unrounded_with_a_picture(tmp_path: Path):
    content = results(row("igll", median=1 / 3), row("igll", 512, 2.0), row("hifill", 512, 1.0))
    assert write_results(content, tmp_path) == tmp_path / "bench.md"
    assert read_results(tmp_path / "bench.json")["inference"][0]["seconds_median"] == 1 / 3
    assert Image.open(tmp_path / "bench.png").width > 500


def test_without_a_timed_pass_there_is_no_picture_and_it_is_said(tmp_path: Path):
    content = results(skipped("igll", "takes long"))
    assert not draw_results(content, tmp_path / "none.png")
    write_results(content, tmp_path)
    assert "No picture" in (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert not (tmp_path / "bench.png").exists()


def test_ratios_are_new_over_old_and_lonely_rows_are_named(tmp_path: Path):
    old = results(row("igll", median=0.5), row("dmfn"), skipped("han", "takes long"))
    new = results(
        row("igll", median=0.25, ratio=3.0, memory_growth_bytes=6_000_000),
        row("han"),
        row("dmfn", median=1.0, memory_growth_bytes=None),
        loader=[],
    )
    new["training"][0]["step_and_data_seconds"] = 0.4
    new["evaluation"][0] = metric("ssim", 0.1)
    for name, content in (("old", old), ("new", new)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    found = compare_results(read_results(tmp_path / "old.json"), new)
    rows = {entry["row"]: entry for entry in found["rows"]}
    igll = rows["igll 256 px × 1, hole 25 %, eager fp32"]
    assert {key: value for key, value in igll.items() if key != "row"} == {
        "seconds_median": 0.5, "seconds_min": 0.5, "roof_median": 0.5, "ratio": 0.75, "layer_ratio": 1.0,
        "memory_growth_bytes": 2.0,
    }  # fmt: skip
    dmfn = rows["dmfn 256 px × 1, hole 25 %, eager fp32"]
    assert dmfn["seconds_median"] == 2.0 and "memory_growth_bytes" not in dmfn
    task = "quickstart, igll width 16, 64 px × 16"
    assert rows[f"training {task}: step and data"]["seconds_median"] == 0.5
    assert rows[f"training {task}: loss: svd"]["seconds_median"] == 1.0
    assert rows["evaluation 256 px × 8, ssim: batch"] == {
        "row": "evaluation 256 px × 8, ssim: batch", "seconds_median": 0.25,
    }  # fmt: skip
    assert found["only_new"] == ["han 256 px × 1, hole 25 %, eager fp32"]
    assert found["only_old"] == [f"loader {task}, 0 workers: seconds per image"]
    assert found["different"] == {}
    text = write_comparison(found, tmp_path).read_text(encoding="utf-8")
    assert line(text, "igll 256 px × 1, hole 25 %, eager fp32")[1:] == [
        "0.500",
        "0.500",
        "0.500",
        "0.750",
        "1.000",
        "2.000",
    ]
    assert "Only in the old one:\n- loader" in text and "Only in the new one:\n- han" in text
    assert json.loads((tmp_path / "bench_comparison.json").read_text(encoding="utf-8")) == found


def test_other_machines_and_settings_are_named(tmp_path: Path):
    new = results(row("igll"))
    new["machine"] = {**new["machine"], "threads": 8}
    new["settings"] = {**new["settings"], "overrides": ()}
    found = compare_results(json.loads(json.dumps(results(row("igll")))), new)
    assert found["different"] == {"threads": [2, 8], "overrides": [["model.width=4"], ()]}
    text = write_comparison(found, tmp_path).read_text(encoding="utf-8")
    assert "Not alike: threads was 2, is 8." in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "holds no benchmark"),
        ("{}", "holds no benchmark"),
        ('{"inference": [], "machine": {}, "format": 0}', "is of format 0"),
    ],
)
def test_files_that_are_no_benchmark_are_refused(content: str | None, words: str, tmp_path: Path):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_results(path)
