"""Weights from a hub: the real client against a server on this machine that speaks what it asks for."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import igll
from igll.errors import InputError
from igll.inpainter import Inpainter
from igll.weights import BEST, SHIPPED

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

FIRST, SECOND = "1" * 40, "2" * 40
WEIGHTS = SHIPPED[BEST].path.read_bytes()

# Repos by name, each with revisions: the commit, and the files of it.
REPOS: dict[str, dict[str, tuple[str, dict[str, bytes]]]] = {
    "owner/name": {
        "main": (SECOND, {"model.safetensors": WEIGHTS, "config.json": b"{}"}),
        "v1": (FIRST, {"model.safetensors": WEIGHTS}),
    },
    "owner/pickles": {"main": (FIRST, {"pytorch_model.bin": b"", "last.pt": b""})},
    "owner/foreign": {"main": (FIRST, {"model.safetensors": b"no weights"})},
}
ASKED: list[str] = []


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hugging Face hub does where one file is asked for."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        content = self._answer()
        if content is not None:
            self.wfile.write(content)

    def _answer(self) -> bytes | None:
        ASKED.append(f"{self.command} {self.path}")
        owner, name, _, revision, file = (self.path[1:].split("/", 4) + [""] * 4)[:5]
        revisions = REPOS.get(f"{owner}/{name}")
        commits = {commit: (commit, files) for commit, files in (revisions or {}).values()}
        commit, files = {**(revisions or {}), **commits}.get(revision, ("", {}))
        content = files.get(file)
        if content is None:
            wrong = "RepoNotFound" if revisions is None else "EntryNotFound" if commit else "RevisionNotFound"
            wrong = "GatedRepo" if name == "gated" else wrong
            self.send_response(403 if name == "gated" else 404)
            self.send_header("X-Error-Code", wrong)
            self.send_header("X-Error-Message", wrong)
        else:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        return content

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    ASKED.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(endpoint: str, tmp_path: Path, monkeypatch) -> Path:
    """The client asks the server on this machine, and keeps files in the folder that is given."""
    from huggingface_hub import constants

    ask_at(endpoint, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def ask_at(endpoint: str, monkeypatch) -> None:
    from huggingface_hub import constants

    url = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)


def test_a_repo_is_loaded_and_nothing_but_safetensors_is_fetched(hub: Path):
    ours = igll.load(BEST, "cpu").generator.state_dict()
    for model in (
        igll.load("owner/name", "cpu", sha256=SHIPPED[BEST].sha256),
        igll.load("owner/name@v1", "cpu"),
        Inpainter.from_pretrained("owner/name", revision=FIRST, device="cpu"),
    ):
        found = model.generator.state_dict()
        assert all(torch.equal(found[name], value) for name, value in ours.items())
    files = {path for path in ASKED if "owner" in path}
    assert files and all(path.endswith("/model.safetensors") for path in files)
    kept = {path.parent.name for path in hub.rglob("snapshots/*/*")}
    assert kept == {FIRST, SECOND}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("owner/absent", "owner/absent: no such file or folder here, and no such Hugging Face repo"),
        ("owner/name@v9", "owner/name@v9: the Hugging Face repo has no such revision"),
        (
            "owner/pickles",
            r"owner/pickles: the Hugging Face repo has no model\.safetensors",
        ),
        ("owner/gated", "owner/gated: access to this repo has to be asked for"),
        ("owner/foreign", r"model\.safetensors: not a safetensors file"),
        ("owner/na--me", "owner/na--me: cannot be had from the Hugging Face hub"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(hub: Path, given: str, told: str):
    with pytest.raises(InputError, match=told) as error:
        igll.load(given, "cpu")
    assert "\n" not in str(error.value)


def test_another_file_than_the_one_that_is_meant_is_refused(hub: Path):
    with pytest.raises(
        InputError, match=f"owner/name@{SECOND}: refused, its SHA-256 is {SHIPPED[BEST].sha256}"
    ):
        igll.load("owner/name", sha256="0" * 64)


def test_without_a_network_the_cache_serves_and_else_it_is_said(hub: Path, monkeypatch):
    from huggingface_hub import constants

    igll.load("owner/name", "cpu")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    ask_at(nowhere, monkeypatch)
    assert igll.load("owner/name", "cpu").training.step > 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # else the client tries again for half a minute
    with pytest.raises(InputError, match=r"owner/other: .* the Hugging Face hub cannot be reached"):
        igll.load("owner/other")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'owner/name: .* pip install "igll\[hub\]"'):
        igll.load("owner/name")


def test_the_command_line_takes_a_repo_as_the_environment_says(endpoint: str, tmp_path: Path):
    picture, mask, out = (tmp_path / name for name in ("in.png", "mask.png", "out.png"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(picture)
    hole_HW = np.zeros((32, 32), np.uint8)
    hole_HW[8:20, 8:20] = 255
    Image.fromarray(hole_HW).save(mask)
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", "from igll.cli import infer; infer()", picture, "--masks", mask]
    command += ["--checkpoint", f"owner/name@{FIRST}", "--out", out]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=environment | {"NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert out.exists() and f"HEAD /owner/name/resolve/{FIRST}/model.safetensors" in ASKED


def test_a_hub_that_cannot_be_reached_is_said_once_and_soon(hub: Path, monkeypatch, caplog):
    from huggingface_hub.utils import logging as their

    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    ask_at(nowhere, monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits for {seconds} s"))
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)  # as caplog needs it
    before = their.get_verbosity()
    with pytest.raises(InputError, match=r"owner/name: .* the Hugging Face hub cannot be reached \(.+\)"):
        igll.load("owner/name")
    assert not caplog.records and their.get_verbosity() == before
