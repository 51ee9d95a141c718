"""Every method of every evaluation below a folder, task by task, with paired differences from one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igll.engine.compare import PairedDifference, paired_difference
from igll.engine.results import MethodResults, Results, load_results, title_of
from igll.errors import InputError
from igll.metrics import HIGHER_IS_BETTER, METRIC_NAMES, average, left_out, standard_error
from igll.report.files import write_csv, write_json, write_text
from igll.report.tables import Column, markdown_table, metric_columns
from igll.storage import make_folder

NAME = "methods"
PAIRED = ("psnr_hole", "lpips")  # shown with their differences; the files hold those of every metric
# What the files call the parts of a difference, and on how many images which of the two was better.
_PAIRED_PARTS = {
    "difference": "difference",
    "low": "low",
    "high": "high",
    "reference_better": "wins_a",
    "method_better": "wins_b",
}


@dataclass(frozen=True)
class TaskTable:
    """All methods measured on one task.

    Attributes:
        title: Data, crop and holes.
        task: Hash of images, crop, masks and metrics.
        images: How many.
        methods: Name → results, the best in the hole first.
        differences: Name → metric → method minus reference, that is, ``wins_a`` are the reference's; empty
            where the reference was not measured.
    """

    title: str
    task: str
    images: int
    methods: dict[str, MethodResults]
    differences: dict[str, dict[str, PairedDifference]]


def write_method_table(runs: Path, out: Path, reference: str) -> list[TaskTable]:
    """Write ``methods.md``, ``.csv`` and ``.json`` from every evaluation below a folder and print the table.

    Every evaluation is first checked against its own hashes; those of one task (the same images, crops,
    masks and metrics by their hashes) share a table, others never do. A method that was measured twice with
    the same result stands there once; with another result, again with its folder.

    Args:
        runs: Folder of evaluations.
        out: Folder for the tables.
        reference: The method that the others are compared with, image by image; as tables or configurations
            call it.

    Raises:
        InputError: There is no evaluation, one was changed since it was written, or none has the reference.
    """
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder; name the folder that holds the evaluations")
    paths = sorted(runs.rglob("metrics.json"))
    if not paths:
        raise InputError(f"{runs}: holds no metrics.json of igll-eval; evaluate something first")
    groups: dict[str, list[Results]] = {}
    for path in paths:
        results = load_results(path.parent)
        groups.setdefault(results.protocol.task_sha256, []).append(results)
    known = dict.fromkeys(name for group in groups.values() for run in group for name in run.methods)
    title = title_of(reference, known)
    tables = [_table(group, runs, title) for group in groups.values()]
    if not any(title in table.methods for table in tables):
        known = dict.fromkeys(name for table in tables for name in table.methods)
        raise InputError(
            f"--reference: no evaluation has a method '{reference}'; there are {', '.join(known)}"
        )
    make_folder(out)
    text = "\n".join(_markdown(table, title) for table in tables)
    write_text(out / f"{NAME}.md", text)
    records = [record for table in tables for record in _records(table, title)]
    write_csv(out / f"{NAME}.csv", records)
    write_json(out / f"{NAME}.json", {"reference": title, "rows": records})
    print(f"{text}\nwritten below {out}: {NAME}.md, {NAME}.csv, {NAME}.json")
    return tables


def _table(group: Sequence[Results], runs: Path, reference: str) -> TaskTable:
    """The methods of evaluations of one task."""
    found: dict[str, MethodResults] = {}
    for results in group:
        for name, method in results.methods.items():
            if any(_same(method, other) for other in found.values()):
                continue
            label = f"{name} ({results.folder.relative_to(runs)})" if name in found else name
            found[label] = method
    order = _best_first(found)
    methods = {name: found[name] for name in order}
    differences = {}
    if reference in methods:
        differences = {
            name: {
                metric: paired_difference(
                    methods[reference].values[metric], method.values[metric], HIGHER_IS_BETTER[metric]
                )
                for metric in method.values
            }
            for name, method in methods.items()
            if name != reference
        }
    first = group[0]
    title = first.protocol.name.rpartition("-")[0]  # without the structure prior, which is a method's own
    return TaskTable(title, first.protocol.task_sha256, len(first.images), methods, differences)


def _same(one: MethodResults, other: MethodResults) -> bool:
    """Whether it is the same method with the same values."""
    return (one.name, one.oracle) == (other.name, other.oracle) and all(
        np.array_equal(one.values[metric], other.values[metric], equal_nan=True) for metric in one.values
    )


def _best_first(methods: dict[str, MethodResults]) -> list[str]:
    """Their names by PSNR in the hole; without a value last.

    An image that one of them fills exactly is infinite there and not in its mean, so it counts for none.
    """
    quality = {name: method.means.get("psnr_hole", math.nan) for name, method in methods.items()}
    finite = [name for name, mean in quality.items() if math.isfinite(mean)]
    if finite:
        values_MN = np.stack([methods[name].values["psnr_hole"] for name in finite])
        shared_MN = values_MN[:, ~np.isinf(values_MN).any(0)]
        if np.isfinite(shared_MN).any():
            quality |= {name: average(row.tolist()) for name, row in zip(finite, shared_MN, strict=True)}
    return sorted(methods, key=lambda name: (not math.isnan(quality[name]), quality[name]), reverse=True)


def _markdown(table: TaskTable, reference: str) -> str:
    """One task as Markdown; readable as plain text too."""
    metrics = [metric for metric in METRIC_NAMES if metric in next(iter(table.methods.values())).means]
    paired = [metric for metric in PAIRED if metric in metrics]
    columns = [Column("method", "method"), *metric_columns(metrics)]
    columns += [
        Column(f"paired_{column.key}", f"{column.title.rstrip(' ↑↓')} − {reference}'s, 95 %")
        for column in metric_columns(paired)
    ]
    rows: list[dict[str, Any]] = []
    for name, method in table.methods.items():
        row: dict[str, Any] = {"method": name, "oracle": method.oracle, **method.means}
        row["left_out"] = {metric: left_out(values.tolist()) for metric, values in method.values.items()}
        for metric in paired:
            difference = table.differences.get(name, {}).get(metric)
            row[f"paired_{metric}"] = "–" if difference is None else _interval(difference, metric)
        rows.append(row)
    head = f"## {table.title}\n\n{table.images} images, task {table.task[:12]}."
    return f"{head}\n\n{markdown_table(rows, columns)}"


def _interval(difference: PairedDifference, metric: str) -> str:
    """A difference and its 95 % interval as a table shows them."""
    if math.isnan(difference.low):
        return "n/a"
    digits = 2 if metric == "psnr_hole" else 3
    low, high = (f"{value:+.{digits}f}" for value in (difference.low, difference.high))
    return f"{difference.difference:+.{digits}f} [{low}, {high}]"


def _records(table: TaskTable, reference: str) -> list[dict[str, Any]]:
    """One flat mapping per method: means, standard errors, differences from the reference, intervals."""
    records = []
    for name, method in table.methods.items():
        record: dict[str, Any] = {"task": table.title, "task_sha256": table.task, "images": table.images}
        record |= {"method": name, "oracle_edges": method.oracle}
        for metric, mean in method.means.items():
            record[metric] = mean
            if metric not in method.values:
                continue  # of the whole set: one value, and nothing to pair
            record[f"{metric}_standard_error"] = standard_error(method.values[metric].tolist())
            difference = table.differences.get(name, {}).get(metric)
            record |= {
                f"{metric}_{key}": None if difference is None else getattr(difference, part)
                for key, part in _PAIRED_PARTS.items()
            }
        records.append(record)
    return records
