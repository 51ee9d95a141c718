"""Checkpoints: written whole or not at all, read without running anything."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from igll.config import Config, build_config
from igll.errors import InputError
from igll.models import InpaintingNetwork
from igll.registry import build_generator
from igll.storage import replacing

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save a checkpoint of tensors and plain values.

    Args:
        path: Target; replaced only once the new content is on disk.
        state: What to save; the format's number is added.

    Raises:
        OutputError: If the disk is full or the folder cannot be written to; the old file is then untouched.
    """
    # Serialised in memory: writing to a full disk, torch itself raises an error that does not say so.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    with replacing(path, durable=True) as temporary:
        temporary.write_bytes(buffer.getvalue())


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load a checkpoint with ``weights_only=True``: a file that carries code is refused, nothing runs.

    Raises:
        InputError: If the file is missing, is no checkpoint, or holds more than weights.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about odd pickles before it refuses them
            state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except Exception as error:  # on foreign bytes the restricted unpickler fails with any kind of error
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise InputError(
                f"{path}: refused, it holds more than weights (loading it could run foreign code); "
                "use a checkpoint written by igll-train"
            ) from None
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else "damaged or of another kind"
        )
        raise InputError(f"{path}: not a checkpoint that can be read ({reason})") from None
    if not isinstance(state, dict) or not {"format", "generator", "config", "step"} <= state.keys():
        raise InputError(f"{path}: a torch file, but not a checkpoint written by igll-train")
    if not all(isinstance(state[part], dict) for part in ("generator", "config")):
        raise InputError(f"{path}: damaged, its weights or configuration are not what igll-train writes")
    if state["format"] != FORMAT:
        raise InputError(
            f"{path}: checkpoint format {state['format']}, this version of igll reads format {FORMAT}"
        )
    return state


def load_generator(
    path: str | Path, weights: str = "ema", device: torch.device | str = "cpu"
) -> tuple[InpaintingNetwork, Config, int]:
    """Load a trained generator, ready to fill.

    Args:
        path: Checkpoint written by igll-train.
        weights: ``"ema"`` (the averaged weights, if the run kept them) or ``"raw"``.
        device: Where to put it.

    Returns:
        The generator in evaluation mode, the configuration it was trained with, and the training step.

    Raises:
        InputError: As :func:`load_checkpoint`, or if the weights do not fit the configuration in the file.
    """
    state = load_checkpoint(path, device)
    config = build_config(state["config"], source=str(path))
    generator = build_generator(config.model)
    chosen = state["ema"] if weights == "ema" and state.get("ema") else state["generator"]
    load_weights(generator, chosen, str(path))
    return generator.to(device).eval(), config, int(state["step"])


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Load a state dict strictly; a mismatch is one clear line.

    Raises:
        InputError: If names or shapes differ from the module's.
    """
    own = module.state_dict()
    differing = sorted(set(own) ^ set(weights)) or [
        name for name in own if own[name].shape != weights[name].shape
    ]
    if differing:
        raise InputError(f"{source}: its weights do not fit this model (first difference: {differing[0]})")
    module.load_state_dict(weights)
