"""A network between two: the weighted mean of related weights (Wang et al. 2018, ESRGAN, section 3.4).

Between a network that errs least and a relative that shows texture lie all compromises.
"""

from __future__ import annotations

import torch
from torch import nn

from igll.config import Config
from igll.engine.initial import show_exemplar
from igll.errors import InputError


def blend(
    generator: nn.Module, config: Config, other: nn.Module, other_config: Config, share: float, source: str
) -> None:
    """Move a generator's weights towards another's, in place.

    Only weights with a common past can be averaged: one trained on from the other (``train.init``), or both
    from a third. That cannot be seen in them and is up to the caller.

    Args:
        generator: The network that is changed.
        config: Its configuration.
        other: The network to move towards; without an exemplar it stands for the start of a training with
            one.
        other_config: Its configuration.
        share: How far: 0 leaves the generator as it is, 1 makes it the other.
        source: What a message calls the other.

    Raises:
        InputError: The share is outside [0, 1], or the networks are not alike.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share {share:g}: how far to go towards {source} is a number from 0 to 1")
    mine, theirs = config.model.model_dump(), other_config.model.model_dump()
    weights = other.state_dict()
    if mine["exemplar"] and not theirs["exemplar"]:
        show_exemplar(weights, config.model.image_channels)
        theirs["exemplar"] = True
    unlike = [key for key in mine if mine[key] != theirs[key]]
    if unlike:
        key = unlike[0]
        raise InputError(
            f"{source}: model.{key} is {theirs[key]}, not {mine[key]}; only weights of one network blend"
        )
    with torch.no_grad():
        for name, value in generator.state_dict().items():
            if value.is_floating_point():
                value.lerp_(weights[name].to(value), share)
