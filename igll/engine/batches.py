"""What training is fed with: crops from the loader, in an order that the seed and the step alone decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from igll.config import Config
from igll.data.datasets import InpaintingDataset, build_dataset, spread
from igll.data.sampler import StepSampler
from igll.data.stand_ins import decode_replacements
from igll.distributed import alike, failing_together, rank, samples_per_process
from igll.engine.edge_maps import edges_needed, open_edge_cache
from igll.engine.objectives import Batch
from igll.engine.signals import leave_signals_to_main
from igll.errors import InputError
from igll.models.discriminator import Rectangle, hole_rectangles
from igll.models.edges import EdgeDetector
from igll.models.hole_layout import HoleLayout


def open_data(config: Config) -> tuple[InpaintingDataset, InpaintingDataset, EdgeDetector | None]:
    """Training and validation images, and the detector of their edges if any are used.

    Raises:
        InputError: They cannot be opened, or are the same images.
    """
    roots = [Path(root).expanduser().resolve() for root in (config.data.root, config.data.val_root) if root]
    if len(roots) == 2 and roots[0] == roots[1]:
        raise InputError(
            f"data.val_root: {config.data.val_root} is data.root too, so every test image would be one of "
            "training; name another folder, or leave it out to split data.root"
        )
    cache = detector = None
    if edges_needed(config, training=True):
        cache, detector = open_edge_cache(config)
    training, testing = build_dataset(config, "train", cache), build_dataset(config, "test", cache)
    shown = spread(len(testing), config.train.eval_images)
    testing.indices = [testing.indices[position] for position in shown]
    return training, testing, detector


def training_batches(
    config: Config,
    dataset: InpaintingDataset,
    first_step: int,
    last_step: int,
    device: torch.device,
    layout_of: Callable[[Tensor], HoleLayout | None] | None = None,
) -> Iterator[Batch]:
    """Batches from the loader, on the device; one loader serves the whole run.

    Of several processes each gets its part of every batch, so that together they take the samples of one.

    Args:
        config: Batch size, seed and workers.
        dataset: Training images.
        first_step: Steps that are already done.
        last_step: Steps when all is done.
        device: Where the batches go.
        layout_of: What the network works out from a batch's mask, on the CPU, before the pass.

    Raises:
        InputError: A sample cannot be read, or the processes cannot share a batch equally.
    """
    share = samples_per_process(config.train.batch_size)
    dataset.keep_scenes()
    part = slice(rank() * share, (rank() + 1) * share)
    sampler = StepSampler(len(dataset), config.train.batch_size, config.seed, first_step, last_step, part)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.data.workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if config.data.workers else None,
        # A generator of its own, so that starting workers draws nothing from the global one.
        generator=torch.Generator(),
        worker_init_fn=leave_signals_to_main,
    )
    samples = iter(loader)
    for step in range(first_step, last_step):
        with failing_together():
            sample = next(samples)
        batch = _on_device(sample, device)
        batch.rectangles = _rectangles(sample["mask"])
        if share < config.train.batch_size:
            batch.indices = [key.image for key in sampler.keys(step)]
        layout = None if layout_of is None else layout_of(sample["mask"])
        batch.layout = None if layout is None else layout.to(device)
        yield batch


def step_batch(config: Config, dataset: InpaintingDataset, step: int) -> Batch:
    """The whole batch of one step, whoever takes part in it, on the CPU.

    Raises:
        InputError: A sample cannot be read.
    """
    sampler = StepSampler(len(dataset), config.train.batch_size, config.seed, step, step + 1)
    sample = default_collate([dataset[key] for key in sampler.keys(step)])
    batch = _on_device(sample, torch.device("cpu"))
    batch.rectangles = hole_rectangles(sample["mask"])
    return batch


def _on_device(sample: dict[str, Any], device: torch.device) -> Batch:
    """A collated sample, of which nothing else is known yet."""
    moved = {
        name: sample[name].to(device, non_blocking=True)
        for name in ("image", "target", "mask", "edge")
        if name in sample
    }
    return Batch(
        moved["image"],
        moved["target"],
        moved["mask"],
        moved.get("edge"),
        rectangles=None,
        indices=sample["index"].tolist(),
        replaced=decode_replacements(sample.get("unusable", [])),
    )


def _rectangles(mask_B1HW: Tensor) -> list[Rectangle] | None:
    """This process's holes, if those of the whole batch are rectangles of one size."""
    boxes = hole_rectangles(mask_B1HW)
    size = (boxes[0].height, boxes[0].width) if boxes else (0, 0)
    return boxes if alike(size) else None
