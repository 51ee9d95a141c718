"""Measured beside printed values: right differences, honest labels, nothing unlike side by side."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from igll.config import DataConfig, MaskConfig
from igll.errors import InputError
from igll.report.paper import TABLE2, TABLE4
from igll.report.paper_tables import check_comparable, read_results, table2, table4

MEASURED = {"ms_ssim": 0.9, "psnr": 26.0, "fid": 30.25, "lpips": 0.125}


def result(method: str = "IGLL", values: dict[str, Any] = MEASURED, **changes: Any) -> dict[str, Any]:
    """A metrics.json of the paper's protocol; ``data_KEY`` and ``mask_KEY`` replace settings."""
    data, mask = DataConfig().model_dump(), MaskConfig().model_dump()
    for name in list(changes):
        section, _, key = name.partition("_")
        if section in ("data", "mask"):
            (data if section == "data" else mask)[key] = changes.pop(name)
    content = {
        "step": 5, "weights": "ema", "structure_prior": "oracle", "images": 2000, "lpips_net": "alex",
        "data": data, "mask": mask, "unavailable": {},
    }  # fmt: skip
    oracle = changes.get("structure_prior", "oracle") == "oracle"
    return {**content, "methods": {method: {**values, "oracle_edges": oracle}}, **changes}


def line(text: str, row: str) -> list[str]:
    found = [cells for cells in text.splitlines() if cells.startswith(f"| {row}")]
    assert len(found) == 1
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_measured_paper_and_difference_stand_side_by_side():
    table = table4({"w/o GAM": result()})
    cells = line(table.markdown(), "w/o GAM")
    assert cells[0] == "w/o GAM †"
    assert cells[1:] == [
        "0.9000", "0.8463", "+0.0537", "26.0000", "25.2109", "+0.7891",
        "30.2500", "25.3540", "+4.8960", "0.1250", "0.1333", "-0.0083",
    ]  # fmt: skip
    assert "2000 images of aid" in table.markdown() and "5 training steps" in table.markdown()


def test_rows_without_a_run_say_so_and_all_rows_are_there():
    text = table4({}).markdown()
    for row, paper in TABLE4.items():
        cells = line(text, row)
        assert cells[0] == row
        assert cells[1::3] == ["not run"] * 4 and cells[3::3] == ["–"] * 4
        assert [float(cell.split()[0]) for cell in cells[2::3]] == list(paper.values())
    assert "nothing has been run" in text and "†" not in text


def test_the_lpips_that_two_tables_print_differently_has_its_footnote():
    text = table4({}).markdown()
    assert line(text, "IGLL")[11] == "0.1305 [1]"
    assert "[1] Table 4 prints an LPIPS of 0.1305" in text and "0.134 " in text


def test_oracle_rows_are_marked_and_explained():
    results = {"IGLL": result(), "w/o structure prior": result(structure_prior="none")}
    text = table4(results).markdown()
    assert line(text, "IGLL")[0] == "IGLL †" and "† oracle edges" in text
    assert line(text, "w/o structure prior")[0] == "w/o structure prior", (
        "no edges is what the paper did there"
    )
    assert line(text, "w/o structure prior")[6] == "+3.7660"


def test_no_difference_is_taken_where_the_protocol_is_another():
    for changes, named in (
        ({"data_name": "synthetic"}, "data.name=synthetic"),
        ({"mask_kind": "cloud"}, "mask.kind=cloud"),
        ({"data_crop_size": 32, "mask_ratio": 0.1}, "data.crop_size=32, mask.ratio=0.1"),
        ({"structure_prior": "learned"}, "model.structure_prior=learned"),
    ):
        text = table4({"w/o FFSM": result(**changes)}).markdown()
        assert line(text, "w/o FFSM")[3::3] == ["–"] * 4
        assert line(text, "w/o FFSM")[4] == "26.0000"
        assert f"Not the paper's protocol ({named})" in text


def test_metrics_without_a_value_say_why():
    values = {"psnr": 26.0, "lpips": None}
    text = table4({"w/o GAM": result(values=values, unavailable={"lpips": "no weights"})}).markdown()
    cells = line(text, "w/o GAM")
    assert cells[1] == "n/a [1]" and "[1] MS-SSIM: not among eval.metrics" in text
    assert cells[10] == "n/a [3]" and "[3] LPIPS: no weights" in text
    assert cells[12] == "–" and cells[6] == "+0.7891"


