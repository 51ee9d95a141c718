"""Tables of the paper from folders of evaluations."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from igll.config import DataConfig, MaskConfig
from igll.engine.evaluate import evaluate
from igll.engine.paper_results import write_paper_table, write_table3
from igll.engine.train import train
from igll.errors import InputError
from igll.registry import TITLES
from igll.report.paper import TABLE3


@pytest.fixture
def runs(small, tmp_path: Path) -> Path:
    """A folder in which one row of the ablation was trained and measured."""
    config = small(
        model={"structure_prior": "oracle"}, train={"max_steps": 1}, eval={"metrics": ["psnr", "psnr_hole"]}
    )
    run = tmp_path / "runs" / "full"
    train(config, run)
    evaluate(config, str(run / "checkpoints" / "last.pt"), run / "eval")
    return tmp_path / "runs"


def test_table4_shows_measured_beside_printed_and_what_was_not_run(runs: Path, tmp_path: Path):
    text = write_paper_table("table4", runs, tmp_path / "out").markdown()
    measured = json.loads((runs / "full" / "eval" / "metrics.json").read_text())["methods"]["IGLL"]["psnr"]
    rows = list(csv.DictReader((tmp_path / "out" / "table4.csv").open()))
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".md", ".csv", ".tex", ".json"}
    assert f"{measured:.4f}" in text and "27.2821" in text and "not run" in text and "oracle edges" in text
    assert len({tuple(row.values()) for row in rows}) == len(rows)


def test_table2_has_every_cell_of_the_paper(runs: Path, tmp_path: Path):
    text = write_paper_table("table2", runs, tmp_path / "out").markdown()
    assert "31.621" in text and text.count("not run") >= 45  # synthetic scenes are no dataset of the paper


def test_a_changed_evaluation_is_refused(runs: Path, tmp_path: Path):
    path = runs / "full" / "eval" / "metrics.json"
    content = json.loads(path.read_text())
    content["methods"]["IGLL"]["psnr"] += 1
    path.write_text(json.dumps(content))
    for name in ("table2", "table4"):
        with pytest.raises(InputError, match=r"metrics\.json"):
            write_paper_table(name, runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_to_show_is_said(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        write_paper_table("table2", tmp_path / "absent", tmp_path / "out")
    with pytest.raises(InputError, match=r"holds no metrics\.json of igll-eval"):
        write_paper_table("table4", tmp_path, tmp_path / "out")


@pytest.fixture
def of_the_paper(write_results, tmp_path: Path):
    def write(
        folder: str,
        method: str,
        dataset: str = "aid",
        ratio: float = 0.25,
        structure_prior: str = "none",
        **parts: dict,
    ) -> None:
        """Write an evaluation of a method on a dataset of the paper; keywords replace protocol parts."""
        path = write_results(f"runs/{folder}", {method: {"psnr": [20.0, 22.0]}}, **parts) / "metrics.json"
        settings = {
            "step": 5, "weights": "ema", "structure_prior": structure_prior, "images": 2, "lpips_net": "alex",
            "data": DataConfig().model_dump() | {"name": dataset},
            "mask": MaskConfig().model_dump() | {"ratio": ratio},
        }  # fmt: skip
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return write


def test_other_datasets_and_ratios_may_have_other_tasks(of_the_paper, tmp_path: Path):
    of_the_paper("a", "IGLL")
    of_the_paper("b", "DMFN")
    of_the_paper("c", "IGLL", "rice1", images={"pixels_sha256": "q"})
    of_the_paper("d", "IGLL", ratio=0.1, masks={"sha256": "n"})
    of_the_paper("e", "IGLL", ratio=0.4, masks={"sha256": "o"})  # no ratio of the paper: left out
    table = write_paper_table("table2", tmp_path / "runs", tmp_path / "out")
    assert sum(row["status"] == "run" for row in table.records()) == 4 and not table.mixed


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"masks": {"sha256": "n"}}, "masks"),
        ({"images": {"pixels_sha256": "q"}}, r"images \(equal names, other pixels\)"),
        ({"metrics": {"version": 2}}, r"metrics \(version\)"),
    ],
)
def test_unlike_tasks_in_one_group_are_refused_or_named(
    of_the_paper, tmp_path: Path, parts: dict, named: str
):
    of_the_paper("a", "IGLL")
    of_the_paper("b", "DMFN", **parts)
    with pytest.raises(InputError, match=rf"differ in {named}: not comparable; .* pass --mix$"):
        write_paper_table("table2", tmp_path / "runs", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    table = write_paper_table("table2", tmp_path / "runs", tmp_path / "out", mix=True)
    assert len(table.mixed) == 1
    assert f"MIXED: {table.mixed[0]}" in (tmp_path / "out" / "table2.md").read_text()


def test_rows_of_the_ablation_are_of_one_task(of_the_paper, tmp_path: Path):
    of_the_paper("full/eval", "IGLL")
    of_the_paper("without_gam/eval", "IGLL")
    assert not write_paper_table("table4", tmp_path / "runs", tmp_path / "out").mixed
    of_the_paper("without_gam/eval", "IGLL", masks={"sha256": "n"})
    with pytest.raises(InputError, match="differ in masks"):
        write_paper_table("table4", tmp_path / "runs", tmp_path / "out")
    assert write_paper_table("table4", tmp_path / "runs", tmp_path / "out", mix=True).mixed


def test_tables_share_a_folder_of_runs(of_the_paper, tmp_path: Path):
    """As the README places them: runs of Table 2, oracle and blind, beside a folder of the ablation."""
    runs, out = tmp_path / "runs", tmp_path / "out"
    of_the_paper("aid_25/eval", "IGLL", structure_prior="oracle")
    of_the_paper("aid_25_blind/eval", "IGLL", structure_prior="learned")
    with pytest.raises(InputError, match=r"runs: holds no row of the ablation .* run it first"):
        write_paper_table("table4", runs, out)
    for row in ("full", "three_heads"):
        of_the_paper(f"ablation/{row}/eval", "IGLL", structure_prior="oracle")
    (runs / "ablation" / "table4.json").touch()
    rows = {row["method"]: row for row in write_paper_table("table4", runs, out).records()}
    assert {name for name, row in rows.items() if row["status"] == "run"} == {
        "IGLL",
        "w/ multi-head attention",
    }
    measured = [row for row in write_paper_table("table2", runs, out).records() if row["status"] == "run"]
    assert [row["method"] for row in measured] == ["IGLL", "IGLL, structure prior learned"]
    assert measured[0]["psnr_difference"] is not None and measured[1]["psnr_difference"] is None
    of_the_paper("other/full/eval", "IGLL")
    (runs / "other" / "table4.json").touch()
    with pytest.raises(InputError, match=r"more than one ablation, .*ablation and .*other; name one"):
        write_paper_table("table4", runs, out)
    assert any(line.result for line in write_paper_table("table4", runs / "other", out).lines)
    of_the_paper("again", "IGLL", structure_prior="oracle")
    with pytest.raises(InputError, match=r"aid_25/eval.* keep one of the two below --runs"):
        write_paper_table("table2", runs, out)


def test_table3_needs_no_run(tmp_path: Path):
    table = write_table3(tmp_path / "out")
    text = table.markdown()
    assert "4.442" in text and "28.567" in text and "not run" not in text
    rows = {row["model"]: row for row in table.records()}
    assert rows.keys() == {*TITLES.values()} and rows.keys() > {*TABLE3}
    assert all(row["status"] == "run" and row["parameters"] > 1 for row in rows.values())
    assert (tmp_path / "out" / "table3.md").read_text() == text
