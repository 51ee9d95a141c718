"""Small scenes with holes, tiny models and calls of igll-infer for the tests of scenes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

from igll import cli
from igll.config import build_config
from igll.engine.checkpoint import save_checkpoint
from igll.registry import build_generator
from tests.geo.grounds import smooth_scene, write_raster

SIZE = (120, 150)
TILES = ("--tile", "64", "--context", "16")
HARMONIC = ("--method", "harmonic", *TILES)

# Loads everything once, and then runs programs with arguments of igll-infer in processes forked from it.
_NURSERY = """
import json, os, signal, sys, traceback
import rasterio, scipy.ndimage, torch
import igll.cli, igll.engine.infer, igll.infer_arguments
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if not pid:
        code = 99
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            # A shell that starts the tests in the background may have SIGINT ignored, which a child inherits.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.argv = ["igll-infer", *order["arguments"]]
            exec(order["program"], {})
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
MAIN = "from igll.cli import infer; infer()"


class Nursery:
    """Runs igll-infer in processes of their own, one at a time, that need not load their modules."""

    def __init__(self, folder: Path) -> None:
        self._files = {"out": str(folder / "out.txt"), "err": str(folder / "err.txt")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *arguments: object, program: str = MAIN) -> int:
        """Start one; its process number."""
        order = self._files | {"program": program, "arguments": [str(argument) for argument in arguments]}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self) -> tuple[int, str]:
        """Wait for its end; exit code and what it wrote to stderr."""
        return int(self._process.stdout.readline()), Path(self._files["err"]).read_text()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


def tiny(path: Path, prior: str = "learned", channels: int = 3, stretch: list[float] | None = None) -> Path:
    """A checkpoint of a small network with random weights."""
    config = build_config(
        {
            "model": {"width": 4, "structure_prior": prior, "image_channels": channels},
            "edges": {"detector": "sobel"},
            "data": {"stretch": stretch},
            "device": "cpu",
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        generator = build_generator(config.model)
    state = generator.state_dict()
    save_checkpoint(path, {"generator": state, "ema": state, "config": config.model_dump(), "step": 1})
    return path


def hole_of(size: tuple[int, int] = SIZE) -> np.ndarray:
    """A hole larger than a tile's core, two small ones and one at the scene's border."""
    hole_HW = np.zeros(size, bool)
    hole_HW[30:100, 40:120] = True
    hole_HW[5:12, 60:75] = True
    hole_HW[60:63, 5:9] = True
    hole_HW[-10:, 60:72] = True
    return hole_HW


def values(dtype: str, bands: int = 1, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Hills over a part of a type's range, without 0 and NaN: values_CHW."""
    unit_CHW = smooth_scene(*size, bands)
    if np.dtype(dtype).kind == "f":
        return (unit_CHW * 7 - 3).astype(dtype)
    low, high = (-9_000, 9_000) if dtype == "int16" else (10, min(np.iinfo(dtype).max, 12_000) - 10)
    return (low + unit_CHW * (high - low)).astype(dtype)


def gapped(path: Path, values_CHW: np.ndarray, hole_HW: np.ndarray, **options: Any) -> Path:
    """A scene whose hole is no-data: NaN in floats, -9999 in signed integers, else 0."""
    nodata = {"f": np.nan, "i": -9999, "u": 0}[values_CHW.dtype.kind]
    holed_CHW = values_CHW.copy()
    holed_CHW[:, hole_HW] = nodata
    return write_raster(path, holed_CHW, **({} if np.isnan(nodata) else {"nodata": nodata}) | options)


def call(*arguments: object) -> int:
    """Run igll-infer in this process; its exit code."""
    try:
        cli.infer([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("the entry point returned")


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def tags(path: Path) -> dict[str, str]:
    with rasterio.open(path) as dataset:
        return dataset.tags()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def only_line(text: str) -> str:
    """The one line of an error that is not a progress bar."""
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.startswith(("error", "failed"))]
    assert len(lines) == 1, text
    assert "Traceback" not in text and "Warning" not in text, text
    return lines[0]
