"""Draws what shipped weights do: before and after, beside other methods, and where they fail.

Usage: python scripts/release_pictures.py --checkpoint igll-small --out docs \
           [--scores runs/release_scores --dataset ucmerced]

before_after.png is of embedded scenes. comparison.jpg and failures.jpg are of a dataset on which
scripts/release_scores.py measured the weights; publish them only where the images' licence allows it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from igll.baselines import CLASSICAL
from igll.cli import exit_with
from igll.weights import ACCEPTED

METHODS = ("harmonic", "fill_nodata", "telea", "patch_match")
BESIDE_FAILURES = ("harmonic", "patch_match")  # the smoothest and the most textured


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser("release_pictures.py", description="Pictures of shipped weights.")
    parser.add_argument("--checkpoint", metavar="WEIGHTS", required=True, help=ACCEPTED)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--scores", type=Path, help="folder of release_scores.py, for the other two pictures")
    parser.add_argument("--dataset", help="the dataset there whose images are shown")
    parser.add_argument("--name", default="IGLL", help="what the weights are called there (default: IGLL)")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, choices=CLASSICAL, metavar="NAME",
        help=f"methods without training in comparison.jpg (default: {', '.join(METHODS)})",
    )  # fmt: skip
    parser.add_argument(
        "--also", nargs="+", default=(), metavar="WEIGHTS", help="further weights in comparison.jpg"
    )
    options = parser.parse_args(arguments)
    if (options.scores is None) != (options.dataset is None):
        parser.error("--scores and --dataset go together")

    def work() -> int:
        from igll.engine.release_pictures import Evaluations, before_after, failures, overview
        from igll.engine.weights_source import find_weights

        source = find_weights(options.checkpoint)
        before_after(source, options.out / "before_after.png")
        if options.scores:
            measured = Evaluations(options.scores, options.name, source, options.dataset)
            overview(measured, options.methods, options.out / "comparison.jpg", options.also)
            failures(measured, BESIDE_FAILURES, options.out / "failures.jpg")
        print(f"written below {options.out}")
        return 0

    exit_with(work)


if __name__ == "__main__":
    sys.exit(main())
