"""Frozen mask sets: bit for bit the published ones, and the ones that evaluation uses."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from igll.config import build_config
from igll.data import frozen
from igll.data.datasets import build_dataset
from igll.data.frozen import FROZEN_SETS, check_frozen, frozen_masks, masks_sha256
from igll.errors import InputError

# A second copy: a change of the generators must not pass by changing one table.
PUBLISHED = {
    "square10": "edbce416d25f1695",
    "square25": "58a39ef980c37dc9",
    "square77": "2b26b0e9c179e050",
    "irregular10": "389d35d5dda454d8",
    "irregular25": "ba9cde1626aa9695",
    "irregular77": "51644a8e8262eb3a",
    "cloud25": "9d8dbc4d2f21900b",
    "slc_off25": "9514330864b44233",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_set_comes_out_as_published(name: str):
    check_frozen(name)
    assert FROZEN_SETS[name].sha256.startswith(PUBLISHED[name])


def test_no_set_is_without_a_published_hash_and_all_have_their_share():
    assert PUBLISHED.keys() == FROZEN_SETS.keys()
    for name, chosen in FROZEN_SETS.items():
        masks = frozen_masks(name, 3)
        assert all(mask.shape == (256, 256) and mask.dtype == bool for mask in masks)
        assert np.mean(masks) == pytest.approx(chosen.ratio, abs=0.005), name
        assert (masks[0] != masks[1]).any() != (chosen.kind == "square")  # the paper's square has one place


@pytest.mark.parametrize("name", FROZEN_SETS)
def test_evaluation_uses_these_masks(name: str):
    chosen = FROZEN_SETS[name]
    data = {"name": "synthetic", "synthetic_images": 20, "crop_size": 256, "test_limit": 2}
    dataset = build_dataset(
        build_config({"data": data, "mask": {"kind": chosen.kind, "ratio": chosen.ratio}}), "test"
    )
    masks = frozen_masks(name, 20)
    for index, scene in enumerate(dataset.indices):
        np.testing.assert_array_equal(dataset[index]["mask"][0].numpy() > 0, masks[scene])


def test_another_processor_makes_the_same_masks():
    """numpy without its vectorised code rounds as a plain processor does."""
    code = (
        "from igll.data.frozen import FROZEN_SETS, check_frozen\nfor name in FROZEN_SETS: check_frozen(name)"
    )
    plain = {**os.environ, "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 X86_V3 X86_V4 AVX512F AVX512_SKX"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_set_that_comes_out_differently_is_refused(monkeypatch):
    masks = frozen_masks("cloud25")
    masks[99][0, 0] ^= True
    assert masks_sha256(masks) != FROZEN_SETS["cloud25"].sha256
    monkeypatch.setattr(frozen, "frozen_masks", lambda name: masks)
    with pytest.raises(InputError, match="mask set 'cloud25': comes out differently on this machine"):
        check_frozen("cloud25")


def test_an_unknown_set_is_named():
    with pytest.raises(InputError, match="mask set 'cloud26' is not known; choose one of square10, "):
        frozen_masks("cloud26")
