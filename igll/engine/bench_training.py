"""Where a training step's time goes, and how fast the loader is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from igll.config import Config
from igll.data.datasets import InpaintingDataset
from igll.engine.batches import open_data, training_batches
from igll.engine.bench_step_roof import StepRoof, record_step
from igll.engine.bench_timing import MEASURED, SKIPPED, Row, clock, is_out_of_memory
from igll.engine.devices import mixed_precision
from igll.engine.edge_maps import prepare_edge_maps
from igll.engine.objectives import Batch, Objectives, build_objectives
from igll.engine.state import TrainState, build_state, judges_edges
from igll.engine.step import average, judge, train_step
from igll.models.discriminator import weights_once
from igll.models.interface import GeneratorOutput

_JUDGED = ("adversarial", "feature_matching")  # terms that need the discriminator's opinion
_EMA_DECAY = 0.999  # any value costs the same
_PAPER_IMAGES = 40 * 8_000  # epochs × images of the paper's training on AID (section 4.2)
_SVD = "loss: svd"


class Part(NamedTuple):
    """Seconds of one part of a step.

    Attributes:
        name: What the table calls it.
        forward: Of its forward pass, or of all where there is no backward pass.
        backward: Of its backward pass; 0 if it has none.
    """

    name: str
    forward: float
    backward: float = 0.0


class _Bench:
    """A training run whose steps can be taken as a whole or part by part."""

    def __init__(self, config: Config, training: InpaintingDataset, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.training, self.device = config, training, device
        self.state: TrainState = build_state(config, device)
        self.objectives = self._objectives()
        self.single = {
            name: self._objectives(name) for name, weight in self.objectives.weights.items() if weight
        }
        self.autocast = mixed_precision(config.train, device)

    def _objectives(self, only: str | None = None) -> Objectives:
        """All losses, or one generator term alone, which then computes nothing of the others."""
        config = self.config
        if only is not None:
            off = {name: 0.0 for name in self.objectives.weights if name != only}
            config = config.model_copy(update={"losses": config.losses.model_copy(update=off)})
        made = build_objectives(config).to(self.device)
        if made.features is not None and only is not None:
            made.features = self.objectives.features  # one copy of VGG serves all
        return made

    def whole(self, batch: Batch) -> float:
        """Seconds of a training step as training takes it."""
        return clock(
            self.device, lambda: train_step(self.state, self.objectives, self.config, batch, self.training)
        )

    def parts(self, batch: Batch) -> list[Part]:
        """The same step, part by part, with a wait for the device between any two."""
        generator, ema = self.state.generator, self.state.ema
        given = batch.edge_B1HW if generator.structure_prior in ("oracle", "reference") else None
        kept: list[GeneratorOutput] = []
        forward = self._forward(
            lambda: kept.append(generator.fill(batch.image_BCHW, batch.mask_B1HW, given, batch.layout))
        )
        output, leaves = kept[0], _leaves(kept[0])
        parts = [Part("generator forward", forward), *self._discriminator(batch, leaves)]
        for name, objectives in self.single.items():
            part = self._term(name, objectives, batch, leaves)
            if part is not None:
                parts.append(part)
        parts.append(Part("generator backward", 0.0, self._backward(output, leaves)))
        update = clock(self.device, lambda: _update(self.state.generator_optimizer))
        parts.append(Part("generator optimiser", update))
        if ema is not None:
            mean = clock(self.device, lambda: average(ema, generator, _EMA_DECAY))
            parts.append(Part("EMA", mean))
        return parts

    def _forward(self, work: Callable[[], object]) -> float:
        """Seconds of a network's forward pass, in the precision of training."""
        with self.autocast:
            return clock(self.device, work)

    def _discriminator(self, batch: Batch, leaves: GeneratorOutput) -> list[Part]:
        """The discriminator's own update."""
        network, optimizer = self.state.discriminator, self.state.discriminator_optimizer
        if network is None or optimizer is None:
            return []
        network.requires_grad_(True)
        forward = backward = update = 0.0
        judged, conditional = self.objectives.judged(leaves).detach(), judges_edges(self.config)
        losses: list[Tensor] = []

        # Shared with the generator's loss, where it is timed.
        differences = self.objectives.differences(leaves, batch)
        differences = None if differences is None else differences.detach()

        def criticise() -> None:
            with weights_once(network):
                found = self.objectives.discriminator(network, batch, judged, conditional, differences)
                losses.append(found.total)

        for _ in range(self.config.discriminator.steps):
            optimizer.zero_grad(set_to_none=True)
            forward += self._forward(criticise)
            backward += clock(self.device, losses.pop().backward)
            update += clock(self.device, lambda: _update(optimizer))
        network.requires_grad_(False)
        return [Part("discriminator", forward, backward), Part("discriminator optimiser", update)]

    def _term(self, name: str, objectives: Objectives, batch: Batch, leaves: GeneratorOutput) -> Part | None:
        """One loss alone: forward, and backward down to the generator's output; None if it does not occur."""
        found: list[Tensor] = []

        def forward() -> None:
            real = fake = None
            if name in _JUDGED and self.state.discriminator is not None:
                with self.autocast:
                    real, fake = judge(self.state.discriminator, objectives, self.config, batch, leaves)
            total, terms = objectives.generator(leaves, batch, real, fake)
            if terms:
                found.append(total)

        seconds = clock(self.device, forward)
        if not found or not found[0].requires_grad:
            return None
        return Part(f"loss: {name}", seconds, clock(self.device, found[0].backward))

    def _backward(self, output: GeneratorOutput, leaves: GeneratorOutput) -> float:
        """From the gradients that the losses left at the output, through the generator."""
        self.state.generator_optimizer.zero_grad(set_to_none=True)
        pairs = [
            (tensor, leaf.grad)
            for tensor, leaf in zip(_tensors(output), _tensors(leaves), strict=True)
            if leaf.grad is not None and tensor.requires_grad
        ]
        tensors, gradients = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return clock(self.device, lambda: torch.autograd.backward(tensors, gradients))


