"""Trains for a while and watches whether memory and open files stay as they are.

Usage: python scripts/soak.py --minutes 30 --out runs/soak [--set data.workers=2 …]

The shipped quickstart with a discriminator and two loader processes, saving, scoring and drawing far more
often than usual; every ten seconds the memory and the open files of the training and its workers are read
from /proc.
Writes OUT/soak.json and prints the trend after the first fifth of the time. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import theilslopes

from igll.errors import InputError
from igll.report.files import write_json

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    "model.width=8", "train.batch_size=4", "losses.adversarial=0.03", "data.workers=2",
    "train.max_steps=10000000", "train.log_every=5", "train.checkpoint_every=20", "train.eval_every=50",
    "train.sheet_every=50", "train.eval_images=4", "train.keep_every=100", "train.keep=2",
)  # fmt: skip
PAUSE = 10.0  # seconds between two looks


class Look(NamedTuple):
    """What was seen at one moment.

    Attributes:
        seconds: Since the start.
        memory_mb: Memory of the training and its workers that is theirs alone (USS), in 10⁶ bytes.
        files: Open files of them all.
        processes: How many they are.
        step: Last recorded step.
    """

    seconds: float
    memory_mb: float
    files: int
    processes: int
    step: int


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def private_bytes(pid: int) -> int:
    """Memory that would come back if the process ended."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(row.split()[1]) for row in rows if row.startswith("Private_"))


def look(pid: int, start: float, log: Path) -> Look:
    """Read memory, open files and the last step."""
    members = family(pid)
    memory = sum(private_bytes(member) for member in members) / 1e6
    files = sum(len(list(Path(f"/proc/{member}/fd").iterdir())) for member in members)
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    step = json.loads(lines[-1])["step"] if lines else 0
    return Look(round(time.monotonic() - start, 1), round(memory, 2), files, len(members), step)


def trend(looks: list[Look]) -> dict[str, float]:
    """Ranges, medians of the first and the last third, and median slopes per hour with 95 % intervals."""
    hours = np.array([seen.seconds for seen in looks]) / 3600
    third = max(len(looks) // 3, 1)
    found = {
        "looks": len(looks),
        "minutes": round(float(hours[-1] - hours[0]) * 60, 1),
        "steps": looks[-1].step - looks[0].step,
    }
    for name in ("memory_mb", "files"):
        values = np.array([getattr(seen, name) for seen in looks])
        slope, _, low, high = theilslopes(values, hours)
        found |= {
            f"{name}_least": float(values.min()),
            f"{name}_most": float(values.max()),
            f"{name}_median_first_third": float(np.median(values[:third])),
            f"{name}_median_last_third": float(np.median(values[-third:])),
            f"{name}_per_hour": round(float(slope), 2),
            f"{name}_per_hour_low": round(float(low), 2),
            f"{name}_per_hour_high": round(float(high), 2),
        }
    return found


def main() -> int:
    """Start a training, watch it, stop it, say what was seen."""
    parser = argparse.ArgumentParser("soak", description="Watch a training's memory and open files.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; must not hold one")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value")
    options = parser.parse_args()
    command = [sys.executable, "-m", "igll.cli", "train", "--config", options.config, "--out", options.out]
    start, looks = time.monotonic(), list[Look]()
    command = [*map(str, command), *SETTINGS, *options.set]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603  (our own command)
    try:
        while time.monotonic() - start < 60 * options.minutes:
            time.sleep(PAUSE)
            if process.poll() is not None:
                raise InputError(
                    f"{options.out}: the training ended by itself with code {process.returncode}"
                )
            looks.append(look(process.pid, start, options.out / "metrics.jsonl"))
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    found = trend(looks[len(looks) // 5 :])
    write_json(
        options.out / "soak.json", {"exit_code": code, "trend": found, "looks": [s._asdict() for s in looks]}
    )
    for name, value in found.items():
        print(f"{name:<28} {value}")
    print(f"stopped by SIGTERM, exit code {code}; written: {options.out / 'soak.json'}")
    return 0


if __name__ == "__main__":
    from igll.cli import exit_with

    exit_with(main)
