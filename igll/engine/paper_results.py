"""The paper's tables from folders of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from igll.engine.ablation import ABLATIONS
from igll.engine.results import load_results
from igll.errors import InputError
from igll.report.paper_tables import PaperTable, read_results, table2, table4
from igll.storage import make_folder

TableName = Literal["table2", "table4"]


def write_paper_table(name: TableName, runs: Path, out: Path) -> PaperTable:
    """Write a table of the paper, measured beside printed, from every evaluation below a folder.

    Every evaluation is first checked against its own hashes. Cells without a run say "not run".

    Args:
        name: ``table2`` takes every evaluation found; ``table4`` those in ``ROW/eval`` as
            ``scripts/ablation.py`` leaves them.
        runs: Folder of runs.
        out: Folder for the table as Markdown, CSV, LaTeX and JSON.

    Raises:
        InputError: There is no evaluation, one was changed since it was written, or they are unlike.
    """
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder; name the folder that holds the runs")
    rows = {ablation.row: runs / ablation.name / "eval" / "metrics.json" for ablation in ABLATIONS}
    found = sorted(runs.rglob("metrics.json"))
    if name == "table4":
        found = [path for path in rows.values() if path.exists()]
    if not found:
        raise InputError(f"{runs}: holds no metrics.json of igll-eval; evaluate a run first")
    for path in found:
        load_results(path.parent)
    results = read_results(found)
    by_path = dict(results)
    if name == "table2":
        table = table2(results)
    else:
        table = table4({row: by_path[str(path)] for row, path in rows.items() if str(path) in by_path})
    make_folder(out)
    table.write(out)
    return table
