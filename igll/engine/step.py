"""One training step: the discriminator, then the generator, then the running average (section 4.2)."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from igll.config import Config, TrainConfig
from igll.distributed import average_gradients, average_terms
from igll.engine.devices import mixed_precision
from igll.engine.objectives import Batch, Objectives, Terms
from igll.engine.state import TrainState, judges_edges
from igll.losses.precision import full_precision
from igll.models import InpaintingNetwork
from igll.models.critics import AnyDiscriminator
from igll.models.discriminator import Judgement, weights_once
from igll.models.interface import GeneratorOutput


class Images(Protocol):
    """What a step asks of the training images: how many there are, and what they are called."""

    def __len__(self) -> int:
        """Images of the training set."""

    def name(self, index: int) -> str:
        """Name of an image."""


def train_step(
    state: TrainState, objectives: Objectives, config: Config, batch: Batch, training: Images
) -> Terms:
    """One update of the discriminator (or several, as configured) and one of the generator.

    Every process takes its part of the batch; after the gradients' mean all of them do the same.

    Returns:
        ``generator/TERM`` before weighting, ``generator/total``, ``gradient/generator`` (its norm) and, with
        a discriminator, its total and gradient and ``discriminator/accuracy``; of the whole batch, detached,
        on the device.

    Raises:
        NumericsError: Before the network's update, if its loss or gradient is not finite. On CUDA the update
            is left out there and then, as are all later ones, and :meth:`TrainState.settle` raises.
    """
    rate = learning_rate(config.train, state.step, total_steps(config.train, len(training)))
    autocast = mixed_precision(config.train, batch.image_BCHW.device)
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
    terms |= average_terms(
        {f"generator/{name}": term.detach() for name, term in (generator_terms | {"total": total}).items()}
    )
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
    training: Images,
    output: GeneratorOutput,
    differences: Tensor | None,
) -> Terms:
    """Update the discriminator, as often as configured; its terms."""
    network, optimizer = state.discriminator, state.discriminator_optimizer
    assert network is not None and optimizer is not None  # noqa: S101  (narrows for the type checker)
    rate = learning_rate(config.train, state.step, total_steps(config.train, len(training)))
    relative = (config.train.discriminator_lr or config.train.lr) / config.train.lr
    result, conditional = objectives.judged(output).detach(), judges_edges(config)
    terms: Terms = {}
    network.requires_grad_(True)
    for _ in range(config.discriminator.steps):
        with weights_once(network):
            found = objectives.discriminator(network, batch, result, conditional, differences)
        terms |= average_terms(
            {"discriminator/total": found.total.detach(), "discriminator/accuracy": found.accuracy}
        )
        terms["gradient/discriminator"] = _gradient_norm(optimizer, found.total, 0.0)
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


def total_steps(config: TrainConfig, images: int) -> int:
    """Steps of a whole run over so many training images."""
    steps = max(config.epochs * images // config.batch_size, 1)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _check_finite(terms: Terms, state: TrainState, batch: Batch, training: Images) -> None:
    """Stop before the update if any value is not finite, naming it, the step and the images."""
    indices = batch.indices  # of the batch, what is noted keeps nothing else alive
    state.watch.note(state.step, terms, lambda: ", ".join(training.name(index) for index in indices))
    if state.watch.full:
        state.settle()


def _gradient_norm(optimizer: torch.optim.Adam, loss: Tensor, clip: float) -> Tensor:
    """Backward pass; returns the gradient's norm, after clipping it to ``clip`` if that is not 0.

    Gradient and norm are those of the whole batch: from here on all processes do the same.
    """
    optimizer.zero_grad(set_to_none=True)
    with full_precision(loss):  # the discriminator's comes within autocast
        loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    average_gradients(parameters)
    if clip:
        return nn.utils.clip_grad_norm_(parameters, clip)
    return nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])


def _update(optimizer: torch.optim.Adam, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    # Within autocast 16-bit copies of weights are kept, which now are those of the step before.
    torch.clear_autocast_cache()


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
