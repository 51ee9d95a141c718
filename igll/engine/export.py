"""A trained generator as an ONNX file, and what ONNX Runtime makes of it beside PyTorch."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igll.config import Config
from igll.engine.trained import load_generator, weights_used
from igll.engine.weights_source import WeightsSource, find_weights
from igll.errors import InputError, OutputError
from igll.models import Generator
from igll.models.export import LARGEST_SIDE, GraphForm
from igll.models.layers import STRIDE
from igll.storage import make_folder, replacing
from igll.weights import BEST

SUFFIX = ".onnx"
OPSET = 17
TOLERANCE = 5e-5  # of values in [0, 1]
_NEEDS = 'pip install "igll[onnx]"'
_SIZES = ((64, 64), (72, 52), (61, 83))  # what a graph of any size is checked at
_ALL_MISSING_PIXELS = 128 * 128  # up to here an image that is missing entirely is checked too
_SCORES = 2**22  # hole tokens × all tokens of a checked image: 16 MiB for each table of scores
_PRIORS = {
    "oracle": "oracle: input 'edge' is that of the complete ground truth, so no real hole can be filled",
    "reference": "reference: input 'edge' is the edge map of another image of the same place",
    "learned": "learned: edges are completed from the known pixels",
    "none": "none: no edges",
}
_CONVENTIONS = {
    "input_image": "float32 (batch, channels, height, width) in [0, 1]; NaN allowed where mask is 1",
    "input_mask": "float32 (batch, 1, height, width), 1 = missing",
    "input_edge": "float32 (batch, 1, height, width) in [0, 1], 1 = edge",
    "output_filled": "float32 like image, in [0, 1]; known pixels bit-identical",
}


class ExportRequest(NamedTuple):
    """What is exported.

    Attributes:
        checkpoint: Whatever :func:`igll.load` takes.
        out: The file to write, ``*.onnx``.
        size: Height and width that the graph is made for; None for any.
        check: Whether ONNX Runtime runs the graph beside PyTorch before the file gets its name.
    """

    checkpoint: str | Path
    out: Path
    size: tuple[int, int] | None = None
    check: bool = True


class Exported(NamedTuple):
    """What was written.

    Attributes:
        megabytes: Size of the file.
        metadata: What the file says of itself.
        apart: Largest difference from PyTorch, of values in [0, 1]; None if not checked.
    """

    megabytes: float
    metadata: dict[str, str]
    apart: float | None

    def line(self, path: Path) -> str:
        """For people."""
        checked = "not checked" if self.apart is None else f"at most {self.apart:.1e} from PyTorch"
        prior = self.metadata["structure_prior"].split(":")[0]
        return f"{path}: {self.megabytes:.2f} MB, step {self.metadata['step']}, prior {prior}, {checked}"


def export_onnx(request: ExportRequest) -> Exported:
    """Write a trained generator as ONNX.

    Raises:
        InputError: The checkpoint cannot be read or is of a network without ONNX form, a package is missing,
            or the request is out of range.
        OutputError: The file cannot be written, or is not because ONNX Runtime fails or its result differs.
    """
    _check_request(request)
    onnx = _package("onnx")
    runtime = _package("onnxruntime") if request.check else None
    source = find_weights(request.checkpoint)
    generator, config, step = load_generator(source.path)
    if not isinstance(generator, Generator):
        raise InputError(
            f"{source.named}: a network of model.name={config.model.name}; only igll's can be exported"
        )
    if generator.exemplar:
        raise InputError(
            f"{source.named}: fills by example, a search that has no ONNX form; export weights of "
            f"model.exemplar=false, such as {BEST}"
        )
    metadata = describe(source, generator, config, step)
    make_folder(request.out.parent)
    with replacing(request.out) as temporary:
        write_graph(generator, temporary, request.size)
        model = onnx.load(str(temporary))
        onnx.helper.set_model_props(model, metadata)
        model.producer_name, model.producer_version = "igll", metadata["igll_version"]
        onnx.checker.check_model(model)
        onnx.save(model, str(temporary))
        apart = None
        if runtime is not None:
            apart = _checked(temporary, generator, request)
        megabytes = temporary.stat().st_size / 1e6
    return Exported(megabytes, metadata, apart)


def _checked(temporary: Path, generator: Generator, request: ExportRequest) -> float:
    """How far ONNX Runtime is from PyTorch, if that is little.

    Raises:
        OutputError: It is not, or cannot be told; names the file that is not written.
    """
    try:
        apart = apart_from_torch(temporary, generator, request.size)
        if not apart <= TOLERANCE:  # a NaN is no agreement either
            raise OutputError(
                f"ONNX Runtime's result differs from PyTorch's by {apart:.1e} (allowed: {TOLERANCE:.0e}); "
                "--no-check writes it all the same"
            )
    except OutputError as error:
        raise OutputError(f"{request.out}: not written, as {error}") from error
    return apart


def _check_request(request: ExportRequest) -> None:
    """Refuse what cannot be written, before anything is loaded."""
    if request.out.suffix != SUFFIX:
        raise InputError(f"--out {request.out}: name it *{SUFFIX}")
    if request.size is not None and not all(1 <= side <= LARGEST_SIDE for side in request.size):
        height, width = request.size
        raise InputError(f"--size {height} {width}: give a height and a width from 1 to {LARGEST_SIDE}")
    if request.out.is_dir():
        raise InputError(f"--out {request.out}: is a folder; name a file *{SUFFIX}")


def _package(name: str) -> Any:
    """An optional package.

    Raises:
        InputError: It is not installed; says what to do.
    """
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"{name} is not installed, which export needs; {_NEEDS}") from None


def describe(source: WeightsSource, generator: Generator, config: Config, step: int) -> dict[str, str]:
    """What the file says of itself: where the weights come from and what the inputs mean."""
    names = input_names(generator)
    stretch = config.data.stretch
    return {
        "igll_version": version("igll"),
        "structure_prior": _PRIORS[generator.structure_prior],
        **{
            name: text
            for name, text in _CONVENTIONS.items()
            if not name.startswith("input_") or name.removeprefix("input_") in names
        },
        "raw_values_of_0_and_1": "full scale of the type" if stretch is None else json.dumps(list(stretch)),
        "weights_file": source.title,
        "weights_sha256": source.sha256,
        "weights": weights_used(source.path, "ema", config),
        "step": str(step),
        "model": config.model.model_dump_json(),
    }


def input_names(generator: Generator) -> list[str]:
    """What the graph's inputs are called, in order."""
    return ["image", "mask"] + ["edge"] * (generator.structure_prior in ("oracle", "reference"))


