"""Putting what a file holds into networks and optimisers: all of it is looked at before any of it is used."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from igll.errors import InputError

_LARGEST_STEP = 2**53


def check_weights(module: nn.Module, weights: Any, source: str) -> None:
    """Refuse what is not a complete set of a module's weights.

    Args:
        module: Where they are to go.
        weights: What a file holds for it.
        source: What a message calls the file.

    Raises:
        InputError: Names, kinds or shapes differ from the module's.
    """
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise InputError(f"{source}: damaged, its weights are not a mapping of names to tensors")
    own = module.state_dict()
    differing = sorted(set(own) ^ set(weights)) or [
        name for name, value in own.items() if not _like(weights[name], value)
    ]
    if differing:
        raise InputError(f"{source}: its weights do not fit this model (first difference: {differing[0]})")


def load_weights(module: nn.Module, weights: Any, source: str) -> None:
    """Load a state dict strictly; a mismatch is one clear line.

    Raises:
        InputError: As :func:`check_weights`.
    """
    check_weights(module, weights, source)
    module.load_state_dict(weights)


def check_moments(optimizer: torch.optim.Optimizer, saved: Any, source: str) -> None:
    """Refuse what is not the state of an optimiser over the same weights.

    Raises:
        InputError: Something is missing or of another shape.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = saved.get("state") if isinstance(saved, dict) else None
    fits = isinstance(moments, dict) and all(
        type(number) is int and 0 <= number < len(parameters) and _moments_fit(parameters[number], values)
        for number, values in moments.items()
    )
    if not fits:
        raise InputError(f"{source}: damaged, what it holds of an optimiser does not fit this model")


def load_moments(optimizer: torch.optim.Optimizer, saved: Any, source: str) -> None:
    """Bring back an optimiser's moments; its settings stay as they are configured now.

    The fused kernels walk through memory and never ask, so moments get the memory format of their weights: in
    another one, as a checkpoint from another device or version holds them, every weight would be paired with
    another weight's moments.

    Raises:
        InputError: As :func:`check_moments`.
    """
    check_moments(optimizer, saved, source)
    settings = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": settings})
    with torch.no_grad():
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter).copy_(value)


def checked_step(saved: dict[str, Any], source: str) -> int:
    """How many steps a checkpoint was trained for.

    Raises:
        InputError: It does not say.
    """
    step = saved.get("step")
    if type(step) is not int or not 0 <= step < _LARGEST_STEP:
        raise InputError(f"{source}: damaged, its number of steps is {str(step)[:40]!r}")
    return step


def check_progress(saved: dict[str, Any], source: str) -> None:
    """Refuse a step, a best score or random numbers that are none.

    Raises:
        InputError: Naming the first of them.
    """
    checked_step(saved, source)
    best = saved.get("best")
    if not isinstance(best, float) or math.isnan(best):
        raise InputError(f"{source}: damaged, its best score is {str(best)[:40]!r}")
    try:
        torch.Generator().set_state(saved["random_state"].cpu())  # a checkpoint comes on the run's device
    except (AttributeError, KeyError, RuntimeError, TypeError):
        raise InputError(
            f"{source}: damaged, its state of random numbers is none of this version of torch"
        ) from None


def _moments_fit(parameter: Tensor, values: Any) -> bool:
    """Whether these are Adam's values for a parameter."""
    return (
        isinstance(values, dict)
        and values.keys() == {"step", "exp_avg", "exp_avg_sq"}
        and _like(values["step"], torch.zeros(()))
        and all(_like(values[name], parameter) for name in ("exp_avg", "exp_avg_sq"))
    )


def _like(value: Any, own: Tensor) -> bool:
    """Whether a value is a plain tensor of the same shape and kind of numbers."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.shape == own.shape
        and value.is_floating_point() == own.is_floating_point()
        and not value.is_complex()
    )
