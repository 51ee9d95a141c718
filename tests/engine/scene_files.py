"""Small scenes with holes, tiny models and calls of igll-infer for the tests of scenes."""

from __future__ import annotations

import hashlib
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

# A shell that starts the tests in the background may have SIGINT ignored, which a child inherits.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from igll.cli import infer
infer()
"""


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


def start(*arguments: object, program: str = MAIN, **options: Any) -> subprocess.Popen[str]:
    """Run igll-infer in a process of its own."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


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
