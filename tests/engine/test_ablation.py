"""The ablation: each row takes away what it says; one command runs, stops, goes on and writes the table."""

from __future__ import annotations

import csv
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from igll.config import load_config
from igll.engine import reuse
from igll.engine import train as training
from igll.engine.ablation import ABLATIONS, load_row, run_ablation
from igll.engine.checkpoint import load_checkpoint
from igll.engine.state import flat
from igll.errors import InputError
from igll.registry import build_generator
from igll.report.paper import TABLE4

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "ablations"
SCRIPT = ROOT / "scripts" / "ablation.py"
TAKEN_AWAY = {
    "full": {},
    "without_gam": {"model.gam": "vanilla"},
    "without_ffsm": {"model.ffsm": "vanilla"},
    "without_structure_prior": {"model.structure_prior": "none"},
    "without_position": {"model.position": False},
    "three_heads": {"model.heads": 3},
    "without_svd": {"losses.svd": 0.0, "losses.svd_discriminator": False},
}
TINY = [
    "device=cpu", "data.name=synthetic", "data.synthetic_images=5", "data.crop_size=32", "data.workers=0",
    "model.width=4", "model.position_grid=8", "discriminator.width=4", "edges.detector=sobel",
    "losses.perceptual=0", "losses.style=0", "losses.svd_leading=2", "train.batch_size=2",
    "train.max_steps=3", "train.eval_images=1", "eval.metrics=[psnr, ms_ssim]", "eval.floors=[]",
    "eval.pictures=0",
]  # fmt: skip


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    return [*TINY, f"edges.cache={tmp_path / 'maps'}"]


def test_there_is_a_config_for_each_row_of_the_table():
    assert {path.stem for path in CONFIGS.iterdir()} == TAKEN_AWAY.keys()
    assert {row.name for row in ABLATIONS} == TAKEN_AWAY.keys()
    assert {row.row for row in ABLATIONS} == TABLE4.keys()


def test_the_full_model_is_the_papers_configuration_for_aid():
    assert load_config(CONFIGS / "full.yaml") == load_config(ROOT / "configs" / "aid_25.yaml")


@pytest.mark.parametrize("row", ABLATIONS, ids=lambda row: row.name)
def test_each_row_differs_from_the_full_model_in_its_keys_alone(row):
    full = flat(load_config(CONFIGS / "full.yaml").model_dump())
    own = flat(load_config(CONFIGS / f"{row.name}.yaml").model_dump())
    different = {key: value for key, value in own.items() if value != full[key]}
    assert different == TAKEN_AWAY[row.name] and tuple(different) == row.keys
    head = (CONFIGS / f"{row.name}.yaml").read_text(encoding="utf-8").split("seed:")[0]
    assert f"the row '{row.row}'" in head and "ORACLE" in head


@pytest.mark.parametrize("row", ABLATIONS, ids=lambda row: row.name)
def test_each_row_builds_the_generator_it_describes(row):
    generator = build_generator(load_config(CONFIGS / f"{row.name}.yaml", ["model.width=4"]).model)
    names = generator.state_dict().keys()
    assert any("position" in name for name in names) == (row.name != "without_position")
    assert any("channel_gate" in name for name in names) == (row.name != "without_ffsm")
    assert any(".join." in name for name in names) == (row.name == "three_heads")


def test_an_override_holds_for_all_rows_but_not_for_what_a_row_takes_away():
    overrides = ["model.structure_prior=learned", "train.max_steps=7"]
    for row in ABLATIONS:
        config = load_row(CONFIGS, row, overrides)
        expected = "none" if row.name == "without_structure_prior" else "learned"
        assert (config.model.structure_prior, config.train.max_steps) == (expected, 7)


def test_a_row_that_takes_nothing_away_any_more_is_refused(tmp_path: Path):
    for override in ("losses.svd=0", "model.heads=3", "model.gam=vanilla", "model={width: 8}"):
        with pytest.raises(InputError, match="differs from the full model no more"):
            run_ablation(CONFIGS, tmp_path / "out", [override])
    assert not (tmp_path / "out").exists()


def test_it_stops_goes_on_and_leaves_alone_what_is_done(tiny, tmp_path, monkeypatch, capsys):
    out, only = tmp_path / "out", ["full", "without_gam"]
    step, steps = training.train_step, []

    def interrupted_in_the_second_row(state, *rest):
        steps.append(state.step)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step(state, *rest)

    monkeypatch.setattr(training, "train_step", interrupted_in_the_second_row)
    assert run_ablation(CONFIGS, out, tiny, only) == 130
    assert load_checkpoint(out / "without_gam" / "checkpoints" / "last.pt")["step"] == 2
    assert status(out) == {"IGLL": "run"}
    assert "the same command goes on" in capsys.readouterr().out

    done = (out / "full" / "checkpoints" / "last.pt").stat().st_mtime_ns
    assert run_ablation(CONFIGS, out, tiny, only) == 0
    assert steps == [0, 1, 2, 0, 1, 2], "the second row went on from its last step"
    assert (out / "full" / "checkpoints" / "last.pt").stat().st_mtime_ns == done
    assert status(out) == {"IGLL": "run", "w/o GAM": "run"}
    printed = capsys.readouterr().out
    assert "[1/2] full (IGLL): done before" in printed and "not run" in printed and "25.2109" in printed
    assert "† oracle edges" in (out / "table4.md").read_text()

    # Other metrics: measured again, not trained again. A larger budget: trained on, the older rows drop out.
    assert run_ablation(CONFIGS, out, [*tiny, "eval.metrics=[psnr]"], only) == 0
    assert len(steps) == 6 and "MS-SSIM: not among eval.metrics" in (out / "table4.md").read_text()
    assert run_ablation(CONFIGS, out, [*tiny, "train.max_steps=4"], ["full"]) == 0
    assert steps[6:] == [3] and status(out) == {"IGLL": "run"}
    with pytest.raises(InputError, match=r"full: was begun with losses\.svd_leading=2, and now it is 4"):
        run_ablation(CONFIGS, out, [*tiny, "losses.svd_leading=4"], ["full"])


def status(out: Path) -> dict[str, str]:
    rows = csv.DictReader((out / "table4.csv").open(encoding="utf-8"))
    return {row["method"]: row["status"] for row in rows if row["status"] != "not run"}


def test_a_measurement_that_was_cut_short_is_made_again(tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    main: Callable[[list[str]], None] = runpy.run_path(str(SCRIPT))["main"]
    arguments = ["--out", str(out), "--only", "three_heads", *tiny]
    measure = reuse.evaluate

    def cut_short(*rest):
        measure(*rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(reuse, "evaluate", cut_short)
    assert left(main, arguments) == 130
    assert "error: interrupted" in capsys.readouterr().err
    monkeypatch.setattr(reuse, "evaluate", measure)
    assert left(main, arguments) == 0
    assert "three_heads (w/ multi-head attention): measuring" in capsys.readouterr().out
    assert status(out) == {"w/ multi-head attention": "run"}


def left(main: Callable[[list[str]], None], arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model.widht=8"], "did you mean 'model.width'"),
        (["losses.svd=0"], "'w/o SVD loss' differs from the full model no more"),
        (["data.root=/no/where"], "/no/where: no such folder"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path: Path, arguments: list[str], expected: str):
    command = [sys.executable, SCRIPT, "--out", tmp_path / "out", "edges.detector=sobel", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and expected in done.stderr
