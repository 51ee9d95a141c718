"""A trained generator as an ONNX file, and what ONNX Runtime makes of it beside PyTorch."""

from __future__ import annotations

import hashlib
import json
import logging
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
from igll.errors import InputError, OutputError
from igll.models import Generator
from igll.models.export import LARGEST_SIDE, GraphForm
from igll.storage import replacing

SUFFIX = ".onnx"
OPSET = 17
TOLERANCE = 5e-5  # of values in [0, 1]
_NEEDS = 'pip install ".[onnx]"'
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
        checkpoint: Whatever :func:`igll.engine.trained.load_generator` reads.
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
        OutputError: The file cannot be written, or is not because ONNX Runtime's result differs.
    """
    _check_request(request)
    onnx = _package("onnx")
    runtime = _package("onnxruntime") if request.check else None
    generator, config, step = load_generator(request.checkpoint)
    if not isinstance(generator, Generator):
        raise InputError(
            f"{request.checkpoint}: a network of model.name={config.model.name}; only igll's can be exported"
        )
    metadata = describe(request, generator, config, step)
    with replacing(request.out) as temporary:
        write_graph(generator, temporary, request.size)
        model = onnx.load(str(temporary))
        onnx.helper.set_model_props(model, metadata)
        model.producer_name, model.producer_version = "igll", metadata["igll_version"]
        onnx.checker.check_model(model)
        onnx.save(model, str(temporary))
        apart = None
        if runtime is not None:
            apart = apart_from_torch(temporary, generator, request.size)
            if not apart <= TOLERANCE:  # a NaN is no agreement either
                raise OutputError(
                    f"{request.out}: not written, as ONNX Runtime's result differs from PyTorch's by "
                    f"{apart:.1e} (allowed: {TOLERANCE:.0e}); --no-check writes it all the same"
                )
        megabytes = temporary.stat().st_size / 1e6
    return Exported(megabytes, metadata, apart)


def _check_request(request: ExportRequest) -> None:
    """Refuse what cannot be written, before anything is loaded."""
    if request.out.suffix != SUFFIX:
        raise InputError(f"--out {request.out}: name it *{SUFFIX}")
    if request.size is not None and not all(1 <= side <= LARGEST_SIDE for side in request.size):
        height, width = request.size
        raise InputError(f"--size {height} {width}: give a height and a width from 1 to {LARGEST_SIDE}")


def _package(name: str) -> Any:
    """An optional package.

    Raises:
        InputError: It is not installed; says what to do.
    """
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"{name} is not installed, which export needs; {_NEEDS}") from None


def describe(request: ExportRequest, generator: Generator, config: Config, step: int) -> dict[str, str]:
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
        "weights_file": Path(request.checkpoint).name,
        "weights_sha256": hashlib.sha256(Path(request.checkpoint).read_bytes()).hexdigest(),
        "weights": weights_used(request.checkpoint, "ema", config),
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
    example = _inputs(generator, size or (64, 64), 2, torch.Generator().manual_seed(0))
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

    Images are noise, holes random rectangles; one of the images has none, one is missing entirely. NaN
    stands in the holes that ONNX Runtime sees.

    Args:
        path: The ONNX file.
        generator: The network it was made of, which fills in its normal form.
        size: The only height and width that the file takes; None for any, of which some are tried.

    Raises:
        OutputError: A known pixel is not bit-identical.
    """
    session = open_session(path)
    draw = torch.Generator().manual_seed(1)
    apart = [0.0]
    for sides in [size] if size is not None else [(64, 64), (72, 52), (61, 83)]:
        inputs = _inputs(generator, sides, 4, draw)
        found_BCHW = run(session, inputs)
        wanted_BCHW = filled_by_torch(generator, inputs)
        known_BCHW = (inputs["mask"] <= 0.5).expand_as(wanted_BCHW).numpy()
        if not np.array_equal(found_BCHW[known_BCHW], inputs["image"].numpy()[known_BCHW]):
            raise OutputError(f"{path}: ONNX Runtime changes known pixels")
        apart.append(float(np.abs(found_BCHW - wanted_BCHW.numpy()).max()))
    return float(np.max(apart))


def _inputs(
    generator: Generator, size: tuple[int, int], batch: int, draw: torch.Generator
) -> dict[str, Tensor]:
    """Noise with random holes; of four images one has none and one is missing entirely."""
    height, width = size
    mask_B1HW = torch.zeros(batch, 1, height, width)
    for one_1HW in mask_B1HW:
        for _ in range(3):
            top, left = (int(torch.randint(side, (), generator=draw)) for side in size)
            rows, columns = (
                int(torch.randint(1, 1 + max(1, side // 3), (), generator=draw)) for side in size
            )
            one_1HW[:, top : top + rows, left : left + columns] = 1
    mask_B1HW[2:3], mask_B1HW[3:4] = 0, 1
    image_BCHW = torch.rand(batch, generator.image_channels, height, width, generator=draw)
    return {"image": image_BCHW, "mask": mask_B1HW, "edge": torch.rand(mask_B1HW.shape, generator=draw)}


def open_session(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; 0 threads are as many as there are cores."""
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: Any, inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
    """What ONNX Runtime fills in, given NaN in the hole."""
    unseen = {**inputs, "image": inputs["image"].masked_fill(inputs["mask"] > 0.5, torch.nan)}
    found: NDArray[np.float32] = session.run(
        None, {taken.name: unseen[taken.name].numpy() for taken in session.get_inputs()}
    )[0]
    return found


@torch.no_grad()
def filled_by_torch(generator: Generator, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the generator fills in, from [0, 1] to [0, 1]."""
    guide = (inputs["edge"],) if "edge" in input_names(generator) else ()
    perception_BCHW = generator(inputs["image"] * 2 - 1, inputs["mask"], *guide)[1]
    return torch.where(inputs["mask"] > 0.5, ((perception_BCHW + 1) / 2).clamp(0, 1), inputs["image"])
