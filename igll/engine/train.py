"""The training loop (section 4.2)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from igll.config import Config, save_config
from igll.distributed import alike, is_writer, largest, samples_per_process, take_from_first
from igll.engine.batches import open_data, training_batches
from igll.engine.devices import choose_device
from igll.engine.edge_maps import prepare_edge_maps
from igll.engine.log import RunLog
from igll.engine.objectives import Objectives
from igll.engine.records import Records
from igll.engine.signals import StopRequest
from igll.engine.state import TrainState, build_state
from igll.engine.step import total_steps, train_step
from igll.engine.validate import Validation
from igll.errors import InputError, NumericsError, ProcessEndedError, ProcessFailedError
from igll.storage import make_folder


def train(config: Config, out: Path, resume: bool = False) -> int:
    """Train a model.

    In processes that :func:`igll.distributed.joined` connects, each takes its part of every batch, and the
    first writes.

    Args:
        config: What to train on what.
        out: The run's folder; made if missing.
        resume: Continue from ``out/checkpoints/last.pt`` if it is there.

    Returns:
        0 when done, 130 or 143 when stopped by SIGINT or SIGTERM after saving.

    Raises:
        InputError: If the input has to change; see the message.
        NumericsError: If a loss or gradient stopped being finite; that network is untouched by that step.
        ProcessEndedError: Another process ended or failed.
    """
    # Device and seeds.
    _check_processes(config)
    device = choose_device(config.device)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.seed)
    last = out / "checkpoints" / "last.pt"
    if last.exists() and not resume:
        raise InputError(
            f"{out}: already holds a run; add --resume to go on with it, or choose another --out"
        )

    # Data: training crops and fixed validation images.
    training, testing, detector = open_data(config)
    last_step = total_steps(config.train, len(training))

    # Networks, losses, optimisers; and where an earlier process left off.
    state = build_state(config, device)
    learned = config.model.structure_prior == "learned"
    objectives = Objectives(config.losses, learned, config.data.crop_size, config.allow_download).to(device)
    if resume and last.exists():
        state.load(last, config, device)
    _start_alike(state, last)
    if is_writer():
        make_folder(out)
        save_config(config, out / "config.yaml")

    # Edge maps of the ground truth, if any are used; made last, because it can take a while.
    for dataset in (training, testing):
        if detector is not None and dataset.edges is not None:
            prepare_edge_maps(dataset, dataset.edges, detector, device)
    layout_of = partial(state.generator.layout, whole_frame=objectives.whole_frame)
    batches = training_batches(config, training, state.step, last_step, device, layout_of)
    validation = Validation(testing, config, out / "sheets", device)

    opened = RunLog(out, state.step) if is_writer() else nullcontext()
    with (
        opened as log,
        StopRequest() as stop,
        _progress(state.step, last_step) as bar,
        _naming_checkpoint(last),
    ):
        records = Records(config, out, log, validation, bar)
        try:
            for batch in batches:
                # One step: discriminator, then generator, then the average.
                terms = train_step(state, objectives, config, batch, training)
                state.step += 1

                # Records.
                finished = state.step == last_step
                records.write(state, terms, finished)

                # Checkpoint; leave if asked to, all processes after the same step.
                stopped = largest(stop.exit_code or 0)
                if finished or stopped or state.step % config.train.checkpoint_every == 0:
                    state.save(last, config)
                if stopped:
                    if is_writer():
                        bar.write(f"stopped at step {state.step}, saved {last}; go on with --resume")
                    return stopped
        except (InputError, NumericsError, ProcessFailedError):
            # A file broke under us, or a loss did: keep what was learnt before saying so.
            state.save(last, config)
            raise
    return 0


def _progress(first_step: int, last_step: int) -> tqdm[Any]:
    return tqdm(
        total=last_step,
        initial=first_step,
        desc="train",
        unit="step",
        file=sys.stderr,
        disable=not is_writer(),
    )


def _check_processes(config: Config) -> None:
    """Refuse what several processes cannot do as one would.

    Raises:
        InputError: Naming the setting.
    """
    each = samples_per_process(config.train.batch_size)
    if each < config.train.batch_size and config.discriminator.norm == "batch":
        raise InputError(
            "discriminator.norm: batch takes its statistics of what one process has; use spectral or none, "
            "or one process"
        )


def _start_alike(state: TrainState, last: Path) -> None:
    """Let all processes go on from one point, with the first one's weights.

    Raises:
        InputError: Not all of them found the checkpoint.
    """
    if not alike([state.step]):
        raise InputError(
            f"{last}: not seen by every process; --out has to be a folder that all machines share"
        )
    take_from_first([state.generator, state.ema, state.discriminator])


@contextmanager
def _naming_checkpoint(last: Path) -> Iterator[None]:
    """Says how to go on when another process has ended without a word."""
    try:
        yield
    except ProcessFailedError:
        raise
    except ProcessEndedError as error:
        saved = f"last checkpoint: {last}; go on with --resume" if last.exists() else "no checkpoint yet"
        raise ProcessEndedError(f"{error}; {saved}") from error