def _leaves(output: GeneratorOutput) -> GeneratorOutput:
    """The same output cut off from the generator, ready to collect gradients."""
    predictions = tuple(_leaf(tensor) for tensor in output.predictions)
    edges = None if output.edge_logits_B1HW is None else _leaf(output.edge_logits_B1HW)
    return GeneratorOutput(_leaf(output.pixel_BCHW), _leaf(output.perception_BCHW), predictions, edges)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _tensors(output: GeneratorOutput) -> list[Tensor]:
    edges = [] if output.edge_logits_B1HW is None else [output.edge_logits_B1HW]
    return [output.pixel_BCHW, output.perception_BCHW, *output.predictions, *edges]


def _update(optimizer: torch.optim.Optimizer) -> None:
    """Gradient norm and update, as in a training step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    nn.utils.clip_grad_norm_(parameters, float("inf"))
    optimizer.step()


def measure_training(config: Config, device: torch.device, steps: int, limit: float, bar: tqdm[Any]) -> Row:
    """Break one training step down.

    Whole steps and steps part by part take turns; each figure is the median over ``steps`` of them. The parts
    do not add up to the whole: on CUDA the wait between parts takes away what would overlap, and a training
    step also checks its values and works out its learning rate.

    Args:
        config: What to train on what.
        device: Where.
        steps: Timed steps of each kind, after one of each that is not.
        limit: Seconds for all of them together.
        bar: Shows what is being worked on; moves on by one.

    Raises:
        InputError: Data or weights that the configuration asks for are missing or wrong.
    """
    bar.set_description("training step")
    row: Row = {"status": MEASURED, "reason": ""}
    training, _, detector = open_data(config)
    if detector is not None and training.edges is not None:
        prepare_edge_maps(training, training.edges, detector, device)
    try:
        row |= _measure_steps(_Bench(config, training, device), steps, limit)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        row |= {"status": SKIPPED, "reason": "out of memory; lower --batch or --crop"}
    bar.update()
    return row


def _measure_steps(bench: _Bench, steps: int, limit: float) -> Row:
    """Whole steps, divided steps and replays of the roof in turns."""
    layout_of = partial(bench.state.generator.layout, whole_frame=bench.objectives.whole_frame)
    batches = training_batches(bench.config, bench.training, 0, 2 * (steps + 1), bench.device, layout_of)
    waits: list[float] = []
    wholes: list[float] = []
    roofs: list[float] = []
    roof: StepRoof | None = None
    divided: list[list[Part]] = []
    got: list[Batch] = []
    for _ in range(steps + 1):
        waits.append(clock(bench.device, lambda: got.append(next(batches))))
        wholes.append(bench.whole(got.pop()))
        if len(wholes) == 1 and 2 * steps * wholes[0] > limit:
            reason = f"the first step took {wholes[0]:.1f} s, {2 * steps} would exceed {limit:g} s (--limit)"
            return {"status": SKIPPED, "reason": reason}
        batch = next(batches)
        divided.append(bench.parts(batch))
        if roof is None:
            roof = StepRoof(record_step(partial(bench.whole, batch)), bench.device)
        roofs.append(clock(bench.device, roof.replay))
    # The first of each pays for what is set up once.
    return _summary(bench.config, waits[1:], wholes[1:], divided[1:], roofs[1:])


def _summary(
    config: Config,
    waits: Sequence[float],
    wholes: Sequence[float],
    divided: Sequence[Sequence[Part]],
    roofs: Sequence[float],
) -> Row:
    """Medians, part by part, what they add up to, and what follows from them."""
    data, whole = statistics.median(waits), statistics.median(wholes)
    parts: list[Row] = [{"name": "data (loader wait)", "forward": data, "backward": 0.0, "seconds": data}]
    for group in zip(*divided, strict=True):
        forward = statistics.median(part.forward for part in group)
        backward = statistics.median(part.backward for part in group)
        parts.append(
            {"name": group[0].name, "forward": forward, "backward": backward, "seconds": forward + backward}
        )
    total = whole + data
    roof, rate = statistics.median(roofs), config.train.batch_size / total
    return {
        "parts": parts,
        "parts_sum": sum(part["seconds"] for part in parts),
        "step_seconds": whole,
        "step_and_data_seconds": total,
        "images_per_second": rate,
        "svd_share": sum(part["seconds"] for part in parts if part["name"] == _SVD) / whole,
        "roof_seconds": roof,
        "roof_fraction": roof / whole,
        "paper_hours": _PAPER_IMAGES / rate / 3600,
        "steps": len(wholes),
    }


def measure_loader(config: Config, workers: int, batches: int, bar: tqdm[Any]) -> Row:
    """Images per second of the loader alone, with so many workers; its start is not counted.

    Raises:
        InputError: Data that the configuration asks for is missing or wrong.
    """
    bar.set_description(f"loader, {workers} workers")
    data = config.data.model_copy(update={"workers": workers})
    config = config.model_copy(update={"data": data})
    training, _, detector = open_data(config)
    cpu = torch.device("cpu")
    if detector is not None and training.edges is not None:
        prepare_edge_maps(training, training.edges, detector, cpu)
    # With workers the first batches were made before they were asked for: they pass untimed.
    ahead = 1 + 2 * workers
    loader = training_batches(config, training, 0, ahead + batches, cpu)
    for _ in islice(loader, ahead):
        pass
    start = time.perf_counter()
    count = sum(len(batch.indices) for batch in loader)
    seconds = time.perf_counter() - start
    bar.update()
    return {"workers": workers, "images": count, "seconds": seconds, "images_per_second": count / seconds}
