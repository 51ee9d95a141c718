"""Several processes do what one does: the same gradients, runs, evaluations, and one voice."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from igll import cli
from igll.config import load_config
from igll.engine.checkpoint import load_checkpoint
from igll.engine.state import build_state
from tests.engine.conftest import QUICKSTART
from tests.engine.processes import BATCH, CASES
from tests.engine.run_files import differing, wait_for

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
RANKS = ("0_of_2", "1_of_2")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What one process found, and each of two: see processes.py."""
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.processes", str(folder)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = ("0_of_1", *RANKS)
    results = {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in names}
    logs = {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in folder.glob("*/metrics.jsonl")
    }
    saved = {
        kind: load_checkpoint(folder / kind / "checkpoints" / "last.pt")["step"] for kind in ("file", "loss")
    }
    return {**results, "logs": logs, "saved": saved}


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_the_first_step_are_those_of_one_process(found, case: str):
    alone, first, second = (found[name][case] for name in ("0_of_1", *RANKS))
    assert differing(first, second) == []
    assert alone["indices"] == first["indices"] and torch.equal(alone["random"], first["random"])
    assert alone["gradients"].keys() == first["gradients"].keys()
    for network in ("generator", "discriminator"):
        values = {name: value for name, value in alone["gradients"].items() if name.startswith(network)}
        # Some gradients are zero but for rounding, as that of the bias before a relativistic loss.
        smallest = 1e-12 * max(value.abs().max().item() for value in values.values())
        for name, value in values.items():
            torch.testing.assert_close(first["gradients"][name], value, rtol=1e-9, atol=smallest)
    for name, value in alone["terms"].items():
        torch.testing.assert_close(first["terms"][name], value, rtol=1e-12, atol=0, msg=name)


def test_the_local_judge_sees_rectangles_only_if_all_processes_have_equal_ones(found):
    parts = [found[rank]["one_rectangle"]["rectangles"] for rank in RANKS]
    assert parts[0] + parts[1] == found["0_of_1"]["one_rectangle"]["rectangles"] != []
    for name in ("0_of_1", *RANKS):
        assert found[name]["other_rectangles"]["rectangles"] is None


@pytest.mark.parametrize("run", ["float32", "whole", "resumed"])
def test_weights_stay_bit_identical_over_processes(found, run: str):
    assert differing(*(found[rank][run] for rank in RANKS)) == []


def close(first: list[dict], second: list[dict], tolerance: float) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.pop("split") == other.pop("split")
        assert {**one, "time": 0} == pytest.approx({**other, "time": 0}, rel=tolerance), one["step"]


def test_losses_are_those_of_one_process(found):
    """In float64 all along. In float32, rounding is what differs, and training as such makes it grow."""
    logs = copy.deepcopy(found["logs"])
    close(logs["run_1"], logs["run_2"], 1e-7)
    early = [[line for line in logs[f"float32_{size}"] if line["step"] <= 2] for size in (1, 2)]
    close(*early, 5e-3)


@pytest.mark.parametrize("size", [1, 2])
def test_another_number_of_processes_goes_on_where_a_run_was_left(found, size: int):
    logs = copy.deepcopy(found["logs"])
    close(logs[f"from_{size}"], logs["run_1"], 1e-7)
    generators = [found["0_of_1"][run]["generator"] for run in ("whole", "resumed")]
    for name, value in generators[0].items():
        torch.testing.assert_close(generators[1][name], value, rtol=1e-6, atol=1e-9)


def test_what_breaks_in_one_process_ends_all_after_saving(found):
    files, losses = ([found[rank][kind] for rank in RANKS] for kind in ("file", "loss"))
    assert files == ["ProcessFailedError: another process of this run failed", "InputError: a.png: broken"]
    assert losses[0] == losses[1]
    # Every process names the images of all.
    assert losses[0].startswith("NumericsError: step 3: 'generator/local' is nan; images: synthetic-")
    assert losses[0].count("synthetic-") == BATCH
    assert found["saved"] == {"file": 2, "loss": 2}


def test_gathering_keeps_the_order_of_the_processes(found):
    rows, words = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [{"": [0.0, math.nan]}, {"é": [1 / 3, math.nan]}]
    for rank in RANKS:
        assert repr(found[rank]["gathered"]) == repr([rows, words])


def torchrun(*arguments: object, processes: int = 2) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *launcher, "-m", "igll.cli", *map(str, arguments)]


