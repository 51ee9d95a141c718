"""Pretrained weights that metrics stand on: found in torch hub's cache, read without unpickling code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from igll.metrics.names import MetricUnavailableError

_HASH_IN_NAME = re.compile(r"-([a-f0-9]{8,})\.[a-z]+$")


def cached_weights(url: str, allow_download: bool = False) -> Path:
    """The cached file of some published weights.

    Args:
        url: Where the weights are published; the last part is the file's name in the cache, which
            is ``checkpoints`` under ``torch.hub.get_dir()`` (the variable ``TORCH_HOME`` moves it).
        allow_download: Fetch the file if it is absent. Its SHA-256 is checked against the name.

    Raises:
        MetricUnavailableError: The file is absent and may not, or cannot, be fetched.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    if not allow_download:
        raise MetricUnavailableError(f"weights {path.name} are not in {folder}")
    digest = _HASH_IN_NAME.search(path.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest.group(1) if digest else None)
    except (OSError, RuntimeError) as error:
        raise MetricUnavailableError(f"weights {path.name} could not be downloaded ({error})") from error
    return path


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read a file of weights that may hold nothing but tensors.

    Raises:
        MetricUnavailableError: The file is damaged or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise MetricUnavailableError(f"{path} is not a readable file of weights; delete it") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise MetricUnavailableError(f"{path} holds no named tensors; delete it")
    return state
