"""Evaluation: every metric on every test image, a network, methods without training or both (section 4.2)."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from igll.baselines import CLASSICAL, CLASSICAL_TITLES, require_packages
from igll.config import Config, EdgeConfig
from igll.data.datasets import InpaintingDataset, Sample, build_dataset, spread
from igll.distributed import gather, gather_rows, is_writer
from igll.engine.devices import choose_device, filling_precision, full_float32
from igll.engine.edge_maps import edges_needed, open_edge_cache, prepare_edge_maps, sees_ground_truth_edges
from igll.engine.held_out import check_apart
from igll.engine.protocol import ProtocolRecorder
from igll.engine.trained import differing_settings, load_generator, weights_used
from igll.engine.validate import all_batches, bands_shown, fill_sample, own_batches, to_picture, to_unit
from igll.engine.weights_source import WeightsSource, find_weights
from igll.errors import InputError
from igll.metrics import METRIC_NAMES, MetricSuite, average, left_out, standard_error
from igll.models import InpaintingNetwork
from igll.registry import TITLES
from igll.report.figures import paint_hole, picture_sheet
from igll.report.files import write_csv, write_json, write_text
from igll.report.tables import Column, markdown_table, metric_columns, text_table
from igll.storage import make_folder

Fill = Callable[[Sample], Tensor]
PER_IMAGE = "per_image.csv"
SMALLEST_FID_SET = 2048  # as many images as features: below, the covariance has no full rank


@dataclass
class Method:
    """One way to fill holes, and what was measured of it.

    Attributes:
        name: Its name in tables.
        fill: Maps a batch to result_BCHW in [-1, 1].
        oracle: Whether it was given edges of the ground truth.
        values: Metric → one value per image.
    """

    name: str
    fill: Fill
    oracle: bool = False
    values: dict[str, list[float]] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        """Means over the images."""
        return {name: average(values) for name, values in self.values.items()}


def evaluate(
    config: Config, checkpoint: str | None, out: Path, methods: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure a checkpoint, methods without training or both on the test part of a dataset.

    Writes ``metrics.json``, ``table.md``, ``per_image.csv`` and ``pictures.png`` below ``out`` and prints
    the table and the protocol's name and hash. Metrics are taken of 8-bit composites, as a file would hold
    them.

    Args:
        config: Data, masks and metrics. The network's own settings come from the checkpoint.
        checkpoint: Whatever :func:`igll.load` takes; here None is for methods without training alone.
        out: Folder for the results.
        methods: Methods without training, out of ``CLASSICAL``, besides those in ``eval.floors``.

    Processes that :func:`igll.distributed.joined` connects share the images, and the first writes.

    Returns:
        The content of ``metrics.json``; nothing in a process that does not write.

    Raises:
        InputError: If the input has to change, or a method's package is not installed; see the message.
    """
    names = list(dict.fromkeys([*config.eval.floors, *methods]))
    if not names and checkpoint is None:
        raise InputError("nothing to measure; name a checkpoint, or a method without training")
    require_packages(names)
    device = choose_device(config.device)
    source = None if checkpoint is None else find_weights(checkpoint)
    network = None if source is None else load_generator(source.path, config.eval.weights, device)
    config = _settings(config, source, None if network is None else network[1])
    if is_writer():
        make_folder(out)
    dataset = _open_data(config, device)
    config = _with_kid(config, len(dataset))
    oracle = sees_ground_truth_edges(config)

    measured = [Method(CLASSICAL_TITLES[name], classical_fill(name)) for name in names]
    if network is not None:
        generator, trained, _ = network
        measured.append(Method(TITLES[trained.model.name], _network_fill(generator, config, device), oracle))
    suite = _suite(config, device, len(measured))
    recorder = ProtocolRecorder()
    pictures = measure_methods(measured, suite, dataset, config, recorder)
    if not is_writer():
        return {}
    protocol = recorder.protocol(dataset, config)

    rows = _rows(measured, suite)
    result = {
        **_origin(config, source, network),
        "label": "oracle edges" if oracle else "",
        "protocol": protocol.to_json(),
        "images": len(dataset),
        "data": config.data.model_dump(),
        "mask": config.mask.model_dump(),
        "lpips_net": config.eval.lpips_net,
        "methods": {row["method"]: _numbers(row, way) for row, way in zip(rows, measured, strict=True)},
        "unavailable": suite.unavailable,
        "notes": _notes(config, suite, len(dataset)),
    }
    _write(result, rows, measured, dataset, pictures, config, out)
    return result


def _settings(config: Config, source: WeightsSource | None, trained: Config | None) -> Config:
    """The configuration with the network's own settings; without a network, with one that sees no edges."""
    if source is None or trained is None:
        blind = config.model.model_copy(update={"structure_prior": "none"})
        return config.model_copy(update={"model": blind})
    check_apart(config, trained, source.named)
    if (differing := differing_settings(trained.model, config.model)) and is_writer():
        print(f"note: measured as {source.named} was trained: {differing}", file=sys.stderr)
    return config.model_copy(update={"model": trained.model, "edges": edge_settings(config, trained)})


