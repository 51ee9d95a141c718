"""The scripts that time the generator against its dense form and over the size of the image."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image


def run(script: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    module = __import__(f"scripts.{script}", fromlist=["main"])
    with pytest.raises(SystemExit) as left:
        module.main(arguments)
    written = capsys.readouterr()
    return left.value.code, written.out, written.err


def test_the_generator_is_timed_against_its_dense_form(capsys: pytest.CaptureFixture[str]):
    code, out, _ = run("dense_form", ["--size", "64", "--rounds", "2", "--set", "model.width=4"], capsys)
    assert code == 0
    rows = [[float(number) for number in line.split()] for line in out.splitlines()[1:]]
    assert [row[0] for row in rows] == [10, 25, 77]
    for _, *medians, times, apart, bf16 in rows:
        assert len(medians) == 5 and min(medians) > 0
        assert times == pytest.approx(medians[0] / medians[-1], abs=0.1 * times) and 0 <= apart < 1e-5
        assert apart < bf16 < 0.05


def test_networks_without_a_dense_form_are_refused(capsys: pytest.CaptureFixture[str]):
    code, _, err = run("dense_form", ["--set", "model.name=hifill"], capsys)
    assert code == 2 and "model.name: hifill has no dense form" in err and "Traceback" not in err


def test_growth_with_the_size_is_measured_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--out", str(tmp_path), "--sizes", "128", "64", "--hole", "10", "--set", "model.width=4"]
    code, out, _ = run("scaling", arguments, capsys)
    assert code == 0
    small, large = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))["rows"]
    assert (small["size"], large["size"]) == (64, 128) and small["growth_bytes"] >= 0
    power = math.log2(large["seconds"] / small["seconds"])
    assert f" {power:.2f} |" in out and (tmp_path / "scaling.md").read_text(encoding="utf-8") in out
    assert Image.open(tmp_path / "scaling.png").width > 500


def test_sizes_that_are_too_small_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = run("scaling", ["--out", str(tmp_path), "--sizes", "16"], capsys)
    assert code == 2 and "--sizes: 16 is too small" in err and "Traceback" not in err
