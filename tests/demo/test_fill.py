from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import igll
from igll.baselines import CLASSICAL
from igll.config import build_config
from igll.data.files import read_mask
from igll.data.masks import grow_hole
from igll.demo.fill import (
    EXAMPLES,
    MAX_PIXELS,
    Hole,
    Method,
    classical_method,
    fill_upload,
    open_mask,
    open_upload,
    painted_hole,
    trained_method,
    write_example,
)
from igll.engine.checkpoint import save_checkpoint
from igll.errors import InputError
from igll.registry import build_generator

RNG = np.random.default_rng(3)
SIZE = (21, 34)  # height, width
COLOUR = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, SIZE, dtype=np.uint8)
HOLE = np.zeros(SIZE, dtype=bool)
HOLE[5:12, 20:30] = True
HARMONIC = classical_method("harmonic")


def layer(hole_HW: np.ndarray) -> np.ndarray:
    rgba = np.zeros((*hole_HW.shape, 4), dtype=np.uint8)
    rgba[hole_HW] = (235, 64, 140, 191)
    return rgba


def save(path: Path, image, **options) -> Path:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def checkpoint(path: Path, **model) -> Path:
    config = build_config({"model": {"width": 4, **model}, "edges": {"detector": "sobel"}, "device": "cpu"})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = build_generator(config.model).state_dict()
    save_checkpoint(path, {"generator": state, "ema": state, "config": config.model_dump(), "step": 1})
    return path


# --- methods


@pytest.mark.parametrize("image", [COLOUR, COLOUR[:, :, 1]], ids=["colour", "grey"])
def test_a_method_without_training_fills_what_it_fills_elsewhere(image):
    unit_1CHW = torch.from_numpy(np.atleast_3d(image).transpose(2, 0, 1)[None] / 255)
    wanted_1CHW = CLASSICAL["harmonic"](unit_1CHW, torch.from_numpy(HOLE)[None, None].double())
    wanted = wanted_1CHW[0].permute(1, 2, 0).numpy().reshape(image.shape) * 255
    filled = np.asarray(HARMONIC.fill(Image.fromarray(image), HOLE))
    assert np.abs(filled - wanted).max() <= 0.5 + 1e-3
    assert HARMONIC.title == "harmonic (Laplace)"


def test_a_network_fills_as_from_python(tmp_path):
    path = checkpoint(tmp_path / "best.pt", structure_prior="learned")
    method = trained_method(path, ["device=cpu"])
    wanted = igll.load(path, device="cpu").inpaint(Image.fromarray(COLOUR), HOLE)
    assert np.array_equal(method.fill(Image.fromarray(COLOUR), HOLE), wanted)
    assert method.title == "IGLL (best.pt)"


def test_without_a_checkpoint_the_shipped_weights_fill():
    method = trained_method()
    assert method.title == "IGLL (igll-small)"
    filled = np.asarray(method.fill(Image.fromarray(COLOUR), HOLE))
    assert np.array_equal(filled, igll.load().inpaint(COLOUR, HOLE))


def test_networks_that_the_page_cannot_serve(tmp_path):
    with pytest.raises(InputError, match="oracle edges"):
        trained_method(checkpoint(tmp_path / "oracle.pt", structure_prior="oracle"))
    four = trained_method(checkpoint(tmp_path / "four.pt", structure_prior="learned", image_channels=4))
    image = save(tmp_path / "rgb.png", COLOUR)
    with pytest.raises(InputError, match="3 channel"):
        fill_upload(four, image, Hole([layer(HOLE)]), tmp_path)


# --- holes


def test_painted_is_whatever_is_not_wholly_transparent():
    one, two = layer(HOLE), layer(np.zeros(SIZE, dtype=bool))
    two[0, 0, 3] = 1
    wanted = HOLE.copy()
    wanted[0, 0] = True
    assert np.array_equal(painted_hole([one, two], SIZE[::-1]), wanted)
    assert not painted_hole([], SIZE[::-1]).any()
    assert np.array_equal(painted_hole([one, two[:-1, :, :] * 0], SIZE[::-1]), HOLE)
    with pytest.raises(InputError, match="does not fit"):
        painted_hole([one[:-1]], SIZE[::-1])


# --- filling a file

