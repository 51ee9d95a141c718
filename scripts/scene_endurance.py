"""Proves what igll-infer promises for large scenes: bounded memory, untouched known pixels, exact resuming.

Usage: python scripts/scene_endurance.py --out runs/endurance [--side 20000] [--bands 4] [--cloud 0.05]
       [--checkpoint FILE | --method harmonic] [-- further arguments of igll-infer]

Generates a scene with clouds as no-data, fills it in a process of its own whose peak memory is taken, fills
it again but kills the process (SIGKILL) once half of the tiles are there and runs the command once more.
Prints and writes endurance.json. A scene of 20,000 × 20,000 takes half an hour on two cores and 8 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from igll.cli import exit_with

_BLOCK = 1024
_POLL_SECONDS = 0.2


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("scene_endurance.py", description="Prove the promises for large scenes.")
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/endurance"), help="folder for the scenes (runs/endurance)")
    add("--side", type=int, default=20_000, help="of the scene, in pixels (20000)")
    add("--bands", type=int, default=4, help="of the scene (4)")
    add("--cloud", type=float, default=0.05, help="share of the scene under cloud (0.05)")
    add("--checkpoint", help="a trained network")
    add("--method", default="harmonic", help="without a checkpoint, a method without training (harmonic)")
    add("rest", nargs="*", help="further arguments of igll-infer, after --")
    return parser.parse_args(arguments)


def write_scene(path: Path, side: int, bands: int, cloud: float) -> None:
    """A scene of hills and fields in uint16, with soft-edged clouds of all sizes as no-data."""
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    relief_CYX = np.stack([_noise(rng, 64) for _ in range(bands)])
    fields_CYX = rng.uniform(0, 1, (bands, 500, 500))
    place = np.linspace(0, 1, 1024)
    waves = ((16, 0.5), (64, 0.35), (256, 0.15))
    sky_YX = np.sum([weight * _enlarged(_noise(rng, size), place, place) for size, weight in waves], axis=0)
    threshold = np.quantile(sky_YX, 1 - cloud)
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = {
        "driver": "GTiff", "height": side, "width": side, "count": bands, "dtype": "uint16", "nodata": 0,
        "crs": "EPSG:32632", "transform": from_origin(500_000, 5_400_000, 10, 10), "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2, "bigtiff": "if_safer",
    }  # fmt: skip
    with rasterio.open(path, "w", **keys) as target:
        for top in range(0, side, _BLOCK):
            for left in range(0, side, _BLOCK):
                rows = np.arange(top, min(top + _BLOCK, side)) / side
                columns = np.arange(left, min(left + _BLOCK, side)) / side
                ground_CHW = np.stack([_enlarged(band, rows, columns) for band in relief_CYX])
                fields_CHW = fields_CYX[:, (rows * 499).astype(int)][:, :, (columns * 499).astype(int)]
                noise_CHW = rng.normal(0, 40, ground_CHW.shape)
                values_CHW = 2000 + 4000 * ground_CHW + 800 * fields_CHW + noise_CHW
                values_CHW[:, _enlarged(sky_YX, rows, columns) > threshold] = 0
                window = rasterio.windows.Window(left, top, len(columns), len(rows))
                target.write(values_CHW.clip(0, 65_535).astype(np.uint16), window=window)


def run_infer(command: Sequence[str], out: Path, kill_at: int | None = None) -> dict[str, Any]:
    """Run igll-infer on one scene, and kill it (SIGKILL) once ``kill_at`` tiles are there."""
    tiles = out.with_name(f".{out.stem}.igll-work") / "tiles0"
    started, seen = time.perf_counter(), 0
    program = "from igll.cli import infer; infer()"
    process = subprocess.Popen([sys.executable, "-c", program, *command, "--out", str(out)])  # noqa: S603
    while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        seen = max(seen, len(list(tiles.glob("[0-9]*.npz"))))
        if kill_at is not None and seen >= kill_at:
            process.kill()
            process.wait()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    seconds = time.perf_counter() - started
    return {"exit_code": process.returncode, "seconds": seconds, "tiles": seen, "peak_bytes_so_far": peak}


def compare(first: Path, second: Path, scene: Path) -> dict[str, int]:
    """How many pixels differ between two fillings, and how many known ones from the scene."""
    import rasterio

    counts = {"pixels": 0, "missing": 0, "known_changed": 0, "runs_differ": 0, "left_missing": 0}
    with rasterio.open(first) as a, rasterio.open(second) as b, rasterio.open(scene) as source:
        for _, window in source.block_windows(1):
            a_CHW, b_CHW, source_CHW = (dataset.read(window=window) for dataset in (a, b, source))
            missing_HW = (source_CHW == source.nodata).any(0)
            counts["pixels"] += missing_HW.size
            counts["missing"] += int(missing_HW.sum())
            counts["known_changed"] += int((a_CHW != source_CHW)[:, ~missing_HW].any(0).sum())
            counts["runs_differ"] += int((a_CHW != b_CHW).any(0).sum())
            counts["left_missing"] += int((a_CHW == source.nodata).any(0).sum())
    return counts


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and run."""
    options = read_arguments(arguments)

    def work() -> int:
        from igll.report.files import write_json

        scene = options.out / "scene.tif"
        if not scene.is_file():
            print(f"writing {scene}", flush=True)
            write_scene(scene, options.side, options.bands, options.cloud)
        model = ["--checkpoint", options.checkpoint] if options.checkpoint else ["--method", options.method]
        command = [str(scene), *model, *options.rest]
        whole, resumed = options.out / "whole.tif", options.out / "resumed.tif"
        results: dict[str, Any] = {"cores": os.cpu_count(), "side": options.side, "bands": options.bands}
        results["whole"] = run_infer(command, whole)
        results["killed"] = run_infer(command, resumed, results["whole"]["tiles"] // 2)
        results["resumed"] = run_infer(command, resumed)
        results["comparison"] = compare(whole, resumed, scene)
        print(json.dumps(results, indent=2))
        write_json(options.out / "endurance.json", results)
        return 0

    exit_with(work)


def _noise(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return rng.random((size, size))


def _enlarged(
    coarse_YX: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A part of a coarse grid spread over the scene, bilinear."""
    from scipy.ndimage import map_coordinates

    height, width = coarse_YX.shape
    grid = np.meshgrid(rows * (height - 1), columns * (width - 1), indexing="ij")
    enlarged_HW: NDArray[np.float64] = map_coordinates(coarse_YX, grid, order=1)
    return enlarged_HW


if __name__ == "__main__":
    main()
