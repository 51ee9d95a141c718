"""Trains IGLL and its peers for an equal time, measures all of them and writes one table of all methods.

Usage: python scripts/peers.py --out runs/peers data.root=/path/to/train data.val_root=/path/to/val

IGLL gets --steps training steps, every other network as many as take as long, by steps timed side by side.
The task is configs/peers/equal_budget.yaml; settings after the options hold for all. Ctrl-C saves and leaves;
the same command goes on. To use several cores, let one call write budget.json, then start others with --only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from igll.baselines import CLASSICAL
from igll.cli import OVERRIDES, exit_with

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "peers" / "equal_budget.yaml"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and run."""
    from igll.engine.peers import CONTENDERS, PeersRequest, run_peers

    names = [contender.name for contender in CONTENDERS]
    parser = argparse.ArgumentParser("peers.py", description="Set IGLL and its peers side by side.")
    parser.add_argument("--out", default="runs/peers", help="folder of all runs (default: runs/peers)")
    parser.add_argument("--steps", type=int, default=1200, help="training steps of IGLL (default: 1200)")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {names}")
    parser.add_argument(
        "--methods", nargs="*", default=list(CLASSICAL), choices=CLASSICAL, metavar="NAME",
        help="methods without training to measure beside them (default: all)",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=OVERRIDES)
    options = parser.parse_intermixed_args(arguments)
    if options.steps < 1:
        parser.error("--steps starts at 1")

    def work() -> int:
        only, methods = options.only or (), options.methods
        return run_peers(
            PeersRequest(CONFIG, Path(options.out), options.steps, methods, only, options.overrides)
        )

    exit_with(work)


if __name__ == "__main__":
    sys.exit(main())
