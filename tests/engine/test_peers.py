"""The contest at an equal budget of time: timed, trained, measured, stopped, gone on with, all in a table."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from igll.config import load_config
from igll.engine import peers as engine
from igll.engine import train as training
from igll.engine.checkpoint import load_checkpoint
from igll.engine.cost import parameters
from igll.engine.paper_results import write_paper_table
from igll.engine.peers import CONTENDERS, HOLES
from igll.engine.results import load_results
from igll.registry import TITLES, build_generator

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, TASK = ROOT / "scripts" / "peers.py", ROOT / "configs" / "peers" / "equal_budget.yaml"
TINY = [
    "device=cpu", "data.name=synthetic", "data.synthetic_images=5", "data.crop_size=32", "model.width=4",
    "edges.detector=sobel", "train.batch_size=2", "train.eval_images=1", "eval.metrics=[psnr_hole]",
    "eval.pictures=0",
]  # fmt: skip
Run = Callable[..., tuple[object, str]]


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """What makes any contender small; it comes after a contender's own settings."""
    return [*TINY, f"edges.cache={tmp_path / 'maps'}"]


@pytest.fixture
def run(tiny: list[str], tmp_path: Path, monkeypatch, capsys) -> Run:
    """Calls the script for two contenders on one family of holes; returns exit code and error."""
    monkeypatch.setattr(engine, "CONTENDERS", CONTENDERS[:2])
    monkeypatch.setattr(engine, "HOLES", {"square25": HOLES["square25"]})
    monkeypatch.setattr(engine, "ROUNDS", 2)
    main = runpy.run_path(str(SCRIPT))["main"]

    def call(*arguments: str, methods: tuple[str, ...] = ("harmonic",)) -> tuple[object, str]:
        given = [text for name in methods for text in ("--method", name)]
        with pytest.raises(SystemExit) as end:
            main(["--out", str(tmp_path / "out"), *given, *tiny, *arguments])
        return end.value.code, capsys.readouterr().err

    return call


@pytest.fixture
def steps(monkeypatch) -> list[tuple[str, int]]:
    """Name and step of every training step that is taken to learn, not to be timed."""
    taken, step = [], training.train_step

    def count(state, objectives, config, *rest):
        taken.append((config.model.name, state.step))
        return step(state, objectives, config, *rest)

    monkeypatch.setattr(training, "train_step", count)
    return taken


def write_budget(out: Path, first: int = 3, **steps: int) -> None:
    out.mkdir(exist_ok=True)
    every = dict.fromkeys((contender.name for contender in CONTENDERS), 1) | steps
    (out / "budget.json").write_text(json.dumps({"steps": every, "first": first}))


def test_every_contender_takes_the_task_and_settings_for_all(tiny):
    for contender in CONTENDERS:
        own, small = (load_config(TASK, [*contender.overrides, *more]) for more in ([], tiny))
        assert own.model.name == small.model.name == contender.name and own.data == load_config(TASK).data
        assert small.model.width == 4 and small.data.crop_size == 32
        assert parameters(build_generator(small.model)) < 400_000
    assert [contender.name for contender in CONTENDERS] == [name for name in TITLES if name != "dmfn24"]


def test_steps_take_equal_times(tiny, tmp_path: Path, monkeypatch):
    """The first gets as many as were asked for, one that takes twice as long half, none fewer than one."""
    seconds = {"igll": 0.2, "dmfn": 0.4, "hifill": 0.05, "han": 100.0, "hint": 0.2}

    def clock(config):
        yield 1000.0  # warming up does not count
        yield from [seconds[config.model.name]] * (engine.ROUNDS - 1)

    monkeypatch.setattr(engine, "_timed_steps", clock)
    request = engine.PeersRequest(TASK, tmp_path, 10, [], overrides=tiny)
    configs = {contender.name: load_config(TASK, contender.overrides) for contender in CONTENDERS}
    expected = {"igll": 10, "dmfn": 5, "hifill": 40, "han": 1, "hint": 10}
    assert engine._budget(configs, request) == expected
    stored = json.loads((tmp_path / "budget.json").read_text())
    assert stored == {"steps": expected, "seconds_per_step": seconds, "first": 10}


