"""The benchmark's results as JSON, Markdown and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from igll.errors import InputError
from igll.report.canvas import new_figure, save_figure
from igll.report.files import write_json, write_text
from igll.report.tables import Column, markdown_table

Results = Mapping[str, Any]
FORMAT = 2
RESULTS, TABLE, PICTURE = "bench.json", "bench.md", "bench.png"
_MEASURED = "measured"
_MACHINE = {
    "date": "date",
    "cpu": "processor",
    "cores": "cores",
    "usable_cores": "usable cores",
    "threads": "torch threads",
    "load_average": "load before",
    "device": "device",
    "torch": "torch",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "python": "Python",
    "system": "system",
}
_CASE = (
    Column("model", "Model"),
    Column("size", "Size"),
    Column("batch", "Batch"),
    Column("hole", "Hole (%)"),
    Column("kind", "Mode"),
)
_SPEED = (
    *_CASE,
    Column("median", "Median (ms)", 2),
    Column("least", "Min (ms)", 2),
    Column("roof", "Roof (ms)", 2),
    Column("ratio", "Ratio", 2),
    Column("layers", "Layers (ms)", 2),
    Column("layer_ratio", "Ratio to layers", 2),
    Column("memory", "Memory (MB)", 1),
    Column("rate", "G/s", 1),
)
_COSTS = (
    Column("model", "Model"),
    Column("parameters", "Params (M)", 3),
    Column("size", "Size"),
    Column("hole", "Hole (%)"),
    Column("true", "True (G)", 3),
    Column("convolutions", "Convolutions (G)", 3),
)
_STEP = (
    Column("name", "Part"),
    Column("forward", "Forward (ms)", 2),
    Column("backward", "Backward (ms)", 2),
    Column("total", "Both (ms)", 2),
    Column("share", "Of step and data (%)", 1),
)
_LOADER = (Column("workers", "Workers"), Column("rate", "Images/s", 1))
_EVALUATION = (Column("name", "Metric"), Column("median", "ms per image", 2), Column("rate", "Images/s", 1))
_NOT_ADDITIVE = (
    "The parts do not add up to the step exactly: each is timed by itself, on CUDA with a wait "
    "for the device around it; terms that share a pass through VGG or the discriminator have one each; "
    "and a step also checks its values."
)


def write_results(results: Results, out: Path) -> Path:
    """Write bench.json, bench.md and, where anything was timed, bench.png.

    Returns:
        The Markdown file.

    Raises:
        OutputError: A file cannot be written.
    """
    write_json(out / RESULTS, results)
    text = markdown(results)
    try:
        if not draw_results(results, out / PICTURE):
            text += "\nNo picture: no pass was timed.\n"
    except InputError as error:
        text += f"\nNo picture: {error}\n"
    write_text(out / TABLE, text)
    return out / TABLE


def markdown(results: Results) -> str:
    """All tables, with the machine above them and the reasons for gaps below each."""
    machine = [
        f"- {title}: {results['machine'][key]}"
        for key, title in _MACHINE.items()
        if results["machine"].get(key) is not None
    ]
    parts = ["# Benchmark", "\n".join(machine)]
    if not results["finished"]:
        parts.append("**Interrupted: only a part of the cases was measured.**")
    if results["multiply_adds"]:
        parts += ["## Multiply-adds of one image", markdown_table(_cost_rows(results), _COSTS).rstrip()]
    if results["inference"]:
        rows = [_speed_row(row) for row in results["inference"]]
        parts += [
            "## Latency and memory",
            markdown_table(rows, _SPEED).rstrip(),
            f"Roof: the pass's convolutions replayed alone; ratio = median / roof. Layers: the network's "
            "convolution layers over the whole frame, replayed alone; they differ from the roof where a pass "
            "computes less than its layers. "
            f"Memory: {_memory(results)}. G/s: 10⁹ multiply-adds per second.",
        ]
    if results["training"]:
        parts += ["## Training step"]
        for row in results["training"]:
            parts += _training(row)
    if results["loader"]:
        rows = [{"workers": row["workers"], "rate": row["images_per_second"]} for row in results["loader"]]
        parts += [
            f"## Loader alone: {task_title(results['loader'][0])}",
            markdown_table(rows, _LOADER).rstrip(),
        ]
    if results["evaluation"]:
        parts += _evaluation(results["evaluation"])
    return "\n\n".join(parts) + "\n"


def case_title(row: Mapping[str, Any]) -> str:
    """A case of inference in words."""
    kind = f"{row['mode']} {row['precision']}"
    return f"{row['model']} {row['size']} px × {row['batch']}, hole {row['hole']} %, {kind}"


def task_title(row: Mapping[str, Any]) -> str:
    """What was trained, in words."""
    return f"{row['config']}, {row['model']} width {row['width']}, {row['crop']} px × {row['batch']}"


def _memory(results: Results) -> str:
    return str(results["settings"]["memory_kind"])


def _cost_rows(results: Results) -> list[dict[str, Any]]:
    millions = {model["name"]: model["parameters"] / 1e6 for model in results["models"]}
    return [
        {
            **row,
            "parameters": millions[row["model"]],
            "true": row["true"] / 1e9,
            "convolutions": row["convolutions"] / 1e9,
        }
        for row in results["multiply_adds"]
    ]


def _speed_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as printed; a case that was not measured gives its reason in every column."""
    shown: dict[str, Any] = {column.key: row.get(column.key) for column in _CASE}
    shown["kind"] = f"{row['mode']} {row['precision']}"
    if row["memory_growth_bytes"] is not None:
        shown["memory"] = row["memory_growth_bytes"] / 1e6
    missing = {"memory": row["memory_reason"] or row["reason"]}
    if row["status"] == _MEASURED:
        shown |= {
            "median": 1e3 * row["seconds_median"],
            "least": 1e3 * row["seconds_min"],
            "roof": 1e3 * row["roof_median"],
            "ratio": row["ratio"],
            "layers": 1e3 * row["layer_median"],
            "layer_ratio": row["layer_ratio"],
            "rate": row["multiply_adds"] / row["seconds_median"] / 1e9,
        }
    else:
        reason = f"{row['status']}: {row['reason']}"
        missing |= {column.key: reason for column in _SPEED[len(_CASE) :] if column.key != "memory"}
        missing["memory"] = row["memory_reason"] or reason
    return {**shown, "unavailable": missing}


