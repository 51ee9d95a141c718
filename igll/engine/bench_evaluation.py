"""How many images per second each metric of an evaluation takes, and everything around the metrics."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from igll.config import Config, DataConfig, MaskConfig, ModelConfig
from igll.data.datasets import build_dataset
from igll.engine.bench_timing import FAILED, MEASURED, SKIPPED, Row, clock, is_out_of_memory
from igll.engine.devices import full_float32
from igll.engine.evaluate import Method, classical_fill, measure_methods
from igll.engine.protocol import ProtocolRecorder
from igll.metrics import METRIC_NAMES, MetricSuite
from igll.metrics.distribution import untrained_inception
from igll.metrics.names import MetricUnavailableError

SIDE: Final = 256  # of the images, the paper's
AROUND: Final = "all but the metrics"
TOGETHER: Final = "all metrics"
ROWS: Final = (AROUND, *METRIC_NAMES, TOGETHER)
_ON_INCEPTION = ("fid", "kid")
_SEED = 0


def measure_evaluation(
    config: Config, device: torch.device, rounds: int, limit: float, bar: tqdm[Any]
) -> Iterator[Row]:
    """Time every metric alone, all of them together, and an evaluation without any.

    Args:
        config: ``eval.batch_size``, ``eval.lpips_net`` and ``eval.fd_weights`` count; its data do not.
        device: Where metrics are computed.
        rounds: Timed batches of each row, after one that is not.
        limit: Seconds that one row may take, else it is skipped.
        bar: Shows what is being worked on; moves on by one per row.

    Yields:
        A row for each of ``ROWS``; one that cannot be measured gives the reason, and ``untrained`` names the
        metrics that were measured with random weights for want of Inception's.
    """
    batch = config.eval.batch_size
    images = _images(batch)
    for name in ROWS:
        bar.set_description(f"evaluation, {name}")
        row: Row = {"name": name, "size": SIDE, "batch": batch, "status": MEASURED, "reason": ""}
        try:
            if name == AROUND:
                row |= _around(config, device, rounds, limit)
            else:
                row |= _metrics(
                    METRIC_NAMES if name == TOGETHER else (name,), config, device, images, rounds, limit
                )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            row |= {"status": SKIPPED, "reason": "out of memory; lower eval.batch_size"}
        bar.update()
        yield row


def _images(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """A result, its truth and the hole: noise with 8 bits, the hole a quarter of the image."""
    generator = torch.Generator().manual_seed(_SEED)
    noise_2BCHW = torch.randint(256, (2, batch, 3, SIDE, SIDE), generator=generator) / 255
    mask_B1HW = torch.zeros(batch, 1, SIDE, SIDE)
    mask_B1HW[..., SIDE // 4 : 3 * SIDE // 4, SIDE // 4 : 3 * SIDE // 4] = 1
    return torch.where(mask_B1HW > 0.5, noise_2BCHW[0], noise_2BCHW[1]), noise_2BCHW[1], mask_B1HW


@torch.inference_mode()
@full_float32()  # as an evaluation runs
def _metrics(
    names: Sequence[str],
    config: Config,
    device: torch.device,
    images: tuple[Tensor, Tensor, Tensor],
    rounds: int,
    limit: float,
) -> Row:
    """Some metrics on one batch, again and again."""
    lpips_net, fd_weights = config.eval.lpips_net, config.eval.fd_weights
    suite = MetricSuite(names, lpips_net, config.allow_download, device, fd_weights=fd_weights)
    untrained = [name for name in _ON_INCEPTION if name in suite.unavailable]
    if untrained:
        with suppress(MetricUnavailableError):  # then the suite's own reason stands
            network = untrained_inception()
            suite = MetricSuite(names, lpips_net, False, device, network, fd_weights)
    reasons = suite.unavailable
    left_out = {"left_out": list(reasons)} if len(names) > 1 else {}
    if len(reasons) == len(names):
        return {"status": FAILED, "reason": next(iter(reasons.values()))}
    untrained = [name for name in untrained if name not in reasons]
    times = _timed(lambda: suite.update(*images), device, len(images[0]), rounds, limit)
    return {**times, **left_out, "untrained": untrained}


def _around(config: Config, device: torch.device, rounds: int, limit: float) -> Row:
    """An evaluation without metrics and pictures: files, holes, the cheapest filling, composites, hashes."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(_SEED)
        for number in range(config.eval.batch_size):
            pixels_HWC = rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels_HWC).save(Path(folder) / f"{number:04d}.png")
        parts = {
            "data": DataConfig(name="folder", root=folder, val_root=folder, crop_size=SIDE, workers=0),
            "mask": MaskConfig(),
            "model": ModelConfig(structure_prior="none"),
            "eval": config.eval.model_copy(update={"pictures": 0}),
        }
        config = config.model_copy(update=parts)
        dataset = build_dataset(config, "test")
        methods = [Method("mean of known", classical_fill("mean_of_known"))]
        suite = MetricSuite((), device=device)

        def evaluation() -> None:
            measure_methods(methods, suite, dataset, config, ProtocolRecorder(), quiet=True)

        return _timed(evaluation, device, len(dataset), rounds, limit)


def _timed(work: Callable[[], object], device: torch.device, images: int, rounds: int, limit: float) -> Row:
    """Times of some work on so many images, the first of which does not count."""
    first = clock(device, work)
    if rounds * first > limit:
        reason = f"the first batch took {first:.1f} s, {rounds} would exceed {limit:g} s (--limit)"
        return {"status": SKIPPED, "reason": reason}
    seconds = [clock(device, work) for _ in range(rounds)]
    median = statistics.median(seconds)
    return {"seconds": seconds, "seconds_median": median, "images_per_second": images / median}
