"""Holes of real shapes: windows of mask files, for every image the same on every call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igll.data.files import read_mask
from igll.data.real_masks import SHARES, cut_window, write_masks
from igll.errors import InputError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for name, size in (("a/1.png", (24, 16)), ("b/1.jpg", (24, 16)), ("b/2.png", (20, 20))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(root / name)
    return root


def save(mask_HW: np.ndarray, path: Path) -> Path:
    Image.fromarray(mask_HW.astype(np.uint8) * 255).save(path)
    return path


def test_a_window_is_a_part_of_the_mask_or_its_mirror_image():
    mask_HW = np.random.default_rng(0).random((40, 50)) < 0.3
    seen = set()
    for seed in range(40):
        window_HW = cut_window([mask_HW], 16, 24, np.random.default_rng(seed))
        found = [
            (down, right)
            for down in (1, -1)
            for right in (1, -1)
            for top in range(25)
            for left in range(27)
            if np.array_equal(mask_HW[top : top + 16, left : left + 24][::down, ::right], window_HW)
        ]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) == 4


def test_windows_without_a_hole_or_with_hardly_anything_else_are_passed_over():
    half_HW = np.zeros((32, 200), bool)
    half_HW[:, 100:] = True
    shares = [cut_window([half_HW], 32, 32, np.random.default_rng(seed)).mean() for seed in range(20)]
    assert min(shares) >= SHARES[0] and max(shares) <= SHARES[1]
    assert cut_window([np.ones((40, 40), bool)], 32, 32, np.random.default_rng(0)) is None
    assert cut_window([half_HW], 33, 32, np.random.default_rng(0)) is None


def test_every_image_gets_a_mask_of_its_size_and_name(images: Path, tmp_path: Path):
    rng = np.random.default_rng(1)
    files = [save(rng.random((64, 64)) < share, tmp_path / f"{share}.png") for share in (0.2, 0.4)]
    folder = write_masks(images, files, tmp_path / "out")
    masks = {path.relative_to(folder).as_posix(): read_mask(path) for path in folder.rglob("*.png")}
    assert {name: mask.shape for name, mask in masks.items()} == {
        "a/1.png": (16, 24), "b/1.png": (16, 24), "b/2.png": (20, 20),
    }  # fmt: skip
    assert not np.array_equal(masks["a/1.png"], masks["b/1.png"])
    again = write_masks(images, files, tmp_path / "elsewhere")
    assert again.name == folder.name
    assert all(np.array_equal(read_mask(again / name), mask) for name, mask in masks.items())
    # Other mask files are other holes, and must not be taken for these.
    assert write_masks(images, files[:1], tmp_path / "out") != folder


def test_masks_that_are_too_small_are_named(images: Path, tmp_path: Path):
    small = save(np.eye(18) > 0, tmp_path / "small.png")
    with pytest.raises(InputError, match=r"1\.png: no window of 24×16 pixels in .*small\.png has 5% to 60%"):
        write_masks(images, [small], tmp_path / "out")


def test_masks_follow_the_images(images: Path, tmp_path: Path):
    source = save(np.random.default_rng(1).random((64, 64)) < 0.3, tmp_path / "source.png")
    folder = write_masks(images, [source], tmp_path / "out")
    dates = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert write_masks(images, [source], tmp_path / "out") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == dates, "left as they were"

    (images / "a/1.png").unlink()  # the others move up, and take its number
    Image.new("RGB", (30, 12)).save(images / "b/2.png")
    (folder / "b/1.png").write_bytes(b"damaged")
    assert write_masks(images, [source], tmp_path / "out") == folder
    fresh = write_masks(images, [source], tmp_path / "elsewhere")
    found, expected = (
        {path.relative_to(place).as_posix(): read_mask(path) for path in place.rglob("*.png")}
        for place in (folder, fresh)
    )
    assert found.keys() == expected.keys() == {"b/1.png", "b/2.png"}
    assert all(np.array_equal(found[name], mask_HW) for name, mask_HW in expected.items())
    assert found["b/2.png"].shape == (12, 30)


def test_images_that_would_share_a_mask_are_refused(images: Path, tmp_path: Path):
    source = save(np.random.default_rng(1).random((64, 64)) < 0.3, tmp_path / "source.png")
    Image.new("RGB", (24, 16)).save(images / "b/1.png")
    with pytest.raises(InputError, match=r"b/1\.png: has the name of 1\.jpg beside it but for the suffix"):
        write_masks(images, [source], tmp_path / "out")
    assert not (tmp_path / "out").exists()
