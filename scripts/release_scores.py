"""Measures shipped weights and the methods without training on the same images and holes; writes the tables.

Usage: python scripts/release_scores.py --out runs/release_scores --checkpoint igll-small \
           --data rsscn7=rsscn7/val ucmerced=ucmerced_val rice1=rice1/label \
           --clouds cloudmask/*_cloudmask.png --gaps slc_off/*_gapmask.png

The same command goes on where it was stopped. With other weights, the methods are not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from igll.baselines import CLASSICAL
from igll.cli import OVERRIDES, exit_with
from igll.errors import InputError
from igll.weights import ACCEPTED

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "release" / "scores.yaml"
STEPS = ("networks", "methods", "tables")


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("release_scores.py", description="How good shipped weights are.")
    parser.add_argument("--out", type=Path, default=Path("runs/release_scores"), help="folder of everything")
    parser.add_argument(
        "--checkpoint", metavar="WEIGHTS", help=f"what the others are compared with: {ACCEPTED}"
    )
    parser.add_argument("--name", default="IGLL", help="what tables call them (default: IGLL)")
    parser.add_argument(
        "--also", nargs="+", default=[], metavar="NAME=WEIGHTS", help="further weights beside them"
    )
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER", help="images of 256 × 256")
    parser.add_argument(
        "--clouds",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="masks of real clouds, white = missing",
    )
    parser.add_argument(
        "--gaps", nargs="+", type=Path, default=[], metavar="FILE", help="masks of real scan gaps, likewise"
    )
    parser.add_argument(
        "--methods", nargs="+", default=list(CLASSICAL), choices=CLASSICAL, metavar="NAME",
        help=f"without training, measured in this order (default: all): {', '.join(CLASSICAL)}",
    )  # fmt: skip
    parser.add_argument(
        "--limit", nargs="+", default=[], metavar="METHOD=N",
        help="measure a slow method on N images of each dataset, evenly spread",
    )  # fmt: skip
    parser.add_argument("--images", type=int, help="take N images of each dataset, evenly spread, for all")
    parser.add_argument(
        "--only", nargs="+", choices=STEPS, default=STEPS, help="do this alone; tables are of what is there"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help=OVERRIDES)
    return parser.parse_args(arguments)


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping."""
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise InputError(f"{option}: '{text}' is not written NAME=VALUE")
        if name in found:
            raise InputError(f"{option}: '{name}' is there twice")
        found[name] = value
    return found


def limits(texts: Sequence[str]) -> dict[str, int]:
    """``METHOD=N`` texts as a mapping."""
    found = pairs(texts, "--limit")
    for name, count in found.items():
        if name not in CLASSICAL or not count.isdecimal() or int(count) < 1:
            raise InputError(f"--limit: '{name}={count}' is no METHOD=N with N from 1")
    return {name: int(count) for name, count in found.items()}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and run."""
    options = read_arguments(arguments)

    def work() -> int:
        from igll.engine.release_scores import ReleaseRequest, release_scores

        networks = {options.name: options.checkpoint} if options.checkpoint else {}
        also = pairs(options.also, "--also")
        if options.name in also:
            raise InputError(f"--also: '{options.name}' is what --name says; choose another name")
        if options.limit and options.images:
            raise InputError("--limit: goes without --images, whose images it would not be among")
        request = ReleaseRequest(
            config=CONFIG,
            out=options.out,
            data={name: Path(folder) for name, folder in pairs(options.data, "--data").items()},
            masks={"clouds": options.clouds, "gaps": options.gaps},
            networks={**networks, **also},
            methods=options.methods,
            limits=limits(options.limit),
            steps=options.only,
            overrides=[*options.set, *([f"data.test_limit={options.images}"] if options.images else [])],
        )
        return release_scores(request)

    exit_with(work)


if __name__ == "__main__":
    sys.exit(main())
