"""The benchmark: every network's cost, speed and memory; where training steps and evaluations spend time."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from igll.config import Config, ModelConfig, build_config, load_config
from igll.engine.bench_cases import Case
from igll.engine.bench_evaluation import ROWS, measure_evaluation
from igll.engine.bench_inference import InferenceBench, Settings
from igll.engine.bench_memory import KINDS
from igll.engine.bench_training import measure_loader, measure_training
from igll.engine.cost import HOLES, parameters
from igll.engine.devices import choose_device
from igll.errors import InputError
from igll.report.bench_compare import compare_results, read_results, write_comparison
from igll.report.bench_table import FORMAT, RESULTS, write_results
from igll.report.files import write_json
from igll.schema import PUBLISHED
from igll.storage import make_folder

PARTS = ("inference", "training", "loader", "evaluation")
_SMALLEST, _MULTIPLE = 32, 16  # of image sides: every network takes these without padding


@dataclass(frozen=True)
class BenchRequest:
    """What to measure.

    Attributes:
        out: Folder for bench.json, bench.md and bench.png.
        config: YAML file of the training step, the loader and the evaluation.
        models: Networks by the name that ``model.name`` gives them, or YAML files whose ``model`` section is
            measured under the file's name.
        sizes: Sides of the images in pixels.
        batches: Images at once.
        holes: Missing pixels in percent, out of ``cost.HOLES``.
        parts: Out of ``PARTS``.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        compiled: Measure torch.compile beside eager.
        graphs: Measure CUDA graphs beside eager, and of compiled passes if these are measured; CUDA alone.
        amp: Measure bfloat16 by autocast beside float32; CUDA alone.
        memory: Measure memory.
        rounds: Timed passes of each case.
        warmup: Passes before them.
        limit: Seconds that one case may take.
        threads: Of torch on the CPU; 0 leaves them as they are.
        crop: ``data.crop_size`` of the training step; None: the config's.
        batch: ``train.batch_size`` of it, one training step for each; none: the config's. Loader and
            evaluation are measured with the first.
        steps: Timed training steps, and batches of the loader and of the evaluation.
        workers: Of the loader, besides none.
        overrides: ``key.sub=value``; those of ``model`` hold for all networks.
        compare: An older bench.json to compare with.
    """

    out: Path
    config: Path
    models: tuple[str, ...] = tuple(PUBLISHED)
    sizes: tuple[int, ...] = (256, 512, 1024)
    batches: tuple[int, ...] = (1, 8)
    holes: tuple[int, ...] = tuple(HOLES)
    parts: tuple[str, ...] = PARTS
    device: str = "cpu"
    compiled: bool = False
    graphs: bool = False
    amp: bool = False
    memory: bool = True
    rounds: int = 7
    warmup: int = 2
    limit: float = 120.0
    threads: int = 0
    crop: int | None = None
    batch: tuple[int, ...] = ()
    steps: int = 10
    workers: int = 2
    overrides: tuple[str, ...] = ()
    compare: Path | None = None

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            InputError: Naming the option.
        """
        names = [name for name in self.models if not _is_file(name)]
        if unknown := [name for name in names if name not in PUBLISHED]:
            raise InputError(
                f"--models: there is no '{unknown[0]}'; known: {', '.join(PUBLISHED)}, or a YAML file"
            )
        if unknown_holes := [hole for hole in self.holes if hole not in HOLES]:
            raise InputError(f"--holes: {unknown_holes[0]} % is none of {', '.join(map(str, HOLES))}")
        for size in self.sizes:
            if size < _SMALLEST or size % _MULTIPLE:
                raise InputError(f"--sizes: {size} is no multiple of {_MULTIPLE} from {_SMALLEST} on")
        least = {"rounds": 1, "warmup": 1, "steps": 1, "workers": 0, "threads": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(f"--{name}: {getattr(self, name)} is too small; it starts at {value}")
        if min(self.batches) < 1:
            raise InputError(f"--batches: {min(self.batches)} is too small; it starts at 1")
        if not self.limit > 0:
            raise InputError(f"--limit: {self.limit:g} s is no time; give more than 0")
        if self.graphs and not self.device.startswith("cuda"):
            raise InputError("--graphs: CUDA graphs are measured on CUDA; add --device cuda, or leave it out")
        if self.amp and not self.device.startswith("cuda"):
            raise InputError("--amp: bfloat16 is measured on CUDA; add --device cuda, or leave it out")

    def model_configs(self) -> dict[str, ModelConfig]:
        """The networks' settings.

        Raises:
            InputError: An override does not fit one of them.
        """
        overrides = [text for text in self.overrides if text.startswith("model.")]
        return {
            _label(name): load_config(Path(name), overrides).model
            if _is_file(name)
            else build_config({"model": {"name": name}}, overrides, f"model {name}").model
            for name in self.models
        }

    def training_configs(self) -> list[Config]:
        """Settings of the training steps, one for each batch; those of loader and evaluation come first.

        Raises:
            InputError: The file or an override cannot be used.
        """
        crop = [] if self.crop is None else [f"data.crop_size={self.crop}"]
        batches = [[f"train.batch_size={batch}"] for batch in self.batch] or [[]]
        return [
            load_config(self.config, [*self.overrides, *crop, *batch]).model_copy(
                update={"device": self.device}
            )
            for batch in batches
        ]

    def cases(self) -> list[Case]:
        """Everything to time, small before large, networks side by side."""
        modes = ["eager", *["compiled"] * self.compiled, *["graph"] * self.graphs]
        modes += ["compiled graph"] * (self.compiled and self.graphs)
        precisions = ("fp32", "bf16") if self.amp else ("fp32",)
        frames = sorted(product(set(self.sizes), set(self.batches)), key=lambda frame: (frame[0], frame[1]))
        return [
            Case(model, size, batch, hole, mode, precision)
            for (size, batch), hole, mode, precision, model in product(
                frames, dict.fromkeys(self.holes), modes, precisions, dict.fromkeys(map(_label, self.models))
            )
        ]


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _label(name: str) -> str:
    """What a network is called in the tables: a file by its name without the ending."""
    return Path(name).stem if _is_file(name) else name


def run_bench(request: BenchRequest) -> int:
    """Measure, write bench.json, bench.md and bench.png, and compare with an older file if one is given.

    What was measured is written after every group of cases, so that an interruption loses little.

    Returns:
        0 when done, 130 when interrupted, after writing.

    Raises:
        InputError: If the input has to change; see the message.
    """
    request.check()
    device = choose_device(request.device)
    configs = request.model_configs() if "inference" in request.parts else {}
    training = request.training_configs() if set(PARTS[1:]) & set(request.parts) else []
    older = None if request.compare is None else read_results(request.compare)
    make_folder(request.out)
    if request.threads:
        torch.set_num_threads(request.threads)
    results: dict[str, Any] = {
        "format": FORMAT,
        "finished": False,
        "machine": machine(device),
        "settings": {
            **{
                key: str(value) if isinstance(value, Path) else value
                for key, value in asdict(request).items()
            },
            "memory_kind": KINDS[device.type],
        },
        "models": [],
        "multiply_adds": [],
        "inference": [],
        "training": [],
        "loader": [],
        "evaluation": [],
    }
    code = 0
    try:
        for _ in _measure(request, device, configs, training, results):
            write_json(request.out / RESULTS, results)
        results["finished"] = True
    except KeyboardInterrupt:
        print("interrupted; writing what was measured", file=sys.stderr)
        code = 130
    written = write_results(results, request.out)
    print(written.read_text(encoding="utf-8"))
    if older is not None:
        print(write_comparison(compare_results(older, results), request.out).read_text(encoding="utf-8"))
    print(
        f"written below {request.out}: {', '.join(sorted(path.name for path in request.out.glob('bench*')))}"
    )
    return code


def _measure(
    request: BenchRequest,
    device: torch.device,
    configs: dict[str, ModelConfig],
    training: list[Config],
    results: dict[str, Any],
) -> Iterator[None]:
    """Fill the results, part by part; yields after each."""
    cases = request.cases() if "inference" in request.parts else []
    workers = list(dict.fromkeys([0, request.workers])) if "loader" in request.parts else []
    steps = len(cases) + len(training) * ("training" in request.parts) + len(workers)
    steps += len(ROWS) if "evaluation" in request.parts else 0
    with tqdm(total=steps, unit="case", file=sys.stderr) as bar:
        settings = Settings(device, request.rounds, request.warmup, request.limit, request.memory)
        bench = InferenceBench(configs, settings)
        results["models"] = [
            {"name": name, "parameters": parameters(generator)}
            for name, generator in bench.generators.items()
        ]
        for _, group in groupby(cases, key=lambda case: case[1:]):
            results["inference"] += bench.measure(list(group), bar)
            results["multiply_adds"] = bench.counts.rows()
            yield
        for config in training if "training" in request.parts else []:
            found = measure_training(config, device, request.steps, request.limit, bar)
            results["training"].append({**_task(request, config), **found})
            yield
        for count in workers:
            found = measure_loader(training[0], count, request.steps, bar)
            results["loader"].append({**_task(request, training[0]), **found})
            yield
        if "evaluation" in request.parts:
            for row in measure_evaluation(training[0], device, request.steps, request.limit, bar):
                results["evaluation"].append(row)
                yield


def _task(request: BenchRequest, config: Config) -> dict[str, Any]:
    """What a training step was taken of."""
    return {
        "config": request.config.stem,
        "model": config.model.name,
        "width": config.model.width,
        "crop": config.data.crop_size,
        "batch": config.train.batch_size,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    usable = getattr(os, "sched_getaffinity", None)
    load: Callable[[], tuple[float, float, float]] | None = getattr(os, "getloadavg", None)
    cuda = device.type == "cuda"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": len(usable(0)) if usable else os.cpu_count(),
        "load_average": None if load is None else load()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if cuda else "CPU",
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }


def _cpu_name() -> str:
    """The processor's name, as Linux gives it; elsewhere what Python knows."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
