"""The quickstart's steps, at a tiny budget."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from igll.config import load_config

ROOT = Path(__file__).resolve().parents[1]
TINY = ("model.width=4", "train.max_steps=2", "train.eval_images=2", "data.synthetic_images=5", "device=cpu")


def quickstart(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "quickstart.py"), "", *overrides],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
    )  # fmt: skip


def test_it_leaves_what_it_promises_and_may_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    first = quickstart(tmp_path, *TINY)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "runs" / "quickstart"
    for name in ("before_after.png", "loss_curves.png", "evaluation/pictures.png"):
        assert Image.open(run / name).width > 300
        assert f"runs/quickstart/{name}" in first.stdout
    assert "mean of known" in (run / "table.md").read_text()
    assert len(list((run / "fill" / "filled").glob("*.png"))) == 1  # one test image of five scenes
    before = (run / "checkpoints" / "last.pt").read_bytes()

    again = quickstart(tmp_path, *TINY)
    assert again.returncode == 0 and (run / "checkpoints" / "last.pt").read_bytes() == before

    bands = quickstart(tmp_path, *TINY, "model.image_channels=4")
    assert bands.returncode == 2 and "model.image_channels=4: the quickstart fills RGB" in bands.stderr

    monkeypatch.chdir(tmp_path)
    open_run = runpy.run_path(str(ROOT / "scripts" / "quickstart.py"))["_open_run"]
    open_run(load_config(Path("configs/quickstart.yaml"), [*TINY, "seed=1"]))
    assert (tmp_path / "runs" / "quickstart-1" / "table.md").exists() and not (run / "table.md").exists()
    assert "kept as runs/quickstart-1" in capsys.readouterr().out