def write_graph(generator: Generator, path: Path, size: tuple[int, int] | None = None) -> None:
    """Trace the generator's graph form and write it.

    By tracing (torch's exporter before 2.9): it takes seconds for a graph of any height and width, where the
    one built on torch.export reasons about sizes for minutes, and it is the same from torch 2.6 on.

    Args:
        generator: The network.
        path: Target.
        size: Height and width of the graph; None for any.
    """
    names = input_names(generator)
    draw = torch.Generator().manual_seed(0)
    # Of a few tokens, so that tracing a large size costs little; the graph holds for every hole.
    mask_B1HW = torch.stack([_rectangles(size or _SIZES[0], STRIDE, draw) for _ in range(2)])
    example = _inputs(generator, mask_B1HW, draw)
    axes = {0: "batch", 2: "height", 3: "width"} if size is None else {0: "batch"}
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            GraphForm(generator.cpu()),
            tuple(example[name] for name in names),
            str(path),
            input_names=names,
            output_names=["filled"],
            dynamic_axes=dict.fromkeys([*names, "filled"], axes),
            opset_version=OPSET,
            dynamo=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracer's warnings: of checks of shapes that hold for every trace, and of its own age."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def apart_from_torch(path: Path, generator: Generator, size: tuple[int, int] | None = None) -> float:
    """Largest difference between ONNX Runtime's result and PyTorch's, of values in [0, 1].

    Images are noise, holes random rectangles, on large images small ones; one of the images has none, and
    one is missing entirely unless it is large. NaN stands in the holes that ONNX Runtime sees.

    Args:
        path: The ONNX file.
        generator: The network it was made of, which fills in its normal form.
        size: The only height and width that the file takes; None for any, of which some are tried, with
            all images as one batch; of a given size they go one by one.

    Raises:
        OutputError: A known pixel is not bit-identical, or either of the two fails, as when memory runs out.
    """
    session = open_session(path)
    draw = torch.Generator().manual_seed(1)
    apart = [0.0]
    for mask_B1HW in _checked_masks(size, draw):
        inputs = _inputs(generator, mask_B1HW, draw)
        found_BCHW = run(session, inputs)
        with _failing_as("PyTorch cannot fill an image to compare with", MemoryError, RuntimeError):
            wanted_BCHW = filled_by_torch(generator, inputs)
        known_BCHW = (inputs["mask"] <= 0.5).expand_as(wanted_BCHW).numpy()
        if not np.array_equal(found_BCHW[known_BCHW], inputs["image"].numpy()[known_BCHW]):
            raise OutputError("ONNX Runtime changes known pixels; --no-check writes it all the same")
        apart.append(float(np.abs(found_BCHW - wanted_BCHW.numpy()).max()))
    return float(np.max(apart))


