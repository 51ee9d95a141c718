"""Time and memory of one pass on the CPU as the image grows: a process of its own for every size.

Usage: python scripts/scaling.py --out runs/scaling [--config configs/igll_lite.yaml] [--sizes 256 512]

Writes scaling.json, scaling.md and scaling.png. The largest size takes minutes.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from igll.cli import OVERRIDES, exit_with

HOLES = (10, 25, 77)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("scaling.py", description="Time and memory as the image grows.")
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/scaling"), help="folder for the results (runs/scaling)")
    add("--config", type=Path, help="whose model is measured (default: the published one)")
    add("--sizes", nargs="+", type=int, default=[256, 512, 1024, 2048], help="sides (256 512 1024 2048)")
    add("--hole", type=int, default=25, choices=HOLES, help="missing pixels in percent (25)")
    add("--limit", type=float, default=3600.0, help="seconds that one pass may take (3600)")
    add("--set", nargs="+", default=[], dest="overrides", metavar="key.sub=value", help=OVERRIDES)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One pass of each size."""
    from tqdm import tqdm

    from igll.config import build_config, load_config
    from igll.engine.bench_cases import Case
    from igll.engine.bench_memory import process_growth
    from igll.errors import InputError

    if smallest := [size for size in options.sizes if size < 32]:
        raise InputError(f"--sizes: {smallest[0]} is too small; they start at 32")
    given = options.overrides
    model = (load_config(options.config, given) if options.config else build_config({}, given, "--set")).model
    rows: list[dict[str, Any]] = []
    with tqdm(sorted(options.sizes), unit="size") as bar:
        for size in bar:
            bar.set_description(f"{size} px")
            found = process_growth(model, Case(model.name, size, 1, options.hole), options.limit)
            if found.seconds is None:
                raise InputError(f"{size} px: {found.reason}")
            rows.append({"size": size, "seconds": found.seconds, "growth_bytes": found.growth_bytes})
    return rows


def exponents(rows: Sequence[dict[str, Any]]) -> list[float | None]:
    """From one size to the next, the power of the side with which time grows; None for the first."""
    grown: list[float | None] = [None]
    for small, large in itertools.pairwise(rows):
        grown.append(math.log(large["seconds"] / small["seconds"]) / math.log(large["size"] / small["size"]))
    return grown


def draw(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Seconds and memory over the side, both axes logarithmic."""
    from igll.report.canvas import new_figure, save_figure

    figure = new_figure(8.0, 3.2)
    panels = figure.subplots(1, 2)
    sizes = [row["size"] for row in rows]
    curves = {
        "One pass (s)": [row["seconds"] for row in rows],
        "Memory added at its peak (MB)": [row["growth_bytes"] / 1e6 for row in rows],
    }
    for axis, (name, values) in zip(panels, curves.items(), strict=True):
        axis.loglog(sizes, values, marker="o")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_xlabel("side of the image (pixels)", fontsize=9)
        axis.grid(color="#e6e6e6", linewidth=0.6)
        for size, value in zip(sizes, values, strict=True):
            label = f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
            axis.annotate(label, (size, value), (6, -9), textcoords="offset points", fontsize=8)
        axis.margins(0.15)
    figure.suptitle(title, fontsize=9)
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and run."""
    options = read_arguments(arguments)

    def work() -> int:
        import torch

        from igll.engine.bench import machine
        from igll.report.files import write_json, write_text
        from igll.report.tables import Column, markdown_table
        from igll.storage import make_folder

        make_folder(options.out)
        rows = measure(options)
        found = machine(torch.device("cpu"))
        write_json(options.out / "scaling.json", {"machine": found, "hole": options.hole, "rows": rows})
        shown = [
            {**row, "memory": row["growth_bytes"] / 1e6, "power": power}
            | ({"unavailable": {"power": "the first size"}} if power is None else {})
            for row, power in zip(rows, exponents(rows), strict=True)
        ]
        columns = (
            Column("size", "Side"),
            Column("seconds", "One pass (s)", 2),
            Column("power", "Power of the side", 2),
            Column("memory", "Memory (MB)", 0),
        )
        table = markdown_table(shown, columns)
        write_text(options.out / "scaling.md", table)
        title = f"{found['cpu']}, {found['threads']} threads, hole {options.hole} %"
        draw(rows, title, options.out / "scaling.png")
        print(table)
        return 0

    exit_with(work)


if __name__ == "__main__":
    main()
