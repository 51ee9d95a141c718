"""Another image stands in for one that cannot be used; nothing else of the run changes."""

from __future__ import annotations

import os
import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from igll.config import Config, build_config
from igll.data.datasets import InpaintingDataset, build_dataset
from igll.data.edge_cache import EdgeCache
from igll.data.sampler import SampleKey, StepSampler
from igll.data.stand_ins import Replacement, Unusable, decode_replacements, first_usable
from igll.engine.edge_maps import prepare_edge_maps
from igll.errors import InputError
from igll.models.edges import SobelDetector

COUNT, CROP, SEED = 7, 32, 11


def bomb(path: Path) -> None:
    """A PNG of some bytes whose header promises 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.png"))


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def small(path: Path) -> None:
    Image.new("RGB", (CROP, CROP - 1)).save(path)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "corrupt": flipped,
    "truncated": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no picture"),
    "bomb": bomb,
    "vanished": Path.unlink,
    "folder": folder_instead,
    "dangling link": dangling,
    "too small": small,
}


def pictures(root: Path, count: int = COUNT) -> Path:
    """Images each of which is told apart by any crop's mean."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = rng.integers(0, 20, (40, 44, 3)) + 30 * number
        Image.fromarray(noise.astype(np.uint8)).save(root / f"{number}.png")
    return root


def settings(root: Path, mask: dict | None = None, **data) -> Config:
    values = {"name": "folder", "root": str(root), "val_root": str(root), "crop_size": CROP, **data}
    return build_config({"seed": SEED, "data": values, "mask": mask or {"kind": "irregular"}})


def opened(root: Path, **data) -> InpaintingDataset:
    return build_dataset(settings(root, **{"on_error": "skip", **data}), "train")


def run(dataset: InpaintingDataset, workers: int, first: int = 0, last: int = 9) -> list[dict]:
    """All samples of some steps, one by one, with the step and the key's own image."""
    sampler = StepSampler(len(dataset), 2, SEED, first, last)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers)
    return [
        {"key": key, **{name: values[place] for name, values in batch.items()}}
        for keys, batch in zip(list(sampler), loader, strict=True)
        for place, key in enumerate(keys)
    ]


