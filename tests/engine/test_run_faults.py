"""A disk that is full, read-only or lost: training goes on and says so, and nothing on disk is harmed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

from igll import storage
from igll.engine import train as engine
from igll.engine.checkpoint import load_checkpoint
from igll.engine.log import RunLog
from igll.engine.train import train
from igll.engine.validate import Validation
from igll.errors import InputError, OutputError
from tests.engine.run_files import Nursery, arguments, differing, last_of, lines


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def name_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def warnings(captured: str) -> list[str]:
    text = captured.replace("\r", "\n")
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith("warning: ")]


class FullDisk:
    """A disk without room for files whose names hold one of some words; others are written."""

    def __init__(self, monkeypatch) -> None:
        self.names: tuple[str, ...] = ()
        fsync, write_bytes = os.fsync, Path.write_bytes

        def check(name: str) -> None:
            if any(word in name for word in self.names):
                raise OSError(28, "No space left on device")

        def checked_fsync(descriptor: int) -> None:
            check(name_of(descriptor))
            fsync(descriptor)

        def checked_write(path: Path, data: bytes) -> int:
            if any(word in path.name for word in self.names):
                write_bytes(path, data[:1000])
            check(path.name)
            return write_bytes(path, data)

        monkeypatch.setattr(storage.os, "fsync", checked_fsync)
        monkeypatch.setattr(Path, "write_bytes", checked_write)


@pytest.fixture
def at_step(monkeypatch):
    """Do something before a step of the training: a mapping of finished steps to what is done."""
    actions: dict = {}
    step = engine.train_step

    def acting(state, *rest):
        actions.get(state.step, lambda: None)()
        return step(state, *rest)

    monkeypatch.setattr(engine, "train_step", acting)
    return actions


@pytest.fixture
def disk(monkeypatch) -> FullDisk:
    return FullDisk(monkeypatch)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def every_step(small, home: Path):
    """Builds the configuration of a run of six steps; keyword arguments are keys of ``train``."""

    def build(**keys):
        every = {"checkpoint_every": 1, "eval_every": 6, "sheet_every": 6, "max_steps": 6}
        return small(train=every | keys, edges={"cache": str(home / "maps")})

    return build


@pytest.fixture
def whole(every_step, home: Path, capsys) -> Path:
    """The run without any fault."""
    if not (home / "run").exists():
        train(every_step(), home / "run")
        capsys.readouterr()
    return home / "run"


def test_a_last_checkpoint_that_cannot_be_written_is_tried_again(
    every_step, whole, tmp_path, disk, at_step, capsys
):
    run = tmp_path / "run"
    before = {}

    def fill():
        disk.names = (".last.",)
        before.update(digests(run / "checkpoints"))

    def free():
        now = digests(run / "checkpoints")
        assert now["last.pt"] == before["last.pt"] and now["previous.pt"] == before["previous.pt"]
        assert not [name for name in now if name.startswith(".")]
        disk.names = ()

    at_step |= {2: fill, 4: free}
    assert train(every_step(), run) == 0
    told = warnings(capsys.readouterr().err)
    assert told == [
        f"warning: {run}/checkpoints/last.pt: cannot be written (No space left on device); training goes on, "
        f"tried again at step {step}" for step in (4, 5)
    ]  # fmt: skip
    assert differing(last_of(whole), last_of(run)) == []


def test_at_the_end_it_is_an_error_that_names_the_last_good_one(every_step, tmp_path, disk, at_step):
    run = tmp_path / "run"
    at_step |= {3: lambda: setattr(disk, "names", (".last.",))}
    with pytest.raises(OutputError, match=r"last\.pt: cannot be .*good checkpoint is .*last\.pt \(step 3\)"):
        train(every_step(), run)
    assert last_of(run)["step"] == 3
    disk.names = ()
    at_step.clear()
    assert train(every_step(), run, resume=True) == 0
    disk.names = (".last.", ".best.")
    with pytest.raises(OutputError, match=r"there is none$"):
        train(every_step(), tmp_path / "none")


def test_what_was_learnt_before_a_fault_of_the_data_does_not_hide_that_fault(
    every_step, tmp_path, disk, at_step, capsys
):
    def fails():
        disk.names = (".last.",)
        raise InputError("image 5 is broken")

    at_step |= {2: fails}
    with pytest.raises(InputError, match="image 5 is broken"):
        train(every_step(), tmp_path / "run")
    assert "last good checkpoint is" in warnings(capsys.readouterr().err)[0]


def test_a_best_checkpoint_that_cannot_be_written_is_tried_again(
    every_step, tmp_path, disk, at_step, capsys, monkeypatch
):
    scores = iter([30.0, 20.0, 10.0])
    monkeypatch.setattr(Validation, "scores", lambda *_: {"psnr_hole": next(scores), "psnr": 1.0})
    disk.names = (".best.",)
    at_step |= {2: lambda: setattr(disk, "names", ())}
    run = tmp_path / "run"
    assert train(every_step(eval_every=2), run) == 0
    assert len(told := warnings(capsys.readouterr().err)) == 1
    assert "best.pt: cannot be written" in told[0] and "at the next validation" in told[0]
    assert load_checkpoint(run / "checkpoints" / "best.pt")["step"] == 4
    assert last_of(run)["best"] == 20.0


def test_a_checkpoint_that_was_to_stay_and_a_sheet_that_cannot_be_written(
    every_step, tmp_path, at_step, capsys, disk
):
    run = tmp_path / "run"
    disk.names = ("step_0000002",)
    at_step |= {4: lambda: (run / "sheets").write_text("in the way")}
    assert train(every_step(keep_every=2), run) == 0
    told = warnings(capsys.readouterr().err)
    assert (
        len(told) == 2
        and "step_0000002.pt: cannot be" in told[0]
        and "step_0000006.png: cannot be" in told[1]
    )
    assert (run / "checkpoints" / "step_0000004.pt").exists()


def test_a_log_on_a_full_disk_catches_up(every_step, whole, tmp_path, at_step, capsys):
    """The real thing: for some steps the log is /dev/full."""
    run = tmp_path / "run"
    log, aside = run / "metrics.jsonl", run / "aside"

    def fill():
        log.rename(aside)
        log.symlink_to("/dev/full")

    def free():
        log.unlink()
        aside.rename(log)

    at_step |= {1: fill, 5: free}
    assert train(every_step(), run) == 0
    told = warnings(capsys.readouterr().err)
    assert len(told) == 2
    assert "metrics.jsonl: cannot be written (No space left on device); training goes on" in told[0]
    assert "metrics.jsonl: is written again; no line is missing" in told[1]
    assert lines(run) == lines(whole)


def test_half_a_line_is_taken_back(tmp_path, monkeypatch, capsys):
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if not name_of(descriptor).endswith("metrics.jsonl"):
            return write(descriptor, data)
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) - 10])

    with RunLog(tmp_path, 0) as log:
        log.scalars(1, "train", {"loss": 1.0})
        before = (tmp_path / "metrics.jsonl").read_bytes()
        monkeypatch.setattr(os, "write", half)
        log.scalars(2, "train", {"loss": 2.0})
        assert (tmp_path / "metrics.jsonl").read_bytes() == before
        log.sync()
        monkeypatch.undo()
        (tmp_path / "metrics.jsonl").write_bytes(before + b'{"step": 2, "lo')
        log.scalars(3, "train", {"loss": 3.0})
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 2.0, 3.0]
    assert len(warnings(capsys.readouterr().err)) == 2


def test_lines_that_were_never_written_are_told_of(tmp_path, capsys):
    with RunLog(tmp_path / "run", 0) as log:
        log.scalars(1, "train", {"loss": 1.0})
        shutil.rmtree(tmp_path / "run")
        log.scalars(2, "train", {"loss": 1.0})
        log.scalars(3, "train", {"loss": 1.0})
    told = warnings(capsys.readouterr().err)
    assert "metrics.jsonl: lacks the last 2 line(s)" in told[-1 if "lacks" in told[-1] else -2]


def test_tensorboard_is_switched_off_with_one_warning(every_step, tmp_path, at_step, capsys):
    run, hook = tmp_path / "run", threading.excepthook
    at_step |= {2: lambda: shutil.rmtree(run / "tensorboard")}
    assert train(every_step(), run) == 0
    told = warnings(capsys.readouterr().err)
    assert len(told) == 1 and "tensorboard: cannot be written (No such file" in told[0]
    assert len([line for line in lines(run) if line["split"] == "train"]) == 6
    assert threading.excepthook is hook
    at_step.clear()
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "tensorboard").write_text("in the way")
    assert train(every_step(), tmp_path / "second") == 0
    assert len(warnings(capsys.readouterr().err)) == 1


def test_a_folder_whose_name_is_not_utf8_has_no_tensorboard(tmp_path, capsys):
    run = tmp_path / os.fsdecode(b"caf\xe9")
    run.mkdir()
    sys.stderr.reconfigure(errors="backslashreplace")  # as Python opens it
    with RunLog(run, 0) as log:
        log.scalars(1, "train", {"loss": 1.0})
    assert [line["loss"] for line in lines(run)] == [1.0]
    (told,) = warnings(capsys.readouterr().err)
    assert told.endswith("training goes on without TensorBoard")


def test_a_lost_drive_that_comes_back(every_step, whole, tmp_path, at_step, capsys):
    """The whole folder vanishes for three steps."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    before = {}

    def lose():
        run.rename(elsewhere)
        run.write_text("an empty mount point")
        before.update(digests(elsewhere / "checkpoints"))

    def find():
        assert digests(elsewhere / "checkpoints") == before
        run.unlink()
        elsewhere.rename(run)

    at_step |= {2: lose, 5: find}
    assert train(every_step(), run) == 0
    told = warnings(capsys.readouterr().err)
    for part, count in {"last.pt": 3, "tensorboard": 1, "metrics.jsonl": 2}.items():
        assert sum(part in line for line in told) == count, told
    assert lines(run) == lines(whole) and differing(last_of(whole), last_of(run)) == []


