"""The training loop (section 4.2)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from igll.config import Config, save_config
from igll.data.datasets import InpaintingDataset
from igll.distributed import failing_together, is_writer, largest, wait_for_all
from igll.engine.batches import open_data, step_batch, training_batches
from igll.engine.collapse import CollapseWatch
from igll.engine.devices import choose_device, computes_in_bfloat16, deterministic, fixed_workspace
from igll.engine.edge_maps import prepare_edge_maps
from igll.engine.failure import RecordedImages, record_failure
from igll.engine.initial import initial_weights
from igll.engine.log import Tolerant, open_log, say
from igll.engine.objectives import Batch, Objectives, build_objectives
from igll.engine.processes import check_processes, naming_checkpoint, start_alike
from igll.engine.records import Records
from igll.engine.run_checkpoints import RunCheckpoints
from igll.engine.scan import ReplacementRecord, check_images, open_validation
from igll.engine.signals import StopRequest
from igll.engine.state import TrainState, build_state
from igll.engine.step import total_steps, train_step
from igll.errors import InputError, NumericsError, OutputError, ProcessFailedError
from igll.storage import make_folder


@dataclass
class Run:
    """What the steps of a training need.

    Attributes:
        config: What to train on what.
        state: Networks, optimisers and the number of finished steps.
        objectives: The losses.
        training: Training images.
        batches: One for every step to come.
        last_step: Steps when all is done.
    """

    config: Config
    state: TrainState
    objectives: Objectives
    training: InpaintingDataset
    batches: Iterator[Batch]
    last_step: int


def train(config: Config, out: Path, resume: bool = False) -> int:
    """Train a model.

    In processes that :func:`igll.distributed.joined` connects, each takes its part of every batch, and the
    first writes.

    Args:
        config: What to train on what.
        out: The run's folder; made if missing.
        resume: Continue from ``out/checkpoints/last.pt`` if it is there, from an older one if it is damaged.

    Returns:
        0 when done, 128 and the number of the signal when stopped by one after saving.

    Raises:
        InputError: If the input has to change; see the message.
        OutputError: If the folder is in use or cannot be written to at the start, or at the end.
        NumericsError: If a loss or gradient stopped being finite; that network is untouched by that step.
        ProcessEndedError: Another process ended or failed.
    """
    # Device, start and seeds.
    check_processes(config)
    fixed_workspace(config.train.deterministic)
    device = choose_device(config.device)
    if config.train.amp and device.type == "cuda" and not computes_in_bfloat16():
        say("train.amp: this GPU does not compute in bfloat16; trains in float32")
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    checkpoints = RunCheckpoints(out, config, resume)
    initial = None if checkpoints.found else initial_weights(config)  # a resumed run needs them no more
    torch.manual_seed(config.seed)

    # Data: training crops and fixed validation images.
    training, testing, detector = open_data(config)
    unusable = check_images(config, training, testing, out, resumed=checkpoints.found)

    # Networks, losses, optimisers.
    state, objectives = build_state(config, device, initial), build_objectives(config).to(device)

    # The run's folder, for this run alone; and where an earlier one left off.
    with failing_together():
        make_folder(out)
        lock = checkpoints.claim() if is_writer() else nullcontext()
    checkpoints.resume(state, device)
    start_alike(state, checkpoints.last)
    if is_writer():
        save_config(config, out / "config.yaml")

    # Edge maps of the ground truth, if any are used; made last, because it can take a while.
    for dataset in (training, testing):
        if detector is not None and dataset.edges is not None:
            skip = config.data.on_error == "skip"
            prepare_edge_maps(dataset, dataset.edges, detector, device, pass_over=skip)

    # The steps, and what they leave behind.
    layout_of = partial(state.generator.layout, whole_frame=objectives.whole_frame)
    last_step = total_steps(config.train, len(training))
    batches = training_batches(config, training, state.step, last_step, device, layout_of)
    run = Run(config, state, objectives, training, batches, last_step)
    collapse = CollapseWatch()
    log = open_log(out, state.step, collapse.see)
    with lock, log, _progress(state.step, last_step) as bar, naming_checkpoint(checkpoints.last):
        validation = open_validation(config, testing, device, unusable, lambda: state.step)
        records = Records(config, checkpoints, log, collapse, validation, bar)
        with deterministic(config.train.deterministic, device):
            return _take_steps(run, records, ReplacementRecord(unusable, log))


def _take_steps(run: Run, records: Records, replacements: ReplacementRecord) -> int:
    """All steps that are left, or as many as it takes until a signal comes; the exit code."""
    state = run.state
    if state.step >= run.last_step:
        say(f"already at step {state.step}; train.max_steps and train.epochs ask for {run.last_step}")
    with StopRequest() as stop:
        try:
            for batch in run.batches:
                # One step: discriminator, then generator, then the average.
                terms = train_step(state, run.objectives, run.config, batch, run.training)
                state.step += 1

                # Records.
                finished = state.step == run.last_step
                replacements.note(state.step, batch.replaced)
                records.write(state, terms, finished)

                # Checkpoint; leave if asked to, all processes after the same step.
                code = largest(stop.exit_code or 0)
                records.save(state, leaving=finished or code > 0)
                if code and not finished:
                    last = records.checkpoints.last
                    say(f"stopped at step {state.step}, saved {last}; go on with --resume")
                    return code
        except (InputError, ProcessFailedError):
            # A file broke under us: keep what was learnt before saying so.
            records.rescue(state)
            raise
        except NumericsError as error:
            # So did a loss: keep also what it takes to see why.
            records.rescue(state)
            raise NumericsError(f"{error}; {_record(run, records.checkpoints.out, error)}") from error
    return 0


def _record(run: Run, out: Path, error: NumericsError) -> str:
    """Write down the step that failed; says where, or why not."""
    path, state = out / "failures" / f"step_{run.state.step + 1:07d}.pt", run.state
    told = f"written down in {path}; scripts/repeat_failure.py repeats it"
    if is_writer():
        try:
            batch = step_batch(run.config, run.training, state.step)
            images = RecordedImages([run.training.name(index) for index in batch.indices], len(run.training))
            record_failure(path, state, run.config, batch, images, str(error))
        except (InputError, OutputError) as obstacle:
            told = f"not written down ({obstacle})"
    wait_for_all()
    return told


def _progress(first_step: int, last_step: int) -> tqdm[Any]:
    return tqdm(
        total=last_step,
        initial=first_step,
        desc="train",
        unit="step",
        file=Tolerant(sys.stderr),
        disable=not is_writer(),
    )
