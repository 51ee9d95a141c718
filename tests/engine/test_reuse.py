"""What is there already: left as it is, gone on with, or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from igll.config import save_config
from igll.engine import reuse
from igll.engine.results import load_results
from igll.engine.reuse import assignment, check_same_run, is_measured, measure
from igll.errors import InputError


@pytest.fixture
def free(small):
    """Settings of an evaluation that needs no checkpoint."""

    def build(*floors: str):
        return small(eval={"metrics": ["psnr_hole"], "pictures": 0, "floors": [*floors]})

    return build


def test_what_was_measured_with_these_settings_is_known_again(free, tmp_path: Path):
    out, config = tmp_path / "eval", free("mean_of_known", "harmonic")
    assert not is_measured(out, config, None)
    measure(config, None, out)
    assert is_measured(out, config, None)
    assert list(load_results(out).methods) == ["mean of known", "harmonic (Laplace)"]
    assert not is_measured(out, free("harmonic"), None)
    (out / "metrics.json").unlink()
    assert not is_measured(out, config, None)


def test_a_measurement_that_is_cut_short_does_not_pass_for_the_one_before(free, tmp_path, monkeypatch):
    out, before, wanted = tmp_path / "eval", free("mean_of_known"), free("harmonic")
    measure(before, None, out)
    work = reuse.evaluate

    def cut_short(*rest):
        work(*rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(reuse, "evaluate", cut_short)
    with pytest.raises(KeyboardInterrupt):
        measure(wanted, None, out)
    assert list(load_results(out).methods) == ["harmonic (Laplace)"]
    assert not is_measured(out, before, None) and not is_measured(out, wanted, None)


def test_a_network_trained_on_since_is_not_measured(small, tmp_path: Path):
    out, checkpoint, config = tmp_path / "eval", tmp_path / "last.pt", small()
    out.mkdir()
    (out / "metrics.json").touch()
    save_config(config, out / "config.yaml")
    assert not is_measured(out, config, checkpoint)
    checkpoint.touch()
    measured = (out / "metrics.json").stat().st_mtime
    for later, expected in ((-5, True), (5, False)):
        os.utime(checkpoint, (measured + later, measured + later))
        assert is_measured(out, config, checkpoint) == expected


def test_a_run_goes_on_with_its_own_settings_alone(small, tmp_path: Path):
    run = tmp_path / "run"
    check_same_run(run, small())  # not begun
    (run / "checkpoints").mkdir(parents=True)
    save_config(small(), run / "config.yaml")
    check_same_run(run, small(train={"lr": 0.5}))  # begun, but nothing was learnt
    (run / "checkpoints" / "last.pt").touch()
    check_same_run(run, small())
    check_same_run(run, small(train={"max_steps": 99, "epochs": 7}, eval={"floors": ["harmonic"]}))
    for change, said in (
        ({"train": {"lr": 0.5}}, r"train\.lr=0\.001, and now it is 0\.5"),
        ({"losses": {"svd_leading": 2}}, r"losses\.svd_leading=4, and now it is 2"),
        ({"data": {"limit": 3}}, r"data\.limit=null, and now it is 3"),
    ):
        with pytest.raises(InputError, match=f"run: was begun with {said}; choose another --out"):
            check_same_run(run, small(**change))


def test_settings_read_as_on_the_command_line():
    assert assignment("train.max_steps", None) == "train.max_steps=null"
    assert assignment("model.gam", "vanilla") == "model.gam=vanilla"