def _network_fill(generator: InpaintingNetwork, config: Config, device: torch.device) -> Fill:
    """A trained network, in the precision wanted."""

    def fill(sample: Sample) -> Tensor:
        with filling_precision(config.eval, device):
            return fill_sample(generator, sample, device)

    return fill


def _origin(
    config: Config, source: WeightsSource | None, network: tuple[InpaintingNetwork, Config, int] | None
) -> dict[str, Any]:
    """Which network was measured; all None without one."""
    if network is None or source is None:
        origin = ("checkpoint", "checkpoint_sha256", "step", "weights", "structure_prior")
        return dict.fromkeys(origin)
    _, trained, step = network
    return {
        "checkpoint": source.named,
        "checkpoint_sha256": source.sha256,
        "step": step,
        "weights": weights_used(source.path, config.eval.weights, trained) + ", bf16" * config.eval.amp,
        "structure_prior": trained.model.structure_prior,
    }


def _with_kid(config: Config, images: int) -> Config:
    """Every metric once; with too few images for FID, KID is measured beside it."""
    metrics = list(dict.fromkeys(config.eval.metrics))
    if "fid" in metrics and images < SMALLEST_FID_SET and "kid" not in metrics:
        metrics.insert(metrics.index("fid") + 1, "kid")
    return config.model_copy(update={"eval": config.eval.model_copy(update={"metrics": metrics})})


def _notes(config: Config, suite: MetricSuite, images: int) -> list[str]:
    """What to bear in mind of the set metrics that are measured."""
    notes, measured = [], set(config.eval.metrics) - set(suite.unavailable)
    if "fid" in measured and images < SMALLEST_FID_SET:
        notes.append(
            f"warning: FID over {images} images, fewer than {SMALLEST_FID_SET:,}, is biased upwards; "
            "compare it only over equally many images, and go by KID"
        )
    if "fd_effnet_lite0" in measured:
        notes.append("FD-effnet-lite0 is a proxy on EfficientNet-Lite0's features; its values are not FID")
    return notes


def _suite(config: Config, device: torch.device, methods: int) -> MetricSuite:
    settings = config.eval
    return MetricSuite(
        settings.metrics,
        settings.lpips_net,
        config.allow_download,
        device,
        fd_weights=settings.fd_weights,
        methods=methods,
    )


def _rows(methods: list[Method], suite: MetricSuite) -> list[dict[str, Any]]:
    """Of each method the means over the images, the set metrics, and why some have no value."""
    rows: list[dict[str, Any]] = []
    for number, method in enumerate(methods):
        row = {"method": method.name, "oracle": method.oracle, "unavailable": suite.unavailable}
        row["left_out"] = {name: left_out(values) for name, values in method.values.items()}
        rows.append(row | method.means() | suite.compute(number))
    return rows


def edge_settings(config: Config, trained: Config) -> EdgeConfig:
    """The detector that the checkpoint was trained with, from where this machine keeps its weights."""
    same = config.edges.detector == trained.edges.detector
    weights = (config.edges.weights if same else None) or trained.edges.weights
    return trained.edges.model_copy(update={"weights": weights, "cache": config.edges.cache})


def _open_data(config: Config, device: torch.device) -> InpaintingDataset:
    """The test images, with edge maps if the generator is given any."""
    if not edges_needed(config, training=False):
        return build_dataset(config, "test")
    cache, detector = open_edge_cache(config)
    dataset = build_dataset(config, "test", cache)
    prepare_edge_maps(dataset, cache, detector, device)
    return dataset


def classical_fill(name: str) -> Fill:
    """A method without training, by its name, for batches of a dataset."""
    fill = CLASSICAL[name]

    def fill_known(sample: Sample) -> Tensor:
        """An image of which nothing is known becomes mid-grey: there is nothing to fill from."""
        image, mask = sample["image"], sample["mask"]
        known_B = (mask <= 0.5).flatten(1).any(1)
        result = torch.zeros_like(image)
        if known_B.any():
            result[known_B] = fill(image[known_B], mask[known_B])
        return result

    return fill_known


