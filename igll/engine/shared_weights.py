"""Weights to share: a generator alone, in a safetensors file that carries what it takes to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from igll.config import Config, build_config
from igll.engine.restoring import load_weights
from igll.errors import InputError
from igll.models import InpaintingNetwork
from igll.registry import build_generator
from igll.storage import replacing

SUFFIX = ".safetensors"
OWN_METADATA = ("format", "config", "step", "weights")
"""Names of metadata that notes cannot have."""

_FORMAT = "igll-weights 1"
_PRECISION = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What says how the weights were made; paths of the machine that made them are nobody's business.
_PATHS = {
    "data": ("root", "val_root", "reference_root"),
    "mask": ("root",),
    "edges": ("weights", "cache"),
    "losses": ("vgg_weights",),
    "train": ("init",),
    "eval": ("fd_weights",),
}


def save_shared_weights(
    path: Path,
    generator: InpaintingNetwork,
    config: Config,
    step: int,
    precision: str = "float16",
    averaged: bool = True,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a generator's weights with the configuration it was trained with, paths left out.

    Args:
        path: Target, ``*.safetensors``.
        generator: The network.
        config: Its training.
        step: Steps it was trained for.
        precision: How weights are kept: ``float32``, ``float16`` or ``bfloat16``. They are read back as
            float32.
        averaged: Whether these are a run's averaged weights.
        notes: Further metadata, such as data and licence; names of your own.

    Raises:
        InputError: The suffix or the precision is another, or a weight does not fit the precision.
        OutputError: The file cannot be written.
    """
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: shared weights are safetensors; name it *{SUFFIX}")
    if precision not in _PRECISION:
        raise InputError(f"precision '{precision}' is unknown; choose one of {', '.join(_PRECISION)}")
    tensors = {
        name: value.detach().cpu().to(_PRECISION[precision]).contiguous()
        for name, value in generator.state_dict().items()
    }
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"{name}: holds values that {precision} cannot; use another precision")
    values = json.dumps(shared_settings(config))
    metadata = {**(notes or {}), "format": _FORMAT, "config": values, "step": str(step)}
    metadata["weights"] = "ema" if averaged else "raw"
    with replacing(path, durable=True) as temporary:
        save_file(tensors, temporary, metadata)


def shared_settings(config: Config) -> dict[str, Any]:
    """A configuration as nested values, without the paths of this machine."""
    values = config.model_dump()
    for section, keys in _PATHS.items():
        values[section] |= dict.fromkeys(keys)
    return values


def load_shared_weights(path: str | Path) -> tuple[InpaintingNetwork, Config, int]:
    """Read a generator from shared weights; the format holds tensors and text, so nothing can run.

    Returns:
        The generator on the CPU in evaluation mode, the configuration it was trained with, its steps.

    Raises:
        InputError: The file is missing, damaged, or not one of igll's.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise InputError(
                    f"{path}: a safetensors file, but not of igll ('format' in its metadata is "
                    f"{metadata.get('format')!r}, this version reads {_FORMAT!r})"
                )
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  (no mapping)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of weights") from None
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a safetensors file that can be read ({reason})") from None
    try:
        values, step = json.loads(metadata["config"]), int(metadata["step"])
    except (KeyError, ValueError):
        raise InputError(f"{path}: damaged, its metadata lacks the configuration or the step") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: damaged, its configuration is not one")
    config = build_config(values, source=str(path))
    generator = build_generator(config.model)
    load_weights(generator, tensors, str(path))
    return generator.eval(), config, step


def read_notes(path: str | Path) -> dict[str, str]:
    """The metadata of shared weights, without the configuration.

    Raises:
        InputError: As :func:`load_shared_weights`.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: text for name, text in (file.metadata() or {}).items() if name != "config"}
    except (FileNotFoundError, SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file that can be read ({error})") from None
