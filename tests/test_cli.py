"""Entry points as a user meets them: exit codes, one line on failure, fast help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from igll import cli
from igll.cli import demo, evaluate, exit_with

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
ENTRIES = ("train", "evaluate", "infer", "demo", "export")


def call(entry: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"from igll.cli import {entry}; {entry}()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_is_told_without_loading_torch(entry: str):
    code = (
        "import sys, igll.cli as cli\n"
        f"try:\n    cli.{entry}(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'scipy', 'PIL', 'rasterio', 'shapely'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: igll-" in done.stdout


def test_eval_tells_of_its_commands_and_each_has_its_own_help():
    told = call("evaluate", "--help").stdout
    for command, option in (
        ("compare", "--mix"),
        ("methods", "--reference"),
        ("table2", "--mix"),
        ("table3", "--out"),
        ("table4", "--mix"),
    ):
        assert command in told
        done = call("evaluate", command, "--help")
        assert done.returncode == 0 and f"igll-eval {command}" in done.stdout and option in done.stdout
    mistyped = call("evaluate", "compair", "a", "b")
    assert mistyped.returncode == 2 and "--config" in mistyped.stderr


def test_installed_commands_exist():
    for name in ("igll-train", "igll-eval", "igll-infer", "igll-demo", "igll-export"):
        done = subprocess.run(
            [Path(sys.executable).with_name(name), "--help"], capture_output=True, check=False
        )
        assert done.returncode == 0


@pytest.mark.parametrize(
    ("entry", "arguments", "expected"),
    [
        ("train", ["--config", "absent.yaml"], "absent.yaml: cannot read the config"),
        ("train", ["--config", CONFIG, "model.widht=8"], "did you mean 'model.width'"),
        (
            "train",
            ["--config", CONFIG, "data.name=folder", "data.root=/no/where"],
            "/no/where: no such folder",
        ),
        (
            "evaluate",
            ["--config", CONFIG, "--checkpoint", "absent.pt", "--out", "x"],
            "absent.pt: no such checkpoint",
        ),
        ("evaluate", ["compare", "absent_a", "absent_b"], "absent_a/metrics.json: cannot be read"),
        (
            "evaluate",
            ["methods", "--runs", "absent", "--out", "x"],
            "absent: no such folder",
        ),
        ("infer", ["--checkpoint", "absent.pt", "--images", "x", "--masks", "y", "--out", "z"], "x: no such"),
        ("infer", ["x.tif", "--out", "z", "--tile", "50"], "--tile 50: give a multiple of 16"),
        (
            "demo",
            ["--method", "harmonic", "device=cpu"],
            "'device=cpu': settings are for a network; leave --method out",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path: Path, capsys, entry: str, arguments: list, expected: str):
    if entry == "train":
        arguments = [*arguments, "--out", tmp_path / "run"]
    with pytest.raises(SystemExit) as end:
        getattr(cli, entry)([str(argument) for argument in arguments])
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1 and expected in errors
    assert not (tmp_path / "run").exists()


def test_a_process_of_its_own_says_nothing_beside_that_line(tmp_path: Path):
    done = call("train", "--config", CONFIG, "model.widht=8", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_module_takes_the_commands_by_name():
    def module(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "igll.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    for arguments in ((), ("trian",)):
        done = module(*arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr == "usage: python -m igll.cli {train,evaluate,infer,demo,export} ...\n"
    done = module("evaluate", "compare", "--help")
    assert done.returncode == 0 and "usage: igll-eval compare" in done.stdout


def test_a_task_that_igll_eval_does_not_know_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        evaluate(["table9", "--out", "t"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(
        "error: table9: no such task; there are compare, methods, table2"
    )


def test_a_port_that_is_none_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        demo(["--port", "abc"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: argument --port: abc is not a port; give 1 to 65535; see igll-demo --help\n"
    )


def test_a_loader_process_that_was_killed_is_told_in_one_line(capsys):
    def work() -> int:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    with pytest.raises(SystemExit) as end:
        exit_with(work)
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(
        "error: DataLoader worker (pid 7) is killed by signal: Killed, "
    )


def test_a_name_that_is_no_text_is_printed_all_the_same(capsys):
    with pytest.raises(SystemExit) as end:
        exit_with(lambda: print(os.fsdecode(b"done: caf\xe9")) or 0)
    assert end.value.code == 0 and capsys.readouterr().out == "done: caf\\udce9\n"


def test_an_interruption_that_a_library_trips_over_is_still_one(capsys):
    def work() -> int:
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("Can't close the ZIP file while there is an open writing handle on it")

    with pytest.raises(SystemExit) as end:
        exit_with(work)
    assert end.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_an_error_without_an_interruption_keeps_its_traceback():
    def work() -> int:
        try:
            raise KeyError("first")
        finally:
            raise ValueError("second")

    with pytest.raises(ValueError, match="second"):
        exit_with(work)


@pytest.mark.parametrize(
    ("entry", "task"),
    [
        ("train", []), ("evaluate", ["--method=harmonic"]), ("evaluate", ["table2", "--runs=a"]),
        ("evaluate", ["table3"]), ("evaluate", ["methods", "--runs=a"]), ("evaluate", ["compare", "a", "b"]),
    ],
    ids=str,
)  # fmt: skip
def test_an_empty_out_is_not_the_current_folder(entry: str, task: list[str], capsys):
    config = [] if task[:1] and not task[0].startswith("-") else [f"--config={CONFIG}"]
    with pytest.raises(SystemExit) as end:
        getattr(cli, entry)([*task, *config, "--out="])
    assert end.value.code == 2
    assert "error: argument --out: is empty; name a folder; see igll-" in capsys.readouterr().err
