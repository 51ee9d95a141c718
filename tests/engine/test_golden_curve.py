"""Twenty steps of training come out as they did when they were written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.golden_curve import FILE, STEPS, curve, golden_config

# Without vector units, or on two threads, the same machine's values differed by 4e-6 at most.
RELATIVE = 2e-5


def differing(found: dict[str, list[float]], expected: dict[str, list[float]]) -> list[str]:
    assert found.keys() == expected.keys()
    return [
        name for name, values in expected.items() if found[name] != pytest.approx(values, rel=RELATIVE, abs=0)
    ]


@pytest.fixture
def expected() -> dict[str, list[float]]:
    values = json.loads(FILE.read_text(encoding="utf-8"))
    assert len(values["train/generator/total"]) == STEPS and "train/discriminator/total" in values
    return values


def test_twenty_steps_are_those_written_down(expected, tmp_path: Path):
    found = curve(golden_config(f"edges.cache={tmp_path / 'maps'}"), tmp_path / "run")
    assert differing(found, expected) == []


@pytest.mark.parametrize(
    ("change", "shown_by"),
    [
        ("train.lr=1.001e-3", "train/generator/pixel"),
        ("train.discriminator_lr=1.1e-4", "train/discriminator/total"),
        ("losses.svd=0.9", "train/generator/total"),
        ("train.ema_decay=0.6", "val/psnr_hole"),
    ],
)
def test_small_changes_of_the_arithmetic_show(expected, tmp_path: Path, change: str, shown_by: str):
    found = curve(golden_config(f"edges.cache={tmp_path / 'maps'}", change), tmp_path / "run")
    assert shown_by in differing(found, expected)
