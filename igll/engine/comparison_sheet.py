"""Fillings of checkpoints and of methods without training side by side, like the paper's Figure 7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from igll.baselines import CLASSICAL_TITLES, require_packages
from igll.config import Config
from igll.data.datasets import InpaintingDataset, Sample, build_dataset, spread
from igll.engine.devices import choose_device, full_float32
from igll.engine.edge_maps import edges_needed, open_edge_cache, prepare_edge_maps, sees_ground_truth_edges
from igll.engine.evaluate import classical_fill, edge_settings
from igll.engine.held_out import check_apart
from igll.engine.trained import load_generator
from igll.engine.validate import bands_shown, fill_sample, to_picture, to_unit
from igll.engine.weights_source import find_weights
from igll.errors import InputError
from igll.report.canvas import check_ending, sheet_as_pdf
from igll.report.differences import colour_scale, difference_map
from igll.report.figures import paint_hole, picture_sheet

_CELL = 192  # at least, in pixels

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class SheetRequest:
    """What to lay side by side.

    Attributes:
        checkpoints: Each whatever :func:`igll.load` takes.
        names: Column titles, one per checkpoint.
        methods: Methods without training, out of ``CLASSICAL``; their columns come first.
        cases: Number of test images, evenly spread over the test set.
        images: Names of test images instead, as results list them.
        difference: A row of difference maps below each case.
        full: Mean difference over the channels, in steps of 255, at which the colours end.
    """

    checkpoints: Sequence[str]
    names: Sequence[str]
    methods: Sequence[str] = ()
    cases: int = 6
    images: Sequence[str] = ()
    difference: bool = False
    full: int = 64


@dataclass(frozen=True)
class _Column:
    """The fillings of one checkpoint, or of one method without training."""

    title: str
    oracle: bool
    results: list[Picture]


@dataclass(frozen=True)
class SheetRows:
    """The parts of a sheet.

    Attributes:
        heads: Column titles.
        pictures: Rows of pictures.
        titles: Row titles.
        caption: What is shown.
    """

    heads: list[str]
    pictures: list[list[Picture]]
    titles: list[str]
    caption: str


def comparison_sheet(config: Config, request: SheetRequest, out: Path) -> Image.Image:
    """Fill the same crops and holes with every method and checkpoint; write the sheet as PNG and PDF.

    Rows are cases; columns the masked input, one per method without training, one per checkpoint and the
    ground truth, all at one scale.

    Args:
        config: Data and masks; each network's own settings come from its checkpoint.
        request: Methods, checkpoints and cases.
        out: A ``.png`` or ``.pdf`` path; both files are written.

    Returns:
        The sheet.

    Raises:
        InputError: Names do not fit the checkpoints, an image is not in the test set or was trained on,
            a file is missing or of another kind, or a method's package is not installed.
        OutputError: A file cannot be written.
    """
    check_ending(out)
    rows = comparison_rows(config, request)
    png, pdf = out.with_suffix(".png"), out.with_suffix(".pdf")
    sheet = picture_sheet(rows.pictures, rows.heads, rows.titles, png, _cell(config), rows.caption)
    sheet_as_pdf(sheet, pdf)
    return sheet


def comparison_rows(config: Config, request: SheetRequest) -> SheetRows:
    """What :func:`comparison_sheet` lays out; arguments and errors as there."""
    if len(request.checkpoints) != len(request.names):
        raise InputError(f"--names: {len(request.names)} for {len(request.checkpoints)} checkpoints")
    if not request.checkpoints and not request.methods:
        raise InputError("nothing to show; name a checkpoint, or a method without training")
    require_packages(request.methods)
    cases = _chosen(build_dataset(config, "test"), request)
    columns = [
        *(_without_training(name, cases) for name in request.methods),
        *(
            _fill(config, checkpoint, name, cases)
            for checkpoint, name in zip(request.checkpoints, request.names, strict=True)
        ),
    ]
    samples = [cases[index] for index in range(len(cases))]
    truths = [to_picture(to_unit(sample["target"])) for sample in samples]
    inputs = [
        paint_hole(to_picture(to_unit(sample["image"])), sample["mask"][0].numpy()) for sample in samples
    ]
    rows, titles = [], []
    for index, (masked, truth) in enumerate(zip(inputs, truths, strict=True)):
        results = [column.results[index] for column in columns]
        rows.append([masked, *results, truth])
        titles.append(cases.name(index))
        if request.difference:
            maps = [difference_map(result, truth, request.full) for result in results]
            rows.append([np.full_like(masked, 255), *maps, colour_scale(_cell(config), request.full)])
            titles.append("difference from the truth")
    caption = _caption(config, columns, request)
    heads = ["masked", *(column.title for column in columns), "truth"]
    return SheetRows(heads, rows, titles, caption)


def _cell(config: Config) -> int:
    """Side of a picture on the sheet; whole multiples show the pixels as they are."""
    side = config.data.crop_size
    return side * -(-_CELL // side)


def _without_training(name: str, cases: InpaintingDataset) -> _Column:
    """Fill every case with a method without training."""
    fill = classical_fill(name)
    samples = (default_collate([cases[index]]) for index in range(len(cases)))
    return _Column(
        CLASSICAL_TITLES[name], False, [to_picture(to_unit(fill(sample))[0]) for sample in samples]
    )


def _chosen(dataset: InpaintingDataset, request: SheetRequest) -> InpaintingDataset:
    """The cases alone; each keeps its crop and hole."""
    if not request.images:
        return replace(dataset, indices=[dataset.indices[at] for at in spread(len(dataset), request.cases)])
    places = {dataset.name(index): dataset.indices[index] for index in range(len(dataset))}
    for name in request.images:
        if name not in places:
            raise InputError(f"--images: {name} is not in the test set (such as {next(iter(places))})")
    return replace(dataset, indices=[places[name] for name in request.images])


@torch.inference_mode()
@full_float32()
def _fill(config: Config, checkpoint: str, name: str, cases: InpaintingDataset) -> _Column:
    """Fill every case with one checkpoint."""
    device = choose_device(config.device)
    generator, trained, _ = load_generator(find_weights(checkpoint).path, config.eval.weights, device)
    check_apart(config, trained, checkpoint)
    if trained.model.image_channels != config.model.image_channels:
        raise InputError(
            f"{checkpoint}: fills images of {trained.model.image_channels} channel(s), but the config has "
            f"model.image_channels={config.model.image_channels}"
        )
    own = config.model_copy(update={"model": trained.model, "edges": edge_settings(config, trained)})
    dataset = cases
    if edges_needed(own, training=False):
        cache, detector = open_edge_cache(own)
        # Opened anew: what edges are taken from depends on the structure prior.
        dataset = replace(build_dataset(own, "test", cache), indices=cases.indices)
        prepare_edge_maps(dataset, cache, detector, device)
    loader: DataLoader[Sample] = DataLoader(dataset, own.eval.batch_size, collate_fn=default_collate)
    results = [
        to_picture(result) for sample in loader for result in to_unit(fill_sample(generator, sample, device))
    ]
    oracle = sees_ground_truth_edges(own)
    return _Column(name + (" (oracle edges)" if oracle else ""), oracle, results)


def _caption(config: Config, columns: Sequence[_Column], request: SheetRequest) -> str:
    """What is shown, and which columns are not to be compared with the others."""
    holes = "holes where the data says" if config.data.use == "pairs" else f"{config.mask.kind} holes"
    bands = bands_shown(config.model.image_channels)
    caption = f"Test images of {config.data.name}, crop {config.data.crop_size}, {holes}{bands}."
    if request.difference:
        caption += (
            f" Differences: absolute, mean over the channels, from 0 to {request.full} of 255 and above."
        )
    oracle = [column.title.removesuffix(" (oracle edges)") for column in columns if column.oracle]
    if oracle:
        caption += (
            f" Oracle edges: {', '.join(oracle)} saw the ground truth's edges inside the hole; compare with "
            "others that did."
        )
    return caption
