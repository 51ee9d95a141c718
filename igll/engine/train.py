"""The training loop (section 4.2)."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from igll.config import Config, TrainConfig, save_config
from igll.data.datasets import InpaintingDataset, Sample, StepSampler, build_dataset, spread
from igll.engine.devices import choose_device
from igll.engine.edge_maps import edges_needed, open_edge_cache, prepare_edge_maps
from igll.engine.log import RunLog
from igll.engine.objectives import Batch, Objectives, Terms
from igll.engine.signals import StopRequest, leave_signals_to_main
from igll.engine.state import TrainState, build_state, judges_edges
from igll.engine.validate import Validation
from igll.errors import InputError, NumericsError
from igll.models import InpaintingNetwork
from igll.models.critics import AnyDiscriminator
from igll.models.discriminator import Judgement, hole_rectangles, weights_once
from igll.models.edges import EdgeDetector
from igll.models.hole_layout import HoleLayout
from igll.models.interface import GeneratorOutput
from igll.storage import make_folder


def train(config: Config, out: Path, resume: bool = False) -> int:
    """Train a model.

    Args:
        config: What to train on what.
        out: The run's folder; made if missing.
        resume: Continue from ``out/checkpoints/last.pt`` if it is there.

    Returns:
        0 when done, 130 or 143 when stopped by SIGINT or SIGTERM after saving.

    Raises:
        InputError: If the input has to change; see the message.
        NumericsError: If a loss or gradient stopped being finite; that network is untouched by that step.
    """
    # Device and seeds.
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
    total_steps = _total_steps(config.train, len(training))

    # Networks, losses, optimisers; and where an earlier process left off.
    state = build_state(config, device)
    learned = config.model.structure_prior == "learned"
    objectives = Objectives(config.losses, learned, config.data.crop_size, config.allow_download).to(device)
    if resume and last.exists():
        state.load(last, config, device)
    make_folder(out)
    save_config(config, out / "config.yaml")

    # Edge maps of the ground truth, if any are used; made last, because it can take a while.
    for dataset in (training, testing):
        if detector is not None and dataset.edges is not None:
            prepare_edge_maps(dataset, dataset.edges, detector, device)
    layout_of = partial(state.generator.layout, whole_frame=objectives.whole_frame)
    batches = training_batches(config, training, state.step, total_steps, device, layout_of)
    validation = Validation(testing, config, out / "sheets", device)

    with RunLog(out, state.step) as log, StopRequest() as stop, _progress(state.step, total_steps) as bar:
        records = Records(config, out, log, validation, bar)
        try:
            for batch in batches:
                # One step: discriminator, then generator, then the average.
                terms = train_step(state, objectives, config, batch, training)
                state.step += 1

                # Records.
                finished = state.step == total_steps
                records.write(state, terms, finished)

                # Checkpoint; leave if asked to.
                leaving = finished or stop.exit_code is not None
                if leaving or state.step % config.train.checkpoint_every == 0:
                    state.save(last, config)
                if stop.exit_code is not None:
                    bar.write(f"stopped at step {state.step}, saved {last}; go on with --resume")
                    return stop.exit_code
        except (InputError, NumericsError):
            # A file broke under us, or a loss did: keep what was learnt before saying so.
            state.save(last, config)
            raise
    return 0


@dataclass
class Records:
    """What a run leaves behind while it goes on: losses, scores, pictures and the best weights.

    Attributes:
        config: How often.
        out: The run's folder.
        log: Where losses and scores are written.
        validation: The fixed images that are scored and shown.
        bar: The progress bar.
    """

    config: Config
    out: Path
    log: RunLog
    validation: Validation
    bar: tqdm[Any]

    def write(self, state: TrainState, terms: Terms, finished: bool) -> None:
        """Record what is due after a step, and everything after the last one."""
        step, due = state.step, self.config.train
        self.bar.update()
        if finished or step % due.log_every == 0:
            state.settle()
            stacked = torch.stack([term.float() for term in terms.values()])
            values = dict(zip(terms, stacked.tolist(), strict=True))
            self.log.scalars(step, "train", values)
            self.bar.set_postfix(_short(values))
        if finished or step % due.eval_every == 0:
            self._validate(state)
        if finished or step % due.sheet_every == 0:
            self.log.picture(step, "validation", self.validation.sheet(state.evaluated, step))

    def _validate(self, state: TrainState) -> None:
        """Score the fixed validation images, and keep the weights if they are the best so far."""
        state.settle()
        scores = self.validation.scores(state.evaluated)
        self.log.scalars(state.step, "val", scores)
        label = " (oracle edges)" if self.validation.oracle else ""
        self.bar.write(f"step {state.step}: hole PSNR {scores['psnr_hole']:.2f} dB{label}")
        best = self.out / "checkpoints" / "best.pt"
        if scores["psnr_hole"] > state.best or not best.exists():
            state.best = scores["psnr_hole"]
            state.save(best, self.config)


def train_step(
    state: TrainState, objectives: Objectives, config: Config, batch: Batch, training: InpaintingDataset
) -> Terms:
    """One update of the discriminator (or several, as configured) and one of the generator.

    Returns:
        ``generator/TERM`` before weighting, ``generator/total``, ``gradient/generator`` (its norm) and, with
        a discriminator, the same of it; detached, on the device.

    Raises:
        NumericsError: Before the network's update, if its loss or gradient is not finite. On CUDA the update
            is left out there and then, as are all later ones, and :meth:`TrainState.settle` raises.
    """
    rate = learning_rate(config.train, state.step, _total_steps(config.train, len(training)))
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=config.train.amp and batch.image_BCHW.is_cuda)
    given_edge = batch.edge_B1HW if state.generator.structure_prior in ("oracle", "reference") else None
    with autocast:
        output = state.generator.fill(batch.image_BCHW, batch.mask_B1HW, given_edge, batch.layout)
    differences = objectives.differences(output, batch)
    terms: Terms = {}

    # Discriminator: real against what the network made.
    real = fake = None
    if state.discriminator is not None:
        with autocast:
            terms = _train_discriminator(state, objectives, config, batch, training, output, differences)
            real, fake = judge(state.discriminator, objectives, config, batch, output)

    # Generator.
    total, generator_terms = objectives.generator(output, batch, real, fake, differences)
    terms |= {
        f"generator/{name}": term.detach() for name, term in (generator_terms | {"total": total}).items()
    }
    terms["gradient/generator"] = _gradient_norm(state.generator_optimizer, total, config.train.clip_gradient)
    _check_finite(terms, state, batch, training)
    _update(state.generator_optimizer, rate)

    # Running average, quicker at the start so that it does not remember the initial weights.
    if state.ema is not None:
        decay = min(config.train.ema_decay, (1 + state.step) / (10 + state.step))
        average(state.ema, state.generator, decay, state.watch.broken)
    return terms


def _train_discriminator(
    state: TrainState,
    objectives: Objectives,
    config: Config,
    batch: Batch,
    training: InpaintingDataset,
    output: GeneratorOutput,
    differences: Tensor | None,
) -> Terms:
    """Update the discriminator, as often as configured; its terms."""
    network, optimizer = state.discriminator, state.discriminator_optimizer
    assert network is not None and optimizer is not None  # noqa: S101  (narrows for the type checker)
    rate = learning_rate(config.train, state.step, _total_steps(config.train, len(training)))
    relative = (config.train.discriminator_lr or config.train.lr) / config.train.lr
    result, conditional = objectives.judged(output).detach(), judges_edges(config)
    terms: Terms = {}
    network.requires_grad_(True)
    for _ in range(config.discriminator.steps):
        with weights_once(network):
            loss = objectives.discriminator(network, batch, result, conditional, differences)
        terms["discriminator/total"] = loss.detach()
        terms["gradient/discriminator"] = _gradient_norm(optimizer, loss, 0.0)
        _check_finite(terms, state, batch, training)
        _update(optimizer, rate * relative)
    # The generator's gradient runs through the discriminator, not into it.
    network.requires_grad_(False)
    return terms


def judge(
    network: AnyDiscriminator, objectives: Objectives, config: Config, batch: Batch, output: GeneratorOutput
) -> tuple[Judgement | None, Judgement]:
    """What the discriminator thinks of the ground truth, if a loss asks, and of the network's output."""
    edge = batch.edge_B1HW if judges_edges(config) else None
    real = None
    with weights_once(network):
        if objectives.judges_truth:
            with torch.no_grad():
                real = network(batch.target_BCHW, edge, batch.rectangles)
        return real, network(objectives.judged(output), edge, batch.rectangles)


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Learning rate of a step: halved at milestones (the released code's schedule), cosine or constant."""
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * step / max(total_steps, 1)))
    if config.schedule == "steps":
        return config.lr * config.lr_gamma ** sum(step >= milestone for milestone in config.lr_milestones)
    return config.lr


