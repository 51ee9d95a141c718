"""Which checkpoints a run keeps, which one it goes on from, and whose folder it is."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from igll import cli, distributed
from igll.engine import run_checkpoints
from igll.engine import train as engine
from igll.engine.checkpoint import load_checkpoint
from igll.engine.run_checkpoints import RunCheckpoints, run_of
from igll.engine.state import build_state
from igll.engine.train import train
from igll.engine.validate import Validation
from igll.errors import ElsewhereError, InputError, OutputError
from igll.storage import locked
from tests.engine.run_files import differing, last_of

ORDER = ["last.pt", "previous.pt", "step_0000003.pt", "step_0000002.pt", "best.pt"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def short(small, home: Path):
    """Builds the configuration of a run of four steps; keyword arguments are keys of ``train``."""

    def build(**keys):
        every = {"max_steps": 4, "checkpoint_every": 1, "eval_every": 2, "keep_every": 1, "keep": 3}
        return small(train=every | keys, edges={"cache": str(home / "maps")})

    return build


@pytest.fixture
def run(short, home: Path, tmp_path: Path) -> Path:
    """A finished run: last at step 4, previous at 3, kept 2 to 4, best at 2 or 4."""
    if not (home / "run").exists():
        train(short(), home / "run")
    return shutil.copytree(home / "run", tmp_path / "run")


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def steps(folder: Path) -> dict[str, int]:
    return {path.name: load_checkpoint(path)["step"] for path in (folder / "checkpoints").iterdir()}


def test_the_last_the_one_before_the_best_and_some_stay(run: Path, short, tmp_path: Path):
    found = steps(run)
    assert found.pop("best.pt") in (2, 4)
    assert found == {
        "last.pt": 4, "previous.pt": 3, "step_0000002.pt": 2, "step_0000003.pt": 3, "step_0000004.pt": 4,
    }  # fmt: skip
    train(short(keep_every=None), tmp_path / "plain")
    assert sorted(steps(tmp_path / "plain")) == ["best.pt", "last.pt", "previous.pt"]


@pytest.mark.parametrize("damaged", range(4))
def test_a_damaged_checkpoint_is_passed_over_for_the_next_older_one(run, short, capsys, damaged):
    whole = last_of(run)
    (run / "checkpoints" / "step_0000004.pt").unlink()
    for name in ORDER[:damaged]:
        damage(run / "checkpoints" / name)
    lines = (run / "metrics.jsonl").read_text()
    assert train(short(), run, resume=True) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(told) == damaged
    assert all(f"/{name}: damaged, " in line for name, line in zip(ORDER, told, strict=False))
    assert differing(whole, last_of(run)) == []
    assert [line.split('"time"')[0] for line in lines.splitlines()] == [
        line.split('"time"')[0] for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_missing_last_one_is_told_and_passed_over(run, short, capsys):
    (run / "checkpoints" / "last.pt").unlink()
    assert train(short(), run, resume=True) == 0
    errors = capsys.readouterr().err
    assert "last.pt: missing; looking for an older checkpoint" in errors
    assert "previous.pt, step 3" in errors and steps(run)["last.pt"] == 4


def test_a_damaged_last_one_never_takes_the_place_of_the_good_one_before(run, short, monkeypatch):
    damage(run / "checkpoints" / "last.pt")
    before = (run / "checkpoints" / "previous.pt").read_bytes()

    class Killed(BaseException):
        pass

    def dies(self, *rest):
        if self.name.startswith(".last."):
            raise Killed
        return replace(self, *rest)

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(Killed):
        train(short(), run, resume=True)
    assert (run / "checkpoints" / "previous.pt").read_bytes() == before


def test_damaged_ones_alone_are_an_error_and_stay_as_they_are(run, short, capsys):
    for path in (run / "checkpoints").iterdir():
        damage(path)
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    with pytest.raises(
        InputError, match=r"no checkpoint there is whole \(last\.pt, previous\.pt, .*best\.pt"
    ):
        train(short(), run, resume=True)
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_malicious_or_foreign_one_is_refused_and_not_passed_over(run, short, tmp_path, capsys):
    last, target = run / "checkpoints" / "last.pt", tmp_path / "gone_off"
    for write, reason in (
        (lambda: torch.save({"format": 2, "generator": Bomb(target)}, last), "refused, it holds more than"),
        (lambda: torch.save({"weights": torch.zeros(3)}, last), "not a checkpoint written by igll-train"),
        (lambda: last.write_text("a letter"), "of another kind"),
        (lambda: torch.save({"format": 3}, last), "upgrade igll"),
    ):
        write()
        with pytest.raises(InputError, match=rf"last\.pt: .*{reason}"):
            train(short(), run, resume=True)
    assert not target.exists()
    assert load_checkpoint(run / "checkpoints" / "previous.pt")["step"] == 3


@pytest.mark.parametrize("name", ["last.pt", "previous.pt", "step_0000003.pt", "best.pt"])
def test_any_checkpoint_of_a_run_keeps_another_run_out(run, short, name):
    for path in (run / "checkpoints").iterdir():
        if path.name != name:
            path.unlink()
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        train(short(), run)


def test_records_without_a_checkpoint_keep_another_run_out_but_may_begin_anew(run, short, capsys):
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(
        InputError, match=r"metrics\.jsonl: .* without a checkpoint; add --resume to begin it"
    ):
        train(short(), run)
    assert (run / "metrics.jsonl").read_bytes() == before
    assert train(short(max_steps=1), run, resume=True) == 0
    assert f"nothing to go on from in {run}; begins anew\n" in capsys.readouterr().err
    assert steps(run)["last.pt"] == 1


def test_a_run_that_has_come_further_than_is_asked_for_says_so(run, short, capsys):
    assert train(short(max_steps=2), run, resume=True) == 0
    told = capsys.readouterr()
    assert "already at step 4; train.max_steps and train.epochs ask for 2\n" in told.out
    assert "nothing to go on from" not in told.err and steps(run)["last.pt"] == 4


def test_a_runs_own_config_names_its_folder(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, code in ((["--resume"], 0), ([], 2)):
        with pytest.raises(SystemExit) as end:
            cli.train(["--config", "run/config.yaml", *arguments])
        assert end.value.code == code
    told = capsys.readouterr()
    assert (
        "done: run/checkpoints/best.pt" in told.out and "run: already holds a run; add --resume" in told.err
    )
    assert run_of(Path("configs/config.yaml")) == Path("runs/config")
    assert run_of(Path("run/other.yaml")) == Path("runs/other")


def test_checkpoints_of_the_first_format_are_resumed(run, short):
    last, whole = run / "checkpoints" / "last.pt", last_of(run)
    content = torch.load(run / "checkpoints" / "step_0000002.pt", weights_only=True)
    torch.save({**content, "format": 1}, last)
    assert train(short(), run, resume=True) == 0
    assert differing(whole, last_of(run)) == []


def test_what_a_killed_process_left_half_written_goes(run, short):
    for name in ("sheets", "failures"):
        (run / name).mkdir(exist_ok=True)
    stale = [
        run / "checkpoints" / ".last.123.pt", run / "checkpoints" / ".step_0000004.9.pt",
        run / "checkpoints" / ".best.77.pt", run / ".metrics.5.jsonl", run / ".config.5.yaml",
        run / "sheets" / ".step_0000004.5.png", run / "failures" / ".step_0000005.5.pt",
        run / ".unusable_images.5.txt",
    ]  # fmt: skip
    others = [run / "checkpoints" / ".notes.5.txt", run / ".last.pt", run / "mine.last.5.pt"]
    for path in stale + others:
        path.write_text("half")
    train(short(), run, resume=True)
    assert not any(path.exists() for path in stale) and all(path.exists() for path in others)


# Takes the lock in a process of its own, forks a child as a loader forks its workers, and waits.
HOLDER = """
import os, sys, time
from pathlib import Path
from igll.storage import locked
lock = locked(Path(sys.argv[1]) / ".lock", "busy")
if os.fork():
    print(os.getpid(), flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def held(folder: Path):
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        process.stdout.readline()
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_second_process_is_refused_in_one_line_until_the_first_is_dead(short, tmp_path: Path):
    run = tmp_path / "run"
    with held(run) as process:
        with pytest.raises(
            OutputError, match=rf"run: another process \({process.pid}\) is training there; wait"
        ):
            train(short(), run)
        assert sorted(path.name for path in run.iterdir()) == [".lock"]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        # Its forked child is still there, and has the file open.
        assert train(short(), run) == 0


def test_a_disk_without_locks_goes_on(tmp_path: Path, monkeypatch):
    import fcntl

    def none(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", none)
    locked(tmp_path / ".lock", "busy").close()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    locked(tmp_path / ".lock", "busy").close()
    with pytest.raises(OutputError, match=r"absent/\.lock: cannot be written"):
        locked(tmp_path / "absent" / ".lock", "busy")


def test_the_random_numbers_of_a_gpu_are_brought_back(small, tmp_path: Path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    config, device = small(device="cuda"), torch.device("cuda")
    state = engine.build_state(config, device)
    torch.cuda.manual_seed(5)
    state.save(tmp_path / "last.pt", config)
    expected = torch.rand(3, device=device)
    torch.cuda.manual_seed(6)
    state.load(tmp_path / "last.pt", config, device)
    assert torch.equal(torch.rand(3, device=device), expected)


def test_a_score_that_is_no_number_keeps_nobody_from_going_on(run, short, tmp_path, monkeypatch):
    for score, best in ((float("nan"), -math.inf), (7.0, 7.0)):
        monkeypatch.setattr(Validation, "scores", lambda *_, score=score: {"psnr_hole": score, "psnr": score})
        train(short(max_steps=2 if math.isnan(score) else 4), tmp_path / "other", resume=True)
        assert last_of(tmp_path / "other")["best"] == best
    assert load_checkpoint(tmp_path / "other" / "checkpoints" / "best.pt")["best"] == 7.0


def test_of_several_processes_the_one_that_cannot_write_tells(small, tmp_path: Path, monkeypatch):
    checkpoints, state = RunCheckpoints(tmp_path, small(), False), build_state(small(), torch.device("cpu"))
    monkeypatch.setattr(run_checkpoints, "is_writer", lambda: False)
    monkeypatch.setattr(run_checkpoints, "largest", lambda _: 1)
    with pytest.raises(ElsewhereError) as raised:
        checkpoints.save(state, leaving=True)
    assert not distributed._tells(raised.value, torch.distributed.HashStore())
    assert distributed._tells(OutputError("full"), torch.distributed.HashStore())


def test_one_that_stays_is_there_though_the_run_died_while_saving_the_same_step(
    short, tmp_path: Path, monkeypatch
):
    class Killed(BaseException):
        pass

    save = RunCheckpoints._save_last

    def dies_after_step_two(self, state):
        save(self, state)
        if state.step == 2:
            raise Killed

    monkeypatch.setattr(RunCheckpoints, "_save_last", dies_after_step_two)
    with pytest.raises(Killed):
        train(short(keep_every=2), tmp_path / "run")
    monkeypatch.undo()
    train(short(keep_every=2), tmp_path / "run", resume=True)
    assert {"step_0000002.pt": 2, "step_0000004.pt": 4}.items() <= steps(tmp_path / "run").items()
