"""Reading back what an evaluation wrote, after checking that nobody changed it since."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igll.baselines import CLASSICAL_TITLES
from igll.engine.protocol import Protocol, names_sha256
from igll.errors import InputError
from igll.metrics import IMAGE_METRICS, METRIC_NAMES, average, standard_error
from igll.registry import TITLES

# Means are recomputed from the very numbers they were made of; only their text lies in between.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class MethodResults:
    """What was measured of one method.

    Attributes:
        name: Its name in the tables.
        oracle: Whether it was given edges of the ground truth.
        means: Metric → mean over the images, or value of the set; NaN where there is none.
        values: Per-image metric → one value per image, NaN where there is none.
    """

    name: str
    oracle: bool
    means: dict[str, float]
    values: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Results:
    """An evaluation.

    Attributes:
        folder: Where it was read.
        protocol: What was measured, on what.
        images: Names of the images, in the order of the values.
        methods: Name → results.
        summary: All of ``metrics.json``.
    """

    folder: Path
    protocol: Protocol
    images: list[str]
    methods: dict[str, MethodResults]
    summary: dict[str, Any]

    def method(self, name: str) -> MethodResults:
        """One method's results.

        Args:
            name: What the tables call it, or what configurations do, such as ``harmonic``.

        Raises:
            InputError: There is no such method here; says which there are.
        """
        title = title_of(name, self.methods)
        if title not in self.methods:
            raise InputError(f"{self.folder}: has no method '{name}'; it has {', '.join(self.methods)}")
        return self.methods[title]


def title_of(name: str, measured: Container[str]) -> str:
    """What the tables call a method.

    Args:
        name: That, or what configurations call it, such as ``harmonic``.
        measured: Methods of the tables, which come first.
    """
    return name if name in measured else (CLASSICAL_TITLES | TITLES).get(name, name)


def load_results(folder: Path) -> Results:
    """Read a folder written by igll-eval.

    Args:
        folder: Holds ``metrics.json`` and the table of per-image values that it names.

    Raises:
        InputError: A file is missing or unreadable, or was changed since it was written: a hash is not
            that of the stored parts, or a stored mean is not that of the values. Names file and value.
    """
    path = folder / "metrics.json"
    summary = _read_json(path)
    protocol = Protocol.from_json(summary.get("protocol"), str(path))
    try:
        return _checked(folder, path, summary, protocol)
    except (LookupError, TypeError, ValueError, AttributeError, csv.Error):
        raise InputError(f"{path}: is no complete result of igll-eval; evaluate again") from None


def _checked(folder: Path, path: Path, summary: dict[str, Any], protocol: Protocol) -> Results:
    """The results, if summary, table and protocol agree."""
    table = folder / Path(summary["per_image"]["file"]).name
    content = _read(table)
    if hashlib.sha256(content).hexdigest() != summary["per_image"]["sha256"]:
        raise InputError(
            f"{table}: is not the file whose hash stands in {path}; it was changed, evaluate again"
        )
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
    images = list(dict.fromkeys(row["image"] for row in rows))
    if names_sha256(images) != protocol.images["names_sha256"]:
        raise InputError(f"{table}: its images are not those of the protocol in {path}; evaluate again")
    stored: dict[str, dict[str, Any]] = summary["methods"]
    if not set(stored) >= {row["method"] for row in rows}:
        raise InputError(f"{path}: its methods are not those of {table}; evaluate again")
    methods = {}
    for name, values in stored.items():
        lines = [row for row in rows if row["method"] == name]
        if [row["image"] for row in lines] != images:
            raise InputError(f"{table}: has not one line of '{name}' for every image; evaluate again")
        methods[name] = _method(name, values, lines, path)
    marks = {any(method.oracle for method in methods.values()), summary["label"] == "oracle edges"}
    if marks != {protocol.oracle}:
        raise InputError(f"{path}: its label 'oracle edges' contradicts its protocol; evaluate again")
    return Results(folder, protocol, images, methods, summary)


def require_same_task(runs: Sequence[Results], mix: bool = False) -> list[str]:
    """Refuse to put results of different tasks side by side.

    Args:
        runs: Results to be compared.
        mix: Compare all the same, and only say what differs.

    Returns:
        One line per run that differs from the first; empty if all are of one task.

    Raises:
        InputError: They differ, and ``mix`` is false; says in which part.
    """
    differing = []
    for run in runs[1:]:
        parts = runs[0].protocol.differences(run.protocol)
        if parts:
            differing.append(f"{runs[0].folder} and {run.folder} differ in {' and '.join(parts)}")
    if differing and not mix:
        raise InputError(f"{differing[0]}: not comparable; evaluate both alike, or pass --mix")
    return differing


def _method(name: str, stored: dict[str, Any], lines: list[dict[str, str]], path: Path) -> MethodResults:
    """One method's results, its means and mark checked against its lines of the table."""
    oracle = stored.get("oracle_edges")
    if {row["oracle_edges"] for row in lines} != {str(oracle)}:
        raise InputError(f"{path}: methods.{name}.oracle_edges is not what the table says; evaluate again")
    measured = [metric for metric in IMAGE_METRICS if metric in lines[0]]
    values = {metric: [_number(row[metric]) for row in lines] for metric in measured}
    means: dict[str, float] = {metric: _number(stored[metric]) for metric in METRIC_NAMES if metric in stored}
    errors = stored.get("standard_error") or {}
    if [metric for metric in means if metric in IMAGE_METRICS] != measured or not set(measured) <= set(
        errors
    ):
        raise InputError(f"{path}: methods.{name} has other metrics than the table; evaluate again")
    for metric in measured:
        for key, found, expected in (
            (metric, means[metric], average(values[metric])),
            (f"standard_error.{metric}", _number(errors[metric]), standard_error(values[metric])),
        ):
            if not _equal(found, expected):
                raise InputError(
                    f"{path}: methods.{name}.{key} is {found:g}, but the images' values give {expected:g}; "
                    "the file was changed, evaluate again"
                )
    return MethodResults(name, bool(oracle), means, {key: np.array(series) for key, series in values.items()})


def _equal(found: float, expected: float) -> bool:
    if math.isnan(expected):
        return math.isnan(found)
    return math.isclose(found, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _number(stored: Any) -> float:
    """A number as JSON and CSV hold it: nothing for NaN, words for infinities."""
    return math.nan if stored in (None, "") else float(stored)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(_read(path))
    except (ValueError, RecursionError):  # the latter of thousands of brackets
        raise InputError(f"{path}: is not JSON; evaluate again") from None
    if not isinstance(summary, dict):
        raise InputError(f"{path}: is no result of igll-eval; evaluate again")
    return summary


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a folder of igll-eval") from None
