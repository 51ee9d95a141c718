"""The entry point before and after the page: what keeps it from starting, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "from igll.cli import demo; demo()"


def call(*arguments: object, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refused(done: subprocess.CompletedProcess[str], expected: str) -> bool:
    one_line = done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.returncode == 2 and one_line and expected in done.stderr


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(call("--port", port), f"--port {port} at 127.0.0.1: cannot be listened at")


def test_an_address_of_another_machine_is_refused():
    assert refused(call("--host", "192.0.2.1"), "--host 192.0.2.1: cannot be listened at")


def test_without_gradio_it_says_what_to_install():
    without = f"import sys; sys.modules['gradio'] = None; {PROGRAM}"
    assert refused(call(program=without), 'needs the package gradio; pip install "igll[demo]"')


def test_numbers_that_are_no_port():
    for port in ("0", "70000", "http"):
        done = call("--port", port)
        assert done.returncode == 2 and "--port" in done.stderr and "Traceback" not in done.stderr


def test_checkpoint_and_method_exclude_each_other():
    done = call("--checkpoint", "x.pt", "--method", "telea")
    assert done.returncode == 2 and "not allowed with" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_and_leave_no_file(
    tmp_path: Path, tmp_path_factory, number: signal.Signals, code: int
):
    pytest.importorskip("gradio", reason="gradio is not installed")
    compiled = tmp_path_factory.mktemp("torch")  # torch's own, made once for all programs
    # What starts the tests may have SIGINT ignored, as shells do in the background, which a child inherits.
    heard = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {PROGRAM}"
    process = subprocess.Popen(
        [sys.executable, "-c", heard, "--method", "nearest"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(compiled)},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("igll-demo: http://127.0.0.1:") and "nearest pixel" in line
    assert any(tmp_path.iterdir())
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert errors == ""
    assert not any(tmp_path.iterdir())
