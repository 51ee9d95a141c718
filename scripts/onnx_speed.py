"""Times an exported generator in ONNX Runtime against PyTorch, in turns, on one thread each.

Usage: python scripts/onnx_speed.py CHECKPOINT [--size 256] [--rounds 5]

Medians of CPU time, so that other work on the machine counts little; last, how far the results are apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from igll.cli import exit_with


def main(arguments: Sequence[str] | None = None) -> int:
    """Export to a temporary file, time, print one line per hole."""
    parser = argparse.ArgumentParser("onnx_speed.py", description="Time ONNX Runtime against PyTorch.")
    parser.add_argument("checkpoint", help="what igll-export takes")
    parser.add_argument("--size", type=int, default=256, help="side of the image (256)")
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each (5)")
    options = parser.parse_args(arguments)
    import torch

    from igll.engine.bench_cases import Case, make_inputs
    from igll.engine.cost import HOLES
    from igll.engine.export import ExportRequest, export_onnx, filled_by_torch, open_session, run
    from igll.engine.trained import load_generator
    from igll.engine.weights_source import find_weights
    from igll.models import Generator

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        print(export_onnx(ExportRequest(options.checkpoint, path, check=False)).line(path))
        session = open_session(path, threads=1)
    generator, config, _ = load_generator(find_weights(options.checkpoint).path)
    assert isinstance(generator, Generator)  # noqa: S101  (export refuses others)
    print("hole (%)  ONNX Runtime (ms)  PyTorch (ms)  ratio  apart")
    for hole in HOLES:
        case = Case(config.model.name, options.size, 1, hole)
        image, mask, edge = make_inputs(generator, case, torch.device("cpu"))
        inputs = {
            "image": (image + 1) / 2,
            "mask": mask,
            "edge": torch.zeros_like(mask) if edge is None else edge,
        }
        turns = []
        for _ in range(options.rounds + 1):
            start = time.process_time()
            found = run(session, inputs)
            between = time.process_time()
            wanted = filled_by_torch(generator, inputs)
            turns.append((between - start, time.process_time() - between))
        # The first round warms up.
        ours, torchs = (1e3 * statistics.median(times[1:]) for times in zip(*turns, strict=True))
        apart = float((torch.from_numpy(found) - wanted).abs().max())
        print(f"{hole:8}{ours:19.0f}{torchs:14.0f}{ours / torchs:7.2f}  {apart:.1e}", flush=True)
    return 0


if __name__ == "__main__":
    exit_with(main)
