"""All networks on one task at an equal budget of time: trained, measured and set side by side."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from igll.baselines import require_packages
from igll.config import Config, load_config
from igll.engine.batches import open_data, training_batches
from igll.engine.devices import choose_device
from igll.engine.edge_maps import prepare_edge_maps
from igll.engine.method_table import write_method_table
from igll.engine.objectives import build_objectives
from igll.engine.reuse import check_same_run, is_measured, measure
from igll.engine.state import build_state
from igll.engine.step import train_step
from igll.engine.train import train
from igll.errors import InputError
from igll.report.files import write_json
from igll.storage import make_folder

BUDGET = "budget.json"
ROUNDS = 6  # of one step each; the first is not counted


class Contender(NamedTuple):
    """One network at a width at which its step costs about as much as the others'.

    Attributes:
        name: Its folder.
        overrides: What it has of its own.
    """

    name: str
    overrides: tuple[str, ...]


CONTENDERS = (
    Contender(
        "igll",
        (
            "model.width=16",
            "model.structure_prior=learned",
            "model.prefill=harmonic",
            "model.residual=true",
            "model.skips=true",
            "model.position=false",
        ),
    ),
    Contender("dmfn", ("model.name=dmfn", "model.width=32")),
    Contender("hifill", ("model.name=hifill", "model.width=32")),
    Contender("han", ("model.name=han", "model.width=16")),
    Contender("hint", ("model.name=hint", "model.width=8", "model.blocks=[1, 2, 2, 3]")),
)

HOLES = {
    "square10": ("mask.kind=square", "mask.ratio=0.1", "mask.placement=center"),
    "square25": ("mask.kind=square", "mask.ratio=0.25", "mask.placement=center"),
    "square77": ("mask.kind=square", "mask.ratio=0.77", "mask.placement=center"),
    "irregular25": ("mask.kind=irregular", "mask.ratio=0.25"),
}


class PeersRequest(NamedTuple):
    """What to run.

    Attributes:
        config: YAML of the task that all share.
        out: Folder of all runs, of ``budget.json`` and of the tables.
        steps: Training steps of the first contender; the others get as many as take as long.
        methods: Methods without training, measured beside them.
        only: Names of the contenders to train and measure; empty: all, and then the methods without training
            and the tables.
        overrides: ``key.sub=value`` for all.
    """

    config: Path
    out: Path
    steps: int
    methods: Sequence[str]
    only: Sequence[str] = ()
    overrides: Sequence[str] = ()


def run_peers(request: PeersRequest) -> int:
    """Measure every network's step, train each for an equal time, measure all and write the tables.

    What is there already is not done again: step times are kept in ``budget.json``, a run goes on from its
    last checkpoint, and what was measured with these settings is left as it is. Several calls with other
    ``only`` may work in one folder side by side once ``budget.json`` is there; a last one without writes the
    tables of all.

    Returns:
        0 when done, 128 and the number of the signal when stopped by one after saving.

    Raises:
        InputError: If the input has to change; see the message.
    """
    configs = {
        contender.name: load_config(request.config, [*contender.overrides, *request.overrides])
        for contender in CONTENDERS
    }
    chosen = [contender for contender in CONTENDERS if not request.only or contender.name in request.only]
    for name, _ in chosen:
        check_same_run(request.out / name, configs[name])
    if not request.only:
        require_packages(request.methods)
    make_folder(request.out)
    steps = _budget(configs, request)
    for name, own in chosen:
        run = request.out / name
        print(f"{name}: {steps[name]} steps", flush=True)
        code = train(_with_steps(configs[name], steps[name]), run, resume=True)
        if code:
            print(f"{name}: stopped and saved; the same command goes on from there", flush=True)
            return code
        _measure(run, request, own, run / "checkpoints" / "last.pt")
    if request.only:
        print("measured; the same command without --only writes the tables", flush=True)
        return 0
    if request.methods:
        _measure(request.out / "without_training", request, (), None)
    write_method_table(request.out, request.out, "IGLL")
    return 0


def _with_steps(config: Config, steps: int) -> Config:
    """The configuration with so many training steps, however few images an epoch has."""
    budget = {"max_steps": steps, "epochs": steps * config.train.batch_size}
    return config.model_copy(update={"train": config.train.model_copy(update=budget)})


def _measure(run: Path, request: PeersRequest, own: Sequence[str], checkpoint: Path | None) -> None:
    """Evaluate one network, or without one all methods without training, on every family of holes."""
    floors = f"eval.floors=[{', '.join(request.methods if checkpoint is None else [])}]"
    for holes, rules in HOLES.items():
        config = load_config(request.config, [*own, *request.overrides, *rules, floors])
        if not is_measured(run / holes, config, checkpoint):
            measure(config, checkpoint, run / holes)


def _budget(configs: dict[str, Config], request: PeersRequest) -> dict[str, int]:
    """Steps of every network that take as long as the first one's; measured once, side by side."""
    path = request.out / BUDGET
    if path.exists():
        return _stored_budget(path, configs, request.steps)
    clocks = {name: _timed_steps(config) for name, config in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    for number in tqdm(range(ROUNDS), desc="step times", unit="round"):
        for name, clock in clocks.items():
            taken = next(clock)
            if number:
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = medians[next(iter(configs))]
    steps = {name: max(round(request.steps * first / median), 1) for name, median in medians.items()}
    write_json(path, {"steps": steps, "seconds_per_step": medians, "first": request.steps})
    return steps


def _stored_budget(path: Path, configs: dict[str, Config], first: int) -> dict[str, int]:
    """The budget of an earlier call.

    Raises:
        InputError: It is of other networks or another number of steps.
    """
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        steps = {name: int(stored["steps"][name]) for name in configs}
        before = stored["first"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a budget that can be read; delete it") from None
    if before != first:
        raise InputError(f"{path}: was made for {before} steps, not {first}; choose another --out")
    return steps


def _timed_steps(config: Config) -> Iterator[float]:
    """Train a fresh network step by step; yields the seconds of each."""
    device = choose_device(config.device)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.seed)
    training, _, detector = open_data(config)
    if detector is not None and training.edges is not None:
        prepare_edge_maps(training, training.edges, detector, device)
    state = build_state(config, device)
    objectives = build_objectives(config).to(device)
    layout_of = partial(state.generator.layout, whole_frame=objectives.whole_frame)
    for batch in training_batches(config, training, 0, ROUNDS, device, layout_of):
        start = time.perf_counter()
        train_step(state, objectives, config, batch, training)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield time.perf_counter() - start
