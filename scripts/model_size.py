"""Prints parameters and multiply-adds of the generator that a config describes.

Usage: python scripts/model_size.py [CONFIG] [key.sub=value ...]

Parameters are listed part by part and, for the paper's layout, reconciled with the released code's 4,462,678.
Multiply-adds are counted at 256 × 256 by torch.utils.flop_counter, attention included, for the paper's three
holes; beside them what a profiler sees that counts convolutions alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from igll.cli import exit_with
from igll.config import load_config
from igll.engine.cost import HOLES, SIZE, multiply_adds, parameters
from igll.models import Generator, InpaintingNetwork
from igll.models.dense import plain_layers
from igll.registry import build_generator

RELEASED = 4_462_678
# What the released code has and we do not, and the reverse, at width 32 with one head.
DIFFERENCES = {
    "learned positions, 4 × 128 × 64 (released: random in every pass)": 4 * 128 * 64,
    "1×1 projections: six instead of nine (two of those dead)": -3 * (128 * 128 + 128),
    "no bias in the key projections, which the softmax cancels: 2 × 128": -2 * 128,
    "PIRN's input: 5 channels instead of 7 (edge once, not thrice + ones)": -2 * 2 * 25 * 32,
}


def print_parameters(generator: InpaintingNetwork) -> None:
    """Parameters part by part."""
    print(f"{'part':44s}{'parameters':>12s}")
    if isinstance(generator, Generator):
        print_nets(generator)
    else:
        for part, module in generator.named_children():
            print(f"{part:44s}{parameters(module):12,d}")
    print(f"{'all':44s}{parameters(generator):12,d}")


def print_nets(generator: Generator) -> None:
    """Parameters of IGLL's two nets and of its learned edges."""
    for name, net in (("PIRN", generator.pirn), ("PERN", generator.pern)):
        branch = net.attention_branch
        parts = {
            "feature branch": net.feature_branch,
            "attention branch, before": branch.before,
            "attention module": branch.attention,
            "attention branch, after": branch.after,
            "decoder": net.decoder,
        }
        for part, module in parts.items():
            print(f"{name + ' ' + part:44s}{parameters(module):12,d}")
    if generator.edges is not None:
        print(f"{'learned edges':44s}{parameters(generator.edges):12,d}")


def print_reconciliation(generator: Generator) -> None:
    """From the released code's count to ours."""
    total = RELEASED
    print(f"\n{RELEASED:12,d}  released code")
    for reason, change in DIFFERENCES.items():
        total += change
        print(f"{change:+12,d}  {reason}")
    print(
        f"{total:12,d}  = ours"
        if total == parameters(generator)
        else f"{parameters(generator):12,d}  ours: does not add up"
    )
    print(f"{total / 4_458_000 - 1:+12.2%}  against the paper's 4.458 M")


def print_multiply_adds(generator: InpaintingNetwork) -> None:
    """True multiply-adds and those of convolutions alone: what is computed, and layer by layer."""
    print(f"\n{'hole at 256 × 256':22s}{'true (G)':>10s}{'convolutions (G)':>18s}{'layer by layer (G)':>25s}")
    layers = plain_layers(generator) if isinstance(generator, Generator) else generator
    for side in HOLES.values():
        true, convolutions = (number / 1e9 for number in multiply_adds(generator, side))
        whole = " / ".join(f"{number / 1e9:.1f}" for number in multiply_adds(layers, side))
        hole = f"{side} × {side}, {side * side / SIZE**2:.1%}"
        print(f"{hole:22s}{true:10.1f}{convolutions:18.1f}{whole:>25s}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser("model_size.py", description="Count a generator's parameters and costs.")
    parser.add_argument(
        "given",
        nargs="*",
        metavar="CONFIG | key.sub=value",
        help="a configuration (default: configs/aid_25.yaml), and settings that replace its own",
    )
    given = parser.parse_args(arguments).given
    paths = [text for text in given if "=" not in text] or ["configs/aid_25.yaml"]
    if len(paths) > 1:
        parser.error(f"one configuration at a time, not {', '.join(paths)}")
    exit_with(lambda: print_size(paths[0], [text for text in given if "=" in text]))


def print_size(path: str, overrides: list[str]) -> int:
    """Print everything for one configuration."""
    config = load_config(path, overrides)
    generator = build_generator(config.model).eval()
    print_parameters(generator)
    if (
        isinstance(generator, Generator)
        and generator.edges is None
        and config.model.width == 32
        and config.model.heads == 1
    ):
        print_reconciliation(generator)
    print_multiply_adds(generator)
    return 0


if __name__ == "__main__":
    main()