def open_data(config: Config) -> tuple[InpaintingDataset, InpaintingDataset, EdgeDetector | None]:
    """Training and validation images, and the detector of their edges if any are used."""
    cache = detector = None
    if edges_needed(config, training=True):
        cache, detector = open_edge_cache(config)
    training, testing = build_dataset(config, "train", cache), build_dataset(config, "test", cache)
    shown = spread(len(testing), config.train.eval_images)
    testing.indices = [testing.indices[position] for position in shown]
    return training, testing, detector


def _total_steps(config: TrainConfig, images: int) -> int:
    steps = max(config.epochs * images // config.batch_size, 1)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def training_batches(
    config: Config,
    dataset: InpaintingDataset,
    first_step: int,
    total_steps: int,
    device: torch.device,
    layout_of: Callable[[Tensor], HoleLayout | None] | None = None,
) -> Iterator[Batch]:
    """Batches from the loader, on the device; one loader serves the whole run.

    Args:
        config: Batch size, seed and workers.
        dataset: Training images.
        first_step: Steps that are already done.
        total_steps: Steps when all is done.
        device: Where the batches go.
        layout_of: What the network works out from a batch's mask, on the CPU, before the pass.
    """
    dataset.keep_scenes()
    sampler = StepSampler(len(dataset), config.train.batch_size, config.seed, first_step, total_steps)
    loader: DataLoader[Sample] = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.data.workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if config.data.workers else None,
        # A generator of its own, so that starting workers draws nothing from the global one.
        generator=torch.Generator(),
        worker_init_fn=leave_signals_to_main,
    )
    for sample in loader:
        moved = {
            name: sample[name].to(device, non_blocking=True)
            for name in ("image", "target", "mask", "edge")
            if name in sample
        }
        layout = None if layout_of is None else layout_of(sample["mask"])
        yield Batch(
            moved["image"],
            moved["target"],
            moved["mask"],
            moved.get("edge"),
            hole_rectangles(sample["mask"]),
            sample["index"].tolist(),
            None if layout is None else layout.to(device),
        )


