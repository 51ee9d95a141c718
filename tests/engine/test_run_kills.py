"""Killed at any moment and resumed, any number of times, a run ends as if nothing had happened."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest

from igll.engine.checkpoint import load_checkpoint
from tests.engine.run_files import Nursery, arguments, differing, fatal, kill, last_of, lines

KILLS, STEPS = 20, 22


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


def whole_checkpoints(run: Path) -> list[int]:
    """Steps of the checkpoints a run may go on from; every one of them must be whole."""
    return [load_checkpoint(path)["step"] for path in (run / "checkpoints").glob("[lps]*.pt")]


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_twenty_moments_a_run_equals_the_uninterrupted_one(nursery, tmp_path: Path, workers: int):
    """Six moments are drawn in time, from start-up on; fourteen among the calls that write to the folder."""
    more = [f"data.workers={workers}", f"train.max_steps={STEPS}", "train.keep_every=4", "train.keep=2"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    draw = np.random.default_rng(workers)
    moments = [("time", value) for value in draw.uniform(0.02, 1.5, 6)]
    moments += [("call", int(value)) for value in draw.integers(1, 19, KILLS - 6)]
    deaths = 0
    for index in draw.permutation(KILLS):
        kind, value = moments[index]
        if kind == "call":
            code, _ = nursery.run(arguments(tmp_path, "killed", *more), fatal(value))
        else:
            pid = nursery.start(arguments(tmp_path, "killed", *more))
            time.sleep(value)
            kill(pid)
            code, _ = nursery.end()
        deaths += code == -signal.SIGKILL
        assert all(step > 0 for step in whole_checkpoints(killed))
    assert deaths == KILLS, "the run must be long enough for all of them"
    for run in ("killed", "whole"):
        code, printed = nursery.run(arguments(tmp_path, run, *more))
        assert code == 0, printed
    assert differing(last_of(whole), last_of(killed)) == []
    assert lines(killed) == lines(whole)
    assert [line["step"] for line in lines(killed) if line["split"] == "train"] == list(range(1, STEPS + 1))
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (killed, whole)]
    assert names[0] == names[1] == ["best.pt", "last.pt", "previous.pt", "step_0000016.pt", "step_0000020.pt"]
    for name in names[0]:
        first, second = (load_checkpoint(run / "checkpoints" / name) for run in (whole, killed))
        assert differing(first, second) == [], name
