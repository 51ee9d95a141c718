"""Trained generators, from whatever kind of file."""

from __future__ import annotations

from pathlib import Path

import torch

from igll.config import Config, build_config
from igll.engine.checkpoint import load_checkpoint
from igll.engine.restoring import checked_step, load_weights
from igll.engine.shared_weights import SUFFIX, load_shared_weights, read_notes
from igll.errors import InputError
from igll.models import InpaintingNetwork
from igll.registry import build_generator


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
        The generator in evaluation mode, the configuration it was trained with, and the training step.

    Raises:
        InputError: As :func:`igll.engine.checkpoint.load_checkpoint` or
            :func:`igll.engine.shared_weights.load_shared_weights`, or if the weights do not fit the
            configuration in the file, or it is the record of a failure.
    """
    if Path(path).suffix == SUFFIX:
        generator, config, step = load_shared_weights(path)
        return generator.to(device), config, step
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
    return generator.to(device).eval(), config, checked_step(state, str(path))