@torch.inference_mode()
@full_float32()
def measure_methods(
    methods: list[Method],
    suite: MetricSuite,
    dataset: InpaintingDataset,
    config: Config,
    recorder: ProtocolRecorder,
    quiet: bool = False,
) -> list[list[NDArray[np.uint8]]]:
    """Run every method over the test set, one batch at a time, and hold no image that is not to be shown.

    Processes share the batches, and all of them get all values and pictures.

    Args:
        methods: Their values per image are added to them.
        suite: Measures them, in this order.
        dataset: The test images.
        config: Batch size, workers and number of pictures.
        recorder: Takes note of every batch, in the process that writes.
        quiet: Show no progress.

    Returns:
        For each of the images to be shown: with its hole, as each method filled it, and the truth.
    """
    own = own_batches(len(dataset), config.eval.batch_size)
    # What was measured is hashed in one chain over all images: one process has to see them all.
    seen = all_batches(len(dataset), config.eval.batch_size) if is_writer() else own
    loader: DataLoader[Sample] = DataLoader(dataset, batch_sampler=seen, num_workers=config.data.workers)
    pictures: list[list[NDArray[np.uint8]]] = []
    shown = set(spread(len(dataset), config.eval.pictures))
    bar = tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=quiet or not is_writer())
    for number, sample in enumerate(bar):
        recorder.add(sample)
        if number >= len(own):  # the first process has the first batches
            continue
        target = to_unit(sample["target"])
        results = [to_unit(_one_by_one(method.fill, sample)).cpu() for method in methods]
        columns = suite.update_all(results, target, sample["mask"])
        for method, values in zip(methods, columns, strict=True):
            for name, column in values.items():
                method.values.setdefault(name, []).extend(column)
        for index in range(len(target)):
            if int(sample["index"][index]) not in shown:
                continue
            hole = paint_hole(to_picture(to_unit(sample["image"][index])), sample["mask"][index, 0].numpy())
            filled = [to_picture(result[index]) for result in results]
            pictures.append([hole, *filled, to_picture(target[index])])
    for method in methods:
        method.values = _joined_columns(gather(method.values))
    suite.join()
    return _joined_pictures(pictures)


def _joined_columns(parts: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """The columns of all processes one below the other."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [value for part in parts for value in part.get(name, [])] for name in names}


def _joined_pictures(rows: list[list[NDArray[np.uint8]]]) -> list[list[NDArray[np.uint8]]]:
    """The pictures of all processes, those of the first first."""
    own = torch.from_numpy(np.array(rows, np.uint8))  # rows, pictures in a row, height, width, channels
    return [list(row) for row in gather_rows(own).numpy()]


def _one_by_one(fill: Fill, sample: Sample) -> Tensor:
    """Fill the images of a batch each for itself.

    Convolutions round differently in batches of different sizes; 8 bits make whole steps of that here and
    there, and the result would depend on the batch size.
    """
    singles = [
        {key: values[index : index + 1] for key, values in cast("dict[str, Tensor]", sample).items()}
        for index in range(len(sample["image"]))
    ]
    return torch.cat([fill(cast(Sample, single)) for single in singles])


def _numbers(row: dict[str, Any], method: Method) -> dict[str, Any]:
    """A method's means and standard errors for the JSON file."""
    means = {name: value for name, value in row.items() if name in METRIC_NAMES}
    errors = {name: standard_error(values) for name, values in method.values.items()}
    return {**means, "standard_error": errors, "oracle_edges": method.oracle}


def _write(
    result: dict[str, Any],
    rows: list[dict[str, Any]],
    methods: list[Method],
    dataset: InpaintingDataset,
    pictures: list[list[NDArray[np.uint8]]],
    config: Config,
    out: Path,
) -> None:
    """Write all result files and print the table."""
    columns = [Column("method", "method"), *metric_columns(config.eval.metrics)]
    caption = _caption(len(dataset), config, result["label"])
    notes = "".join(f"\n{note}\n" for note in result["notes"])
    write_text(out / "table.md", f"{caption}\n\n{markdown_table(rows, columns)}{notes}")
    lines = [
        {
            "image": dataset.name(index),
            "method": method.name,
            "oracle_edges": method.oracle,
            **{name: values[index] for name, values in method.values.items()},
        }
        for method in methods
        for index in range(len(dataset))
    ]
    write_csv(out / PER_IMAGE, lines)
    digest = hashlib.sha256((out / PER_IMAGE).read_bytes()).hexdigest()
    result["per_image"] = {"file": PER_IMAGE, "sha256": digest}
    write_json(out / "metrics.json", result)
    if pictures:
        names = [method.name + (" (oracle edges)" if method.oracle else "") for method in methods]
        titles = [dataset.name(index) for index in spread(len(dataset), config.eval.pictures)]
        shown = caption + bands_shown(config.model.image_channels)
        picture_sheet(pictures, ["input", *names, "truth"], titles, out / "pictures.png", caption=shown)
    files = "metrics.json, table.md, per_image.csv" + (", pictures.png" if pictures else "")
    print(f"{caption}\n\n{text_table(rows, columns)}")
    for note in result["notes"]:
        print(note)
    protocol = result["protocol"]
    print(f"protocol {protocol['name']}, {protocol['sha256'][:12]}\nwritten below {out}: {files}")


def _caption(images: int, config: Config, label: str) -> str:
    """What was measured on what, in one line."""
    data, mask = config.data, config.mask
    holes = f"{mask.kind} holes, ratio {mask.ratio}"
    if data.use == "pairs":
        holes = "cloud removal (pairs), holes where the data says"
    elif mask.kind == "files":
        holes = f"holes from {mask.root}"
    parts = [f"{images} images of {data.name}", f"crop {data.crop_size}", holes]
    if "lpips" in config.eval.metrics:
        parts.append(f"LPIPS ({config.eval.lpips_net})")
    return ", ".join([*parts, label] if label else parts)