def test_all_is_done_once(run, steps, tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    assert run("--steps", "3")[0] == 0
    budget = json.loads((out / "budget.json").read_text())
    assert budget["first"] == budget["steps"]["igll"] == 3 and budget["steps"].keys() == {"igll", "dmfn"}
    ratio = budget["seconds_per_step"]["igll"] / budget["seconds_per_step"]["dmfn"]
    assert budget["steps"]["dmfn"] == max(round(3 * ratio), 1)
    for name, count in budget["steps"].items():
        assert load_checkpoint(out / name / "checkpoints" / "last.pt")["step"] == count
        assert [step for other, step in steps if other == name] == list(range(count))
        assert list(load_results(out / name / "square25").methods) == [TITLES[name]]
    rows = json.loads((out / "methods.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"IGLL", "DMFN", "harmonic (Laplace)"}
    assert len({row["task_sha256"] for row in rows}) == 1
    assert all((row["psnr_hole_difference"] is None) == (row["method"] == "IGLL") for row in rows)

    # A second call finds everything there.
    files = [*out.rglob("metrics.json"), *out.rglob("last.pt")]
    kept = {path: path.stat().st_mtime_ns for path in files}
    assert len(kept) == 5
    steps.clear()
    monkeypatch.setattr(engine, "_timed_steps", None)
    assert run("--steps", "3")[0] == 0
    assert steps == [] and {path: path.stat().st_mtime_ns for path in kept} == kept

    # Other methods are measured, and nothing else.
    assert run("--steps", "3", methods=("nearest",))[0] == 0
    assert [path.parts[-3] for path in kept if path.stat().st_mtime_ns != kept[path]] == ["without_training"]
    assert steps == [] and "nearest pixel" in (out / "methods.md").read_text()

    # What would be another contest is refused before anything is done.
    code, error = run("--steps", "4")
    assert code == 2 and "budget.json: was made for 3 steps, not 4; choose another --out" in error
    code, error = run("--steps", "3", "train.lr=0.1")
    assert code == 2 and "igll: was begun with train.lr=0.0004, and now it is 0.1" in error
    assert steps == [] and error.count("\n") == 1


def test_only_some_leave_the_tables_to_the_last_call(run, steps, tmp_path: Path):
    """Such calls may run side by side, and then none knows what the others still write."""
    out = tmp_path / "out"
    write_budget(out, igll=2, dmfn=3)
    assert run("--steps", "3", "--only", "dmfn")[0] == 0
    assert steps == [("dmfn", step) for step in range(3)] and not (out / "igll").exists()
    assert not (out / "methods.md").exists() and not (out / "without_training").exists()
    assert run("--steps", "3", "--only", "igll")[0] == 0
    assert steps[3:] == [("igll", 0), ("igll", 1)]
    assert run("--steps", "3")[0] == 0
    assert len(steps) == 5 and "DMFN" in (out / "methods.md").read_text()


def test_few_images_do_not_cut_the_budget(run, steps, tmp_path: Path):
    write_budget(tmp_path / "out", igll=1, dmfn=5)
    assert run("--steps", "3", "--only", "dmfn", "train.epochs=1")[0] == 0
    assert len(steps) == 5, "an epoch has 4 images, that is, two steps"


def test_what_is_wrong_is_said_before_any_work(run, steps, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, error = run(methods=("harmonic", "telea"))
    assert code == 2 and error.startswith("error: telea: needs the package") and error.count("\n") == 1
    for arguments, said in (
        (("--only", "lama"), "invalid choice: 'lama'"),
        (("--method", "teela"), "invalid choice: 'teela'"),
        (("--steps", "0"), "--steps starts at 1"),
        (("model.widht=8",), "did you mean 'model.width'"),
    ):
        code, error = run(*arguments)
        assert code == 2 and said in error.splitlines()[-1]
    assert steps == [] and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "budget.json").write_text("{}")
    code, error = run()
    assert code == 2 and "budget.json: not a budget that can be read; delete it" in error


def test_timed_steps_leave_no_trace_in_what_is_learnt(run, tmp_path: Path):
    weights = []
    for name in ("timed", "not_timed"):
        out = tmp_path / name
        if name == "not_timed":
            write_budget(out, igll=2, dmfn=1, first=2)
        torch.manual_seed(len(weights))
        assert run("--out", str(out), "--steps", "2", "--only", "igll")[0] == 0
        weights.append(load_checkpoint(out / "igll" / "checkpoints" / "last.pt")["generator"])
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_stopped_by_a_signal_it_goes_on_from_there(run, steps, tiny, tmp_path: Path):
    out = tmp_path / "out"
    write_budget(out, igll=1, dmfn=100_000)
    arguments = ["--out", out, "--steps", "3", "--only", "dmfn", "train.log_every=1", *tiny]
    command = [sys.executable, SCRIPT, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    log, deadline = out / "dmfn" / "metrics.jsonl", time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "dmfn: stopped and saved; the same command goes on" in printed
    reached = load_checkpoint(out / "dmfn" / "checkpoints" / "last.pt")["step"]
    assert reached >= 1

    write_budget(out, igll=1, dmfn=reached + 2)
    assert run("--steps", "3", "--only", "dmfn", "train.log_every=1")[0] == 0
    assert steps == [("dmfn", reached), ("dmfn", reached + 1)]


def test_table_2_takes_what_was_measured(run, tmp_path: Path):
    """On a dataset of the paper, here a folder that is laid out like AID."""
    for number in range(6):
        place = tmp_path / "aid" / f"class_{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((100, 100), 50).convert("RGB").save(place / f"{number}.jpg")
    out = tmp_path / "out"
    write_budget(out, igll=2, dmfn=2)
    aid = ["data.name=aid", f"data.root={tmp_path / 'aid'}", "eval.metrics=[psnr]"]
    assert run("--steps", "3", *aid)[0] == 0
    table = write_paper_table("table2", out, tmp_path / "table")
    rows = {row["method"]: row for row in table.records() if row["status"] == "run"}
    assert rows.keys() == {"IGLL, structure prior learned", "DMFN"}
    assert {row["missing"] for row in rows.values()} == {"25 %"}
    for label, row in rows.items():
        name = label.partition(",")[0]
        measured = load_results(out / name.lower() / "square25").methods[name]
        assert row["psnr"] == measured.means["psnr"] and row["psnr_difference"] is None
    assert "Not the paper's protocol (data.crop_size=32" in table.markdown()

    # Equal times are seldom equal numbers of steps: the table says how many each network had.
    write_budget(out, igll=2, dmfn=3)
    assert run("--steps", "3", *aid)[0] == 0
    table = write_paper_table("table2", out, tmp_path / "table")
    assert not table.mixed and "training steps: DMFN 3, IGLL 2," in table.caption
