"""Trains and measures every row of the paper's ablation and writes Table 4, measured beside printed values.

Usage: python scripts/ablation.py --out runs/ablation [--only ROW]... [key.sub=value ...]

The rows are the configs in configs/ablations. Settings after the options hold for all rows, such as
data.root=/data/AID or, for a small budget, train.max_steps=2000. Ctrl-C saves and leaves; the
same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from igll.cli import OVERRIDES, exit_with

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "ablations"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and run."""
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    parser = argparse.ArgumentParser("ablation.py", description="Run the paper's ablation, write Table 4.")
    parser.add_argument("--out", default="runs/ablation", help="folder of all runs (default: runs/ablation)")
    parser.add_argument("--only", action="append", choices=names, metavar="ROW", help=f"one of {names}")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=OVERRIDES)
    options = parser.parse_intermixed_args(arguments)

    def work() -> int:
        from igll.engine.ablation import run_ablation

        return run_ablation(CONFIGS, Path(options.out), options.overrides, options.only or ())

    exit_with(work)


if __name__ == "__main__":
    sys.exit(main())
