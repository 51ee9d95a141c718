"""Where a training starts that goes on from trained weights instead of random ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igll.config import Config, ModelConfig
from igll.engine.trained import load_generator
from igll.engine.weights_source import find_weights
from igll.errors import InputError
from igll.models.interface import InpaintingNetwork
from igll.models.reconstruction import GATE_START
from igll.registry import build_generator

_POSITIONS = (".position_row", ".position_column")
# PERN's convolutions that an exemplar changes the shape of, and where the gate of its detail starts.
_SEES_IMAGE = ("pern.feature_branch.0.0.weight", "pern.attention_branch.before.0.0.weight")
_PAINTS = {"pern.decoder.8.weight": 0.0, "pern.decoder.8.bias": GATE_START}


def initial_weights(config: Config) -> dict[str, Tensor] | None:
    """Read the weights that ``train.init`` names: the averaged ones, where the file holds any.

    Positions that were learned on a grid of another side are interpolated, as the network does for maps of
    another size: with ``model.position_grid`` at a quarter of the crop's side it starts as the function that
    it was. A network that is shown an exemplar may start from one that was not: it takes most of the
    exemplar's detail at once, and learns where to take less.

    Returns:
        The generator's weights on the CPU; None if it is to start from random ones.

    Raises:
        InputError: There is no such file, it cannot be read, or its network is another.
    """
    source = config.train.init
    if source is None:
        return None
    try:
        generator, trained, _ = load_generator(find_weights(source).path)
    except InputError as error:
        raise InputError(f"train.init: {error}") from None
    _check_model(trained.model, config.model, source)
    weights = {
        name: _on_grid(value, config.model.position_grid) if name.endswith(_POSITIONS) else value
        for name, value in generator.state_dict().items()
    }
    if config.model.exemplar and not trained.model.exemplar:
        show_exemplar(weights, config.model.image_channels)
    return weights


def _check_model(trained: ModelConfig, wanted: ModelConfig, source: str) -> None:
    """Refuse weights of a network that differs in more than its grid of positions and a new exemplar."""
    before, now = trained.model_dump(), wanted.model_dump()
    before["exemplar"] |= now["exemplar"]
    differing = [key for key in now if key != "position_grid" and before[key] != now[key]]
    if differing:
        theirs = " ".join(f"model.{key}={before[key]}" for key in differing)
        ours = " ".join(f"model.{key}={now[key]}" for key in differing)
        raise InputError(
            f"train.init: {source} was trained with {theirs}, but this run has {ours}; "
            "give this run the same, or begin without train.init"
        )


def with_exemplar(generator: nn.Module, config: Config, source: str) -> tuple[InpaintingNetwork, Config]:
    """The network that a training with an exemplar would start from, and its configuration.

    It fills as before, and takes most of the exemplar's detail.

    Args:
        generator: A network that is not shown an exemplar.
        config: Its configuration.
        source: What a message calls it.

    Raises:
        InputError: It is shown one already, or is none of this library's own.
    """
    if config.model.name != "igll" or config.model.exemplar:
        raise InputError(f"{source}: model.exemplar can be added to an igll network without one alone")
    shown = config.model_copy(update={"model": config.model.model_copy(update={"exemplar": True})})
    network, weights = build_generator(shown.model), generator.state_dict()
    show_exemplar(weights, config.model.image_channels)
    network.load_state_dict(weights)
    return network, shown


def show_exemplar(weights: dict[str, Tensor], channels: int) -> None:
    """Turn weights of a network without an exemplar, in place, into those that its training would start from.

    PERN's first convolutions see the exemplar after the image, with weight 0; its last one has a gate.

    Args:
        weights: A generator's state dict.
        channels: Channels of the image.
    """
    for name in _SEES_IMAGE:
        image, rest = weights[name].split([channels, weights[name].shape[1] - channels], 1)
        weights[name] = torch.cat([image, torch.zeros_like(image), rest], 1)
    for name, start in _PAINTS.items():
        gate = torch.full_like(weights[name][:1], start)
        weights[name] = torch.cat([weights[name], gate])


def _on_grid(position_CN: Tensor, side: int) -> Tensor:
    if position_CN.shape[1] == side:
        return position_CN
    with torch.no_grad():
        return F.interpolate(position_CN[None], size=side, mode="linear", align_corners=False)[0]
