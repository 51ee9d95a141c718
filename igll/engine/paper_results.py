"""The paper's tables from folders of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from igll.engine.ablation import ABLATIONS
from igll.engine.cost import measure_models
from igll.engine.results import Results, load_results, require_same_task
from igll.errors import InputError
from igll.registry import TITLES
from igll.report.paper_tables import PaperTable, read_results, table2, table4
from igll.report.size_table import SizeTable
from igll.storage import make_folder

TableName = Literal["table2", "table4"]


def write_paper_table(name: TableName, runs: Path, out: Path, mix: bool = False) -> PaperTable:
    """Write a table of the paper, measured beside printed, from every evaluation below a folder.

    Every evaluation is first checked against its own hashes. Those on the same dataset with the same share of
    missing pixels must be of one task, by their protocols' hashes. Cells without a run say "not run".

    Args:
        name: ``table2`` takes every evaluation found but rows of the ablation; ``table4`` takes these, where
            ``scripts/ablation.py`` left them.
        runs: Folder of runs.
        out: Folder for the table as Markdown, CSV, LaTeX and JSON.
        mix: Put evaluations that are unlike into one table all the same, and say so below it.

    Raises:
        InputError: There is no evaluation, one was changed since it was written, or they are unlike.
    """
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder; name the folder that holds the runs")
    found = sorted(runs.rglob("metrics.json"))
    if not found:
        raise InputError(f"{runs}: holds no metrics.json of igll-eval; evaluate a run first")
    ablations = _ablations(runs, found)
    if name == "table4":
        rows = _one_ablation(runs, ablations)
    else:
        apart = {path for folder in ablations if folder != runs for path in ablations[folder].values()}
        rows = {str(path): path for path in found if path not in apart}
    loaded = {str(path): load_results(path.parent) for path in rows.values()}
    results = read_results(list(rows.values()))
    if name == "table2":
        table = table2(results, mix)
    else:
        table = table4(dict(zip(rows, (result for _, result in results), strict=True)), mix)
    sources = {id(result): loaded[source] for source, result in results}
    table.mixed = [*table.mixed, *_require_same_tasks(table, sources, mix)]
    make_folder(out)
    table.write(out)
    return table


def _ablations(runs: Path, found: list[Path]) -> dict[Path, dict[str, Path]]:
    """Folders of ``scripts/ablation.py`` → the paper's name of a row → its evaluation.

    Such a folder holds ``ROW/eval`` and Table 4; of ``runs`` itself the rows are enough.
    """
    titles = {ablation.name: ablation.row for ablation in ABLATIONS}
    folders: dict[Path, dict[str, Path]] = {}
    for path in found:
        row = path.parent.parent
        if path.parent.name != "eval" or row.name not in titles:
            continue
        if row.parent == runs or (row.parent / "table4.json").is_file():
            folders.setdefault(row.parent, {})[titles[row.name]] = path
    return folders


def _one_ablation(runs: Path, ablations: dict[Path, dict[str, Path]]) -> dict[str, Path]:
    """The rows of the one ablation that is meant."""
    if runs in ablations:
        return ablations[runs]
    if not ablations:
        raise InputError(
            f"{runs}: holds no row of the ablation (ROW/eval and table4.json, as scripts/ablation.py writes "
            "them); run it first"
        )
    if len(ablations) > 1:
        folders = " and ".join(str(folder) for folder in ablations)
        raise InputError(f"{runs}: holds more than one ablation, {folders}; name one of them as --runs")
    return next(iter(ablations.values()))


def write_table3(out: Path) -> SizeTable:
    """Write Table 3: count parameters and multiply-adds of every model, and set them beside the printed ones.

    Args:
        out: Folder for the table as Markdown, CSV, LaTeX and JSON.
    """
    table = SizeTable({TITLES[name]: measured for name, measured in measure_models().items()})
    make_folder(out)
    table.write(out)
    return table


def _require_same_tasks(table: PaperTable, sources: dict[int, Results], mix: bool) -> list[str]:
    """Refuse, or with ``mix`` name, different tasks on the same dataset and share of missing pixels.

    Args:
        table: The table.
        sources: Identity of a line's result to the evaluation that it comes from.
        mix: Do not refuse.
    """
    groups: dict[tuple[str, int], dict[int, Results]] = {}
    for line in table.lines:
        if line.result is not None:
            group = groups.setdefault((line.dataset, line.percent), {})
            group[id(line.result)] = sources[id(line.result)]
    return [text for group in groups.values() for text in require_same_task(list(group.values()), mix)]