LIMITED = """
import resource, signal
from igll.engine import train as engine
step = engine.train_step
def limited(state, *rest):
    if state.step == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    if state.step == FREE:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return step(state, *rest)
engine.train_step = limited
from igll.cli import train
train()
"""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.mark.parametrize("free", [5, 99])
def test_a_real_limit_on_the_size_of_files(nursery, tmp_path: Path, free: int):
    """From step 3 on no file may be longer than 20 kB, as on a full disk; for good, or until step 6."""
    keys = ["train.max_steps=6", "train.eval_every=6"]
    code, printed = nursery.run(arguments(tmp_path, "run", *keys), LIMITED.replace("FREE", str(free)))
    assert "Traceback" not in printed
    told = [line for line in printed.replace("\r", "\n").splitlines() if "last.pt: cannot be written" in line]
    run = tmp_path / "run"
    if free == 5:
        assert code == 0 and len(told) == 3 and last_of(run)["step"] == 6
    else:
        assert code == 1 and len(told) == 4
        assert told[-1].startswith("error: ") and told[-1].endswith("last.pt (step 2)")
        assert last_of(run)["step"] == 2
        assert load_checkpoint(run / "checkpoints" / "previous.pt")["step"] == 1
        assert not list((run / "checkpoints").glob(".*"))
        assert nursery.run(arguments(tmp_path, "run", *keys))[0] == 0
    assert nursery.run(arguments(tmp_path, "whole", *keys))[0] == 0
    assert differing(last_of(tmp_path / "whole"), last_of(run)) == []
    assert lines(run) == lines(tmp_path / "whole")


def test_a_folder_that_cannot_be_written_to_from_the_start(every_step, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError, match=r"file/run: cannot be made"):
        train(every_step(), tmp_path / "file" / "run")


def test_lines_are_on_disk_before_a_checkpoint_that_covers_them(every_step, tmp_path, monkeypatch):
    """What a power cut leaves: every checkpoint is written after its log was flushed to the disk."""
    fsync, synced = os.fsync, {"steps": 0}

    def noted(descriptor: int) -> None:
        name = name_of(descriptor)
        if name.endswith("metrics.jsonl"):
            text = Path(name).read_text().splitlines()
            synced["steps"] = json.loads(text[-1])["step"] if text else 0
        elif name.endswith(".pt"):
            checked.append(Path(name).name)
            assert synced["steps"] >= load_checkpoint(name)["step"]
        fsync(descriptor)

    checked: list[str] = []
    monkeypatch.setattr(os, "fsync", noted)
    train(every_step(keep_every=3), tmp_path / "run")
    assert len(checked) >= 9
