"""Signals: which of them save and leave, with which code, and what becomes of the loader's workers."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from igll.engine import signals
from igll.engine.signals import EXIT_CODES, StopRequest
from igll.errors import ProcessEndedError
from tests.engine.run_files import MAIN, Nursery, alive, arguments, children, kill, last_of

CODES = {"SIGHUP": 129, "SIGINT": 130, "SIGUSR1": 138, "SIGUSR2": 140, "SIGTERM": 143, "SIGXCPU": 152}
WARNINGS = ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"]


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


def endless(tmp_path: Path, *more: str) -> list[str]:
    return arguments(tmp_path, "run", "train.max_steps=100000", "train.epochs=100000", *more)


def wait_until(done, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def first_checkpoint(tmp_path: Path) -> None:
    wait_until((tmp_path / "run" / "checkpoints" / "last.pt").exists)


def test_codes():
    assert {number.name: code for number, code in EXIT_CODES.items()} == CODES


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", *WARNINGS])
def test_a_signal_to_all_processes_of_a_run_saves_and_leaves(nursery, tmp_path: Path, name: str):
    """As schedulers send it: to the main process and to its two workers, warnings twice."""
    pid = nursery.start(endless(tmp_path, "data.workers=2"))
    first_checkpoint(tmp_path)
    workers = children(pid)
    for _ in range(2 if name in WARNINGS else 1):
        with suppress(ProcessLookupError):  # the first may have been enough already
            os.killpg(pid, signal.Signals[name])
        time.sleep(0.002)  # much longer, and it has left: signals then do what they did before
    code, printed = nursery.end()
    assert code == CODES[name], printed
    assert "go on with --resume" in printed and "Traceback" not in printed
    assert f"stopped at step {last_of(tmp_path / 'run')['step']}," in printed
    assert len(workers) == 2
    wait_until(lambda: not any(alive(worker) for worker in workers))


def test_an_ignored_hangup_stays_ignored(nursery, tmp_path: Path):
    """As nohup leaves it."""
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + MAIN
    pid = nursery.start(endless(tmp_path), program)
    first_checkpoint(tmp_path)
    kill(pid, signal.SIGHUP)
    before = last_of(tmp_path / "run")["step"]
    wait_until(lambda: last_of(tmp_path / "run")["step"] > before + 2)
    kill(pid, signal.SIGINT)
    assert nursery.end()[0] == 130


def test_a_closed_terminal_saves_and_leaves(nursery, tmp_path: Path):
    """Nothing can be printed any more, which must not keep the run from saving."""
    program = """
import fcntl, os, pty, termios
master, terminal = pty.openpty()
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
for number in (0, 1, 2):
    os.dup2(terminal, number)
os.close(terminal)
from igll.engine import train as engine
step = engine.train_step
def closing(state, *rest):
    if state.step == 3:
        os.close(master)
    return step(state, *rest)
engine.train_step = closing
import threading
def drain():
    try:
        while os.read(master, 10000):
            pass
    except OSError:
        pass
threading.Thread(target=drain, daemon=True).start()
from igll.config import load_config
import sys
from pathlib import Path
code = engine.train(load_config(sys.argv[2], sys.argv[6:]), Path(sys.argv[4]), True)
os._exit(code)
"""
    assert nursery.run(endless(tmp_path), program)[0] == 129
    assert last_of(tmp_path / "run")["step"] >= 4


STUCK_IN_WRITE = (
    """
import os, time
fsync = os.fsync
written = 0
def stuck(descriptor):
    global written
    written += os.readlink(f"/proc/self/fd/{descriptor}").endswith(".pt")
    if written == 3:
        print("writing", flush=True)
        while True:
            time.sleep(1)
    fsync(descriptor)
os.fsync = stuck
"""
    + MAIN
)


@pytest.mark.parametrize(
    "names", [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM"), ("SIGUSR1", "SIGINT", "SIGINT")]
)
def test_a_second_signal_ends_at_once_and_harms_nothing(nursery, tmp_path: Path, names: tuple[str, ...]):
    """While a checkpoint is being written that will never be."""
    pid = nursery.start(endless(tmp_path), STUCK_IN_WRITE)
    nursery.wait_for("writing")
    folder = tmp_path / "run" / "checkpoints"
    whole = {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.glob("[!.]*.pt")}
    for name in names[:-1]:
        kill(pid, signal.Signals[name])
        time.sleep(0.5)
        assert alive(pid)
    kill(pid, signal.Signals[names[-1]])
    assert nursery.end()[0] == -signal.Signals[names[-1]]
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.glob("[!.]*.pt")} == whole
    assert last_of(tmp_path / "run")["step"] == 2
    assert nursery.run(arguments(tmp_path, "run", "train.max_steps=3"))[0] == 0
    assert not list(folder.glob(".*"))


# Each of two workers reads four batches and no more: at the checkpoint of step 3 some are left to leave by.
STUCK_IN_READ = (
    """
import time
from igll.data.datasets import InpaintingDataset
from torch.utils.data import get_worker_info
reads = 0
read = InpaintingDataset.__getitem__
def stuck(self, key):
    global reads
    reads += 1
    while get_worker_info() is not None and reads > 8:
        time.sleep(3600)
    return read(self, key)
InpaintingDataset.__getitem__ = stuck
"""
    + MAIN
)


# How long the loader waits for each worker to end by itself: 5 s as it comes.
IMPATIENT = "import torch.utils.data._utils as loader\nloader.MP_STATUS_CHECK_INTERVAL = 1.0\n"


def test_a_stuck_worker_keeps_nobody_from_leaving(nursery, tmp_path: Path):
    more = ["data.workers=2", "train.checkpoint_every=3"]
    pid = nursery.start(endless(tmp_path, *more), IMPATIENT + STUCK_IN_READ)
    first_checkpoint(tmp_path)
    workers = children(pid)
    begun = time.monotonic()
    kill(pid, signal.SIGTERM)
    code, printed = nursery.end()
    assert code == 143, printed
    assert time.monotonic() - begun < 40
    assert len(workers) == 2 and not any(alive(worker) for worker in workers)


@pytest.mark.parametrize("program", [MAIN, STUCK_IN_READ])
def test_no_worker_outlives_a_killed_main_process(nursery, tmp_path: Path, program: str):
    pid = nursery.start(endless(tmp_path, "data.workers=2"), program)
    first_checkpoint(tmp_path)
    workers = children(pid)
    kill(pid)
    nursery.end()
    assert len(workers) == 2
    wait_until(lambda: not any(alive(worker) for worker in workers), 10)


def test_handlers_are_as_before_afterwards():
    def mine(*_):
        raise AssertionError

    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    try:
        signal.signal(signal.SIGUSR1, mine)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stop.exit_code is None
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGXCPU)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.exit_code == 138
        assert signal.getsignal(signal.SIGUSR1) is mine
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_one_of_several_processes_is_told_before_signals_count_again(
    processes: int, monkeypatch: pytest.MonkeyPatch
):
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    monkeypatch.setattr(signals, "size", lambda: processes)
    try:
        with pytest.raises(ProcessEndedError), StopRequest():
            raise ProcessEndedError("another process of this run ended")
        deaf = {} if processes == 1 else dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN)
        assert {number: signal.getsignal(number) for number in EXIT_CODES} == before | deaf
        with StopRequest():
            pass
        assert {number: signal.getsignal(number) for number in EXIT_CODES} == before | deaf
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
