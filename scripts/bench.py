"""Measures every network: latency, its convolutions alone, memory; the parts of a training step;
and every metric of an evaluation.

Usage: python scripts/bench.py --out runs/bench [--models igll dmfn] [--device cuda] [--compare OLD.json]

Writes bench.json (unrounded), bench.md and bench.png; with --compare also bench_comparison.json and .md.
Ctrl-C writes what was measured so far and leaves. docs/benchmark.md says what each column means.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from igll.cli import OVERRIDES, exit_with
from igll.schema import PUBLISHED

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
PARTS = ("inference", "training", "loader", "evaluation")


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("bench.py", description="Measure speed and memory of every network.")
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/bench"), help="folder for the results (default: runs/bench)")
    add("--parts", nargs="+", default=PARTS, choices=PARTS, metavar="PART", help=f"{PARTS} (default: all)")
    add(
        "--models",
        nargs="+",
        default=[*PUBLISHED],
        metavar="NAME",
        help=f"{[*PUBLISHED]} (default: all) or YAML files",
    )
    add("--sizes", nargs="+", type=int, default=[256, 512, 1024], help="sides of the images (256 512 1024)")
    add("--batches", nargs="+", type=int, default=[1, 8], help="images at once (default: 1 8)")
    add("--holes", nargs="+", type=int, default=[10, 25, 77], help="missing pixels in percent (10 25 77)")
    add("--device", default="cpu", help="cpu, cuda or a numbered device such as cuda:1 (default: cpu)")
    add("--compile", action="store_true", dest="compiled", help="measure torch.compile beside eager")
    add("--graphs", action="store_true", help="measure CUDA graphs of all passes too (CUDA)")
    add("--amp", action="store_true", help="measure bfloat16 autocast beside float32 (CUDA)")
    add("--no-memory", action="store_false", dest="memory", help="leave memory out (on the CPU, faster)")
    add("--rounds", type=int, default=7, help="timed passes of each case (default: 7)")
    add("--warmup", type=int, default=2, help="passes before them (default: 2)")
    add("--limit", type=float, default=120.0, help="seconds that one case may take, else it is skipped (120)")
    add("--threads", type=int, default=0, help="torch's threads on the CPU (default: torch's choice)")
    add(
        "--config", type=Path, default=QUICKSTART, help="of training and evaluation (configs/quickstart.yaml)"
    )
    add("--crop", type=int, help="side of the training crops (default: the config's)")
    add("--batch", nargs="+", type=int, default=[], help="training batches (default: the config's)")
    add("--steps", type=int, default=10, help="timed steps, and batches of loader and evaluation (10)")
    add("--workers", type=int, default=2, help="of the loader, measured beside none (default: 2)")
    add("--compare", type=Path, metavar="OLD.json", help="an older bench.json to divide by, row by row")
    add(
        "--set", nargs="+", default=[], dest="overrides", metavar="key.sub=value",
        help=f"{OVERRIDES}; those of model hold for every network",
    )  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and run."""
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in vars(read_arguments(arguments)).items()
    }

    def work() -> int:
        from igll.engine.bench import BenchRequest, run_bench

        return run_bench(BenchRequest(**options))

    exit_with(work)


if __name__ == "__main__":
    sys.exit(main())
