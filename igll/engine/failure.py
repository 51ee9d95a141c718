"""A step that was not finite: written down so that it can be repeated, and repeated to find the cause."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from igll.config import Config, build_config
from igll.engine.checkpoint import load_checkpoint, save_checkpoint
from igll.engine.devices import choose_device
from igll.engine.objectives import Batch, build_objectives
from igll.engine.restoring import load_weights
from igll.engine.state import TrainState, build_state
from igll.engine.step import train_step
from igll.errors import InputError
from igll.models.discriminator import hole_rectangles

_TENSORS = ("image_BCHW", "target_BCHW", "mask_B1HW", "edge_B1HW")
_NETWORKS = ("generator", "discriminator")


@dataclass
class RecordedImages:
    """Names of a recorded batch's images, standing in for the dataset.

    Attributes:
        names: One per image of the batch.
        count: Images of the whole training set.
    """

    names: list[str]
    count: int

    def __len__(self) -> int:
        """Images of the whole training set, which a schedule may depend on."""
        return self.count

    def name(self, index: int) -> str:
        """Name of an image of the batch."""
        return self.names[index]


@dataclass(frozen=True)
class Diagnosis:
    """What repeating a recorded step showed.

    Attributes:
        recorded: What stopped the run.
        terms: Every term of the losses and the gradients' norms, as the step computes them again.
        inputs: Tensors of the batch that are not finite.
        weights: Weights that are not finite, with their network's name.
        output: The first layer of a pass whose output is not finite though its input is.
        gradients: Weights whose gradient is not finite, with their network's name.
    """

    recorded: str
    terms: dict[str, float]
    inputs: list[str]
    weights: list[str]
    output: str | None
    gradients: list[str]

    @property
    def again(self) -> list[str]:
        """The terms that are not finite again; none if the failure did not come back."""
        return [name for name, value in self.terms.items() if not torch.tensor(value).isfinite()]


def record_failure(
    path: Path, state: TrainState, config: Config, batch: Batch, images: RecordedImages, message: str
) -> None:
    """Write down the batch and the networks of a step that was not finite.

    The networks are as that step left them: the generator untouched; the discriminator too, unless the
    failure was in the generator's half of the step, which then saw it so (but for the running vectors of
    spectral normalisation, which every pass moves on a little).

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {name: getattr(batch, name) for name in _TENSORS}
    networks = {name: getattr(state, name) for name in _NETWORKS}
    save_checkpoint(
        path,
        {
            "config": config.model_dump(),
            "step": state.step,
            "message": message,
            "images": images.names,
            "image_count": images.count,
            "batch": {name: tensor.cpu() for name, tensor in tensors.items() if tensor is not None},
            **{name: network.state_dict() for name, network in networks.items() if network is not None},
        },
    )


def repeat_failure(path: Path, overrides: Sequence[str] = ()) -> Diagnosis:
    """Repeat a recorded step without changing anything, and look where it stops being finite.

    Args:
        path: File written by :func:`record_failure`.
        overrides: ``key.sub=value`` settings, such as where this machine keeps VGG's weights. With another
            ``device`` the failure may not come back.

    Raises:
        InputError: The file is no record of a failure, or a loss's weights are missing.
    """
    saved = load_checkpoint(path)
    if not {"batch", "message", "images"} <= saved.keys():
        raise InputError(f"{path}: a checkpoint, not the record of a step that was not finite")
    config = build_config(saved["config"], overrides, str(path))
    device = choose_device(config.device)
    state = build_state(config, device)
    for name in _NETWORKS:
        if name in saved:
            load_weights(getattr(state, name), saved[name], str(path))
    state.step = saved["step"]
    # Nothing moves while this is 1, and nobody looks before the step is through.
    state.watch.broken.fill_(1.0)
    state.watch.immediate = False
    batch = _batch(saved, device)
    objectives = build_objectives(config).to(device)
    with _first_broken_output(state) as found:
        terms = train_step(
            state, objectives, config, batch, RecordedImages(saved["images"], saved["image_count"])
        )
    return Diagnosis(
        recorded=saved["message"],
        terms={name: float(value) for name, value in terms.items()},
        inputs=[name for name in _TENSORS if _broken(getattr(batch, name))],
        weights=[name for name, value in _parameters(state) if _broken(value)],
        output=found[0] if found else None,
        gradients=[name for name, value in _parameters(state) if _broken(value.grad)],
    )


def _batch(saved: dict[str, Any], device: torch.device) -> Batch:
    """The recorded batch."""
    tensors = {name: tensor.to(device) for name, tensor in saved["batch"].items()}
    rectangles = hole_rectangles(saved["batch"]["mask_B1HW"])
    return Batch(
        **{"edge_B1HW": None, **tensors}, rectangles=rectangles, indices=list(range(len(saved["images"])))
    )


def _broken(tensor: Tensor | None) -> bool:
    return tensor is not None and not bool(tensor.isfinite().all())


def _parameters(state: TrainState) -> Iterator[tuple[str, nn.Parameter]]:
    for name in _NETWORKS:
        network = getattr(state, name)
        if network is not None:
            yield from network.named_parameters(prefix=name)


@contextmanager
def _first_broken_output(state: TrainState) -> Iterator[list[str]]:
    """Names of layers whose output is not finite though their input is; those within another come first."""
    found: list[str] = []
    handles = []
    for name in _NETWORKS:
        network = getattr(state, name)
        if network is None:
            continue
        for path, layer in network.named_modules(prefix=name):

            def look(_: nn.Module, given: Any, output: Any, path: str = path) -> None:
                if any(map(_broken, _tensors(output))) and not any(map(_broken, _tensors(given))):
                    found.append(path)

            handles.append(layer.register_forward_hook(look))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _tensors(values: Any) -> list[Tensor]:
    """The tensors among a layer's arguments or results."""
    if isinstance(values, Tensor):
        return [values]
    return [value for value in values if isinstance(value, Tensor)] if isinstance(values, tuple) else []
