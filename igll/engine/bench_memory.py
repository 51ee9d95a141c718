"""Memory of one pass: of the device's allocator on CUDA, of a process of its own on the CPU.

Run as a module it is that process: ``python -m igll.engine.bench_memory JSON``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from igll.config import ModelConfig
from igll.engine.bench_cases import Case, fresh_generator, make_inputs
from igll.engine.bench_timing import speaks_of_no_memory

KINDS = {
    "cuda": "torch.cuda.max_memory_allocated above what was allocated before the pass",
    "cpu": "growth of peak resident memory (VmHWM) over one eager pass, in a process of its own",
}
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_START = 60.0  # seconds that the process may take before its pass
_WARM_UP = 32  # side of the image with which libraries set themselves up before memory is read


class MemoryFound(NamedTuple):
    """What a process of its own reports.

    Attributes:
        growth_bytes: Peak growth; None if it could not be measured.
        reason: Why not.
        fatal: The pass itself did not come to its end: it must not be tried again in this process.
        seconds: What the pass took, the first one of its size in the process; None if it did not end.
    """

    growth_bytes: int | None
    reason: str = ""
    fatal: bool = False
    seconds: float | None = None


def cuda_growth(device: torch.device, forward: Callable[[], object]) -> int:
    """Bytes that one pass adds at its peak to what the device's allocator holds."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    forward()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def process_growth(config: ModelConfig, case: Case, limit: float) -> MemoryFound:
    """Memory of one eager pass on the CPU, by a process of its own.

    Args:
        config: The network.
        case: Its case; mode and precision are not looked at.
        limit: Seconds that the pass may take.
    """
    task = {"model": config.model_dump(), "case": case._asdict(), "threads": torch.get_num_threads()}
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", "igll.engine.bench_memory", json.dumps(task)]
    try:
        done = subprocess.run(  # noqa: S603  (our own module)
            command, env=environment, capture_output=True, text=True, timeout=limit + _START, check=False
        )
    except subprocess.TimeoutExpired:
        return MemoryFound(
            None, f"one pass in a process of its own did not end within {limit:g} s (--limit)", True
        )
    if done.returncode == -signal.SIGKILL:
        return MemoryFound(None, "out of memory: a process of its own was killed in its pass", True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        fatal = speaks_of_no_memory(last)
        return MemoryFound(None, f"{'out of memory: ' if fatal else 'memory: '}{last}", fatal)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return MemoryFound(found["growth_bytes"], found["reason"], seconds=found["seconds"])


def measure_here(task: dict[str, Any]) -> dict[str, Any]:
    """The work of the process: one pass, and how far resident memory rose above its start."""
    torch.set_num_threads(task["threads"])
    if not _RESET.exists():
        reason = "peak resident memory is read from /proc, which is not here"
        return {"growth_bytes": None, "reason": reason, "seconds": None}
    case, cpu = Case(**task["case"]), torch.device("cpu")
    generator = fresh_generator(ModelConfig.model_validate(task["model"]))
    inputs = make_inputs(generator, case, cpu)
    with torch.no_grad():
        generator(*make_inputs(generator, case._replace(size=min(_WARM_UP, case.size), batch=1), cpu))
        # "5" sets the peak back to what is resident now.
        _RESET.write_text("5", encoding="ascii")
        before = _kilobytes("VmRSS")
        start = time.perf_counter()
        generator(*inputs)
        seconds = time.perf_counter() - start
    growth = max(_kilobytes("VmHWM") - before, 0) * 1024
    return {"growth_bytes": growth, "reason": "", "seconds": seconds}


def _kilobytes(name: str) -> int:
    """A line of /proc/self/status."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"{_STATUS}: has no {name}")


if __name__ == "__main__":
    print(json.dumps(measure_here(json.loads(sys.argv[1]))))
