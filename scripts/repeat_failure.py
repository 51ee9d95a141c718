"""Repeats a training step that was not finite and says where it stops being finite.

Usage: python scripts/repeat_failure.py runs/aid_77/failures/step_0001234.pt [--set device=cpu …]

The file is written by igll-train when a loss or gradient is not finite. Exit code 0: it was not finite again;
1: every number is finite here (another device, another version of torch).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from igll.cli import exit_with
from igll.engine.failure import Diagnosis, repeat_failure


def describe(found: Diagnosis) -> str:
    """What was found, in lines."""
    lines = [f"recorded: {found.recorded}"]
    lines += [f"  {name:<28} {value:.6g}" for name, value in found.terms.items()]
    parts = {
        "not finite in the batch": found.inputs,
        "weights not finite": found.weights,
        "first layer to give out what is not finite": [found.output] if found.output else [],
        "gradients not finite": found.gradients,
    }
    for title, names in parts.items():
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            lines.append(f"{title}: {', '.join(names[:5])}{more}")
    verdict = f"not finite again: {', '.join(found.again)}" if found.again else "every term is finite here"
    return "\n".join([*lines, verdict])


def main() -> int:
    """Repeat the step and print what it shows."""
    parser = argparse.ArgumentParser("repeat_failure", description="Repeat a training step that failed.")
    parser.add_argument("record", type=Path, help="written by igll-train below OUT/failures")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="key=value", help="device=…, losses.vgg_weights=…"
    )
    options = parser.parse_args()
    found = repeat_failure(options.record, options.set)
    print(describe(found))
    return 0 if found.again else 1


if __name__ == "__main__":
    exit_with(main)
