"""Trains IGLL and its peers for an equal time, measures all of them and writes one table of all methods.

Usage: python scripts/peers.py --out runs/peers data.root=/path/to/train data.val_root=/path/to/val

IGLL gets --steps training steps, every other network as many as take as long, by steps timed side by side.
The task is configs/peers/equal_budget.yaml; settings after the options hold for all. Ctrl-C saves and leaves;
the same command goes on. To use several cores, let one call write budget.json, then start others with --only,
and at the end the first one again: it measures the methods without training and writes the tables.
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
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME",
        help=f"train and measure this network alone, without tables (several may follow): {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument(
        "--method", action="append", choices=CLASSICAL, metavar="NAME",
        help=f"a method without training to measure beside them (default: all): {', '.join(CLASSICAL)}",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=OVERRIDES)
    options = parser.parse_intermixed_args(arguments)
    if options.steps < 1:
        parser.error("--steps starts at 1")

    def work() -> int:
        request = PeersRequest(
            config=CONFIG,
            out=Path(options.out),
            steps=options.steps,
            methods=options.method or list(CLASSICAL),
            only=options.only or (),
            overrides=options.overrides,
        )
        return run_peers(request)

    exit_with(work)


if __name__ == "__main__":
    sys.exit(main())