def training(tmp_path: Path, *more: str) -> list[str]:
    """Two processes that train; every process writes its id to a file when its first step is done."""
    overrides = [
        "model.width=4", "discriminator.width=4", "data.crop_size=32", "data.synthetic_images=10",
        "data.workers=1", "train.batch_size=2", "train.max_steps=100000", "train.checkpoint_every=1",
        "train.eval_every=100000", "train.eval_images=2", "losses.svd_leading=4", "device=cpu",
        f"edges.cache={tmp_path / 'maps'}",
    ]  # fmt: skip
    return torchrun("train", "--config", QUICKSTART, "--out", tmp_path / "run", *overrides, *more)


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def workers(launcher: subprocess.Popen) -> list[int]:
    """Process ids by rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    by_rank = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [entry[5:] for entry in environment if entry.startswith(b"RANK=")]
        by_rank |= {int(rank): int(child) for rank in ranks}
    return [by_rank[rank] for rank in sorted(by_rank)]


def own_lines(text: str) -> list[str]:
    """What igll's processes said of failures; torchrun adds a report of its own."""
    assert "igll/" not in "".join(line for line in text.splitlines() if line.strip().startswith('File "'))
    return [line for line in text.replace("\r", "\n").splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_process_is_killed_the_other_says_so_and_ends(tmp_path: Path, rank: int):
    launcher = start(training(tmp_path))
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    wait_for(last, launcher)
    began, victim = time.monotonic(), workers(launcher)[rank]
    os.kill(victim, signal.SIGKILL)
    _, told = launcher.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert launcher.returncode == 1
    assert own_lines(told) == [
        f"error: another process of this run ended; last checkpoint: {last}; go on with --resume"
    ]
    assert load_checkpoint(last)["step"] >= 1
    leftovers = [path.name for path in last.parent.iterdir() if path.name.startswith(".")]
    assert all(str(victim) in name for name in leftovers)  # what a killed process was writing itself


@pytest.mark.parametrize("to_one", [True, False])
def test_a_signal_to_one_or_all_stops_all_after_the_same_step(tmp_path: Path, to_one: bool):
    launcher = start(training(tmp_path, "train.checkpoint_every=1000", "train.max_steps=900"))
    log = tmp_path / "run" / "metrics.jsonl"
    wait_for(log, launcher)
    time.sleep(0.5)
    if to_one:
        os.kill(workers(launcher)[1], signal.SIGTERM)
    else:
        launcher.send_signal(signal.SIGTERM)
    said, told = launcher.communicate(timeout=60)
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    step = load_checkpoint(last)["step"]
    assert 0 < step < 900
    assert f"stopped at step {step}, saved {last}; go on with --resume" in said + told
    assert (said + told).count("stopped at step") == 1 and own_lines(told) == []
    if to_one:  # of which torchrun tells the exit codes
        assert "exitcode  : 143" in told


def test_a_command_that_cannot_work_is_said_once(tmp_path: Path):
    done = subprocess.run(
        torchrun("train", "--config", QUICKSTART, "--out", tmp_path / "run", "train.batch_size=3"),
        capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "exitcode  : 2" in done.stderr
    assert own_lines(done.stderr) == [
        "error: train.batch_size: 3 is the batch of all processes together and does not divide into 2 equal "
        "parts; change it, or the number of processes"
    ]
    assert not (tmp_path / "run").exists()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as each of several processes has: sums of more parts are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_an_evaluation_by_several_processes_is_that_of_one(tmp_path: Path, shared: Path, one_thread, capsys):
    """Values of every image, of sets of images, hashes and pictures."""
    arguments = [
        "--config", QUICKSTART, "--method", "nearest", "device=cpu", "data.crop_size=64",
        "data.synthetic_images=25", "data.workers=1", "eval.batch_size=1", "model.width=4",
        "eval.pictures=4", f"edges.cache={tmp_path / 'maps'}", "--checkpoint", tmp_path / "last.pt",
        "eval.metrics=[psnr,psnr_hole,l1_hole,ssim,ms_ssim,fd_effnet_lite0]",
        f"eval.fd_weights={shared / 'weights' / 'efficientnet-lite0-57934424.pth'}",
    ]  # fmt: skip
    config = load_config(str(QUICKSTART), ["model.width=4", "data.crop_size=64", "data.synthetic_images=25"])
    build_state(config, torch.device("cpu")).save(tmp_path / "last.pt", config)
    with pytest.raises(SystemExit) as end:
        cli.evaluate([*map(str, arguments), "--out", str(tmp_path / "one")])
    assert end.value.code == 0
    done = subprocess.run(
        torchrun("evaluate", *arguments, "--out", tmp_path / "two"),
        capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for told in (capsys.readouterr().out, done.stdout):
        assert told.count("written below") == 1
    for name in ("metrics.json", "per_image.csv", "table.md", "pictures.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    measured = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert measured["images"] == 5 and measured["unavailable"].keys() == {"ms_ssim"}
