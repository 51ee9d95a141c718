"""Samples: crops, holes, edges and the order of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from igll.config import Config, build_config
from igll.data import datasets
from igll.data.datasets import InpaintingDataset, build_dataset
from igll.data.edge_cache import EdgeCache
from igll.data.masks import MASK_KINDS
from igll.data.sampler import SampleKey, StepSampler
from igll.data.sources import Scene, SceneSource
from igll.engine.edge_maps import prepare_edge_maps
from igll.errors import InputError
from igll.models.edges import SobelDetector


class Ramp(SceneSource):
    """Scenes whose pixels say where they are: channels hold row, column and scene number."""

    def __init__(self, count: int, height: int, width: int) -> None:
        self.names = [f"ramp{number}" for number in range(count)]
        self.height, self.width = height, width

    def load(self, index: int) -> Scene:
        rows, columns = np.mgrid[: self.height, : self.width]
        image = np.stack([rows / 1000, columns / 1000, np.full(rows.shape, index / 1000)], 2)
        return Scene(image.astype(np.float32), image.astype(np.float32))


def ramps(config: dict | None = None, height: int = 300, width: int = 320, edges=None) -> InpaintingDataset:
    resolved = build_config({"data": {"name": "synthetic"}, **(config or {})})
    return InpaintingDataset(
        Ramp(6, height, width), list(range(6)), resolved.data, resolved.mask, resolved.seed, edges
    )


def origin(sample) -> tuple[int, int]:
    corner = ((sample["target"][:2, 0, 0] + 1) / 2 * 1000).round().int().tolist()
    return corner[0], corner[1]


def test_paper_test_crop_and_hole_are_fixed():
    for ratio, side in ((0.10, 80), (0.25, 128), (0.77, 224)):
        sample = ramps({"mask": {"ratio": ratio}}, 600, 600)[2]
        assert sample["image"].shape == (3, 256, 256) and origin(sample) == (50, 50)
        hole = sample["mask"][0].bool()
        expected = torch.zeros(256, 256, dtype=torch.bool)
        expected[32 : 32 + side, 32 : 32 + side] = True
        assert torch.equal(hole, expected)


def test_paper_test_crop_moves_in_where_the_image_is_small():
    assert origin(ramps(height=260, width=256)[0]) == (4, 0)


def test_center_test_crop_and_hole():
    sample = ramps({"data": {"name": "synthetic", "test_crop": "center"}, "mask": {"placement": "center"}})[0]
    assert origin(sample) == ((300 - 256) // 2, (320 - 256) // 2)
    assert torch.equal(sample["mask"], sample["mask"].flip(1).flip(2)) and sample["mask"].sum() == 128**2


def test_training_samples_derive_from_seed_epoch_and_image_alone():
    dataset = ramps({"mask": {"kind": "irregular", "ratio": [0.1, 0.5]}})
    first = dataset[SampleKey(3, 2, 17)]
    again = ramps({"mask": {"kind": "irregular", "ratio": [0.1, 0.5]}})[SampleKey(3, 2, 99)]
    for name in ("image", "target", "mask"):
        assert torch.equal(first[name], again[name])
    other_epoch, other_seed = dataset[SampleKey(4, 2, 17)], ramps({"seed": 1, "mask": {"kind": "irregular"}})
    assert not torch.equal(first["mask"], other_epoch["mask"])
    assert not torch.equal(first["target"], other_epoch["target"])
    assert not torch.equal(first["mask"], other_seed[SampleKey(3, 2, 17)]["mask"])


def test_paper_training_square_has_one_position_per_batch_and_a_margin():
    dataset = ramps()
    holes = {}
    for step in range(8):
        masks = [dataset[SampleKey(0, image, step)]["mask"] for image in range(3)]
        assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])
        rows, columns = masks[0][0].any(1).nonzero(), masks[0][0].any(0).nonzero()
        assert min(int(rows[0]), int(columns[0])) >= 8 and max(int(rows[-1]), int(columns[-1])) < 256 - 8
        holes[int(rows[0]), int(columns[0])] = step
    assert len(holes) > 4


def test_crops_cover_the_image_and_turns_all_happen():
    dataset = ramps({"data": {"name": "synthetic", "crop_size": 16}}, 24, 24)
    corners, orientations = set(), set()
    for epoch in range(200):
        target = dataset[SampleKey(epoch, 0, 0)]["target"]
        position = ((target[:2] + 1) / 2 * 1000).round().int()
        corners.add((int(position[0].min()), int(position[1].min())))
        down, right = position[:, 1, 0] - position[:, 0, 0], position[:, 0, 1] - position[:, 0, 0]
        orientations.add((*down.tolist(), *right.tolist()))
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(9))
    assert len(orientations) == 8
    plain = ramps({"data": {"name": "synthetic", "crop_size": 16, "augment": False}}, 24, 24)
    turned = {tuple((plain[SampleKey(e, 0, 0)]["target"][:2, 1, 0] > 0).tolist()) for e in range(20)}
    assert len(turned) == 1


def test_edges_follow_the_image_through_crop_and_turns(tmp_path: Path):
    cache = EdgeCache(str(tmp_path), "test")
    dataset = ramps({"data": {"name": "synthetic", "crop_size": 16}}, 24, 24, edges=cache)
    image = dataset.source.load(0).target_HWC
    rows, columns = np.mgrid[:24, :24]
    cache.save(image, ((rows * 10 + columns) / 255).astype(np.float32))
    for epoch in range(10):
        sample = dataset[SampleKey(epoch, 0, 0)]
        position = ((sample["target"][:2] + 1) / 2 * 1000).round()
        torch.testing.assert_close(sample["edge"][0] * 255, position[0] * 10 + position[1], atol=1e-3, rtol=0)
    assert sample["edge"].shape == (1, 16, 16)


def test_test_masks_do_not_depend_on_the_training_seed():
    settings = {"mask": {"kind": "cloud", "ratio": 0.3}}
    assert torch.equal(ramps(settings)[1]["mask"], ramps({**settings, "seed": 9})[1]["mask"])
    assert not torch.equal(ramps(settings)[1]["mask"], ramps(settings)[2]["mask"])


# Mixed holes.


def mixed(families: list[str], **mask) -> InpaintingDataset:
    config = {
        "mask": {"kind": "mixed", "families": families, **mask},
        "data": {"name": "synthetic", "crop_size": 64},
    }
    return ramps(config, 80, 80)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds that were drawn, in order."""
    kinds: list[str] = []
    make = datasets.make_mask

    def noted(kind: str, *rest) -> np.ndarray:
        kinds.append(kind)
        return make(kind, *rest)

    monkeypatch.setattr(datasets, "make_mask", noted)
    return kinds


