"""What test_processes.py compares: run as ``python -m tests.engine.processes FOLDER``.

One process, and two that train together, each write what they found to ``FOLDER/RANK_of_SIZE.pt``.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import time
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import avg_pool2d

from igll.config import Config, build_config
from igll.data import datasets, sources
from igll.data.datasets import InpaintingDataset
from igll.data.sampler import SampleKey, StepSampler
from igll.distributed import gather, gather_rows
from igll.engine import objectives as objectives_module
from igll.engine import step as stepping
from igll.engine import train as training_loop
from igll.engine.batches import open_data, training_batches
from igll.engine.edge_maps import prepare_edge_maps
from igll.engine.finite import FiniteWatch
from igll.engine.objectives import Objectives
from igll.engine.state import build_state
from igll.engine.train import train
from igll.errors import InputError, NumericsError, ProcessFailedError
from igll.losses import LocalL1Loss
from tests.engine.conftest import SMALL
from tests.engine.test_objectives import Glass

CPU = torch.device("cpu")
BATCH = 4
UNEQUAL = {"kind": "mixed", "ratio": [0.02, 0.6]}
# Side of the square hole of every sample of the batch; 0: no hole.
HOLES = {"other_rectangles": (8, 8, 12, 12), "a_part_without_holes": (0, 0, 8, 12)}
CASES: dict[str, dict[str, Any]] = {
    "relativistic": {
        "losses": {"perceptual": 1, "style": 5, "self_guided": 1, "alignment": 1, "feature_matching": 2,
                   "feature_scale": "unit", "style_of": "hole", "adversarial": 1},
        "mask": UNEQUAL, "train": {"clip_gradient": 1e-3},
    },
    "wasserstein": {
        "losses": {"adversarial_form": "wasserstein", "adversarial": 1, "judged": "prediction", "whole": 1,
                   "whole_per_hole": True},
        "discriminator": {"norm": "none"}, "mask": UNEQUAL,
    },
    "least_squares": {
        "losses": {"adversarial_form": "least_squares", "adversarial": 1, "staged": 1}, "mask": UNEQUAL,
    },
    "one_rectangle": {"losses": {"adversarial": 1, "feature_matching": 1, "feature_matching_of": "local"}},
    "other_rectangles": {"losses": {"adversarial": 1}},
    "a_part_without_holes": {"losses": {"adversarial": 1}},
}  # fmt: skip
RUN: dict[str, Any] = {
    "mask": UNEQUAL,
    "losses": {"adversarial": 1},
    "train": {
        "max_steps": 12,
        "checkpoint_every": 100,
        "eval_every": 6,
        "eval_images": 3,
        "sheet_every": 100,
    },
    "eval": {"batch_size": 1},
}


class Pooled(Glass):
    """As VGG, halves the second and every later level."""

    def forward(self, image: Tensor, layers: Any, mask: Tensor | None = None) -> dict[str, Tensor]:
        found = super().forward(image, layers, mask)
        return {name: layer if "1_" in name else avg_pool2d(layer, 2) for name, layer in found.items()}


def config_of(folder: Path, sections: dict[str, dict[str, Any]]) -> Config:
    """The small configuration with other keys, and a batch that two processes can share."""
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in SMALL.items()}
    values["edges"] = {**SMALL["edges"], "cache": str(folder / "edge_maps")}
    values["train"] = {**SMALL["train"], "batch_size": BATCH}
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return build_config(values)


def hole_of(sides: tuple[int, ...], config: Config, images: int, key: SampleKey) -> Any:
    """A square hole whose side goes by the sample's place in the batch."""
    places = StepSampler(images, BATCH, config.seed, 0, 1).keys(0)
    side = sides[[place.image for place in places].index(key.image)]
    mask_HW = np.zeros((32, 32), bool)
    mask_HW[4 : 4 + side, 6 : 6 + side] = True
    return mask_HW


def first_step(folder: Path, case: str, patch: Any) -> dict[str, Any]:
    """Gradients and terms of the first step, everything in float64."""
    config = config_of(folder, CASES[case])
    training, _, detector = open_data(config)
    prepare_edge_maps(training, training.edges, detector, CPU)
    torch.manual_seed(0)
    state = build_state(config, CPU)
    objectives = Objectives(config.losses, True, 32)
    layout_of = partial(state.generator.layout, whole_frame=objectives.whole_frame)
    if case in HOLES:
        made = partial(hole_of, HOLES[case], config, len(training))
        patch.setattr(InpaintingDataset, "_made_mask", lambda _, key: made(key))
    batch = next(iter(training_batches(config, training, 0, 1, CPU, layout_of)))
    found: dict[str, Tensor] = {}

    def noted(optimizer: torch.optim.Adam, *rest: Any) -> Tensor:
        norm = measured(optimizer, *rest)
        name = "generator" if optimizer is state.generator_optimizer else "discriminator"
        for parameter_name, parameter in getattr(state, name).named_parameters():
            if parameter.grad is not None:
                found[f"{name}.{parameter_name}"] = parameter.grad.clone()
        return norm

    measured = stepping._gradient_norm
    patch.setattr(stepping, "_gradient_norm", noted)
    patch.setattr(stepping, "_update", lambda *_: None)  # the generator's gradient through the same judge
    terms = stepping.train_step(state, objectives, config, batch, training)
    rectangles = batch.rectangles and [list(box) for box in batch.rectangles]
    return {"gradients": found, "terms": terms, "indices": batch.indices, "rectangles": rectangles,
            "random": torch.get_rng_state()}  # fmt: skip


