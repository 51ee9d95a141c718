"""Watching a run: hole PSNR and a picture sheet on a few fixed images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import default_collate

from igll.config import Config
from igll.data.datasets import InpaintingDataset, Sample, spread
from igll.distributed import failing_together, gather, is_writer, own_part
from igll.engine.edge_maps import sees_ground_truth_edges
from igll.metrics import average
from igll.metrics.image import hole_psnr, psnr
from igll.models import InpaintingNetwork
from igll.report.figures import paint_hole, picture_sheet

SHEET_ROWS = 6


def to_unit(image_BCHW: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1], rounded to the 256 values that an 8-bit file can hold."""
    return ((image_BCHW.float() + 1) * 127.5).round().clamp(0, 255) / 255


def to_picture(image_CHW: Tensor) -> NDArray[np.uint8]:
    """An image in [0, 1] as uint8 HWC for a person: grey or the first three bands."""
    shown = image_CHW[:3] if image_CHW.shape[0] >= 3 else image_CHW[:1].expand(3, -1, -1)
    return np.rint(shown.cpu().numpy().transpose(1, 2, 0) * 255).astype(np.uint8)


def fill_sample(generator: InpaintingNetwork, sample: Sample, device: torch.device) -> Tensor:
    """Fill a batch of a dataset.

    Returns:
        The last stage's composite_BCHW in [-1, 1], on the device.
    """
    edge = sample["edge"].to(device) if generator.structure_prior in ("oracle", "reference") else None
    filled: Tensor = generator(sample["image"].to(device), sample["mask"].to(device), edge)[1]
    return filled


def bands_shown(channels: int) -> str:
    """For a caption: which bands :func:`to_picture` shows, if not all; begins with a comma."""
    if channels in (1, 3):
        return ""
    return f", band 1 of {channels} shown" if channels == 2 else f", bands 1 to 3 of {channels} shown"


def own_batches(images: int, batch_size: int) -> list[list[int]]:
    """This process's part of the batches that one process would make of so many images."""
    batches = all_batches(images, batch_size)
    return [batches[number] for number in own_part(len(batches))]


def all_batches(images: int, batch_size: int) -> list[list[int]]:
    """Batches of so many images in their order."""
    return [list(range(start, min(start + batch_size, images))) for start in range(0, images, batch_size)]


def _largest_psnr(values_B: Tensor) -> Tensor:
    """PSNR in dB of 8-bit images, so many values of which are measured and one is off by one."""
    return 20 * math.log10(255) + 10 * values_B.double().log10()


@contextmanager
def evaluating(generator: InpaintingNetwork) -> Iterator[None]:
    """The generator in evaluation mode, and afterwards as it was."""
    training = generator.training
    generator.eval()
    try:
        yield
    finally:
        generator.train(training)


class Validation:
    """A few fixed test images, filled again and again while a run goes on.

    Args:
        dataset: The images.
        config: Batch size.
        device: Where to fill.
    """

    def __init__(self, dataset: InpaintingDataset, config: Config, device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        self.batch_size = config.eval.batch_size
        self.oracle = sees_ground_truth_edges(config)

    @torch.no_grad()
    def scores(self, generator: InpaintingNetwork) -> dict[str, float]:
        """Mean PSNR in dB of the whole image and of the hole.

        An image that was filled exactly counts as if one value were off by one of 255: left out, as its PSNR
        is infinite, it would lower the mean. Processes share the images, and all of them get the scores.
        """
        values: dict[str, list[float]] = {"psnr_hole": [], "psnr": []}
        with evaluating(generator), failing_together():
            for numbers in own_batches(len(self.dataset), self.batch_size):
                sample: Sample = default_collate([self.dataset[number] for number in numbers])
                result = to_unit(fill_sample(generator, sample, self.device)).cpu()
                target = to_unit(sample["target"])
                missing_B = sample["mask"].flatten(1).sum(1) * target.shape[1]
                in_hole_B = hole_psnr(result, target, sample["mask"])
                values["psnr_hole"] += in_hole_B.minimum(_largest_psnr(missing_B)).tolist()
                whole_B = torch.full_like(missing_B, target[0].numel())
                values["psnr"] += psnr(result, target).minimum(_largest_psnr(whole_B)).tolist()
        everybodys = gather(values)
        return {name: average([value for part in everybodys for value in part[name]]) for name in values}

    def has_hole(self) -> bool:
        """Whether any of the images has a hole in its crop; those that the data bring may have none."""
        with failing_together():
            return any(bool(self.dataset[number]["mask"].any()) for number in range(len(self.dataset)))

    def sheet(self, generator: InpaintingNetwork, step: int) -> Image | None:
        """Picture sheet of some images, input, filled and truth; None but in the process that writes."""
        with evaluating(generator), failing_together():
            return self._draw(generator, step) if is_writer() else None

    @torch.no_grad()
    def _draw(self, generator: InpaintingNetwork, step: int) -> Image:
        shown = spread(len(self.dataset), SHEET_ROWS)
        sample = default_collate([self.dataset[index] for index in shown])
        results = to_unit(fill_sample(generator, sample, self.device)).cpu()
        rows, bands = [], bands_shown(sample["image"].shape[1])
        for image, result, target, mask in zip(
            to_unit(sample["image"]), results, to_unit(sample["target"]), sample["mask"], strict=True
        ):
            hole = paint_hole(to_picture(image), mask[0].numpy())
            rows.append([hole, to_picture(result), to_picture(target)])
        return picture_sheet(
            rows,
            ["input", "filled", "truth"],
            [self.dataset.name(index) for index in shown],
            caption=f"step {step}" + (", oracle edges" if self.oracle else "") + bands,
        )
