"""All methods of a folder of evaluations: one table per task, differences as igll-eval compare takes them."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from igll import cli
from igll.engine.compare import compare
from igll.engine.method_table import write_method_table
from igll.errors import InputError

FREE = {
    "mean of known": {"psnr_hole": [20.0, 21.0, 22.0], "lpips": [0.4, 0.5, 0.6]},
    "harmonic (Laplace)": {"psnr_hole": [26.125, 25.0, 27.0], "lpips": [0.2, 0.3, 0.25]},
}
IGLL = {"IGLL": {"psnr_hole": [25.0, 26.0, 26.1], "lpips": [0.1, 0.15, 0.3]}}


@pytest.fixture
def table(tmp_path: Path):
    """Writes the table of all results so far; returns tasks, Markdown, rows of CSV and of JSON."""

    def write(reference: str = "IGLL"):
        out = tmp_path / "out"
        tasks = write_method_table(tmp_path / "runs", out, reference)
        content = json.loads((out / "methods.json").read_text())
        assert content["reference"] == reference
        lines = list(csv.DictReader((out / "methods.csv").open()))
        return tasks, (out / "methods.md").read_text(), lines, content["rows"]

    return write


def test_the_methods_of_one_task_share_a_table_best_first(write_results, table, capsys):
    write_results("runs/free", FREE, structure={"prior": "none"})
    write_results("runs/igll/eval", IGLL, structure={"prior": "learned"})
    write_results("runs/other_holes", IGLL, masks={"sha256": "n"})
    tasks, text, lines, rows = table()
    assert [list(task.methods) for task in tasks] == [
        ["harmonic (Laplace)", "IGLL", "mean of known"],
        ["IGLL"],
    ]
    assert text.count("## aid-square25-paper32\n") == 2 and text in capsys.readouterr().out
    assert [(line["task_sha256"], line["method"]) for line in lines] == [
        (task.task, name) for task in tasks for name in task.methods
    ]
    assert [row["method"] for row in rows] == [line["method"] for line in lines]
    cells = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    assert cells[0][4].strip() == "PSNR hole − IGLL's, 95 %" and cells[3][4].strip() == "–"
    assert cells[2][2].strip() == "**26.04**"


def test_differences_are_those_of_compare(write_results, table, tmp_path: Path):
    free, igll = write_results("runs/free", FREE), write_results("runs/igll", IGLL)
    (task,), text, lines, _ = table()
    for name in FREE:
        expected = compare(igll, free, ["IGLL", name])["metrics"]
        assert {metric: asdict(found) for metric, found in task.differences[name].items()} == expected
        line = next(line for line in lines if line["method"] == name)
        for metric, found in expected.items():
            for part in ("difference", "low", "high"):
                assert float(line[f"{metric}_{part}"]) == found[part]
            assert int(line[f"{metric}_reference_better"]) == found["wins_a"]
            assert int(line[f"{metric}_method_better"]) == found["wins_b"]
    psnr, lpips = (task.differences["harmonic (Laplace)"][metric] for metric in ("psnr_hole", "lpips"))
    assert f"{psnr.difference:+.2f} [{psnr.low:+.2f}, {psnr.high:+.2f}]" in text
    assert f"{lpips.difference:+.3f} [{lpips.low:+.3f}, {lpips.high:+.3f}]" in text


def test_files_hold_unrounded_numbers(write_results, table):
    write_results("runs/a", FREE)
    write_results("runs/b", IGLL)
    _, text, lines, rows = table()
    mean = math.fsum(FREE["harmonic (Laplace)"]["psnr_hole"]) / 3
    assert rows[0]["psnr_hole"] == mean and float(lines[0]["psnr_hole"]) == mean
    assert str(mean) not in text
    assert rows[0]["psnr_hole_standard_error"] == float(lines[0]["psnr_hole_standard_error"]) > 0
    igll = next(row for row in rows if row["method"] == "IGLL")
    assert igll["psnr_hole_difference"] is None and igll["images"] == 3 and not igll["oracle_edges"]


def test_a_method_measured_twice(write_results, table):
    """With equal values it stands there once; with others, again with its folder."""
    other = {"mean of known": {"psnr_hole": [20.0, 21.0, 22.5], "lpips": [0.4, 0.5, 0.6]}}
    write_results("runs/a", IGLL | FREE)
    write_results("runs/b", FREE)
    for folder in ("runs/c/eval", "runs/d"):
        write_results(folder, other)
    (task,), text, *_ = table()
    assert list(task.methods) == [
        "harmonic (Laplace)",
        "IGLL",
        "mean of known (c/eval)",
        "mean of known",
    ]
    assert task.methods["mean of known (c/eval)"].means["psnr_hole"] > 21 and "mean of known (c/eval)" in text


def test_oracle_edges_are_marked(write_results, table):
    write_results("runs/blind", FREE | IGLL)
    guided = {"IGLL": {"psnr_hole": [35.0, 36.0, 36.1], "lpips": [0.01, 0.01, 0.02]}}
    write_results("runs/guided", guided, oracle=True)
    (task,), text, lines, _ = table()
    assert next(iter(task.methods)) == "IGLL (guided)"
    assert "| IGLL (guided) † " in text and "**26.04**" in text and text.count("† oracle edges") == 1
    assert [line["method"] for line in lines if line["oracle_edges"] == "True"] == ["IGLL (guided)"]


def test_infinite_and_absent_values(write_results, table):
    """Nothing was wrong: infinite PSNR. Nothing could be measured: NaN, at the end of the table."""
    write_results("runs/a", {"IGLL": {"psnr_hole": [25.0, 26.0, 27.0], "lpips": [0.1, 0.2, 0.3]}})
    write_results("runs/b", {"perfect": {"psnr_hole": [math.inf] * 3, "lpips": [0.0, 0.0, 0.0]}})
    write_results("runs/c", {"at times": {"psnr_hole": [30.0, math.inf, 28.0], "lpips": [math.nan] * 3}})
    write_results("runs/d", {"nothing": {"psnr_hole": [math.nan] * 3, "lpips": [0.5, 0.6, 0.7]}})
    (task,), text, lines, rows = table()
    assert list(task.methods) == ["perfect", "at times", "IGLL", "nothing"]
    assert task.differences["at times"]["psnr_hole"].difference == 3.0
    assert task.differences["at times"]["psnr_hole"].wins_b == 3
    assert rows[0]["psnr_hole"] == "inf" and rows[3]["psnr_hole"] is None and lines[3]["psnr_hole"] == ""
    assert "nan" not in text and "29.00" in text


def test_one_image_has_no_interval(write_results, table):
    write_results("runs/a", {"IGLL": {"psnr_hole": [25.0]}, "DMFN": {"psnr_hole": [24.0]}})
    _, text, lines, _ = table()
    assert "n/a" in text and "nan" not in text
    assert lines[1]["psnr_hole_difference"] == "-1.0" and lines[1]["psnr_hole_low"] == ""


def test_a_task_without_the_reference_is_shown_all_the_same(write_results, table):
    write_results("runs/a", IGLL)
    write_results("runs/b", FREE, masks={"sha256": "n"})
    tasks, _, lines, _ = table()
    assert [bool(task.differences) for task in tasks] == [False, False]
    assert [line["psnr_hole_difference"] for line in lines] == ["", "", ""]
    assert [bool(task.differences) for task in table("mean of known")[0]] == [False, True]


def test_metrics_of_the_whole_set_stand_there_too(write_results, table):
    path = write_results("runs/a", FREE | IGLL) / "metrics.json"
    content = json.loads(path.read_text())
    for number, method in enumerate(content["methods"].values()):
        method["fid"] = 40.5 - number
    path.write_text(json.dumps(content))
    _, text, lines, _ = table()
    assert "FID ↓" in text and "**38.50**" in text
    assert [float(line["fid"]) for line in lines] == [39.5, 38.5, 40.5]
    assert "fid_difference" not in lines[0]


def called(capsys, *arguments: object) -> tuple[object, str]:
    """Exit code and error of igll-eval."""
    with pytest.raises(SystemExit) as end:
        cli.evaluate([str(argument) for argument in arguments])
    return end.value.code, capsys.readouterr().err


def test_command(write_results, tmp_path: Path, capsys):
    folder = write_results("runs/a", FREE | IGLL)
    runs, out = tmp_path / "runs", tmp_path / "out"
    for name in ("mean of known", "mean_of_known"):  # as tables and as configurations call it
        assert called(capsys, "methods", "--runs", runs, "--out", out, "--reference", name)[0] == 0
        assert "PSNR hole − mean of known's, 95 %" in (out / "methods.md").read_text()

    out = tmp_path / "refused"
    code, error = called(capsys, "methods", "--runs", runs, "--out", out, "--reference", "LaMa")
    known = "harmonic (Laplace), IGLL, mean of known"
    assert code == 2
    assert error == f"error: --reference: no evaluation has a method 'LaMa'; there are {known}\n"
    (tmp_path / "empty").mkdir()
    code, error = called(capsys, "methods", "--runs", tmp_path / "empty", "--out", out)
    assert code == 2 and error.count("\n") == 1 and "empty: holds no metrics.json of igll-eval" in error

    table = folder / "per_image.csv"
    table.write_text(table.read_text().replace("26.125", "29.125"))
    code, error = called(capsys, "methods", "--runs", runs, "--out", out)
    assert code == 2 and error.count("\n") == 1 and "per_image.csv: is not the file whose hash" in error
    with pytest.raises(InputError, match="it was changed, evaluate again"):
        write_method_table(runs, out, "IGLL")
    assert not out.exists()


def test_an_image_that_one_method_fills_exactly_moves_none_up_or_down(write_results, tmp_path: Path, capsys):
    free = {"harmonic (Laplace)": {"psnr_hole": [math.inf, 31.0, 30.0], "lpips": [0.0, 0.1, 0.1]}}
    write_results("runs/a", free | {"IGLL": {"psnr_hole": [70.0, 30.0, 29.0], "lpips": [0.1, 0.2, 0.2]}})
    (task,) = write_method_table(tmp_path / "runs", tmp_path / "tables", "igll")
    assert list(task.methods) == ["harmonic (Laplace)", "IGLL"]
    text = capsys.readouterr().out
    assert " 30.50 |" in text and " 43.00 |" in text and "**43.00**" not in text
    assert "left out of harmonic (Laplace) 1; the means are of different images" in text
