"""torchvision loads beside this torch, whatever device either was built for."""

from __future__ import annotations

import subprocess
import sys

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