def _checked_masks(size: tuple[int, int] | None, draw: torch.Generator) -> Iterator[Tensor]:
    """Masks of batches to check, B1HW: with rectangles, without a hole, and missing entirely if not large."""
    for height, width in _SIZES if size is None else [size]:
        tokens = math.ceil(height / STRIDE) * math.ceil(width / STRIDE)
        # A rectangle covers part of one token more on each axis; three of them share the scores.
        largest = STRIDE * max(1, math.isqrt(_SCORES // (3 * tokens)) - 1)
        masks = [_rectangles((height, width), largest, draw) for _ in range(2)]
        masks.append(torch.zeros(1, height, width))
        if height * width <= _ALL_MISSING_PIXELS:
            masks.append(torch.ones(1, height, width))
        yield from torch.stack(masks).split(len(masks) if size is None else 1)


def _rectangles(size: tuple[int, int], largest: int, draw: torch.Generator) -> Tensor:
    """Three random rectangles with sides up to ``largest`` and a third of the image's, 1HW."""
    mask_1HW = torch.zeros(1, *size)
    for _ in range(3):
        top, left = (int(torch.randint(side, (), generator=draw)) for side in size)
        rows, columns = (
            int(torch.randint(1, 1 + min(largest, max(1, side // 3)), (), generator=draw)) for side in size
        )
        mask_1HW[:, top : top + rows, left : left + columns] = 1
    return mask_1HW


def _inputs(generator: Generator, mask_B1HW: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    """Noise with these holes."""
    batch, _, height, width = mask_B1HW.shape
    image_BCHW = torch.rand(batch, generator.image_channels, height, width, generator=draw)
    return {"image": image_BCHW, "mask": mask_B1HW, "edge": torch.rand(mask_B1HW.shape, generator=draw)}


@contextmanager
def _failing_as(reason: str, *kinds: type[Exception]) -> Iterator[None]:
    """With exceptions of these kinds told in one line, and what to do."""
    try:
        yield
    except kinds as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise OutputError(
            f"{reason} ({told}); if memory ran out, --no-check does without, and so does a smaller --size"
        ) from error


def open_session(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; 0 threads are as many as there are cores.

    Raises:
        InputError: The package is missing.
        OutputError: ONNX Runtime cannot make one.
    """
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    with _failing_as("ONNX Runtime cannot load the graph", Exception):  # its errors have no base of their own
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: Any, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
    """What ONNX Runtime fills in, given NaN in the hole.

    Raises:
        OutputError: ONNX Runtime fails, as when memory runs out.
    """
    unseen = {**inputs, "image": inputs["image"].masked_fill(inputs["mask"] > 0.5, torch.nan)}
    given = {taken.name: unseen[taken.name].numpy() for taken in session.get_inputs()}
    with _failing_as("ONNX Runtime cannot run the graph", Exception):
        found: NDArray[np.float32] = session.run(None, given)[0]
    return found


@torch.no_grad()
def filled_by_torch(generator: Generator, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the generator fills in, from [0, 1] to [0, 1]."""
    guide = (inputs["edge"],) if "edge" in input_names(generator) else ()
    perception_BCHW = generator(inputs["image"] * 2 - 1, inputs["mask"], *guide)[1]
    return torch.where(inputs["mask"] > 0.5, ((perception_BCHW + 1) / 2).clamp(0, 1), inputs["image"])
