"""Protocols: the same measurement has the same hash, any other has another, and changes are noticed."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from igll.config import Config
from igll.data.datasets import build_dataset
from igll.engine.edge_maps import open_edge_cache, prepare_edge_maps
from igll.engine.protocol import Protocol, ProtocolRecorder
from igll.errors import InputError


def protocol(config: Config, batch: int = 2) -> Protocol:
    cache = None
    if config.model.structure_prior in ("oracle", "reference"):
        cache, detector = open_edge_cache(config)
        prepare_edge_maps(build_dataset(config, "test", cache), cache, detector, "cpu")
    dataset = build_dataset(config, "test", cache)
    recorder = ProtocolRecorder()
    for sample in DataLoader(dataset, batch):
        recorder.add(sample)
    return recorder.protocol(dataset, config)


def test_hashes_are_those_of_the_documented_content(small):
    config = small(mask={"kind": "irregular"})
    found = protocol(config)
    dataset = build_dataset(config, "test")
    masks, pixels = hashlib.sha256(), hashlib.sha256()
    for index in range(len(dataset)):
        sample = dataset[index]
        masks.update(b"32x32" + np.packbits(sample["mask"].numpy().astype(bool)).tobytes())
        levels = np.rint((sample["target"].numpy().astype(np.float64) + 1) * 127.5).astype(np.uint16)
        pixels.update((b"(3, 32, 32)" + (257 * levels).astype("<u2").tobytes()) * 2)
    assert found.masks["sha256"] == masks.hexdigest()
    assert found.images["pixels_sha256"] == pixels.hexdigest()
    stored = found.to_json()
    task = {part: stored["parts"][part] for part in ("images", "crop", "masks", "metrics")}
    plain = json.dumps(task, sort_keys=True, separators=(",", ":"))
    assert found.task_sha256 == stored["task_sha256"] == hashlib.sha256(plain.encode()).hexdigest()


def test_what_does_not_change_a_number_does_not_change_the_hash(small):
    config = small(mask={"kind": "irregular"})
    same = small(
        mask={"kind": "irregular", "placement": "center"},  # which irregular holes do not read
        seed=7,
        data={"workers": 2, "augment": False},
        eval={"floors": [], "pictures": 0, "metrics": ["ssim", "psnr_hole", "psnr"]},
    )
    assert protocol(config, batch=1) == protocol(same, batch=2)
    assert protocol(config).sha256 == protocol(same).sha256


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        ("data", {"split_seed": 1}, "images (2 and 2, other names)"),
        ("data", {"test_limit": 1}, "images (2 and 1, other names)"),
        ("data", {"test_crop": "center"}, "crop (32 paper and 32 center)"),
        ("data", {"crop_size": 48}, "crop (32 paper and 48 paper)"),
        ("mask", {"kind": "cloud"}, "masks"),
        ("mask", {"ratio": 0.1}, "masks"),
        ("mask", {"placement": "random"}, "masks"),
        ("eval", {"metrics": ["psnr", "psnr_hole"]}, "metrics (names)"),
    ],
)
def test_every_part_of_the_task_changes_both_hashes_and_is_named(small, section, change, said):
    first, other = protocol(small()), protocol(small(**{section: change}))
    assert first.task_sha256 != other.task_sha256 and first.sha256 != other.sha256
    assert first.differences(other) == [said] and first.differences(first) == []


def test_the_trunk_of_lpips_counts_where_lpips_is_measured(small):
    nets = ("alex", "squeeze")
    with_lpips = [protocol(small(eval={"metrics": ["psnr", "lpips"], "lpips_net": net})) for net in nets]
    without = [protocol(small(eval={"metrics": ["psnr"], "lpips_net": net})) for net in nets]
    assert with_lpips[0].differences(with_lpips[1]) == ["metrics (lpips_net)"]
    assert without[0] == without[1]


def test_the_structure_prior_changes_the_protocol_but_not_the_task(small):
    blind = protocol(small())
    oracle = protocol(small(model={"structure_prior": "oracle"}))
    assert blind.task_sha256 == oracle.task_sha256 and blind.sha256 != oracle.sha256
    assert oracle.oracle and not blind.oracle
    assert oracle.structure == {"prior": "oracle", "detector": "sobel-1", "edges_of": "ground truth"}
    assert blind.structure == {"prior": "learned", "edges_of": "nothing"}
    assert oracle.name == "synthetic-square25-paper32-oracle"


def folder(root: Path, seed: int) -> Path:
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / f"{number}.png")
    return root


def test_other_pixels_under_equal_names_are_noticed(small, tmp_path: Path):
    data = {"name": "folder", "root": str(folder(tmp_path / "My Scenes", 0))}
    before = protocol(small(data=data))
    folder(tmp_path / "My Scenes", 1)
    after = protocol(small(data=data))
    assert before.differences(after) == ["images (equal names, other pixels)"]
    assert before.name == "my_scenes-square25-paper32-learned"


def test_other_mask_files_under_equal_names_are_noticed(small, tmp_path: Path):
    data = {"name": "folder", "root": str(folder(tmp_path / "images", 0))}
    mask = {"kind": "files", "root": str(folder(tmp_path / "masks", 1))}
    before = protocol(small(data=data, mask=mask))
    folder(tmp_path / "masks", 2)
    assert before.differences(protocol(small(data=data, mask=mask))) == ["masks"]
    assert before.name == "images-files-paper32-learned"


def test_reference_images_are_part_of_the_structure(small, tmp_path: Path):
    data = {"name": "folder", "root": str(folder(tmp_path / "images", 0))}
    data["reference_root"] = str(folder(tmp_path / "before", 1))
    config = small(data=data, model={"structure_prior": "reference"})
    first = protocol(config)
    folder(tmp_path / "before", 2)
    second = protocol(config)
    assert not first.oracle and first.structure["edges_of"] == "reference images"
    assert first.task_sha256 == second.task_sha256 and first.sha256 != second.sha256


def test_a_stored_protocol_comes_back_and_a_changed_one_does_not(small):
    found = protocol(small(mask={"ratio": [0.1, 0.4]}))
    stored = json.loads(json.dumps(found.to_json()))
    assert Protocol.from_json(stored, "x") == found
    assert found.name == "synthetic-square10to40-paper32-learned"
    for path in (("masks", "sha256"), ("images", "count"), ("metrics", "version"), ("structure", "prior")):
        changed = copy.deepcopy(stored)
        changed["parts"][path[0]][path[1]] = "other"
        with pytest.raises(InputError, match=r"x: protocol.*hash to.*changed, evaluate again"):
            Protocol.from_json(changed, "x")
    for key in ("task_sha256", "sha256"):
        with pytest.raises(InputError, match=f"protocol.{key} is 000000000000"):
            Protocol.from_json({**stored, key: "0" * 64}, "x")
    for broken in (None, {}, {**stored, "parts": {}}, {**stored, "parts": dict.fromkeys(stored["parts"], 1)}):
        with pytest.raises(InputError, match="x: has no complete protocol"):
            Protocol.from_json(broken, "x")
