"""The scripts' command lines."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_explains_and_starts_nothing(script: Path, monkeypatch, capsys):
    if script.stem == "tutorial":
        pytest.importorskip("nbclient", reason="notebooks need the extra dev")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out.startswith(f"usage: {script.stem}")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_quickstart_tells_of_itself_before_it_installs_anything(option: str):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("the quickstart is a bash script, and there is no bash here")
    script = SCRIPTS[0].with_name("quickstart.sh")
    told = subprocess.run([bash, script, option], capture_output=True, text=True, check=True, timeout=60)
    assert "Usage: bash scripts/quickstart.sh" in told.stdout and not told.stderr
    assert told.stdout.strip().endswith("train.max_steps=1000.")


def test_the_size_is_of_one_configuration(capsys):
    main = runpy.run_path(str(SCRIPTS[0].with_name("model_size.py")))["main"]
    config = str(SCRIPTS[0].parents[1] / "configs" / "aid_25.yaml")
    with pytest.raises(SystemExit) as end:
        main([config, "model.width=4", config])
    assert end.value.code == 2 and "one configuration at a time" in capsys.readouterr().err