def _check_finite(terms: Terms, state: TrainState, batch: Batch, training: InpaintingDataset) -> None:
    """Stop before the update if any value is not finite, naming it, the step and the images."""
    state.watch.note(state.step, terms, lambda: ", ".join(training.name(index) for index in batch.indices))
    if state.watch.full:
        state.settle()


def _gradient_norm(optimizer: torch.optim.Adam, loss: Tensor, clip: float) -> Tensor:
    """Backward pass; returns the gradient's norm, after clipping it to ``clip`` if that is not 0."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if clip:
        return nn.utils.clip_grad_norm_(parameters, clip)
    return nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])


def _update(optimizer: torch.optim.Adam, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


@torch.no_grad()
def average(
    ema: InpaintingNetwork, generator: InpaintingNetwork, decay: float, broken: Tensor | None = None
) -> None:
    """Move the running average towards the generator; buffers are copied.

    Args:
        ema: The average.
        generator: The network.
        decay: Share of the average that stays.
        broken: Scalar; nothing moves where it is 1. ``None``: 0.
    """
    means: list[Tensor] = list(ema.parameters())
    current: list[Tensor] = list(generator.parameters())
    stay = torch.zeros((), device=means[0].device) if broken is None else broken
    steps = list(torch._foreach_sub(current, means))
    torch._foreach_mul_(steps, (1 - stay) * (1 - decay))
    torch._foreach_add_(means, steps)
    for copied, buffer in zip(ema.buffers(), generator.buffers(), strict=True):
        copied.copy_(torch.where(stay > 0, copied, buffer))


def _short(values: dict[str, float]) -> dict[str, str]:
    """The losses that fit on a progress bar."""
    shown = {"G": "generator/total", "hole": "generator/local", "D": "discriminator/total"}
    return {label: f"{values[name]:.3f}" for label, name in shown.items() if name in values}


def _progress(first_step: int, total_steps: int) -> tqdm[Any]:
    return tqdm(total=total_steps, initial=first_step, desc="train", unit="step", file=sys.stderr)
