"""The training loop (section 4.2)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from igll.config import Config, TrainConfig, save_config
from igll.data.datasets import InpaintingDataset, Sample, StepSampler, build_dataset
from igll.engine.checkpoint import load_checkpoint, load_weights, save_checkpoint
from igll.engine.devices import choose_device
from igll.engine.edge_maps import edges_needed, open_edge_cache, prepare_edge_maps
from igll.engine.log import RunLog
from igll.engine.objectives import Batch, Objectives, Terms
from igll.engine.signals import StopRequest, ignore_interrupts
from igll.engine.validate import Validation
from igll.errors import InputError, NumericsError
from igll.models import Discriminator, Generator, build_discriminator, build_generator
from igll.models.discriminator import hole_rectangles


@dataclass
class TrainState:
    """Everything that a checkpoint has to bring back.

    Attributes:
        generator: The network being trained.
        ema: Its running average, or None if ``train.ema_decay`` is 0.
        discriminator: None if no adversarial term has a weight.
        generator_optimizer: Adam over the generator.
        discriminator_optimizer: Adam over the discriminator.
        step: Finished training steps.
        best: Best hole PSNR on the validation images so far, in dB.
    """

    generator: Generator
    ema: Generator | None
    discriminator: Discriminator | None
    generator_optimizer: torch.optim.Adam
    discriminator_optimizer: torch.optim.Adam | None
    step: int = 0
    best: float = -math.inf

    @property
    def evaluated(self) -> Generator:
        """The weights that evaluation uses."""
        return self.ema or self.generator

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "ema": self.ema,
            "discriminator": self.discriminator,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    def save(self, path: Path, config: Config) -> None:
        """Write a checkpoint."""
        parts = {name: part.state_dict() for name, part in self._parts().items() if part is not None}
        rest = {"config": config.model_dump(), "step": self.step, "best": self.best}
        save_checkpoint(path, {**parts, **rest, "random_state": torch.get_rng_state()})

    def load(self, path: Path, config: Config, device: torch.device) -> None:
        """Continue from a checkpoint of the same model.

        Raises:
            InputError: If it cannot be read or belongs to another model.
        """
        saved = load_checkpoint(path, device)
        if saved["config"]["model"] != config.model.model_dump():
            raise InputError(f"{path}: was trained with other model settings; use the run's own config.yaml")
        for name, part in self._parts().items():
            if (part is None) != (name not in saved):
                raise InputError(f"{path}: was trained with other losses or train.ema_decay ({name} differs)")
            if isinstance(part, nn.Module):
                load_weights(part, saved[name], str(path))
            elif part is not None:
                part.load_state_dict(saved[name])
        self.step, self.best = saved["step"], saved["best"]
        torch.set_rng_state(saved["random_state"].cpu())


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
        NumericsError: If a loss stopped being finite; the weights are untouched by that step.
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

    # Data: training crops and fixed validation images, with their edge maps if the model needs any.
    training, testing = _open_data(config, device)
    total_steps = _total_steps(config.train, len(training))

    # Networks, losses, optimisers; and where an earlier process left off.
    state = _build_state(config, device)
    learned = config.model.structure_prior == "learned"
    objectives = Objectives(config.losses, learned, config.data.crop_size, config.allow_download).to(device)
    if resume and last.exists():
        state.load(last, config, device)
    out.mkdir(parents=True, exist_ok=True)
    save_config(config, out / "config.yaml")
    batches = _batches(config, training, state.step, total_steps, device)
    validation = Validation(testing, config, out / "sheets", device)

    with RunLog(out, state.step) as log, StopRequest() as stop, _progress(state.step, total_steps) as bar:
        try:
            for batch in batches:
                # One step: discriminator, then generator, then the average.
                terms = train_step(state, objectives, config, batch, training)
                state.step += 1
                bar.update()

                # Records.
                finished = state.step == total_steps
                if finished or state.step % config.train.log_every == 0:
                    values = {name: float(term) for name, term in terms.items()}
                    log.scalars(state.step, "train", values)
                    bar.set_postfix(_short(values))
                if finished or state.step % config.train.eval_every == 0:
                    scores = validation.scores(state.evaluated)
                    log.scalars(state.step, "val", scores)
                    bar.write(f"step {state.step}: hole PSNR {scores['psnr_hole']:.2f} dB")
                    if scores["psnr_hole"] > state.best:
                        state.best = scores["psnr_hole"]
                        state.save(out / "checkpoints" / "best.pt", config)
                if finished or state.step % config.train.sheet_every == 0:
                    log.picture(state.step, "validation", validation.sheet(state.evaluated, state.step))

                # Checkpoint; leave if asked to.
                leaving = finished or stop.exit_code is not None
                if leaving or state.step % config.train.checkpoint_every == 0:
                    state.save(last, config)
                if stop.exit_code is not None:
                    bar.write(f"stopped at step {state.step}, saved {last}; go on with --resume")
                    return stop.exit_code
        except InputError:
            # A file vanished or broke under us: keep what was learnt before saying so.
            state.save(last, config)
            raise
    return 0


def train_step(
    state: TrainState, objectives: Objectives, config: Config, batch: Batch, training: InpaintingDataset
) -> Terms:
    """One update of the discriminator (or several, as configured) and one of the generator.

    Returns:
        ``generator/TERM`` before weighting, ``generator/total`` and, with a discriminator,
        ``discriminator/total``; detached, on the device.

    Raises:
        NumericsError: Before the update, if a loss is not finite.
    """
    rate = learning_rate(config.train, state.step, _total_steps(config.train, len(training)))
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=config.train.amp and batch.image_BCHW.is_cuda)
    given_edge = batch.edge_B1HW if state.generator.structure_prior in ("oracle", "reference") else None
    with autocast:
        output = state.generator.fill(batch.image_BCHW, batch.mask_B1HW, given_edge)
    terms: Terms = {}

    # Discriminator: real against composite.
    real = fake = None
    if state.discriminator is not None and state.discriminator_optimizer is not None:
        conditional = _conditional(config)
        state.discriminator.requires_grad_(True)
        for _ in range(config.discriminator.steps):
            with autocast:
                loss = objectives.discriminator(
                    state.discriminator, batch, output.perception_BCHW.detach(), conditional
                )
            terms["discriminator/total"] = loss.detach()
            _check_finite(terms, state.step, batch, training)
            relative = (config.train.discriminator_lr or config.train.lr) / config.train.lr
            _update(state.discriminator_optimizer, loss, rate * relative, 0.0)
        # The generator's gradient runs through the discriminator, not into it.
        state.discriminator.requires_grad_(False)
        edge = batch.edge_B1HW if conditional else None
        with autocast:
            with torch.no_grad():
                real = state.discriminator(batch.target_BCHW, edge, batch.rectangles)
            fake = state.discriminator(output.perception_BCHW, edge, batch.rectangles)

    # Generator.
    total, generator_terms = objectives.generator(output, batch, real, fake)
    terms |= {
        f"generator/{name}": term.detach() for name, term in (generator_terms | {"total": total}).items()
    }
    _check_finite(terms, state.step, batch, training)
    _update(state.generator_optimizer, total, rate, config.train.clip_gradient)

    # Running average, quicker at the start so that it does not remember the initial weights.
    if state.ema is not None:
        decay = min(config.train.ema_decay, (1 + state.step) / (10 + state.step))
        _average(state.ema, state.generator, decay)
    return terms


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Learning rate of a step: halved at milestones (the released code's schedule), cosine or constant."""
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * step / max(total_steps, 1)))
    if config.schedule == "steps":
        return config.lr * config.lr_gamma ** sum(step >= milestone for milestone in config.lr_milestones)
    return config.lr


