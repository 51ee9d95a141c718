"""Lays the fillings of several methods side by side, like the paper's Figure 7, as PNG and PDF.

Usage: python scripts/comparison_sheet.py --config C --methods M ... --checkpoints A B ... --out sheet.png

Rows are test images of the config, columns the masked input, the methods without training, the checkpoints
and the truth; --difference adds difference maps. Checkpoints that see the ground truth's edges are labelled
"oracle edges".
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from igll.baselines import CLASSICAL
from igll.cli import exit_with
from igll.config import load_config
from igll.engine.comparison_sheet import SheetRequest, comparison_sheet
from igll.engine.weights_source import column_title


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("comparison_sheet", description="Lay fillings side by side.")
    parser.add_argument("--config", required=True, help="YAML file that names data and masks")
    parser.add_argument("--checkpoints", nargs="+", default=[], help="each whatever igll.load takes")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[],
        choices=CLASSICAL,
        metavar="NAME",
        help=f"without training: {', '.join(CLASSICAL)}",
    )
    parser.add_argument(
        "--names", nargs="+", help="one per checkpoint (default: the run's folder, or the name given)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cases", type=int, default=6, help="number of test images, evenly spread")
    which.add_argument("--images", nargs="+", default=[], help="names of test images instead")
    parser.add_argument("--difference", action="store_true", help="add difference maps")
    parser.add_argument("--full", type=int, default=64, help="difference at which the colours end, of 255")
    parser.add_argument("--out", type=Path, required=True, help="PNG or PDF; both are written")
    parser.add_argument("--set", nargs="*", default=[], metavar="key.sub=value", help="replaces the config's")
    options = parser.parse_args(arguments)
    if options.cases < 1 or not 1 <= options.full <= 255:
        parser.error("--cases starts at 1, --full is within 1 and 255")
    return options


def main(arguments: list[str]) -> int:
    """Fill, draw and write."""
    options = read_arguments(arguments)
    names = options.names or [column_title(given) for given in options.checkpoints]
    request = SheetRequest(
        options.checkpoints,
        names,
        options.methods,
        options.cases,
        options.images,
        options.difference,
        options.full,
    )
    comparison_sheet(load_config(options.config, options.set), request, options.out)
    print(f"written: {options.out.with_suffix('.png')} and .pdf")
    return 0


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))
