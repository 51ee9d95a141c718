"""Two evaluations compared image by image: the same images, so the spread between images drops out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igll.engine.results import MethodResults, Results, load_results, require_same_task
from igll.errors import InputError
from igll.metrics import HIGHER_IS_BETTER
from igll.report.files import write_json, write_text
from igll.report.tables import ORACLE_MARK, ORACLE_NOTE, Column, markdown_table, text_table
from igll.storage import make_folder

RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95
# Differences that lie closer together, as a share of the largest or at all, differ by rounding.
_ROUNDING, _TINY = 1e-12, 1e-100

_COLUMNS = [
    Column("metric", "metric"),
    Column("mean_a", "A", 4),
    Column("mean_b", "B", 4),
    Column("difference", "B − A", 4),
    Column("interval", "95 % interval"),
    Column("wins_a", "A better"),
    Column("wins_b", "B better"),
    Column("ties", "equal"),
    Column("images", "images"),
]


@dataclass(frozen=True)
class PairedDifference:
    """One metric of two methods on the same images.

    Attributes:
        images: Images on which both have a finite value; means, difference and interval are of these.
        mean_a: Mean of the first method.
        mean_b: Mean of the second.
        difference: Mean of second minus first.
        low: Lower end of the difference's 95 % bootstrap interval; NaN for fewer than two images.
        high: Its upper end.
        wins_a: Images on which the first is better, whichever way the metric points.
        wins_b: Images on which the second is better.
        ties: Images on which both are equal.
    """

    images: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    wins_a: int
    wins_b: int
    ties: int


def paired_difference(
    values_a: NDArray[np.float64], values_b: NDArray[np.float64], higher_is_better: bool
) -> PairedDifference:
    """Compare two methods' values of one metric.

    An infinite PSNR (nothing was wrong) wins over a finite one but is left out of the means; NaN counts
    nowhere.

    Args:
        values_a: The first method's values, one per image.
        values_b: The second's, of the same images.
        higher_is_better: Which way the metric points.
    """
    measured = ~(np.isnan(values_a) | np.isnan(values_b))
    a, b = values_a[measured], values_b[measured]
    larger_a, larger_b = int((a > b).sum()), int((b > a).sum())
    wins_a, wins_b = (larger_a, larger_b) if higher_is_better else (larger_b, larger_a)
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite], b[finite]
    count = len(a)
    mean_a, mean_b, difference = (
        (math.fsum(series) / count if count else math.nan) for series in (a, b, b - a)
    )
    low, high = bootstrap_interval(b - a)
    ties = int(measured.sum()) - wins_a - wins_b
    return PairedDifference(count, mean_a, mean_b, difference, low, high, wins_a, wins_b, ties)


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean: BCa bootstrap (Efron 1987), 10,000 resamples, the same on every call.

    Returns:
        Both ends; NaN for fewer than two values.
    """
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) <= max(_ROUNDING * np.abs(values).max(), _TINY):
        # Every resample has the same mean, but for rounding; BCa would divide by zero.
        return float(values.mean()), float(values.mean())
    from scipy.stats import bootstrap

    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1_000,
        confidence_level=LEVEL,
        method="BCa",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def compare(
    folder_a: Path, folder_b: Path, methods: Sequence[str], out: Path | None = None, mix: bool = False
) -> dict[str, Any]:
    """Compare a method of one evaluation with a method of another, print it and write it.

    Args:
        folder_a: Results of igll-eval.
        folder_b: Other results, or the same.
        methods: Name of the method in both, or one name for each.
        out: Folder for ``comparison.json`` and ``comparison.md``; None only prints.
        mix: Compare the images that both have although the tasks differ.

    Returns:
        The content of ``comparison.json``.

    Raises:
        InputError: Results cannot be read, were changed, are of different tasks, lack the method or
            have no image or no per-image metric in common.
    """
    if len(methods) not in (1, 2):
        raise InputError("--method: give one name for both runs, or one for each")
    runs = [load_results(folder_a), load_results(folder_b)]
    chosen = [run.method(name) for run, name in zip(runs, (methods[0], methods[-1]), strict=True)]
    mixed = require_same_task(runs, mix)
    common = sorted(set(runs[0].images) & set(runs[1].images))
    metrics = [name for name in chosen[0].values if name in chosen[1].values]
    if not common or not metrics:
        missing = "image" if not common else "per-image metric"
        raise InputError(f"{folder_a} and {folder_b}: have no {missing} in common")
    places = [[run.images.index(image) for image in common] for run in runs]
    differences = {
        name: paired_difference(
            chosen[0].values[name][places[0]], chosen[1].values[name][places[1]], HIGHER_IS_BETTER[name]
        )
        for name in metrics
    }
    result = {
        **{key: _described(run, method) for key, run, method in zip("ab", runs, chosen, strict=True)},
        "mixed": mixed,
        "images": len(common),
        "bootstrap": {"method": "BCa", "resamples": RESAMPLES, "seed": SEED, "level": LEVEL},
        "metrics": {name: asdict(difference) for name, difference in differences.items()},
    }
    _report(result, out)
    return result


def _described(run: Results, method: MethodResults) -> dict[str, Any]:
    """Where one side of the comparison comes from."""
    protocol = {key: value for key, value in run.protocol.to_json().items() if key != "parts"}
    return {
        "folder": str(run.folder),
        "method": method.name,
        "oracle_edges": method.oracle,
        "protocol": protocol,
    }


def _report(result: dict[str, Any], out: Path | None) -> None:
    """Print the comparison, and write it if there is a folder for it."""
    sides = [result["a"], result["b"]]
    lines = []
    for key, side in zip("AB", sides, strict=True):
        mark = f" {ORACLE_MARK}" if side["oracle_edges"] else ""
        protocol = side["protocol"]
        lines.append(
            f"{key}: {side['method']}{mark}, {side['folder']}, {protocol['name']} {protocol['sha256'][:12]}"
        )
    notes = [f"MIXED: {line}" for line in result["mixed"]]
    if any(side["oracle_edges"] for side in sides):
        notes.append(ORACLE_NOTE)
    notes.append(
        f"{result['images']} images, paired; 95 % interval of the mean difference from "
        f"{RESAMPLES:,} bootstrap resamples (BCa)."
    )
    rows = [_row(name, values) for name, values in result["metrics"].items()]
    head, foot = "\n".join(lines), "\n".join(notes)
    print(f"{head}\n\n{text_table(rows, _COLUMNS)}\n{foot}")
    if out is not None:
        make_folder(out)
        write_json(out / "comparison.json", result)
        paragraphs = ["  \n".join(lines), markdown_table(rows, _COLUMNS).rstrip(), "  \n".join(notes)]
        write_text(out / "comparison.md", "\n\n".join(paragraphs) + "\n")
        print(f"written below {out}: comparison.json, comparison.md")


def _row(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A line of the table; the arrow shows what is better."""
    interval = "n/a" if math.isnan(values["low"]) else f"[{values['low']:+.4f}, {values['high']:+.4f}]"
    return {**values, "metric": f"{name} {'↑' if HIGHER_IS_BETTER[name] else '↓'}", "interval": interval}