def _conditional(config: Config) -> bool:
    """Whether the discriminator sees edges: it cannot where the model does without any."""
    return config.discriminator.edge and config.model.structure_prior != "none"


def _open_data(config: Config, device: torch.device) -> tuple[InpaintingDataset, InpaintingDataset]:
    """Training and validation images, their edge maps made where they are used."""
    cache = detector = None
    if edges_needed(config, training=True):
        cache, detector = open_edge_cache(config)
    training, testing = build_dataset(config, "train", cache), build_dataset(config, "test", cache)
    testing.indices = testing.indices[: config.train.eval_images]
    if cache is not None and detector is not None:
        for dataset in (training, testing):
            prepare_edge_maps(dataset, cache, detector, device)
    return training, testing


def _build_state(config: Config, device: torch.device) -> TrainState:
    generator = build_generator(config.model).to(device)
    ema = None
    if config.train.ema_decay:
        ema = build_generator(config.model).to(device).eval().requires_grad_(False)
        ema.load_state_dict(generator.state_dict())
    discriminator = discriminator_optimizer = None
    if config.losses.adversarial or config.losses.feature_matching:
        settings = config.discriminator.model_copy(update={"edge": _conditional(config)})
        discriminator = build_discriminator(settings, config.model.image_channels).to(device)
        discriminator_optimizer = _adam(discriminator, config.train, device)
    optimizer = _adam(generator, config.train, device)
    return TrainState(generator, ema, discriminator, optimizer, discriminator_optimizer)


