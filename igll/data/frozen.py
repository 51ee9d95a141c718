"""Named sets of test holes that are the same for everyone, and the hashes that prove it.

A test image's hole is a function of the mask's kind and ratio, the crop's size, ``data.split_seed`` and
the image's number in its dataset alone. At 256 pixels, seed 0 and placement ``paper``, the holes of
images 0 ... 99 are hashed here; further images continue the same sequences.

Squares are whole numbers throughout. The other kinds go through double precision, where the rounding of
another processor or library could move a pixel only if two values agreed to a dozen digits; that is not
proven impossible, so the hashes are the judge.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from igll.config import MaskConfig
from igll.data.datasets import fixed_mask
from igll.data.masks import BoolArray, mask_bytes
from igll.errors import InputError

SIDE, COUNT, SEED = 256, 100, 0


@dataclass(frozen=True)
class FrozenSet:
    """A set of test holes.

    Attributes:
        kind: ``mask.kind`` that makes them.
        ratio: ``mask.ratio`` that makes them.
        sha256: Hash of the first hundred.
    """

    kind: Literal["square", "irregular", "cloud", "slc_off"]
    ratio: float
    sha256: str


FROZEN_SETS = {
    "square10": FrozenSet("square", 0.1, "edbce416d25f16952f09e7bb17c3d885811a738d752e51422097f2dac6c43efb"),
    "square25": FrozenSet("square", 0.25, "58a39ef980c37dc97b715fe8235cd1994d8771330ead0b8b02bb6c63b9b90284"),
    "square77": FrozenSet("square", 0.77, "2b26b0e9c179e050e55f8de35b2410f06fd2d4e005d85be7558b1fbd12962d20"),
    "irregular10": FrozenSet(
        "irregular", 0.1, "389d35d5dda454d81c337d3d90004adccc64de723ff2663f3dcc84c47e3e12be"
    ),
    "irregular25": FrozenSet(
        "irregular", 0.25, "ba9cde1626aa96956764119719ef397a5cddf059880c762187cb759c68c41063"
    ),
    "irregular77": FrozenSet(
        "irregular", 0.77, "51644a8e8262eb3ab5e350e687b25f8be9abed209aedda0cb2c6b965d7b7ddf7"
    ),
    "cloud25": FrozenSet("cloud", 0.25, "9d8dbc4d2f21900b73ec6173b98c3eddcb83c64bfd290047c2dfb489da3d9bce"),
    "slc_off25": FrozenSet(
        "slc_off", 0.25, "9514330864b4423357e34d5cdb5af60a568c2a5e568c3b2c2d815572c7ed1840"
    ),
}
"""Every set by its name: kind and share of missing pixels in percent."""


def frozen_masks(name: str, count: int = COUNT) -> list[BoolArray]:
    """The first masks of a set, each mask_HW of 256 × 256, True = missing.

    Raises:
        InputError: There is no such set.
    """
    if name not in FROZEN_SETS:
        raise InputError(f"mask set '{name}' is not known; choose one of {', '.join(FROZEN_SETS)}")
    chosen = FROZEN_SETS[name]
    rules = MaskConfig(kind=chosen.kind, ratio=chosen.ratio)
    return [fixed_mask(rules, SIDE, SEED, scene) for scene in range(count)]


def masks_sha256(masks: list[BoolArray]) -> str:
    """SHA-256 of masks in their order, as the protocol of an evaluation has it."""
    return hashlib.sha256(b"".join(mask_bytes(mask_HW) for mask_HW in masks)).hexdigest()


def check_frozen(name: str) -> None:
    """Make sure that this machine makes a set's holes bit for bit.

    Raises:
        InputError: There is no such set, or its holes come out differently here.
    """
    found = masks_sha256(frozen_masks(name))
    if found != FROZEN_SETS[name].sha256:
        raise InputError(
            f"mask set '{name}': comes out differently on this machine ({found[:12]} instead of "
            f"{FROZEN_SETS[name].sha256[:12]}); make its masks elsewhere and use mask.kind=files"
        )
