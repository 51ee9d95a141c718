"""Trainings in processes of their own that start at once, and what they leave, compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch

from igll.engine.checkpoint import load_checkpoint
from tests.engine.conftest import QUICKSTART

SCENES = 10

# Loads everything and renders the scenes once, and then runs programs with arguments of igll-train in
# processes forked from it. A first optimiser would load torch._dynamo, which takes longer than a run.
_NURSERY = """
import functools, json, os, signal, sys, traceback
import torch, torch._dynamo, torch.utils.tensorboard
import igll.cli, igll.config, igll.engine.train, igll.registry
from igll.data import sources
sources.render_scene = functools.cache(sources.render_scene)
for seed in range(int(sys.argv[1])):
    sources.render_scene(seed, 256)
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if not pid:
        code = 99
        try:
            os.setsid()
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            # What starts the tests may have these ignored, as nohup and shells do, which a child inherits.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            sys.argv = ["igll-train", *order["arguments"]]
            exec(order["program"], {})
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
MAIN = "from igll.cli import train; train()\n"

# Dies by SIGKILL at the n-th of those calls by which a run writes to its folder, half of the content written.
_FATAL = """
import os, signal
from pathlib import Path
calls = 0
def counted(before, half=None):
    def call(*arguments, **options):
        global calls
        if half is None or half(*arguments):
            calls += 1
            if calls == {number}:
                os.kill(os.getpid(), signal.SIGKILL)
        return before(*arguments, **options)
    return call
def half_of_the_file(path, data):
    global calls
    if calls + 1 == {number}:
        write_bytes(path, data[: len(data) // 2])
    return True
def half_of_the_line(descriptor, data):
    global calls
    if not os.readlink(f"/proc/self/fd/{{descriptor}}").endswith("metrics.jsonl"):
        return False
    if calls + 1 == {number}:
        write(descriptor, data[: len(data) // 2])
    return True
write_bytes, write = Path.write_bytes, os.write
Path.write_bytes = counted(write_bytes, half_of_the_file)
os.write = counted(write, half_of_the_line)
os.fsync = counted(os.fsync)
Path.replace = counted(Path.replace)
"""


def fatal(number: int) -> str:
    """A program that trains and is killed at the so manieth write, flush or renaming in its folder."""
    return _FATAL.format(number=number) + MAIN


class Nursery:
    """Runs igll-train in processes of their own, one at a time, that need not load their modules."""

    def __init__(self, folder: Path) -> None:
        self._started: list[int] = []
        self._runs = False
        self._files = {"out": str(folder / "out.txt"), "err": str(folder / "err.txt")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY, str(SCENES)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, arguments: list[str], program: str = MAIN) -> int:
        """Start one, the leader of its own process group; its number."""
        if self._runs:  # as a test failed that had started it, and the nursery waits for its end
            kill(self._started[-1])
            self.end()
        order = self._files | {"program": program, "arguments": arguments}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self._started.append(int(self._process.stdout.readline()))
        self._runs = True
        return self._started[-1]

    def end(self) -> tuple[int, str]:
        """Wait for its end, which is made to come after some minutes; exit code and what it printed."""
        patience = threading.Timer(300, os.kill, (self._started[-1], signal.SIGKILL))
        patience.start()
        code = int(self._process.stdout.readline())
        patience.cancel()
        self._runs = False
        return code, "".join(Path(file).read_text() for file in self._files.values())

    def run(self, arguments: list[str], program: str = MAIN) -> tuple[int, str]:
        self.start(arguments, program)
        return self.end()

    def printed(self) -> str:
        """What it printed to stdout so far."""
        return Path(self._files["out"]).read_text()

    def wait_for(self, text: str) -> None:
        """Wait until it printed something to stdout."""
        deadline = time.monotonic() + 60
        while text not in self.printed():
            assert time.monotonic() < deadline, text
            time.sleep(0.01)

    def close(self) -> None:
        """End the nursery, and what a failed test may have left of its process groups."""
        for pid in self._started:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.wait(timeout=60)


def arguments(folder: Path, run: str, *more: str) -> list[str]:
    """A small real training through the shipped quickstart config; goes on if there is something."""
    overrides = [
        "model.width=4", "discriminator.width=4", "data.crop_size=32", f"data.synthetic_images={SCENES}",
        "data.workers=0", "train.batch_size=2", "train.max_steps=30", "train.checkpoint_every=1",
        "train.log_every=1", "train.eval_every=10", "train.eval_images=2", "train.sheet_every=15",
        "losses.svd_leading=4", "edges.detector=sobel", "device=cpu", f"edges.cache={folder / 'maps'}",
    ]  # fmt: skip
    return ["--config", str(QUICKSTART), "--out", str(folder / run), "--resume", *overrides, *more]


def lines(run: Path) -> list[dict]:
    """The run's lines without the time, which no two runs share."""
    return [
        {name: value for name, value in json.loads(text).items() if name != "time"}
        for text in (run / "metrics.jsonl").read_text().splitlines()
    ]


def last_of(run: Path) -> dict:
    return load_checkpoint(run / "checkpoints" / "last.pt")


def differing(first: object, second: object, where: str = "") -> list[str]:
    """Paths at which two nested checkpoints differ, tensors compared bit for bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [where]
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        return [path for key in first for path in differing(first[key], second[key], f"{where}.{key}")]
    if isinstance(first, (list, tuple)):
        return [
            path
            for index, (one, other) in enumerate(zip(first, second, strict=True))
            for path in differing(one, other, f"{where}[{index}]")
        ]
    return [] if first == second else [where]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal, unless the process has just ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_for(file: Path, process: subprocess.Popen) -> None:
    """Wait until a process has written a file, or ended."""
    deadline = time.monotonic() + 120
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
