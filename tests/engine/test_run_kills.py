"""Killed at any moment and resumed, any number of times, a run ends as if nothing had happened."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest

from igll.engine.checkpoint import load_checkpoint
from tests.engine.run_files import Nursery, arguments, differing, fatal, kill, last_of, lines

STEPS = 22
LAST_CALL = 19  # which no killed run outlives, so that on no machine they reach the end together


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


def whole_checkpoints(run: Path) -> list[int]:
    """Steps of the checkpoints a run may go on from; every one of them must be whole."""
    return [load_checkpoint(path)["step"] for path in (run / "checkpoints").glob("[lps]*.pt")]


@pytest.mark.parametrize(("workers", "kills"), [(0, 8), (2, 20)])
def test_killed_at_many_moments_a_run_equals_the_uninterrupted_one(
    nursery, tmp_path: Path, workers: int, kills: int
):
    """A third of the moments are drawn in time, from start-up on; the others among the calls that write."""
    more = [f"data.workers={workers}", f"train.max_steps={STEPS}", "train.keep_every=4", "train.keep=2"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    draw = np.random.default_rng(workers)
    moments = [("time", value) for value in draw.uniform(0.02, 0.5, kills // 3)]
    moments += [("call", int(value)) for value in draw.integers(1, LAST_CALL, kills - kills // 3)]
    deaths = 0
    for index in draw.permutation(kills):
        kind, value = moments[index]
        if kind == "call":
            code, _ = nursery.run(arguments(tmp_path, "killed", *more), fatal(value))
        else:
            pid = nursery.start(arguments(tmp_path, "killed", *more), fatal(LAST_CALL))
            time.sleep(value)
            kill(pid)
            code, _ = nursery.end()
        deaths += code == -signal.SIGKILL
        assert all(step > 0 for step in whole_checkpoints(killed))
    assert deaths == kills, "the run must be long enough for all of them"
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
