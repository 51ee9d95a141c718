"""Scenes that are kept come back bit for bit, to every loader process, within the memory allowed."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from igll.config import build_config
from igll.data.datasets import build_dataset
from igll.data.sampler import SampleKey
from igll.data.scene_store import SceneStore, to_unit
from igll.engine.batches import training_batches


def layers(seed: int, side: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [to_unit(rng.integers(0, 256, (side, side, channels), dtype=np.uint8)) for channels in (3, 1)]


def test_what_comes_out_is_what_went_in():
    store = SceneStore(3, layers(0), 1)
    assert store.slots == 3 and store.get(1) is None
    store.put(1, layers(1))
    found = store.get(1)
    assert found is not None
    for level, layer in zip(found, layers(1), strict=True):
        assert np.array_equal(to_unit(level), layer) and to_unit(level).dtype == np.float32
    assert store.get(0) is None and store.get(2) is None


def test_what_would_lose_something_is_not_kept():
    store = SceneStore(3, layers(0), 1)
    deep = layers(1)
    deep[0][2, 3, 1] += np.float32(1e-3)
    store.put(0, deep)
    store.put(1, layers(1, side=7))
    torn = layers(2)
    torn[0][1, 2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.put(2, torn)
    assert store.get(0) is None and store.get(1) is None and store.get(2) is None


def test_memory_is_bounded_and_not_pickled():
    scene = layers(0, side=300)  # 360,000 bytes and one
    store = SceneStore(10, scene, 1)
    assert store.slots == 2
    store.put(2, scene)
    assert store.get(2) is None
    store.put(1, scene)
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301  (what a freshly started loader process does)
    copy.put(1, scene)
    assert store.get(1) is not None and copy.get(1) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def config(folder: Path, **data):
    model = {"structure_prior": "none"}
    named = {"name": "folder", "root": str(folder), "val_root": str(folder), "crop_size": 32, **data}
    return build_config({"model": model, "data": named, "train": {"batch_size": 5}})


def test_samples_are_the_same_with_and_without(folder: Path):
    plain, kept = (build_dataset(config(folder), "train") for _ in range(2))
    kept.keep_scenes()
    for epoch in range(3):
        for image in range(5):
            key = SampleKey(epoch, image, epoch)
            one, other = plain[key], kept[key]
            assert one.keys() == other.keys()
            for name in ("image", "target", "mask"):
                assert torch.equal(one[name], other[name])
    assert all(kept.store.get(number) is not None for number in range(5))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache_mb", [0, 1])
def test_files_are_read_once_by_all_loader_processes_together(folder: Path, workers: int, cache_mb: int):
    settings = config(folder, workers=workers, cache_mb=cache_mb)
    dataset = build_dataset(settings, "train")
    batches = training_batches(settings, dataset, 0, 200, torch.device("cpu"))
    for _ in range(30):  # with two processes each reads every image some time in the first epochs
        next(batches)
    for path in folder.iterdir():
        path.unlink()
    if cache_mb:
        assert sum(len(batch.indices) for batch in batches) == 170 * 5
    else:
        with pytest.raises(Exception, match="no such file"):
            list(batches)
