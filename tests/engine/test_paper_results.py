"""Tables of the paper from folders of evaluations."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from igll.engine.evaluate import evaluate
from igll.engine.paper_results import write_paper_table
from igll.engine.train import train
from igll.errors import InputError


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
