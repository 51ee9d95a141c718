"""The quickstart's steps, at a tiny budget."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from igll import cli
from igll.config import load_config

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "quickstart.py"
TINY = ("model.width=4", "train.max_steps=2", "train.eval_images=2", "data.synthetic_images=5", "device=cpu")


def in_this_process(entry: str, *arguments: object) -> None:
    """In place of processes that would load everything again."""
    with pytest.raises(SystemExit) as end:
        getattr(cli, entry)([str(argument) for argument in arguments])
    assert end.value.code == 0


def test_it_leaves_what_it_promises_and_may_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = subprocess.run(
        [sys.executable, str(SCRIPT), "", *TINY], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert first.returncode == 0, first.stderr
    run = tmp_path / "runs" / "quickstart"
    for name in ("before_after.png", "loss_curves.png", "evaluation/pictures.png"):
        assert Image.open(run / name).width > 300
        assert f"runs/quickstart/{name}" in first.stdout
    assert "mean of known" in (run / "table.md").read_text()
    assert len(list((run / "fill" / "filled").glob("*.png"))) == 1  # one test image of five scenes
    before = (run / "checkpoints" / "last.pt").read_bytes()

    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setitem(main.__globals__, "_call", in_this_process)
    for overrides, code in (((), 0), (["model.image_channels=4"], 2)):
        with pytest.raises(SystemExit) as end:
            main(["", *TINY, *overrides])
        assert end.value.code == code
    assert (run / "checkpoints" / "last.pt").read_bytes() == before
    assert "error: model.image_channels=4: the quickstart fills RGB" in capsys.readouterr().err

    main.__globals__["_open_run"](load_config(Path("configs/quickstart.yaml"), [*TINY, "seed=1"]))
    assert (tmp_path / "runs" / "quickstart-1" / "table.md").exists() and not (run / "table.md").exists()
    assert "kept as runs/quickstart-1" in capsys.readouterr().out
