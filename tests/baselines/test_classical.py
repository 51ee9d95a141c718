"""The floors: against NumPy and against rasterio band by band."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from igll.baselines import CLASSICAL, fill_nodata, mean_of_known
from igll.errors import InputError

EVERY = pytest.mark.parametrize("fill", CLASSICAL.values(), ids=CLASSICAL)


def _case(seed: int = 0, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Three images in [-1, 1] with a block, scattered pixels, and no hole at all."""
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.uniform(-1, 1, (3, channels, 30, 41))).float()
    mask = torch.zeros(3, 1, 30, 41)
    mask[0, :, 4:22, 10:41] = 1  # reaches the border
    mask[1] = torch.from_numpy(rng.random((1, 30, 41)) < 0.4)
    return image, mask


def test_the_registry():
    assert {"mean_of_known": mean_of_known, "fill_nodata": fill_nodata} == CLASSICAL


@EVERY
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_known_pixels_stay_and_what_is_under_the_mask_is_never_seen(fill, channels):
    image, mask = _case(channels=channels)
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


@pytest.mark.parametrize("scale", [1.0, 10_000.0])
def test_mean_of_known_equals_numpy(scale):
    image, mask = _case()
    image = image * scale + scale  # a range of its own
    filled = mean_of_known(image, mask)
    for b in range(2):
        hole = mask[b, 0].numpy() > 0.5
        for c in range(3):
            expected = image[b, c].double().numpy()[~hole].mean()
            assert filled[b, c].numpy()[hole] == pytest.approx(expected, rel=1e-6)


def test_fill_nodata_equals_rasterio_band_by_band():
    from rasterio.fill import fillnodata

    image, mask = _case()
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


def test_fill_nodata_without_rasterio(monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio.fill", None)
    with pytest.raises(InputError, match=r"rasterio; pip install \"igll\[geo\]\""):
        fill_nodata(*_case())


@EVERY
def test_masks_that_do_not_fit(fill):
    image, mask = _case()
    with pytest.raises(InputError, match="mask: needs the shape"):
        fill(image, mask[..., :-1])
    mask[1] = 1
    with pytest.raises(InputError, match="mask 1 of the batch: every pixel is missing"):
        fill(image, mask)


def test_the_published_floors_on_real_images(shared):
    """Central 64-px crops with a central 32-px hole: 24.41 and 25.39 dB in the hole."""
    from PIL import Image

    from igll.metrics.image import hole_psnr

    files = sorted((shared / "data" / "rsscn7" / "val").glob("*/*.webp"))
    crops = [np.asarray(Image.open(file).convert("RGB"))[96:160, 96:160] for file in files]
    target = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
    mask = torch.zeros(len(target), 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    assert len(target) == 140
    assert float(hole_psnr(mean_of_known(target, mask), target, mask).mean()) == pytest.approx(
        24.41, abs=0.005
    )
    filled = fill_nodata(target, mask).clamp(0, 1)
    assert float(hole_psnr(filled, target, mask).mean()) == pytest.approx(25.39, abs=0.005)
