"""Lets torchvision load beside a torch wheel that was built for another device.

A CUDA build of torchvision next to a CPU build of torch (a common accident of mixed wheel
indices) fails at ``import torchvision`` with ``operator torchvision::nms does not exist``,
because its compiled operators are absent while their Python registrations are not. Nothing in
igll calls those operators, so declaring their schemas first is enough. Where the compiled
operators load, this does nothing.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from functools import lru_cache
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@lru_cache(maxsize=1)
def prepare_torchvision() -> None:
    """Declare the operator schemas that ``import torchvision`` expects, if its library cannot load.

    Call it before importing torchvision, lpips or torchmetrics' image metrics.
    """
    if "torchvision" in sys.modules or _compiled_operators_load():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    # The declarations live as long as the library object does.
    prepare_torchvision.library = library  # type: ignore[attr-defined]


def _compiled_operators_load() -> bool:
    """Whether torchvision's compiled operators can be loaded into this process."""
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return True  # the import itself will say that torchvision is missing
    # Called _C until 0.28, then _C_stable. Declaring what it registers as well would end the process.
    suffix = importlib.machinery.EXTENSION_SUFFIXES[-1]
    found = sorted(Path(package.submodule_search_locations[0]).glob(f"_C*{suffix}"))
    return any(map(_loads, found))


def _loads(library: Path) -> bool:
    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True