def _training(row: Mapping[str, Any]) -> list[str]:
    """The breakdown of a training step."""
    if row["status"] != _MEASURED:
        return [f"{task_title(row)}: {row['status']}: {row['reason']}"]
    total = row["step_and_data_seconds"]
    rows = [
        {
            "name": part["name"],
            "forward": 1e3 * part["forward"],
            "backward": 1e3 * part["backward"],
            "total": 1e3 * part["seconds"],
            "share": 100 * part["seconds"] / total,
        }
        for part in row["parts"]
    ]
    whole = (
        f"Sum of the parts {1e3 * row['parts_sum']:.2f} ms; step and data as a whole {1e3 * total:.2f} ms "
        f"({row['parts_sum'] / total:.3f}), {row['images_per_second']:.2f} images/s. {_NOT_ADDITIVE}"
    )
    derived = (
        f"Low-rank loss {100 * row['svd_share']:.2f} % of the step. The step's convolutions alone, forward "
        f"and backward, take {1e3 * row['roof_seconds']:.2f} ms: the step reaches "
        f"{row['roof_fraction']:.3f} of that roof. The paper's schedule (40 epochs of 8,000 images) takes "
        f"{row['paper_hours']:.2f} h at this rate."
    )
    return [
        f"{task_title(row)}; medians over {row['steps']} steps.",
        markdown_table(rows, _STEP).rstrip(),
        whole,
        derived,
    ]


def evaluation_title(row: Mapping[str, Any]) -> str:
    """What was evaluated, in words."""
    return f"{row['size']} px × {row['batch']}"


def _evaluation(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The speed of every metric; one that was not measured gives its reason."""
    shown, left_out, untrained = [], [], []
    for row in rows:
        if row["status"] == _MEASURED:
            numbers = {"median": 1e3 / row["images_per_second"], "rate": row["images_per_second"]}
            shown.append({"name": row["name"], **numbers})
            left_out += row.get("left_out", [])
            untrained += row.get("untrained", [])
        else:
            reason = f"{row['status']}: {row['reason']}"
            shown.append({"name": row["name"], "unavailable": dict.fromkeys(("median", "rate"), reason)})
    note = f" All metrics: without {', '.join(left_out)}." if left_out else ""
    if untrained:
        names = ", ".join(dict.fromkeys(untrained))
        note += f" {names}: Inception with random weights, for want of the trained ones; it takes as long."
    return [
        f"## Evaluation: {evaluation_title(rows[0])}",
        markdown_table(shown, _EVALUATION).rstrip(),
        f"One method; medians over batches.{note}",
    ]


def draw_results(results: Results, path: Path) -> bool:
    """Draw latency and ratio to the roof, a panel each, for one hole, batch and mode: the first measured.

    Args:
        results: What bench.json holds.
        path: A PNG file.

    Returns:
        Whether there was anything to draw.

    Raises:
        InputError: matplotlib is not installed.
        OutputError: The picture cannot be written.
    """
    measured = [row for row in results["inference"] if row["status"] == _MEASURED]
    if not measured:
        return False
    # The paper's middle hole says most; else what there is.
    first = next((row for row in measured if row["hole"] == 25), measured[0])
    alike = ("batch", "hole", "mode", "precision")
    rows = [row for row in measured if all(row[key] == first[key] for key in alike)]
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = new_figure(9.5, 1.8 + 0.4 * len(models))
    left, right = figure.subplots(1, 2, sharey=True)
    for number, size in enumerate(dict.fromkeys(row["size"] for row in rows)):
        chosen = [row for row in rows if row["size"] == size]
        places = [models.index(row["model"]) for row in chosen]
        look = {"color": f"C{number}", "marker": "o", "linestyle": "none", "label": f"{size} px"}
        left.plot([1e3 * row["seconds_median"] for row in chosen], places, **look)
        right.plot([row["ratio"] for row in chosen], places, **look)
    _logarithmic(left)
    right.set_xlim(left=0.0)
    right.axvline(1.0, color="#222222", linewidth=0.8)
    _dress(left, "Latency, median (ms)", models)
    _dress(right, "Latency / its convolutions alone", models)
    figure.legend(
        *right.get_legend_handles_labels(), loc="outside lower center", ncols=9, fontsize=8, frameon=False
    )
    found = results["machine"]
    device = f"{found['cpu']}, {found['threads']} threads" if found["device"] == "CPU" else found["device"]
    figure.suptitle(
        f"{device}, batch {first['batch']}, hole {first['hole']} %, {first['mode']} {first['precision']}",
        fontsize=9,
        color="#6e6e6e",
    )
    save_figure(figure, path)
    return True


def _logarithmic(axis: Any) -> None:
    """Powers of ten and what lies between them as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def _dress(axis: Any, title: str, models: Sequence[str]) -> None:
    """Titles, grid and the models' names, first one on top."""
    axis.set_title(title, fontsize=10, loc="left", color="#222222")
    axis.set_yticks(range(len(models)), models)
    axis.set_ylim(len(models) - 0.5, -0.5)
    axis.tick_params(labelsize=8, colors="#6e6e6e")
    axis.grid(color="#e6e6e6", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
