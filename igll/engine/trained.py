"""Trained generators, from whatever kind of file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from igll.config import Config, ModelConfig, build_config
from igll.engine.checkpoint import load_checkpoint
from igll.engine.restoring import checked_step, load_weights
from igll.engine.shared_weights import OWN_METADATA, SUFFIX, load_shared_weights, read_notes
from igll.errors import InputError
from igll.models import InpaintingNetwork
from igll.registry import build_generator


@dataclass(frozen=True)
class Training:
    """What a file of weights says of their training, besides the configuration.

    Attributes:
        step: Steps they were trained for.
        averaged: Whether they are the run's averaged weights.
        notes: What else stands beside shared weights, such as data and licence.
    """

    step: int = 0
    averaged: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)


def training_of(path: str | Path, asked: str, trained: Config, step: int) -> Training:
    """What is known of the training of weights that :func:`load_generator` gave.

    Args:
        path: As there.
        asked: As there, ``weights``.
        trained: As from there.
        step: As from there.
    """
    notes = read_notes(path) if Path(path).suffix == SUFFIX else {}
    own = {name: text for name, text in notes.items() if name not in OWN_METADATA}
    return Training(step, weights_used(path, asked, trained) == "ema", own)


def weights_used(path: str | Path, asked: str, trained: Config) -> str:
    """Which weights :func:`load_generator` gives: ``"ema"`` or ``"raw"``.

    Args:
        path: As there.
        asked: What was asked for; shared weights hold one kind alone.
        trained: The configuration in the file.
    """
    if Path(path).suffix == SUFFIX:
        return read_notes(path).get("weights", "ema")
    return asked if trained.train.ema_decay else "raw"


def load_generator(
    path: str | Path, weights: str = "ema", device: torch.device | str = "cpu"
) -> tuple[InpaintingNetwork, Config, int]:
    """Load a trained generator, ready to fill.

    Args:
        path: Checkpoint written by igll-train, or shared weights (``*.safetensors``).
        weights: ``"ema"`` (the averaged weights, if the run kept them) or ``"raw"``.
        device: Where to put it.

    Returns:
        The generator in evaluation mode and float32, the configuration it was trained with, and the step.

    Raises:
        InputError: As :func:`igll.engine.checkpoint.load_checkpoint` or
            :func:`igll.engine.shared_weights.load_shared_weights`, or if the weights do not fit the
            configuration in the file, or it is the record of a failure.
    """
    if Path(path).suffix == SUFFIX:
        generator, config, step = load_shared_weights(path)
        return generator.to(device, torch.float32), config, step
    state = load_checkpoint(path, device)
    if {"batch", "message"} <= state.keys():
        raise InputError(
            f"{path}: the record of a step that was not finite, not a trained network; use the run's "
            "checkpoints, and scripts/repeat_failure.py to repeat the step"
        )
    config = build_config(state["config"], source=str(path))
    generator = build_generator(config.model)
    averaged = weights == "ema" and state.get("ema") is not None
    chosen = state["ema" if averaged else "generator"]
    load_weights(generator, chosen, str(path))
    return generator.to(device, torch.float32).eval(), config, checked_step(state, str(path))


def with_overrides(trained: Config, overrides: Sequence[str], source: str) -> Config:
    """A checkpoint's configuration with those overrides that mean something to a trained model.

    Args:
        trained: The configuration in the checkpoint.
        overrides: ``device=…``, ``eval.weights=…``, ``eval.amp=…`` and ``edges.*=…``.
        source: What a message calls the checkpoint.

    Raises:
        InputError: A value is wrong, or the setting is fixed by the checkpoint.
    """
    values = trained.model_dump()
    values["device"], values["eval"]["amp"] = "auto", False
    keys = [override.partition("=")[0].strip() for override in overrides]
    if "edges.detector" in keys:  # the weights on record belong to the detector on record
        values["edges"]["weights"] = None
    config = build_config(values, overrides, source)
    for key, override in zip(keys, overrides, strict=True):
        if key not in ("device", "eval.weights", "eval.amp") and not key.startswith("edges."):
            raise InputError(
                f"'{override}': fixed by the checkpoint; "
                "device, eval.weights, eval.amp and edges.* can be set here"
            )
    return config


def differing_settings(theirs: ModelConfig, ours: ModelConfig) -> str:
    """Which settings of two networks differ, such as ``model.width=16, here 32``; empty if none does."""
    before, now = theirs.model_dump(), ours.model_dump()
    return "; ".join(
        f"model.{key}={before[key]}, here {value}" for key, value in now.items() if before[key] != value
    )