def equal(first: dict, second: dict) -> bool:
    return all(torch.equal(first[name], second[name]) for name in ("image", "target", "mask"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_kind_of_broken_file_is_replaced_and_nothing_else_moves(tmp_path: Path, damage: str):
    whole = run(opened(pictures(tmp_path / "a"), on_error="error"), 0)
    dataset = opened(tmp_path / "a")
    DAMAGES[damage](tmp_path / "a" / "3.png")
    with pytest.raises(InputError, match=r"3\.png") as caught:
        dataset[3]
    found = run(dataset, 0)
    replaced = 0
    for before, after in zip(whole, found, strict=True):
        assert before["key"] == after["key"]
        if after["key"].image != 3:
            assert equal(before, after) and after["index"] == before["index"] and after["unusable"] == ""
            continue
        replaced += 1
        (event,) = decode_replacements([after["unusable"]])
        assert event == Replacement([Unusable("3.png", str(caught.value))], "4.png")
        assert after["index"] == 4 and torch.equal(after["mask"], before["mask"]), "the hole is the key's"
        assert 115 < (after["target"].mean() + 1) * 127.5 < 145, "of image 4"
    assert replaced == sum(key["key"].image == 3 for key in whole) >= 2


def test_the_crop_and_the_flips_are_the_keys_own(tmp_path: Path):
    """With two equal files, the stand-in's sample is the very one that was lost."""
    root = pictures(tmp_path / "a")
    shutil.copy(root / "3.png", root / "4.png")
    dataset = opened(root)
    keys = [SampleKey(epoch, 3, 7 * epoch) for epoch in range(12)]
    before = [dataset[key] for key in keys]
    (root / "3.png").unlink()
    assert all(equal(sample, dataset[key]) for sample, key in zip(before, keys, strict=True))
    assert len({tuple(sample["image"].flatten()[:50].tolist()) for sample in before}) > 9


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_resuming_change_no_sample(tmp_path: Path, workers: int):
    dataset = opened(pictures(tmp_path / "a"))
    for number in (2, 3, 6):
        cut(tmp_path / "a" / f"{number}.png")
    whole, spread = run(dataset, 0), run(dataset, workers)
    resumed = run(opened(tmp_path / "a"), workers, first=4)
    for others, expected in ((spread, whole), (resumed, whole[8:])):
        assert len(others) == len(expected)
        for one, other in zip(others, expected, strict=True):
            assert equal(one, other)
            assert one["unusable"] == other["unusable"] and one["index"] == other["index"]
    # The next usable image, past a second one that is not, and from the end on to the beginning.
    places = {sample["key"].image: int(sample["index"]) for sample in whole}
    assert places == {0: 0, 1: 1, 2: 4, 3: 4, 4: 4, 5: 5, 6: 0}


def test_scenes_kept_in_memory_change_no_sample_and_may_outlive_their_file(tmp_path: Path):
    root = pictures(tmp_path / "a")
    cut(root / "0.png")
    plain, keeping = opened(root, cache_mb=0), opened(root)
    keeping.keep_scenes()
    assert keeping.store is not None and keeping.store.slots == COUNT
    for expected, kept in zip(run(plain, 0), run(keeping, 0), strict=True):
        assert equal(expected, kept) and expected["unusable"] == kept["unusable"]
    before = keeping[SampleKey(0, 5, 0)]
    (root / "5.png").unlink()
    assert equal(keeping[SampleKey(0, 5, 0)], before) and keeping[SampleKey(0, 5, 0)]["unusable"] == ""


def test_a_mended_file_is_used_again(tmp_path: Path):
    root = pictures(tmp_path / "a")
    dataset, content = opened(root), (root / "3.png").read_bytes()
    before = dataset[SampleKey(0, 3, 0)]
    cut(root / "3.png")
    assert dataset[SampleKey(0, 3, 0)]["index"] == 4
    (root / "3.png").write_bytes(content)
    assert equal(dataset[SampleKey(0, 3, 0)], before)


def test_a_broken_mask_takes_its_image_with_it(tmp_path: Path):
    root, masks = pictures(tmp_path / "a"), tmp_path / "masks"
    masks.mkdir()
    for number in range(COUNT):
        hole = np.zeros((40, 44), np.uint8)
        hole[: number + 9] = 255
        Image.fromarray(hole).save(masks / f"{number}.png")
    dataset = opened(root, mask={"kind": "files", "root": str(masks)}, augment=False)
    cut(masks / "3.png")
    sample = dataset[SampleKey(0, 3, 0)]
    (event,) = decode_replacements([sample["unusable"]])
    assert event.passed_over[0].name == "3.png" and str(masks / "3.png") in event.passed_over[0].reason
    assert sample["index"] == 4 and sample["mask"][0, 0].all()


@pytest.mark.parametrize("workers", [0, 1])
def test_without_any_usable_image_one_line_says_so(tmp_path: Path, workers: int):
    root = pictures(tmp_path / "a")
    dataset = opened(root)
    for path in root.iterdir():
        cut(path)
    with pytest.raises(InputError) as caught:
        run(dataset, workers)
    message = str(caught.value)
    assert message.startswith(f"none of the {COUNT} training images can be used; the first: {root}")
    assert "\n" not in message
    with pytest.raises(InputError, match="none of the 7 training images"):
        opened(root).keep_scenes()


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_test_samples_never_have_a_stand_in(tmp_path: Path, policy: str):
    root = pictures(tmp_path / "a")
    cut(root / "3.png")
    dataset = build_dataset(settings(root, on_error=policy), "test")
    assert "unusable" not in dataset[2]
    with pytest.raises(InputError, match=r"3\.png: damaged image"):
        dataset[3]


def test_edge_maps_are_made_of_the_images_that_can_be_used(tmp_path: Path):
    root, detector = pictures(tmp_path / "a"), SobelDetector()
    cache = EdgeCache(str(tmp_path / "maps"), detector.fingerprint)
    dataset = build_dataset(settings(root, on_error="skip"), "train", cache)
    cut(root / "3.png")
    small(root / "5.png")
    with pytest.raises(InputError, match=r"3\.png"):
        prepare_edge_maps(dataset, cache, detector, torch.device("cpu"))
    made = prepare_edge_maps(dataset, cache, detector, torch.device("cpu"), pass_over=True)
    assert made + 3 >= COUNT - 2 and all(
        cache.path(read(dataset, index)).exists() for index in (0, 1, 2, 4, 6)
    )
    assert dataset[SampleKey(0, 3, 0)]["index"] == 4 and dataset[SampleKey(0, 5, 0)]["index"] == 6
    # An image that comes back has no map yet, and is passed over until a new start makes it.
    Image.new("RGB", (44, 40)).save(root / "3.png")
    (event,) = decode_replacements([dataset[SampleKey(0, 3, 0)]["unusable"]])
    assert "its edge map" in event.passed_over[0].reason


def read(dataset: InpaintingDataset, index: int) -> np.ndarray:
    return dataset.source.load(dataset.indices[index]).edge_source_HWC


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_replaced(tmp_path: Path):
    root = pictures(tmp_path / "a")
    (root / "3.png").chmod(0)
    assert opened(root)[SampleKey(0, 3, 0)]["index"] == 4


def test_a_file_whose_reading_is_refused_is_replaced(tmp_path: Path, monkeypatch):
    """As the previous one, whoever runs it."""
    root, plain = pictures(tmp_path / "a"), Image.open

    def refusing(path, *rest, **options):
        if str(path).endswith("3.png"):
            raise PermissionError(13, "Permission denied")
        return plain(path, *rest, **options)

    monkeypatch.setattr(Image, "open", refusing)
    sample = opened(root)[SampleKey(0, 3, 0)]
    (event,) = decode_replacements([sample["unusable"]])
    assert event.passed_over[0].reason == f"{root / '3.png'}: cannot be read (Permission denied)"


def raster(path: Path, bands: int, missing: bool = False) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = np.full((bands, 40, 44), 60, np.float32)
    if missing:
        values[:, :, 20:24] = np.nan  # in the middle, and so in every crop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path, "w", driver="GTiff", width=44, height=40, count=bands, dtype="float32"
        ) as file:
            file.write(values)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: raster(path, 3), r"has 3 band\(s\), not 4"),
        (lambda path: raster(path, 4, missing=True), r"some in every crop"),
        (cut, "cannot be read as a raster"),
        (lambda path: Image.new("P", (44, 40)).save(path), r"has 1 band\(s\), not 4"),
    ],
)
def test_rasters_of_other_bands_or_without_a_complete_crop(tmp_path: Path, damage, reason: str):
    root = tmp_path / "a"
    root.mkdir()
    for number in range(COUNT):
        raster(root / f"{number}.tif", 4)
    data = {"name": "folder", "root": str(root), "val_root": str(root), "crop_size": CROP, "on_error": "skip"}
    config = build_config({"data": {**data, "stretch": [0, 100]}, "model": {"image_channels": 4}})
    dataset = build_dataset(config, "train")
    damage(root / "3.tif")
    sample = dataset[SampleKey(0, 3, 0)]
    (event,) = decode_replacements([sample["unusable"]])
    assert sample["index"] == 4 and re.search(reason, event.passed_over[0].reason)
    with pytest.raises(InputError, match=reason):
        dataset.checked_scene(3)