def _adam(network: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.Adam:
    first, second = config.betas
    return torch.optim.Adam(network.parameters(), config.lr, (first, second), fused=device.type == "cuda")


def _total_steps(config: TrainConfig, images: int) -> int:
    steps = max(config.epochs * images // config.batch_size, 1)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _batches(
    config: Config, dataset: InpaintingDataset, first_step: int, total_steps: int, device: torch.device
) -> Iterator[Batch]:
    """Batches from the loader, on the device; one loader serves the whole run."""
    sampler = StepSampler(len(dataset), config.train.batch_size, config.seed, first_step, total_steps)
    loader: DataLoader[Sample] = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.data.workers,
        pin_memory=device.type == "cuda",
        # A generator of its own, so that starting workers draws nothing from the global one.
        generator=torch.Generator(),
        worker_init_fn=ignore_interrupts,
    )
    for sample in loader:
        moved = {
            name: sample[name].to(device, non_blocking=True)
            for name in ("image", "target", "mask", "edge")
            if name in sample
        }
        yield Batch(
            moved["image"],
            moved["target"],
            moved["mask"],
            moved.get("edge"),
            hole_rectangles(sample["mask"]),
            sample["index"].tolist(),
        )


def _check_finite(terms: Terms, step: int, batch: Batch, training: InpaintingDataset) -> None:
    """Stop before the update if any loss is not finite, naming the term, the step and the images."""
    for name, term in terms.items():
        if not math.isfinite(float(term)):
            names = ", ".join(training.name(index) for index in batch.indices)
            raise NumericsError(f"step {step + 1}: the loss '{name}' is {float(term)}; images: {names}")


def _update(optimizer: torch.optim.Adam, loss: Tensor, rate: float, clip: float) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


@torch.no_grad()
def _average(ema: Generator, generator: Generator, decay: float) -> None:
    for mean, current in zip(ema.parameters(), generator.parameters(), strict=True):
        mean.lerp_(current, 1 - decay)
    for copied, buffer in zip(ema.buffers(), generator.buffers(), strict=True):
        copied.copy_(buffer)


def _short(values: dict[str, float]) -> dict[str, str]:
    """The losses that fit on a progress bar."""
    shown = {"G": "generator/total", "hole": "generator/local", "D": "discriminator/total"}
    return {label: f"{values[name]:.3f}" for label, name in shown.items() if name in values}


def _progress(first_step: int, total_steps: int) -> tqdm[Any]:
    return tqdm(total=total_steps, initial=first_step, desc="train", unit="step", file=sys.stderr)
