"""Seeded 4:1 splits that do not depend on the order in which a disk lists files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

Part = Literal["train", "test"]


def split_names(names: Sequence[str], part: Part, test_fraction: float, seed: int) -> list[int]:
    """Choose the indices of one part of a dataset.

    Names are ordered by the SHA-256 of seed and name; the first ``test_fraction`` of them are the test
    part. The same names give the same split on every machine, and a name keeps its place in the order
    when others come or go.

    Args:
        names: One name per image, relative to the dataset's root, without suffix.
        part: ``"train"`` or ``"test"``.
        test_fraction: Share of test images (0.2 = the paper's 4:1); at least one image if above 0.
        seed: Another seed, another split.

    Returns:
        Indices into ``names``, ascending.
    """
    count = round(test_fraction * len(names))
    if test_fraction > 0 and names:
        count = min(max(count, 1), len(names))
    order = sorted(range(len(names)), key=lambda index: _digest(names[index], seed))
    return sorted(order[:count] if part == "test" else order[count:])


def _digest(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
