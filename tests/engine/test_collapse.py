"""Warnings of adversarial training that fails: said when it shows, once, and the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from igll.engine.collapse import ALL_RIGHT, JUMP, NO_SIGNAL, WINDOW, CollapseWatch
from igll.engine.train import train

HEALTHY = {"discriminator/accuracy": 0.8, "gradient/discriminator": 0.3, "gradient/generator": 0.5}


def said(records: list[dict[str, float]], watch: CollapseWatch | None = None) -> list[tuple[int, str]]:
    watch = watch or CollapseWatch()
    return [(number, text) for number, record in enumerate(records) for text in watch.see(record)]


def test_nothing_is_said_of_a_healthy_run():
    assert said([HEALTHY] * (3 * WINDOW)) == []


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("discriminator/accuracy", 1.0, "told at least 99%"),
        ("gradient/discriminator", NO_SIGNAL / 2, "the discriminator's gradient has vanished"),
        ("gradient/generator", 0.0, "the generator's gradient has vanished"),
    ],
)
def test_a_symptom_is_said_once_when_its_window_is_full(name: str, value: float, text: str):
    found = said([{**HEALTHY, name: value}] * (3 * WINDOW))
    assert [number for number, _ in found] == [WINDOW - 1]
    assert text in found[0][1]


def test_a_symptom_that_comes_back_is_said_again():
    bad = {**HEALTHY, "discriminator/accuracy": 1.0}
    found = said([bad] * WINDOW + [HEALTHY] * 5 + [bad] * WINDOW)
    # Two records at 0.8 among ones at 1 still average 0.99: told again once only two are in the window.
    assert (WINDOW - 2 + 2 * 0.8) / WINDOW > ALL_RIGHT > (WINDOW - 3 + 3 * 0.8) / WINDOW
    again = WINDOW + 5 + WINDOW - 3
    assert [number for number, _ in found] == [WINDOW - 1, again]


def test_a_jump_is_said_at_the_record_that_shows_it():
    jump = {**HEALTHY, "gradient/generator": 0.5 * JUMP * 1.01}
    found = said([HEALTHY] * WINDOW + [jump] + [HEALTHY] * WINDOW)
    assert [number for number, _ in found] == [WINDOW] and "jumped" in found[0][1]


@pytest.mark.parametrize("cut", [10, WINDOW - 1, WINDOW, WINDOW + 7])
def test_a_watch_fed_with_the_earlier_records_goes_on_as_the_first_would_have(cut: int):
    records = [{**HEALTHY, "discriminator/accuracy": 1.0}] * (WINDOW + 5) + [HEALTHY] * WINDOW
    resumed = CollapseWatch()
    said(records[:cut], resumed)
    later = [(number + cut, text) for number, text in said(records[cut:], resumed)]
    assert later == [(number, text) for number, text in said(records) if number >= cut]


def test_records_without_the_values_are_passed_over():
    assert said([{"generator/local": 0.1, "gradient/generator": None}] * (2 * WINDOW)) == []


def test_a_run_writes_its_warnings_down_and_resumed_does_not_repeat_them(
    small, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr("igll.engine.collapse.WINDOW", 3)
    monkeypatch.setattr("igll.engine.objectives.relative_accuracy", lambda *_: torch.ones(()))
    for steps in (4, 6):
        train(small(train={"max_steps": steps}), tmp_path / "run", resume=steps == 6)
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    warnings = [line for line in lines if line["split"] == "warning"]
    assert [line["step"] for line in warnings] == [3] and "told at least 99%" in warnings[0]["warning"]
    assert capsys.readouterr().err.count("warning: step 3: the discriminator") == 1
