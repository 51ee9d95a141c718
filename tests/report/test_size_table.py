"""Table 3: counted beside printed, and what the printed column is worth."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from igll.report.paper import TABLE3
from igll.report.size_table import Measured, SizeTable

MEASURED = Measured(4_000_000, {10: 20_000_000_000, 25: 30_000_000_000, 77: 50_000_000_000}, 15_000_000_000)


def line(text: str, model: str) -> list[str]:
    found = [cells for cells in text.splitlines() if cells.startswith(f"| {model}")]
    assert len(found) == 1
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_counted_printed_and_difference_stand_side_by_side():
    cells = line(SizeTable({"IGLL": MEASURED}).markdown(), "IGLL")
    assert cells == [
        "IGLL [5]", "4.000", "4.458", "-0.458", "30.000", "42.613", "-12.613", "15.000", "20.000", "50.000",
    ]  # fmt: skip


def test_models_of_the_paper_without_a_count_say_so():
    text = SizeTable({"IGLL": MEASURED}).markdown()
    for model, paper in TABLE3.items():
        cells = line(text, model)
        assert (float(cells[2]), float(cells[5])) == tuple(paper)
        assert (cells[1] == "not run") == (cells[3] == "–") == (model != "IGLL")


def test_models_that_the_paper_does_not_have_follow_its_own():
    rows = SizeTable({"another": MEASURED, "DMFN": MEASURED}).records()
    assert [row["model"] for row in rows] == [*TABLE3, "another"]
    assert rows[0]["status"] == "run" and rows[0]["parameters_difference"] == pytest.approx(4 - 13.036)
    text = SizeTable({"another": MEASURED}).markdown()
    assert line(text, "another") == [
        "another", "4.000", "–", "–", "30.000", "–", "–", "15.000", "20.000", "50.000",
    ]  # fmt: skip


def test_the_paper_s_mixed_conventions_are_said_and_the_hole_is_named():
    text = SizeTable({}).markdown()
    assert "[1] The paper's parameters are those of a variant" in text and "twice" in text
    assert "[3] The paper's GFLOPs are the multiply-adds of convolutions alone" in text
    assert "[5] The paper's GFLOPs are a partial count" in text and text.count("public variant") == 2
    assert "different conventions" in text and "True, 25 % (G)" in text


def test_the_four_files_hold_the_same_numbers(tmp_path: Path):
    table = SizeTable({"IGLL": MEASURED})
    paths = table.write(tmp_path)
    assert [path.name for path in paths] == ["table3.md", "table3.csv", "table3.tex", "table3.json"]
    row = next(row for row in csv.DictReader(paths[1].open()) if row["model"] == "IGLL")
    assert float(row["difference"]) == pytest.approx(30 - 42.613) and float(row["true_77"]) == 50
    written = json.loads(paths[3].read_text())
    assert written["rows"] == table.records() and written["rows"][0]["true_25"] is None
    tex = paths[2].read_text()
    rows = [cells for cells in tex.splitlines() if cells.endswith("\\\\")]
    assert len(rows) == 6 and all(cells.count("&") == 9 for cells in rows)
    assert "IGLL$^{5}$ & 4.000" in tex and "25 \\%" in tex and tex.count("{") == tex.count("}")
    assert tex.replace("'", "").isascii()
