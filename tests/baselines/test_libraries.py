"""OpenCV, scikit-image and PyPatchMatch behind the common interface; the order of methods on real images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import laplace
from torch import Tensor

from igll.baselines import CLASSICAL, biharmonic, navier_stokes, patch_match, telea
from igll.metrics.image import hole_psnr
from tests.baselines.cases import holes

FLAGS = {telea: cv2.INPAINT_TELEA, navier_stokes: cv2.INPAINT_NS}
OPENCV = pytest.mark.parametrize("fill", FLAGS, ids=lambda fill: fill.__name__)


def _smooth_picture() -> tuple[Tensor, Tensor]:
    """Waves on 8-bit levels with a hole, all values from 0 to 255 known somewhere."""
    y, x = np.mgrid[:60, :70]
    waves = [np.sin(x / 9 + c) * np.cos(y / 11 - c) for c in range(3)]
    image = torch.from_numpy(np.stack(waves) * 127.5 + 127.5).round().float()[None]
    image[..., 0, 0], image[..., 0, 1] = 0, 255
    mask = torch.zeros(1, 1, 60, 70)
    mask[..., 20:38, 25:50] = 1
    return image, mask


@OPENCV
@pytest.mark.parametrize("radius", [3.0, 6.0])
def test_opencv_agrees_with_its_own_8_bits(fill, radius):
    """Up to their rounding, which the march from the rim carries on: here by 1 and 0.4 levels of 255."""
    image, mask = _smooth_picture()
    filled = fill(image, mask, radius=radius)
    picture = image[0].permute(1, 2, 0).numpy().astype(np.uint8)
    expected = cv2.inpaint(picture, mask[0, 0].numpy().astype(np.uint8), radius, FLAGS[fill])
    difference = filled[0].permute(1, 2, 0).numpy() - expected
    assert np.median(np.abs(difference[mask[0, 0].numpy() > 0.5])) < 1.5


@OPENCV
def test_radius_changes_the_filling(fill):
    image, mask = holes()
    assert not torch.equal(fill(image, mask), fill(image, mask, radius=6.0))
    assert torch.equal(fill(image, mask), fill(image, mask, radius=3.0))


@OPENCV
def test_opencv_stays_between_the_known_values(fill):
    image, mask = holes(seed=5)
    filled = fill(image, mask)
    known = image.masked_fill(mask > 0.5, 0)
    for channel in range(3):
        low, high = known[:2, channel].amin((1, 2)), known[:2, channel].amax((1, 2))
        assert (filled[:2, channel].amin((1, 2)) >= low - 1e-4).all()
        assert (filled[:2, channel].amax((1, 2)) <= high + 1e-4).all()


def test_biharmonic_solves_its_equation():
    """Where no value is cut, the Laplacian of the Laplacian is zero in the hole."""
    image, mask = _smooth_picture()
    image, hole = image.double(), mask[0, 0].numpy() > 0.5
    filled = biharmonic(image, mask)[0].numpy()
    for channel in filled:
        assert channel[hole].min() > 0 and channel[hole].max() < 255
        assert np.abs(laplace(laplace(channel))[hole]).max() < 1e-8
        assert np.abs(laplace(laplace(channel))[~hole]).max() > 0.1


def test_biharmonic_continues_a_cubic():
    y, x = np.mgrid[-1:1:40j, -1:1:50j]
    image = torch.from_numpy(np.stack([x**3 - 2 * x * y**2 + y, x * y - x + 0.3]))[None]
    mask = torch.zeros(1, 1, 40, 50)
    mask[..., 8:30, 12:40] = 1
    assert torch.allclose(biharmonic(image.masked_fill(mask > 0.5, 5.0), mask), image, rtol=0, atol=1e-8)


def _texture() -> tuple[Tensor, Tensor]:
    tile = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 8, 8))).float() / 255
    image = tile.repeat(1, 8, 8)[None]
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:44, 24:40] = 1
    return image, mask


def test_texture_is_continued_by_patches_and_low_rank_not_by_smooth_surfaces():
    """A tile repeated: 20 dB by patches, exact by low rank, 11 dB at most by all others."""
    image, mask = _texture()
    quality = {
        name: float(hole_psnr(fill(image, mask).clamp(0, 1), image, mask)) for name, fill in CLASSICAL.items()
    }
    assert quality.pop("halrtc") > 70 and quality.pop("tensor_nuclear_norm") > 70
    assert quality.pop("patch_match") > max(quality.values()) + 6


def test_patch_match_repeats_itself_from_its_seed():
    image, mask = holes()
    first, other = patch_match(image, mask, seed=1), patch_match(image, mask, seed=2)
    assert not torch.equal(first, other)
    assert torch.equal(patch_match(image, mask, seed=1), first)
    assert not torch.equal(patch_match(image, mask, seed=1, patch_radius=2), first)


def test_patch_match_takes_channels_three_at_a_time():
    image, mask = holes(channels=3)
    filled = patch_match(image, mask)
    twice = patch_match(torch.cat([image, image[:, :1]], dim=1), mask)
    assert torch.equal(twice[:, :3], filled)
    assert torch.equal(twice[:, 3:], patch_match(image[:, :1], mask))


@pytest.fixture(scope="module")
def aid(shared) -> Tensor:
    """144-px crops of six AID images, each of another class, in [0, 1]."""
    files = sorted((shared / "data" / "aid_150").glob("*/*.jpg"))[::50]
    crops = [np.asarray(Image.open(file).convert("RGB"))[3:147, 3:147] for file in files]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255


def _quality(names: list[str], image: Tensor, mask_HW: Tensor) -> dict[str, Tensor]:
    """PSNR in the hole of each image, in dB."""
    mask = mask_HW.expand(len(image), 1, -1, -1)
    return {name: hole_psnr(CLASSICAL[name](image, mask).clamp(0, 1), image, mask) for name in names}


def test_the_order_on_real_images_with_a_block_missing(aid):
    """Means over 20 images: 19.0, 18.8, 18.7 dB by interpolation, 17.5 by the nearest, 17.0 biharmonic."""
    mask = torch.zeros(144, 144)
    mask[36:108, 36:108] = 1
    smooth = ["fill_nodata", "harmonic", "telea", "navier_stokes"]
    quality = _quality([*smooth, "nearest", "biharmonic"], aid, mask)
    for name in smooth:
        assert quality[name].mean() > quality["nearest"].mean() + 0.8
        assert quality[name].mean() > quality["biharmonic"].mean() + 0.5
    for name in ("fill_nodata", "telea"):
        assert (quality[name] > quality["nearest"]).all()
        assert quality["harmonic"].mean() > quality[name].mean() + 0.6


def test_the_order_on_real_images_with_half_of_the_pixels_missing(aid):
    """Means over 20 images: 24.3 to 24.9 dB by interpolation, 22.8 low rank, 22.7 the nearest, 19.2 mean."""
    mask = (torch.rand(96, 96, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    quality = _quality(list(CLASSICAL), aid[..., 24:120, 24:120], mask)
    for name in ("fill_nodata", "harmonic", "telea", "navier_stokes", "biharmonic", "patch_match"):
        for below in ("nearest", "halrtc"):
            assert quality[name].mean() > quality[below].mean() + 0.8
    assert (quality["fill_nodata"] > quality["halrtc"]).all()
    for name in ("halrtc", "tensor_nuclear_norm"):
        assert quality[name].mean() > quality["mean_of_known"].mean() + 1.5
