"""What one process does without others, and what several refuse; what they do is in test_processes.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from igll import distributed
from igll.engine.devices import choose_device
from igll.engine.train import train
from igll.errors import InputError
from igll.launch import Launch, launch
from tests.engine.conftest import small  # noqa: F401  (a fixture)


def test_a_single_process_knows_of_no_others(monkeypatch):
    monkeypatch.setattr(distributed.dist, "all_reduce", None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    value, weight = torch.ones(3), torch.nn.Parameter(torch.ones(2))
    with distributed.joined():
        assert distributed.batch_mean(value) is value
        assert distributed.gather_rows(value) is value
        assert distributed.gather({"a": 1}) == [{"a": 1}]
        assert distributed.largest(143) == 143 and distributed.is_writer()
        assert distributed.own_part(7) == range(7) and distributed.samples_per_process(5) == 5
        distributed.average_gradients([weight])
        assert weight.grad is None
    assert launch() == Launch(0, 1, 0)


@pytest.fixture
def four(monkeypatch):
    """As if there were four processes, this one the third."""
    monkeypatch.setattr(distributed, "size", lambda: 4)
    monkeypatch.setattr(distributed, "rank", lambda: 2)
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("count", [0, 1, 4, 10])
def test_parts_are_runs_that_cover_all_once(four, monkeypatch, count: int):
    parts = []
    for rank in range(4):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts += list(distributed.own_part(count))
    assert parts == list(range(count))


def test_what_processes_cannot_share_is_refused(four, small, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match=r"train\.batch_size: 6 .* 4 equal parts"):
        train(small(train={"batch_size": 6}), tmp_path / "run")
    with pytest.raises(InputError, match=r"discriminator\.norm: batch takes its statistics"):
        train(small(train={"batch_size": 8}, discriminator={"norm": "batch"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_process_takes_the_gpu_of_its_number(four, monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 2)
    with pytest.raises(InputError, match="every process needs a GPU of its own, not 'cuda:0'"):
        choose_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="this machine has 2 GPUs, and process 3 found none left"):
        choose_device("auto")


def test_an_environment_that_does_not_say_where_to_meet_is_refused(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match=r"WORLD_SIZE=2 .*MASTER_ADDR.* torchrun"), distributed.joined():
        pass


# The first step of an optimiser loads modules that take the group there is as a default.
PARTED = r"""
import os
import torch
from igll.distributed import joined, largest

def threads():
    tasks = os.listdir("/proc/self/task")
    return sum("gloo" in open(f"/proc/self/task/{task}/comm").read() for task in tasks)

with joined():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.sum().backward()
    torch.optim.Adam([weight]).step()
    largest(1)
    within = threads()
print(f"{within > 0} {threads()}\n", end="")  # at once: the other process prints too
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc tells of threads")
def test_parted_processes_keep_no_thread_that_could_end_them():
    """One that outlives the group aborts its process now and then, when the interpreter shuts down."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    done = subprocess.run(
        [sys.executable, *launcher, sys.executable, "-c", PARTED],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True 0"] * 2