def test_the_four_files_hold_the_same_numbers(tmp_path: Path):
    paths = table4({"IGLL": result(values={**MEASURED, "psnr": "inf"})}).write(tmp_path)
    assert [path.name for path in paths] == ["table4.md", "table4.csv", "table4.tex", "table4.json"]
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "table4.csv").open())}
    assert float(rows["IGLL"]["fid_difference"]) == pytest.approx(30.25 - 19.5542)
    assert rows["IGLL"]["oracle_edges"] == "True" and rows["w/o GAM"]["status"] == "not run"
    assert rows["w/o GAM"]["fid"] == "" and rows["w/o GAM"]["fid_paper"] == "25.354"
    written = json.loads((tmp_path / "table4.json").read_text())
    assert {row["method"]: row["lpips"] for row in written["rows"]}["IGLL"] == 0.125
    assert written["rows"][-1]["psnr"] == "inf" and any("0.1305" in note for note in written["notes"])
    assert (tmp_path / "table4.md").read_text() == table4(
        {"IGLL": result(values={**MEASURED, "psnr": "inf"})}
    ).markdown()


def test_latex_is_escaped_and_balanced():
    text = table4({"IGLL": result(data_crop_size=32), "w/o GAM": result(data_crop_size=32)}).latex()
    rows = [row for row in text.splitlines() if row.endswith("\\\\") and "multicolumn" not in row]
    assert len(rows) == 8 and all(row.count("&") == 12 for row in rows)
    assert "IGLL$^{\\dagger}$$^{1}$" in text and "data.crop\\_size=32" in text
    assert "MS-SSIM$\\uparrow$" in text and "FID$\\downarrow$" in text
    assert text.count("{") == text.count("}") and not set("†↑↓–×") & set(text)
    assert "$-$0.0083" in table4({"w/o GAM": result()}).latex()


def test_runs_measured_in_different_ways_share_no_table():
    for changes, named in (
        ({"step": 6}, "step: 5 in IGLL, 6 in w/o GAM"),
        ({"weights": "raw"}, "eval.weights"),
        ({"lpips_net": "vgg"}, "eval.lpips_net"),
        ({"data_name": "rice1"}, "data.name"),
        ({"mask_ratio": 0.1}, "mask.ratio"),
        ({"images": 3}, "images"),
    ):
        with pytest.raises(InputError, match=named):
            table4({"IGLL": result(), "w/o GAM": result(**changes)})
    check_comparable({"IGLL": result(), "w/o GAM": result(data_root="/elsewhere", data_workers=0)})


def test_table_2_finds_the_cell_of_each_result():
    table = table2(
        [
            ("a", result(data_name="aid", mask_ratio=0.1)),
            ("b", result(data_name="rice1", mask_ratio=0.77, images=100)),
            ("c", result("HAN", data_name="clearview")),
            ("elsewhere", result(data_name="folder")),
            ("another ratio", result(mask_ratio=0.4)),
            ("a range", result(mask_ratio=[0.1, 0.4])),
        ]
    )
    records = {(row["dataset"], row["missing"], row["method"]): row for row in table.records()}
    assert len(records) == 45 == len(TABLE2)
    run = {key for key, row in records.items() if row["status"] == "run"}
    assert run == {("AID", "10 %", "IGLL"), ("RICE", "77 %", "IGLL"), ("Clear-View", "25 %", "HAN")}
    assert records["RICE", "77 %", "IGLL"]["psnr_difference"] == pytest.approx(26 - 22.925)
    text = table.markdown()
    assert "probably misprints" in text and "same FID for HiFill and HAN" in text and "failed run" in text


def test_table_2_refuses_two_runs_of_one_cell_and_mixed_ones():
    with pytest.raises(InputError, match=r"b: measures the same cell of Table 2 as a"):
        table2([("a", result()), ("b", result(step=6))])
    with pytest.raises(InputError, match=r"data\.crop_size: 256 in a, 128 in b"):
        table2([("a", result()), ("b", result(data_name="rice1", data_crop_size=128))])


def test_files_that_are_no_results_are_refused(tmp_path: Path):
    good, bad, other = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "other.json"
    good.write_text(json.dumps(result()))
    bad.write_text("{")
    assert read_results([good]) == [(str(good), result())]
    with pytest.raises(InputError, match=r"bad\.json: not a metrics\.json that can be read"):
        read_results([good, bad])
    with pytest.raises(InputError, match=r"absent\.json: not a metrics\.json that can be read"):
        read_results([tmp_path / "absent.json"])
    other.write_text(json.dumps({key: value for key, value in result().items() if key != "mask"}))
    with pytest.raises(
        InputError, match=r"other\.json: not a metrics\.json of igll-eval \(mask is missing\)"
    ):
        read_results([other])


def test_unlike_runs_share_a_table_on_request_and_it_says_so():
    table = table4({"IGLL": result(), "w/o GAM": result(step=6, weights="raw")}, mix=True)
    assert "MIXED: step: 5 in IGLL, 6 in w/o GAM" in table.markdown()
    assert "MIXED: eval.weights: 'ema' in IGLL, 'raw' in w/o GAM" in table.latex()
    assert "MIXED" in table.markdown().splitlines()[0]
    alike = table4({"IGLL": result(), "w/o GAM": result()}, mix=True)
    assert "MIXED" not in alike.markdown()
