"""What training is fed with: crops from the loader, in an order that the seed and the step alone decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from igll.config import Config
from igll.data.datasets import InpaintingDataset, Sample, StepSampler, build_dataset, spread
from igll.data.stand_ins import decode_replacements
from igll.engine.edge_maps import edges_needed, open_edge_cache
from igll.engine.objectives import Batch
from igll.engine.signals import leave_signals_to_main
from igll.models.discriminator import hole_rectangles
from igll.models.edges import EdgeDetector
from igll.models.hole_layout import HoleLayout


def open_data(config: Config) -> tuple[InpaintingDataset, InpaintingDataset, EdgeDetector | None]:
    """Training and validation images, and the detector of their edges if any are used."""
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

    Args:
        config: Batch size, seed and workers.
        dataset: Training images.
        first_step: Steps that are already done.
        last_step: Steps when all is done.
        device: Where the batches go.
        layout_of: What the network works out from a batch's mask, on the CPU, before the pass.
    """
    dataset.keep_scenes()
    sampler = StepSampler(len(dataset), config.train.batch_size, config.seed, first_step, last_step)
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
            decode_replacements(sample.get("unusable", [])),
        )
