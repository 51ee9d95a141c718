"""Paired comparison: right numbers, honest intervals, and no comparison of unlike things."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from igll.engine.compare import bootstrap_interval, compare, paired_difference
from igll.errors import InputError


def test_the_interval_is_that_of_a_paired_t_test_where_that_is_right():
    values = np.random.default_rng(3).normal(0.4, 2.0, 400)
    low, high = bootstrap_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.03 * width)
    assert high == pytest.approx(expected.high, abs=0.03 * width)
    assert (low, high) == bootstrap_interval(values)


def test_the_interval_of_skewed_values_is_skewed_like_a_resampling_of_our_own():
    values = np.random.default_rng(4).lognormal(0, 1, 60)
    rng = np.random.default_rng(5)
    means = values[rng.integers(0, 60, (20_000, 60))].mean(1)
    plain = np.quantile(means, [0.025, 0.975])
    low, high = bootstrap_interval(values)
    width = plain[1] - plain[0]
    # BCa moves both ends to the long side.
    assert 0 < low - plain[0] < 0.25 * width and 0 < high - plain[1] < 0.4 * width


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(6)
    intervals = [bootstrap_interval(rng.normal(1, 1, 40)) for _ in range(120)]
    covered = sum(low <= 1 <= high for low, high in intervals)
    assert 105 <= covered <= 119  # 95 % of 120 is 114; a binomial's spread is 2.4


def test_too_few_or_equal_values():
    assert all(math.isnan(end) for end in bootstrap_interval(np.array([1.0])))
    assert bootstrap_interval(np.full(7, 0.25)) == (0.25, 0.25)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[0.3, 0.1 + 0.2] * 20, [0.0] * 5 + [1e-200], [-1e6, -1e6 - 1e-9] * 3])
def test_differences_that_are_equal_but_for_rounding_have_an_interval(values: list[float]):
    low, high = bootstrap_interval(np.array(values))
    assert low == high == pytest.approx(math.fsum(values) / len(values), rel=1e-9, abs=1e-100)


def test_differences_and_wins():
    a = np.array([20.0, 22.0, 24.0, 25.0, math.inf, math.inf, math.nan])
    b = np.array([21.0, 25.0, 23.0, 25.0, 30.0, math.inf, 30.0])
    found = paired_difference(a, b, higher_is_better=True)
    assert (found.images, found.mean_a, found.mean_b, found.difference) == (4, 22.75, 23.5, 0.75)
    assert (found.wins_a, found.wins_b, found.ties) == (2, 2, 2)
    turned = paired_difference(a[:3], b[:3], higher_is_better=False)
    assert (turned.wins_a, turned.wins_b, turned.ties) == (2, 1, 0)
    nothing = paired_difference(a[6:], b[6:], higher_is_better=True)
    assert nothing.images == 0 and math.isnan(nothing.difference) and math.isnan(nothing.low)


A = {"floor": {"psnr": [20.0, 22.0, 24.0]}, "IGLL": {"psnr": [30.0, 31.0, 32.0]}}
B = {"floor": {"psnr": [20.0, 22.0, 24.0]}, "IGLL": {"psnr": [31.0, 30.5, 33.0]}}


def test_a_comparison_as_printed_and_written(write_results, tmp_path: Path, capsys):
    a, b = write_results("a", A, oracle=True), write_results("b", B)
    result = compare(a, b, ["IGLL"], tmp_path / "out")
    psnr = result["metrics"]["psnr"]
    assert psnr["difference"] == pytest.approx(0.5) and (psnr["wins_a"], psnr["wins_b"]) == (1, 2)
    assert psnr["low"] < 0.5 < psnr["high"]
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == result
    written, printed = (tmp_path / "out" / "comparison.md").read_text(), capsys.readouterr().out
    for text in (written, printed):
        assert "A: IGLL †" in text and "B: IGLL," in text and "† oracle edges" in text
        assert "psnr ↑" in text and "0.5000" in text and "3 images, paired" in text
    assert "comparison.json" in printed


def test_other_methods_than_the_network(write_results):
    a, b = write_results("a", A), write_results("b", B)
    assert compare(a, b, ["floor"])["metrics"]["psnr"]["ties"] == 3
    within = compare(a, a, ["floor", "IGLL"])
    assert within["metrics"]["psnr"]["difference"] == pytest.approx(9.0)
    assert within["a"]["method"] == "floor" and within["b"]["method"] == "IGLL"
    with pytest.raises(InputError, match="has no method 'LaMa'"):
        compare(a, b, ["IGLL", "LaMa"])
    with pytest.raises(InputError, match="--method"):
        compare(a, b, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"masks": {"sha256": "n"}}, "masks"),
        ({"images": {"pixels_sha256": "q"}}, r"images \(equal names, other pixels\)"),
        ({"crop": {"size": 64}}, r"crop \(32 paper and 64 paper\)"),
        ({"metrics": {"version": 2}}, r"metrics \(version\)"),
        ({"metrics": {"version": 2}, "masks": {"sha256": "n"}}, r"masks and metrics \(version\)"),
    ],
)
def test_unlike_tasks_are_refused_or_marked(write_results, tmp_path: Path, capsys, parts, said):
    a, b = write_results("a", A), write_results("b", B, **parts)
    with pytest.raises(InputError, match=f"a and .*b differ in {said}: not comparable"):
        compare(a, b, ["IGLL"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(compare(a, b, ["IGLL"], tmp_path / "out", mix=True)["mixed"]) == 1
    assert "MIXED: " in capsys.readouterr().out
    assert "MIXED: " in (tmp_path / "out" / "comparison.md").read_text()


def test_mixing_takes_the_images_that_both_have(write_results):
    a = write_results("a", A)
    b = write_results("b", {"IGLL": {"psnr": [40.0, 41.0]}})
    with pytest.raises(InputError, match=r"differ in images \(3 and 2, other names\)"):
        compare(a, b, ["IGLL"])
    mixed = compare(a, b, ["IGLL"], mix=True)
    assert mixed["images"] == 2 and mixed["metrics"]["psnr"]["difference"] == pytest.approx(10.0)
    other = write_results("c", {"IGLL": {"ssim": [0.9, 0.8]}})
    with pytest.raises(InputError, match="have no per-image metric in common"):
        compare(a, other, ["IGLL"], mix=True)
