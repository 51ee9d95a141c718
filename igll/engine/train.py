"""The training loop (section 4.2)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from igll.config import Config, save_config
from igll.engine.batches import open_data, training_batches
from igll.engine.collapse import CollapseWatch
from igll.engine.devices import choose_device
from igll.engine.edge_maps import prepare_edge_maps
from igll.engine.log import RunLog, Tolerant, say
from igll.engine.objectives import build_objectives
from igll.engine.records import Records
from igll.engine.run_checkpoints import RunCheckpoints
from igll.engine.scan import ReplacementRecord, check_images, open_validation
from igll.engine.signals import StopRequest
from igll.engine.state import build_state
from igll.engine.step import total_steps, train_step
from igll.errors import InputError, NumericsError
from igll.storage import make_folder


def train(config: Config, out: Path, resume: bool = False) -> int:
    """Train a model.

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
    """
    # Device and seeds.
    device = choose_device(config.device)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.seed)
    checkpoints = RunCheckpoints(out, config, resume)

    # Data: training crops and fixed validation images.
    training, testing, detector = open_data(config)
    unusable = check_images(config, training, testing, out, resumed=checkpoints.found)
    last_step = total_steps(config.train, len(training))

    # Networks, losses, optimisers.
    state = build_state(config, device)
    objectives = build_objectives(config).to(device)

    # The run's folder, for this process alone; and where an earlier one left off.
    make_folder(out)
    lock = checkpoints.claim()
    checkpoints.resume(state, device)
    save_config(config, out / "config.yaml")

    # Edge maps of the ground truth, if any are used; made last, because it can take a while.
    skip = config.data.on_error == "skip"
    for dataset in (training, testing):
        if detector is not None and dataset.edges is not None:
            prepare_edge_maps(dataset, dataset.edges, detector, device, pass_over=skip)
    layout_of = partial(state.generator.layout, whole_frame=objectives.whole_frame)
    batches = training_batches(config, training, state.step, last_step, device, layout_of)

    collapse = CollapseWatch()
    log = RunLog(out, state.step, collapse.see)
    with lock, log, StopRequest() as stop, _progress(state.step, last_step) as bar:
        validation = open_validation(config, testing, out / "sheets", device, unusable, bar)
        records = Records(config, checkpoints, log, collapse, validation, bar)
        replacements = ReplacementRecord(unusable, log)
        try:
            for batch in batches:
                # One step: discriminator, then generator, then the average.
                terms = train_step(state, objectives, config, batch, training)
                state.step += 1

                # Records.
                finished = state.step == last_step
                replacements.note(state.step, batch.replaced)
                records.write(state, terms, finished)

                # Checkpoint; leave if asked to.
                code = stop.exit_code
                records.save(state, leaving=finished or code is not None)
                if code is not None:
                    say(f"stopped at step {state.step}, saved {checkpoints.last}; go on with --resume")
                    return code
        except (InputError, NumericsError):
            # A file broke under us, or a loss did: keep what was learnt before saying so.
            records.rescue(state)
            raise
    return 0


def _progress(first_step: int, last_step: int) -> tqdm[Any]:
    return tqdm(total=last_step, initial=first_step, desc="train", unit="step", file=Tolerant(sys.stderr))
