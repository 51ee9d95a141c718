"""Two benchmarks row by row: new divided by old."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igll.errors import InputError
from igll.report.bench_table import FORMAT, case_title, evaluation_title, task_title
from igll.report.files import write_json, write_text
from igll.report.tables import Column, markdown_table

_JSON, _TABLE = "bench_comparison.json", "bench_comparison.md"
_MEASURED = "measured"
# Of inference: key in a row → heading. All are better when smaller.
_INFERENCE = {
    "seconds_median": "Median",
    "seconds_min": "Min",
    "roof_median": "Roof",
    "ratio": "Ratio to roof",
    "layer_ratio": "Ratio to layers",
    "memory_growth_bytes": "Memory",
}
_COLUMNS = (Column("row", "New / old"), *(Column(key, title, 3) for key, title in _INFERENCE.items()))
# Not the same without saying so: the comparison then is of machines too.
_MACHINE = ("cpu", "cores", "usable_cores", "threads", "device", "torch", "cuda", "cudnn")
_SETTINGS = ("rounds", "warmup", "overrides")


def read_results(path: Path) -> dict[str, Any]:
    """Read a bench.json.

    Raises:
        InputError: It cannot be read, or is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a bench.json") from None
    except ValueError:
        raise InputError(f"{path}: is not JSON; give a bench.json") from None
    if not isinstance(found, dict) or "inference" not in found or "machine" not in found:
        raise InputError(f"{path}: holds no benchmark; give a bench.json")
    if found.get("format") != FORMAT:
        raise InputError(f"{path}: is of format {found.get('format')}, this is {FORMAT}; measure it anew")
    return found


def compare_results(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Divide new numbers by old ones.

    Args:
        old: What an older bench.json holds.
        new: What a newer one holds.

    Returns:
        ``rows``: name of the row and ratio new / old of every number that both have; ``only_old`` and
        ``only_new``: names of the rows that one alone has measured; ``different``: machine and settings in
        which they differ, as [old, new].
    """
    before, after = _numbers(old), _numbers(new)
    rows = [
        {"row": name, **_ratios(before[name], numbers)} for name, numbers in after.items() if name in before
    ]
    return {
        "rows": rows,
        "only_old": [name for name in before if name not in after],
        "only_new": [name for name in after if name not in before],
        "different": {
            key: [old[part].get(key), new[part].get(key)]
            for part, keys in (("machine", _MACHINE), ("settings", _SETTINGS))
            for key in keys
            if _plain(old[part].get(key)) != _plain(new[part].get(key))
        },
    }


def write_comparison(comparison: Mapping[str, Any], out: Path) -> Path:
    """Write bench_comparison.json and .md.

    Returns:
        The Markdown file.

    Raises:
        OutputError: A file cannot be written.
    """
    write_json(out / _JSON, comparison)
    parts = ["# New / old", "Below 1: less time or memory than before."]
    parts += [
        f"**Not alike: {key} was {before}, is {now}.**"
        for key, (before, now) in comparison["different"].items()
    ]
    if comparison["rows"]:
        parts.append(markdown_table(comparison["rows"], _COLUMNS).rstrip())
    else:
        parts.append("No row was measured in both.")
    for key, title in (("only_old", "Only in the old one"), ("only_new", "Only in the new one")):
        if comparison[key]:
            parts.append("\n".join([f"{title}:", *(f"- {name}" for name in comparison[key])]))
    write_text(out / _TABLE, "\n\n".join(parts) + "\n")
    return out / _TABLE


def _numbers(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Every measured row by its name; times of training and loader count as medians."""
    found = {
        case_title(row): {key: row[key] for key in _INFERENCE if row.get(key) is not None}
        for row in results["inference"]
        if row["status"] == _MEASURED
    }
    for training in results["training"]:
        if training["status"] != _MEASURED:
            continue
        task = f"training {task_title(training)}"
        found[f"{task}: step and data"] = {"seconds_median": training["step_and_data_seconds"]}
        for part in training["parts"]:
            found[f"{task}: {part['name']}"] = {"seconds_median": part["seconds"]}
    for row in results.get("loader", []):
        name = f"loader {task_title(row)}, {row['workers']} workers: seconds per image"
        found[name] = {"seconds_median": row["seconds"] / row["images"]}
    for row in results.get("evaluation", []):
        if row["status"] == _MEASURED:
            name = f"evaluation {evaluation_title(row)}, {row['name']}: batch"
            found[name] = {"seconds_median": row["seconds_median"]}
    return found


def _ratios(old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
    return {key: value / old[key] for key, value in new.items() if old.get(key)}


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that a tuple equals the list that it was written as."""
    return list(value) if isinstance(value, tuple) else value
