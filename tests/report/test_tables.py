"""Tables: alignment, marks and footnotes."""

from __future__ import annotations

import math

from igll.metrics import METRIC_NAMES
from igll.report import Column, markdown_table, metric_columns, text_table

ROWS = [
    {"method": "mean of known", "psnr_hole": 9.444, "lpips": 0.30123},
    {"method": "IGLL", "psnr_hole": 16.5, "lpips": 0.151},
    {"method": "IGLL", "psnr_hole": 18.5, "lpips": 0.1, "oracle": True},
]
COLUMNS = [Column("method", "Method"), *metric_columns(["psnr_hole", "lpips"])]
SMALL = "needs images of at least 176 px, these are 64 px"


def test_text_table_in_full():
    assert text_table(ROWS, COLUMNS) == (
        "Method         PSNR hole ↑   LPIPS ↓\n"
        "─────────────  ────────────  ────────\n"
        "mean of known         9.44    0.3012\n"
        "IGLL                 16.50*   0.1510*\n"
        "IGLL †               18.50    0.1000\n"
        "\n"
        "* best without oracle edges\n"
        "† oracle edges: this method saw the ground truth's edges inside the hole; "
        "compare it only with others that did.\n"
    )


def test_markdown_table_in_full():
    assert markdown_table(ROWS, COLUMNS) == (
        "| Method        | PSNR hole ↑ |    LPIPS ↓ |\n"
        "| ------------- | ----------: | ---------: |\n"
        "| mean of known |        9.44 |     0.3012 |\n"
        "| IGLL          |   **16.50** | **0.1510** |\n"
        "| IGLL †        |       18.50 |     0.1000 |\n"
        "\n"
        "† oracle edges: this method saw the ground truth's edges inside the hole; "
        "compare it only with others that did.\n"
    )


def test_best_follows_the_metric_and_ties_share_it():
    rows = [{"m": "a", "psnr": 20.001, "lpips": 0.2}, {"m": "b", "psnr": 20.004, "lpips": 0.3}]
    table = markdown_table(rows, [Column("m", "M"), *metric_columns(["psnr", "lpips"])])
    assert table.count("**20.00**") == 2 and "**0.2000**" in table and "**0.3000**" not in table


def test_a_single_method_is_not_the_best_of_anything():
    table = text_table([ROWS[1], {"method": "x", "psnr_hole": math.nan}, ROWS[2]], COLUMNS)
    assert "*" not in table


def test_reasons_are_numbered_once_and_name_their_columns():
    rows = [
        {
            "method": "a",
            "psnr": 20.0,
            "unavailable": {"ms_ssim": SMALL, "fid": "no weights", "kid": "no weights"},
        },
        {"method": "b", "ms_ssim": math.nan, "fid": None, "unavailable": {"ms_ssim": SMALL, "psnr": SMALL}},
    ]
    columns = [Column("method", "Method"), *metric_columns(["psnr", "ms_ssim", "fid", "kid"])]
    text = text_table(rows, columns).splitlines()
    assert text[2].split() == ["a", "20.00", "n/a", "[1]", "n/a", "[2]", "n/a", "[2]"]
    assert text[3].split() == ["b", "n/a", "[1]", "n/a", "[1]", "n/a", "n/a"]
    assert text[5:] == [f"[1] MS-SSIM, PSNR: {SMALL}", "[2] FID, KID: no weights"]
    markdown = markdown_table(rows, columns)
    assert markdown.count("n/a <sup>1</sup>") == 3 and f"[1] MS-SSIM, PSNR: {SMALL}  \n" in markdown


def test_every_metric_has_a_column():
    assert [column.key for column in metric_columns(METRIC_NAMES)] == list(METRIC_NAMES)


def test_bars_in_names_do_not_break_markdown():
    assert "| a\\|b" in markdown_table([{"method": "a|b"}], COLUMNS)


def test_infinite_values_print():
    assert "inf" in text_table([{"method": "x", "psnr_hole": math.inf}], COLUMNS)


def test_means_of_different_images_have_no_best():
    rows = [{**ROWS[0], "left_out": {"psnr_hole": (0, 4)}}, {**ROWS[1], "left_out": {"psnr_hole": ()}}]
    note = "PSNR hole: images filled exactly are infinite, and left out of mean of known 2; "
    table = markdown_table(rows, COLUMNS)
    assert "**16.50**" not in table and "**0.1510**" in table
    assert table.endswith(f"\n{note}the means are of different images\n")
    alike = text_table([{**row, "left_out": {"psnr_hole": (0, 4)}} for row in rows], COLUMNS)
    assert "16.50*" in alike and "left out of mean of known 2, IGLL 2\n" in alike
    apart = text_table([rows[1], {**ROWS[0], "left_out": {}}, {**rows[0], "oracle": True}], COLUMNS)
    assert "16.50*" in apart and "left out of mean of known 2\n" in apart