UPLOADS = {
    "rgb.png": (Image.fromarray(COLOUR), {}),
    "grey.png": (Image.fromarray(ALPHA), {}),
    "alpha.png": (Image.fromarray(np.dstack([COLOUR, ALPHA])), {}),
    "grey_alpha.png": (Image.fromarray(np.dstack([COLOUR[:, :, 0], ALPHA])), {}),
    "palette.png": (Image.fromarray(COLOUR).quantize(40), {}),
    "bits.png": (Image.fromarray(ALPHA > 127), {}),
    "rgb.tif": (Image.fromarray(COLOUR), {"compression": "tiff_lzw", "dpi": (300, 300)}),
    "grey.tiff": (Image.fromarray(ALPHA), {}),
    "photo.jpg": (Image.fromarray(COLOUR), {"quality": 60}),
    "lossy.webp": (Image.fromarray(COLOUR), {"quality": 60}),
    "alpha.webp": (Image.fromarray(np.dstack([COLOUR, ALPHA])), {"lossless": True, "exact": True}),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_known_pixels_and_mode_of_every_sort_of_upload_come_back(tmp_path, name):
    image, options = UPLOADS[name]
    path = save(tmp_path / name, image, **options)
    done = fill_upload(HARMONIC, path, Hole([layer(HOLE)]), tmp_path / "out")
    assert done.picture == tmp_path / "out" / f"{path.stem}_filled.png"
    with Image.open(path) as before, Image.open(done.picture) as after:
        assert after.format == "PNG"
        assert after.mode == before.mode
        assert np.array_equal(np.asarray(after)[~HOLE], np.asarray(before)[~HOLE])
        assert (np.asarray(after)[HOLE] != np.asarray(before)[HOLE]).any()
        shown_before, shown_after = before.convert("RGB"), after.convert("RGB")
    assert np.array_equal(done.after_HWC, shown_after)
    assert np.array_equal(done.before_HWC[~HOLE], np.asarray(shown_before)[~HOLE])
    assert (done.before_HWC[HOLE] == (235, 64, 140)).all()
    assert np.array_equal(read_mask(done.mask), HOLE)


def test_the_hole_is_what_is_painted_and_what_the_mask_marks_grown_together(tmp_path):
    path = save(tmp_path / "rgb.png", COLOUR)
    marked = np.zeros(SIZE, dtype=bool)
    marked[2, 3] = True
    mask = save(tmp_path / "mask.tif", marked.astype(np.uint8) * np.uint8(255))
    done = fill_upload(HARMONIC, path, Hole([layer(HOLE)], mask, 2), tmp_path)
    wanted = grow_hole(HOLE | marked, 2)
    assert np.array_equal(read_mask(done.mask), wanted)
    share = 100 * wanted.mean()
    assert done.status.startswith(f"{wanted.sum()} pixels filled ({share:.1f} % of the image) in 0.")
    assert done.status.endswith("s by harmonic (Laplace). Filled pixels are plausible, not measured.")


def test_holes_that_cannot_be_filled(tmp_path):
    path = save(tmp_path / "rgb.png", COLOUR)
    with pytest.raises(InputError, match="no hole yet"):
        fill_upload(HARMONIC, path, Hole(growth=5), tmp_path)
    for everything in (Hole([layer(~HOLE), layer(HOLE)]), Hole([layer(~HOLE)], growth=20)):
        with pytest.raises(InputError, match="covers the whole image"):
            fill_upload(HARMONIC, path, everything, tmp_path)
    small = save(tmp_path / "small.png", np.full((5, 6), 255, dtype=np.uint8))
    with pytest.raises(InputError, match=r"^small.png: the mask has 6 × 5 pixels, the image 34 × 21;"):
        open_mask(small, SIZE[::-1])
    assert not list(tmp_path.glob("*_filled.png"))


def test_lack_of_memory_is_one_line(tmp_path):
    path = save(tmp_path / "rgb.png", COLOUR)
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):

        def fill(image, hole_HW, error=error):
            raise error

        with pytest.raises(InputError, match="not enough memory"):
            fill_upload(Method("greedy", fill), path, Hole([layer(HOLE)]), tmp_path)


def test_images_that_the_page_refuses(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    side = int(MAX_PIXELS**0.5)
    deep = save(tmp_path / "deep.png", np.full(SIZE, 40_000, dtype=np.uint16))
    for path, reason in (
        (broken, "not an image in a known format"),
        (save(tmp_path / "large.png", Image.new("1", (side, side + 1))), "1,048,576 pixels.*igll-infer"),
        (save(tmp_path / "long.png", Image.new("1", (5000, 2))), "4,096 on a side.*igll-infer"),
        (save(tmp_path / "bomb.png", Image.new("1", (20_000, 20_000))), "1,048,576 pixels.*igll-infer"),
        (deep, "more than 8 bits per channel"),
    ):
        with pytest.raises(InputError, match=rf"^{path.name}: .*{reason}"):
            open_upload(path)
    largest = save(tmp_path / "largest.png", Image.new("1", (side, side)))
    assert open_upload(largest).image.size == (side, side)


# --- examples


@pytest.mark.parametrize("title", EXAMPLES)
def test_examples_have_a_cloud_to_fill(tmp_path, title):
    image, mask = write_example(title, tmp_path)
    size = open_upload(image).image.size
    assert 0.1 < open_mask(mask, size).mean() < 0.2
    again = write_example(title, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [image.read_bytes(), mask.read_bytes()]