@pytest.mark.parametrize("families", [list(MASK_KINDS), ["irregular", "cloud"], ["gaps"]])
def test_mixed_holes_are_of_the_listed_families_in_equal_shares(drawn: list[str], families: list[str]):
    dataset, count = mixed(families, ratio=0.25), 240
    for number in range(count):
        hole = dataset[SampleKey(number // 6, number % 6, number)]["mask"]
        assert abs(hole.mean().item() - 0.25) <= 0.005
    assert set(drawn) == set(families) and len(drawn) == count
    # Four standard deviations of a binomial draw.
    share = 1 / len(families)
    tolerance = 4 * (share * (1 - share) * count) ** 0.5
    assert all(abs(drawn.count(family) - share * count) <= tolerance for family in families)


def test_a_family_named_twice_is_twice_as_likely(drawn: list[str]):
    dataset = mixed(["salt_pepper", "square", "salt_pepper"])
    for number in range(240):
        dataset[SampleKey(number, 0, number)]
    assert drawn.count("square") == pytest.approx(80, abs=4 * (240 * 2 / 9) ** 0.5)


def test_mixed_ratios_lie_in_their_range_and_reach_both_ends():
    dataset = mixed(["irregular", "cloud"], ratio=[0.1, 0.5])
    ratios = [dataset[SampleKey(number, 0, 0)]["mask"].mean().item() for number in range(60)]
    assert 0.1 - 1e-3 <= min(ratios) < 0.15 and 0.45 < max(ratios) <= 0.5 + 1e-3


def test_mixed_test_holes_are_fixed_and_of_their_own_for_each_image(drawn: list[str]):
    families = ["irregular", "salt_pepper"]
    first, again = mixed(families), mixed(families)
    masks = [first[index]["mask"] for index in range(6)]
    kinds = drawn.copy()
    assert all(torch.equal(again[index]["mask"], masks[index]) for index in range(6)) and drawn == 2 * kinds
    assert set(kinds) == set(families), "six images, and both families among them"
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 6
    other = ramps(
        {"seed": 9, "mask": {"kind": "mixed", "families": families},
         "data": {"name": "synthetic", "crop_size": 64}}, 80, 80,
    )  # fmt: skip
    assert torch.equal(other[2]["mask"], masks[2]), "the training seed has no say"


def test_mixed_training_holes_change_with_every_epoch_and_not_with_the_step():
    dataset = mixed(list(MASK_KINDS))
    holes = [dataset[SampleKey(epoch, 1, 5)]["mask"] for epoch in range(8)]
    assert len({tuple(hole.flatten().tolist()) for hole in holes}) == 8
    assert torch.equal(dataset[SampleKey(3, 1, 99)]["mask"], holes[3])


def test_values_lie_in_the_signed_range():
    sample = build_dataset(build_config({"data": {"name": "synthetic", "crop_size": 64}}), "train")[0]
    for name in ("image", "target"):
        assert sample[name].dtype == torch.float32 and -1 <= sample[name].min() < 0 < sample[name].max() <= 1
    assert set(sample["mask"].unique().tolist()) == {0.0, 1.0}


def test_an_image_smaller_than_the_crop_is_named():
    with pytest.raises(InputError, match=r"ramp3: is 100×300 pixels, smaller than data\.crop_size=256"):
        ramps(width=100)[SampleKey(0, 3, 0)]


def test_steps_see_every_image_once_per_epoch_in_a_new_order():
    keys = [key for batch in StepSampler(10, 4, 0, 0, 10) for key in batch]
    epochs = {epoch: [key.image for key in keys if key.epoch == epoch] for epoch in range(4)}
    assert all(sorted(images) == list(range(10)) for images in epochs.values())
    assert len({tuple(images) for images in epochs.values()}) == 4


def test_resuming_continues_the_same_order_in_the_middle_of_an_epoch():
    whole = list(StepSampler(10, 4, 3, 0, 12))
    assert list(StepSampler(10, 4, 3, 7, 12)) == whole[7:]
    assert len(StepSampler(10, 4, 3, 7, 12)) == 5
    assert list(StepSampler(10, 4, 3, 12, 12)) == []


def test_parts_of_a_batch_are_together_the_batch():
    whole = list(StepSampler(10, 4, 3, 2, 12))
    parts = [list(StepSampler(10, 4, 3, 2, 12, slice(start, start + 2))) for start in (0, 2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole
    assert StepSampler(10, 4, 3, 2, 12, slice(2)).keys(2) == whole[0]


def test_a_dataset_smaller_than_a_batch_still_trains():
    batches = list(StepSampler(3, 8, 0, 0, 3))
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert [key.epoch for key in batches[0]] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_workers_change_nothing():
    dataset = ramps({"mask": {"kind": "irregular"}, "data": {"name": "synthetic", "crop_size": 32}})

    def masks(workers: int) -> torch.Tensor:
        loader = DataLoader(dataset, batch_sampler=StepSampler(6, 2, 0, 0, 6), num_workers=workers)
        return torch.cat([batch["mask"] for batch in loader])

    expected = masks(0)
    assert torch.equal(expected, masks(2))
    assert len({tuple(mask.flatten().tolist()) for mask in expected}) == 12


def folder(tmp_path: Path, count: int = 10, size: int = 40) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = tmp_path / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return tmp_path


def settings(root: Path, **data) -> Config:
    return build_config({"data": {"name": "folder", "root": str(root), "crop_size": 32, **data}})


def test_a_root_is_split_and_a_separate_test_root_is_not(tmp_path: Path):
    root = folder(tmp_path / "a")
    train, test = build_dataset(settings(root), "train"), build_dataset(settings(root), "test")
    assert len(train) == 8 and len(test) == 2
    assert not {train.name(i) for i in range(8)} & {test.name(i) for i in range(2)}
    other = folder(tmp_path / "b", 3)
    assert len(build_dataset(settings(root, val_root=str(other)), "train")) == 10
    assert len(build_dataset(settings(root, val_root=str(other)), "test")) == 3


def test_limits_spread_over_the_classes(tmp_path: Path):
    dataset = build_dataset(settings(folder(tmp_path), limit=4), "train")
    assert len(dataset) == 4
    assert {dataset.name(index).split("/")[0] for index in range(4)} == {"class0", "class1"}


@pytest.mark.parametrize(
    ("data", "mask", "expected"),
    [
        ({"root": None}, {}, "data.root: data.name=folder needs a folder"),
        ({"root": "/no/such/place"}, {}, "/no/such/place: no such folder"),
        ({}, {"kind": "files"}, "mask.root: mask.kind=files needs masks"),
        (
            {"name": "aid"},
            {"kind": "files", "root": "x"},
            "mask.kind: 'files' goes with data.name=folder, not aid",
        ),
        (
            {"name": "synthetic", "root": None},
            {"kind": "files", "root": "x"},
            "mask.kind: 'files' goes with data.name=folder, not synthetic",
        ),
        ({"name": "synthetic"}, {}, "data.root: synthetic scenes come from no folder; for the images in /"),
        ({"name": "synthetic", "root": None, "val_root": "x"}, {}, "leave it out (data.val_root=null)"),
        ({"use": "pairs"}, {}, "data.use: 'pairs' goes with data.name=rice1, rice2 or clearview, not folder"),
        ({"name": "aid", "use": "pairs"}, {}, "data.use: 'pairs' goes with data.name=rice1"),
    ],
)
def test_bad_roots_are_one_clear_line(tmp_path: Path, data: dict, mask: dict, expected: str):
    root = folder(tmp_path)
    config = build_config({"data": {"name": "folder", "root": str(root), **data}, "mask": mask})
    with pytest.raises(InputError) as caught:
        build_dataset(config, "test")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["aid", "rice1", "rice2", "clearview"])
def test_bands_and_stretches_that_no_published_dataset_has_are_refused_by_key(tmp_path: Path, name: str):
    data = {"name": name, "root": str(tmp_path)}
    with pytest.raises(
        InputError, match=rf"model\.image_channels: {name} has 1 or 3 channels, not 4; .*folder"
    ):
        build_dataset(build_config({"data": data, "model": {"image_channels": 4}}), "train")
    with pytest.raises(InputError, match=rf"data\.stretch: goes with data\.name=folder, not {name}"):
        build_dataset(build_config({"data": {**data, "stretch": [0, 9]}}), "train")


class Torn(Ramp):
    """Ramps, the second of which lacks pixels, the third all but a corner."""

    def load(self, index: int) -> Scene:
        image = super().load(index).target_HWC
        if index == 1:
            image[60:64, 60:64] = image[200, 10] = np.nan
        if index == 2:
            image[:, 90:] = np.nan
        return Scene(image, image)


def torn(**data) -> InpaintingDataset:
    config = build_config({"data": {"name": "synthetic", "crop_size": 100, **data}})
    return InpaintingDataset(Torn(3, 240, 260), [0, 1, 2], config.data, config.mask, config.seed)


def test_training_crops_hold_no_missing_pixel_and_start_anywhere_else():
    found, plain = torn(augment=False), ramps({"data": {"crop_size": 100, "augment": False}}, 240, 260)
    origins = set()
    for epoch in range(300):
        sample = found[SampleKey(epoch, 1, 0)]
        assert sample["image"].isfinite().all()
        origins.add(origin(sample))
        # A whole scene is cut as ever.
        whole = found[SampleKey(epoch, 0, 0)]
        assert torch.equal(whole["image"], plain[SampleKey(epoch, 0, 0)]["image"])
    assert all(top >= 64 or left >= 64 for top, left in origins)
    assert not any(top <= 200 < top + 100 and left <= 10 for top, left in origins)
    assert {top < 64 for top, _ in origins} == {left < 64 for _, left in origins} == {True, False}


@pytest.mark.parametrize(("rule", "place"), [("paper", (50, 64)), ("center", (70, 80))])
def test_the_test_crop_is_the_nearest_without_missing_pixels(rule: str, place: tuple[int, int]):
    sample = torn(test_crop=rule)[1]
    assert sample["image"].isfinite().all() and origin(sample) == place


def test_a_scene_without_a_complete_crop_is_named_with_what_it_lacks(tmp_path: Path):
    dataset = torn()
    expected = r"^ramp2: 65\.4% of its pixels are missing .* every crop of data\.crop_size=100; take it out"
    for key in (2, SampleKey(0, 2, 0)):
        with pytest.raises(InputError, match=expected):
            dataset[key]
    # With edges in use it is found before training starts.
    detector = SobelDetector()
    cache = EdgeCache(str(tmp_path), detector.fingerprint)
    with pytest.raises(InputError, match=expected):
        prepare_edge_maps(dataset, cache, detector, torch.device("cpu"))


def test_edges_next_to_missing_pixels_are_those_of_the_land(tmp_path: Path):
    detector = SobelDetector()
    cache = EdgeCache(str(tmp_path), detector.fingerprint)
    dataset = torn()
    dataset.indices, dataset.edges = [0, 1], cache
    assert prepare_edge_maps(dataset, cache, detector, torch.device("cpu")) == 2
    whole, lacking = (cache.load(dataset.source.load(index).target_HWC, "") for index in (0, 1))
    assert lacking.shape == (240, 260) and np.abs(whole - lacking).max() < 0.02
    assert dataset[1]["edge"].isfinite().all()


def test_an_image_keeps_its_test_hole_when_others_are_left_out():
    settings = {"mask": {"kind": "cloud", "ratio": 0.3}, "data": {"name": "synthetic", "crop_size": 32}}
    whole = build_dataset(build_config(settings), "test")
    settings["data"]["test_limit"] = 5
    some = build_dataset(build_config(settings), "test")
    for index in range(5):
        same = [whole.name(number) for number in range(len(whole))].index(some.name(index))
        assert torch.equal(some[index]["mask"], whole[same]["mask"])


def test_an_empty_folder_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=str(tmp_path)):
        build_dataset(settings(tmp_path), "train")


def test_a_bad_file_in_a_worker_is_one_clear_line(tmp_path: Path):
    root = folder(tmp_path)
    broken = root / "class0" / "0.png"
    broken.write_bytes(broken.read_bytes()[:300])
    dataset = build_dataset(settings(root, test_fraction=0), "train")
    with pytest.raises(InputError) as caught:
        list(DataLoader(dataset, batch_sampler=StepSampler(10, 2, 0, 0, 5), num_workers=1))
    assert "class0/0.png" in str(caught.value) and "\n" not in str(caught.value)


def test_files_as_masks(tmp_path: Path):
    root = folder(tmp_path / "images", 4)
    for path in root.rglob("*.png"):
        mask = np.zeros((40, 40), np.uint8)
        mask[10:20, 5:30] = 255
        target = tmp_path / "masks" / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(target)
    config = build_config(
        {
            "data": {"name": "folder", "root": str(root), "crop_size": 40},
            "mask": {"kind": "files", "root": str(tmp_path / "masks")},
        }
    )
    sample = build_dataset(config, "test")[0]
    assert sample["mask"].sum() == 250 and sample["mask"][0, 10, 5] == 1


@pytest.mark.parametrize(
    ("name", "root", "crop"),
    [("aid", "aid_150", 128), ("rice1", "rice1", 256), ("folder", "ucmerced_val", 256)],
)
def test_real_datasets_give_training_and_test_samples(shared: Path, name: str, root: str, crop: int):
    config = build_config({"data": {"name": name, "root": str(shared / "data" / root), "crop_size": crop}})
    for part in ("train", "test"):
        dataset = build_dataset(config, part)
        sample = dataset[SampleKey(0, 0, 0) if part == "train" else 0]
        assert sample["target"].shape == (3, crop, crop) and sample["target"].std() > 0.02
        assert sample["mask"].mean().item() == pytest.approx(0.25, abs=0.01)


def test_rice1_in_pairs_gives_cloudy_in_and_clear_out(shared: Path):
    root = str(shared / "data" / "rice1")
    dataset = build_dataset(build_config({"data": {"name": "rice1", "root": root, "use": "pairs"}}), "test")
    sample = dataset[0]
    assert not torch.equal(sample["image"], sample["target"])


def test_training_crops_of_a_pair_hold_some_of_its_hole(tmp_path: Path):
    """A pair without a hole, such as one of even haze, is cropped anywhere."""
    levels = np.random.default_rng(0).integers(0, 150, (160, 200, 3), dtype=np.uint8)
    cloudy = levels.copy()
    cloudy[120:140, 20:40] = 255
    for number, (part, image) in enumerate([("label", levels), ("cloud", cloudy)] * 2):
        (tmp_path / part).mkdir(exist_ok=True)
        Image.fromarray(image if number < 2 else levels).save(tmp_path / part / f"{number // 2}.png")
    data = {
        "name": "rice1",
        "root": str(tmp_path),
        "use": "pairs",
        "crop_size": 32,
        "val_root": str(tmp_path),
    }
    dataset = build_dataset(build_config({"data": data}), "train")
    kept = build_dataset(build_config({"data": data}), "train")
    kept.keep_scenes()
    for epoch in range(40):
        key = SampleKey(epoch, 0, epoch)
        sample = dataset[key]
        assert sample["mask"].any() and not dataset[SampleKey(epoch, 1, epoch)]["mask"].any()
        for again in (dataset[key], kept[key]):
            assert all(torch.equal(again[name], sample[name]) for name in ("image", "target", "mask"))
