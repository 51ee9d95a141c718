"""What all fillings promise; the simplest ones against NumPy and against rasterio band by band."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import torch

from igll.baselines import CLASSICAL, fill_nodata, harmonic, mean_of_known, nearest
from igll.errors import InputError
from tests.baselines.cases import holes

EVERY = pytest.mark.parametrize("fill", CLASSICAL.values(), ids=CLASSICAL)


def test_the_registry():
    assert all(fill.__name__ == name for name, fill in CLASSICAL.items())
    assert list(CLASSICAL) == [
        "mean_of_known",
        "nearest",
        "fill_nodata",
        "harmonic",
        "telea",
        "navier_stokes",
        "biharmonic",
        "patch_match",
        "halrtc",
        "tensor_nuclear_norm",
    ]


@EVERY
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_known_pixels_stay_and_what_is_under_the_mask_is_never_seen(fill, channels):
    image, mask = holes(channels=channels)
    before = image.clone()
    filled = fill(image, mask)
    assert torch.equal(image, before)
    assert filled.shape == image.shape and filled.dtype == image.dtype
    known = (mask < 0.5).expand_as(image)
    assert torch.equal(filled[known], image[known])
    assert torch.equal(filled[2], image[2])
    assert filled.isfinite().all()
    for hidden in (7.0, float("nan")):
        assert torch.equal(fill(image.masked_fill(mask > 0.5, hidden), mask), filled)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_comes_back(fill, dtype):
    image, mask = holes()
    image = image.to(dtype)
    filled = fill(image, mask.to(dtype))
    assert filled.dtype == dtype and filled.isfinite().all()
    assert torch.equal(filled[2], image[2])
    known = (mask < 0.5).expand_as(image)
    assert torch.equal(filled[known], image[known])


@EVERY
def test_fillings_follow_brightness_and_contrast(fill):
    """Of each channel by itself, as bands of a satellite have."""
    rng = np.random.default_rng(3)
    image = torch.from_numpy(rng.integers(0, 256, (1, 3, 24, 30))).double()
    image[..., 0, 0], image[..., 0, 1] = 0, 255  # so that 8 bits hold the known values exactly
    mask = torch.zeros(1, 1, 24, 30)
    mask[..., 6:18, 8:22] = 1
    gain = torch.tensor([1 / 255, 40.0, 3e-4]).double()[:, None, None]
    offset = torch.tensor([-0.5, 7000.0, 0.0]).double()[:, None, None]
    changed = (fill(image * gain + offset, mask) - offset) / gain
    assert float((changed - fill(image, mask)).abs().max()) < 0.01  # of 255


@EVERY
def test_a_constant_image_is_continued(fill):
    mask = holes()[1]
    image = torch.full((3, 2, 30, 41), 1234.5)
    image[:, 1] = 0.1
    assert torch.allclose(fill(image.masked_fill(mask > 0.5, 9.0), mask), image, rtol=1e-6, atol=0)


@EVERY
def test_one_known_pixel_is_enough(fill):
    mask = torch.ones(1, 1, 9, 12)
    mask[..., 3, 4] = 0
    image = torch.rand((1, 3, 9, 12), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(fill(image, mask), image[..., 3:4, 4:5].expand_as(image), rtol=1e-6)


@EVERY
def test_images_are_filled_each_for_itself(fill):
    image, mask = holes()
    together = fill(image, mask)
    for index in range(3):
        alone = fill(image[index : index + 1], mask[index : index + 1])
        assert torch.equal(alone[0], together[index])


def test_nearest_is_nearest():
    image, mask = holes()
    filled = nearest(image, mask)
    for b in range(2):
        known = np.argwhere(mask[b, 0].numpy() < 0.5)
        for y, x in np.argwhere(mask[b, 0].numpy() > 0.5)[::7]:
            squares = ((known - (y, x)) ** 2).sum(1)
            closest = known[squares == squares.min()]
            assert any(torch.equal(filled[b, :, y, x], image[b, :, v, u]) for v, u in closest)


@pytest.mark.parametrize("scale", [1.0, 10_000.0])
def test_mean_of_known_equals_numpy(scale):
    image, mask = holes()
    image = image * scale + scale  # a range of its own
    filled = mean_of_known(image, mask)
    for b in range(2):
        hole = mask[b, 0].numpy() > 0.5
        for c in range(3):
            expected = image[b, c].double().numpy()[~hole].mean()
            assert filled[b, c].numpy()[hole] == pytest.approx(expected, rel=1e-6)


def test_fill_nodata_equals_rasterio_band_by_band():
    from rasterio.fill import fillnodata

    image, mask = holes()
    filled = fill_nodata(image, mask).numpy()
    for b in range(2):
        hole = mask[b, 0].numpy() > 0.5
        for c in range(3):
            # 100 px, rasterio's own default, spans these 30 x 41 px as well.
            expected = fillnodata(image[b, c].numpy().copy(), mask=(~hole).astype(np.uint8))
            assert np.array_equal(filled[b, c], expected)
    assert not np.array_equal(filled[0], mean_of_known(image, mask)[0].numpy())


def test_fill_nodata_reaches_across_any_hole():
    image = torch.full((1, 1, 180, 400), -0.5)
    mask = torch.ones(1, 1, 180, 400)
    mask[..., -1, 0] = 0  # one known pixel, in a corner
    assert torch.equal(fill_nodata(image.masked_fill(mask > 0.5, 9.0), mask), image)


def test_harmonic_equals_a_dense_solution():
    """Of one equation per pixel of the image: known ones keep their value, others have no Laplacian."""
    image, mask = holes()
    image = image.double()
    filled, hole = harmonic(image, mask).numpy(), mask[:, 0].numpy() > 0.5
    height, width = hole.shape[1:]
    for b in range(2):
        system = np.eye(height * width)
        for y, x in np.argwhere(hole[b]):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [v * width + u for v, u in around if 0 <= v < height and 0 <= u < width]
            system[y * width + x, inside] = -1
            system[y * width + x, y * width + x] = len(inside)
        right = np.where(hole[b], 0, image[b].numpy()).reshape(3, -1).T
        expected = np.linalg.solve(system, right).T.reshape(3, height, width)
        assert np.abs(filled[b] - expected).max() < 1e-12


def test_harmonic_pixels_are_the_mean_of_their_neighbours_on_a_large_hole():
    image = torch.rand((1, 2, 256, 256), generator=torch.Generator().manual_seed(0)).double()
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., 16:241, 16:241] = 1  # 77 %
    start = time.process_time()
    filled = harmonic(image, mask)[0].numpy()
    assert time.process_time() - start < 2  # 0.2 s on one core
    means = (
        filled[:, :-2, 1:-1] + filled[:, 2:, 1:-1] + filled[:, 1:-1, :-2] + filled[:, 1:-1, 2:]
    ) / 4  # of pixels 1 to 254
    assert np.abs(filled[:, 16:241, 16:241] - means[:, 15:240, 15:240]).max() < 1e-13
    known = image[0, :, mask[0, 0] < 0.5]
    assert filled.min() >= known.min() and filled.max() <= known.max()


@pytest.mark.parametrize("shape", [(1, 7), (7, 1)])
def test_harmonic_joins_the_ends_of_a_line_by_a_straight_one(shape):
    image = torch.arange(7.0).view(1, 1, *shape)
    mask = torch.zeros(1, 1, *shape)
    mask.view(-1)[2:6] = 1
    assert torch.allclose(harmonic(image.masked_fill(mask > 0.5, 9.0), mask), image, rtol=1e-6, atol=0)
    mask.view(-1)[6] = 1  # nothing to hold this end: constant from the last known one on
    assert torch.allclose(harmonic(image, mask), image.clamp(max=1.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("fill_nodata", "rasterio.fill", r'rasterio; pip install "igll\[geo\]"'),
        ("telea", "cv2", r'opencv-python-headless; pip install "igll\[baselines\]"'),
        ("navier_stokes", "cv2", r'opencv-python-headless; pip install "igll\[baselines\]"'),
        ("biharmonic", "skimage.restoration", r'scikit-image; pip install "igll\[baselines\]"'),
        ("patch_match", "patchmatch", r'pypatchmatch .*; pip install "igll\[baselines\]"'),
    ],
)
def test_without_the_package(name, module, message, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"^{name}: needs the package {message}$"):
        CLASSICAL[name](*holes())


@EVERY
def test_masks_that_do_not_fit(fill):
    image, mask = holes()
    with pytest.raises(InputError, match="mask: needs the shape"):
        fill(image, mask[..., :-1])
    mask[1] = 1
    with pytest.raises(InputError, match="mask 1 of the batch: every pixel is missing"):
        fill(image, mask)


def test_floors_on_real_images(shared):
    """Central 64-px crops with a central 32-px hole: 24.41, 25.39 and 26.10 dB in the hole."""
    from PIL import Image

    from igll.metrics.image import hole_psnr

    files = sorted((shared / "data" / "rsscn7" / "val").glob("*/*.webp"))
    crops = [np.asarray(Image.open(file).convert("RGB"))[96:160, 96:160] for file in files]
    target = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
    mask = torch.zeros(len(target), 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    assert len(target) == 140
    for fill, published in ((mean_of_known, 24.41), (fill_nodata, 25.39), (harmonic, 26.10)):
        filled = fill(target, mask).clamp(0, 1)
        assert float(hole_psnr(filled, target, mask).mean()) == pytest.approx(published, abs=0.005)