def trained(folder: Path, name: str, steps: int, patch: Any) -> dict[str, Any]:
    """The state at the end of a run that goes on from whatever its folder holds, and its losses."""
    states: list[Any] = []
    build = training_loop.build_state
    patch.setattr(training_loop, "build_state", lambda *given: states.append(build(*given)) or states[-1])
    config = config_of(folder, {**RUN, "train": {**RUN["train"], "max_steps": steps}})
    train(config, folder / name, resume=True)
    parts = {part: value.state_dict() for part, value in states[0]._parts().items()}
    return {**parts, "random": torch.get_rng_state(), "best": states[0].best}


def in_float64(patch: Any) -> None:
    """Compute in double precision throughout, so that nothing but rounding at 1e-16 can differ."""
    to_tensor = datasets._to_tensor
    patch.setattr(datasets, "_to_tensor", lambda array: to_tensor(array).double())
    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
    patch.setattr(objectives_module, "VGGFeatures", Pooled)
    torch.set_default_dtype(torch.float64)
    patch.setattr(FiniteWatch, "__init__", watch_in_float32)


def watch_in_float32(self: FiniteWatch, device: torch.device) -> None:
    """The optimisers' kernels want it so."""
    self.broken, self.immediate, self._updates = torch.zeros((), dtype=torch.float32), True, []


def hand_over(folder: Path, size: int) -> None:
    """Let the other number of processes go on from here too."""
    copy = folder / f"copying_{size}"
    shutil.copytree(folder / f"run_{size}", copy)
    copy.rename(folder / f"from_{size}")


def taken_over(folder: Path, size: int) -> str:
    """The run that was handed over by so many processes."""
    while not (folder / f"from_{size}").exists():
        time.sleep(0.05)
    return f"from_{size}"


def failing(folder: Path, kind: str, rank: int, patch: Any) -> str:
    """What the process says when a file breaks, or a loss, in the second one alone and in its third step."""
    read, compare = InpaintingDataset.__getitem__, LocalL1Loss.forward
    calls: list[int] = []

    def broken_file(self: InpaintingDataset, key: Any) -> Any:
        if rank == 1 and isinstance(key, SampleKey) and key.step == 2:
            raise InputError("a.png: broken")
        return read(self, key)

    def broken_loss(self: LocalL1Loss, *given: Tensor) -> Tensor:
        calls.append(1)  # twice in a step
        return compare(self, *given) * (float("nan") if rank == 1 and len(calls) > 4 else 1.0)

    if kind == "file":
        patch.setattr(InpaintingDataset, "__getitem__", broken_file)
    else:
        patch.setattr(LocalL1Loss, "forward", broken_loss)
    try:
        trained(folder, kind, 10, patch)
    except (InputError, NumericsError, ProcessFailedError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def gathered(rank: int) -> list[Any]:
    """Rows and words of processes that have unequally many."""
    rows = torch.arange(6.0).view(3, 2) if rank else torch.empty(0)
    return [gather_rows(rows).tolist(), gather({"é" * rank: [rank / 3, float("nan")]})]


def main(folder: Path, rank: int, size: int) -> None:
    """Find everything out."""
    from pytest import MonkeyPatch

    torch.set_num_threads(1)
    (folder / "edge_maps").mkdir(exist_ok=True)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=size)
    found: dict[str, Any] = {}
    with MonkeyPatch.context() as patch:
        found["float32"] = trained(folder, f"float32_{size}", 3, patch)
    if size > 1:
        found["gathered"] = gathered(rank)
        for kind in ("file", "loss"):
            with MonkeyPatch.context() as patch:
                found[kind] = failing(folder, kind, rank, patch)
    with MonkeyPatch.context() as patch:
        in_float64(patch)
        trained(folder, f"run_{size}", 7, patch)
        if rank == 0:
            hand_over(folder, size)
        found["whole"] = trained(folder, f"run_{size}", 10, patch)
        found["resumed"] = trained(folder, taken_over(folder, 3 - size), 10, patch)
    for case in CASES:
        with MonkeyPatch.context() as patch:
            in_float64(patch)
            found[case] = first_step(folder, case, patch)
    torch.save(found, folder / f"{rank}_of_{size}.pt")
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()


def main_of_all(folder: Path) -> bool:
    """All three, forked when modules are loaded and scenes are rendered; whether all ended well."""
    import_module("torch._dynamo")  # which every first optimiser would load
    sources.render_scene = cache(sources.render_scene)
    training, testing, _ = open_data(config_of(folder, RUN))
    for dataset in (training, testing):
        for index in dataset.indices:
            dataset.source.load(index)
    sizes = ((0, 1), (0, 2), (1, 2))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=main, args=(folder, *place)) for place in sizes]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return all(process.exitcode == 0 for process in processes)


if __name__ == "__main__":
    sys.exit(not main_of_all(Path(sys.argv[1])))
