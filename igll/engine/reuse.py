"""What is there already: whether a run may be gone on with, and an evaluation left as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from igll.config import Config, load_config, save_config
from igll.engine.evaluate import evaluate
from igll.engine.state import flat
from igll.errors import InputError

# What may change between two calls for the same folder: the budget, the evaluation, and where things are.
_MAY_CHANGE = (
    "allow_download", "device", "edges.weights", "edges.cache", "data.root", "data.workers",
    "data.test_limit", "losses.vgg_weights", "train.epochs", "train.max_steps", "train.threads",
    "train.log_every", "train.sheet_every", "train.eval_every", "train.eval_images", "train.checkpoint_every",
)  # fmt: skip


def is_measured(evaluation: Path, config: Config, checkpoint: Path | None) -> bool:
    """Whether an evaluation was done with just these settings, and its network not trained further since.

    Args:
        evaluation: Folder of the evaluation, where ``config.yaml`` holds its settings.
        config: The settings wanted now.
        checkpoint: What is measured, or None for methods without training.
    """
    result, settings = evaluation / "metrics.json", evaluation / "config.yaml"
    if not (result.exists() and settings.exists()):
        return False
    if checkpoint is not None and (
        not checkpoint.exists() or checkpoint.stat().st_mtime > result.stat().st_mtime
    ):
        return False
    return load_config(settings) == config


def measure(config: Config, checkpoint: str | Path | None, evaluation: Path) -> None:
    """Evaluate, and leave the settings beside the result for :func:`is_measured` to find.

    Args:
        config: The settings; with methods without training in ``eval.floors``.
        checkpoint: What to measure, whatever :func:`igll.load` takes, or None for methods without training.
        evaluation: Folder for the evaluation.

    Raises:
        InputError: As :func:`igll.engine.evaluate.evaluate`.
    """
    settings = evaluation / "config.yaml"
    settings.unlink(missing_ok=True)  # of an older result: cut short from here on, none passes for measured
    evaluate(config, None if checkpoint is None else str(checkpoint), evaluation)
    save_config(config, settings)


def check_same_run(run: Path, config: Config) -> None:
    """Refuse to go on with a run that was begun with other settings: it would be neither one nor the other.

    Raises:
        InputError: Names the first setting that differs.
    """
    settings = run / "config.yaml"
    if not (run / "checkpoints" / "last.pt").exists() or not settings.exists():
        return
    before, now = flat(load_config(settings).model_dump()), flat(config.model_dump())
    for key, value in now.items():
        if value != before[key] and not key.startswith("eval.") and key not in _MAY_CHANGE:
            raise InputError(
                f"{run}: was begun with {assignment(key, before[key])}, and now it is {_plain(value)}; "
                "choose another --out, or say the same as before"
            )


def assignment(key: str, value: Any) -> str:
    """A setting as it is written on the command line."""
    return f"{key}={_plain(value)}"


def _plain(value: Any) -> str:
    return "null" if value is None else str(value)
