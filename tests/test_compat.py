"""torchvision loads beside this torch, whatever device either was built for."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
from pathlib import Path

import pytest
import torch

LOAD = "from igll.compat import prepare_torchvision; prepare_torchvision(); "


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_torchvision_lpips_and_torchmetrics_import_after_preparation():
    code = LOAD + "import torchvision, lpips, torchmetrics.image; print('loaded')"
    assert run(code) == "loaded"


def test_preparing_twice_or_late_is_harmless():
    code = LOAD + "prepare_torchvision(); import torchvision; prepare_torchvision(); print('loaded')"
    assert run(code) == "loaded"


def test_a_torchvision_network_computes_after_preparation():
    code = LOAD + (
        "import torch, torchvision; "
        "print(tuple(torchvision.models.squeezenet1_1(weights=None).eval()(torch.zeros(1, 3, 64, 64)).shape))"
    )
    assert run(code) == "(1, 1000)"


def test_nothing_is_declared_where_the_compiled_operators_load(monkeypatch):
    from igll import compat

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(compat, "_compiled_operators_load", lambda: True)
    declared = []
    monkeypatch.setattr(torch.library, "Library", lambda *names: declared.append(names))
    compat.prepare_torchvision.__wrapped__()
    assert declared == []


@pytest.mark.parametrize("name", ["_C", "_C_stable"])
def test_the_library_is_found_by_either_of_its_names(monkeypatch, tmp_path: Path, name: str):
    from igll import compat

    suffix = importlib.machinery.EXTENSION_SUFFIXES[-1]
    (tmp_path / f"{name}{suffix}").touch()
    (tmp_path / f"image{suffix}").touch()
    package = importlib.machinery.ModuleSpec("torchvision", None, is_package=True)
    package.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: package)
    tried = []
    monkeypatch.setattr(torch.ops, "load_library", tried.append)
    assert compat._compiled_operators_load()
    assert tried == [str(tmp_path / f"{name}{suffix}")]