def test_a_picture_whose_values_have_no_place_is_replaced(tmp_path: Path):
    root = pictures(tmp_path / "a")
    (root / "3.png").unlink()
    Image.fromarray(np.full((40, 44), 7, np.float32)).save(root / "3.tif")
    sample = opened(root)[SampleKey(0, 3, 0)]
    (event,) = decode_replacements([sample["unusable"]])
    assert "values span 7.0 to 7.0, outside 0 to 1" in event.passed_over[0].reason


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_name_with_line_breaks_stays_on_one_line(tmp_path: Path, policy: str):
    root = pictures(tmp_path / "a", 1)
    (root / "0.png").rename(root / "a\nb\u2028c.png")
    dataset = opened(root, on_error=policy)
    cut(root / "a\nb\u2028c.png")
    with pytest.raises(InputError, match=r"a\\nb\\u2028c\.png: damaged image") as caught:
        list(DataLoader(dataset, batch_sampler=StepSampler(1, 1, 0, 0, 1), num_workers=1))
    assert len(str(caught.value).splitlines()) == 1


def test_a_link_to_nothing_is_no_silent_change_of_the_dataset(tmp_path: Path):
    root = pictures(tmp_path / "a")
    before = opened(root).source.names
    dangling(root / "3.png")
    (root / "link").symlink_to(tmp_path)  # a folder elsewhere is passed over, as ever
    dataset = opened(root)
    assert dataset.source.names == before
    (event,) = decode_replacements([dataset[SampleKey(0, 3, 0)]["unusable"]])
    assert event.passed_over[0].reason.endswith("3.png: no such file; check the path")


def test_names_that_no_text_file_holds_travel_with_the_batch():
    odd = Unusable("a\tb\nc\udcff.png", "why\u2028")
    assert decode_replacements(["", Replacement([odd], "ü").encode(), ""]) == [Replacement([odd], "ü")]
    assert Replacement([], "ü").encode() == ""


def test_the_next_in_order_is_tried_once_each():
    tried = []

    def refuse(index: int) -> int:
        tried.append(index)
        raise InputError(f"no {index}")

    with pytest.raises(InputError, match="none of the 4 training images can be used; the first: no 2"):
        first_usable(str, 4, 2, refuse)
    assert tried == [2, 3, 0, 1]
