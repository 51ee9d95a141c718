"""PSNR, SSIM and MS-SSIM against scikit-image and SciPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from igll.errors import InputError
from igll.metrics import MetricUnavailableError, image


def _pair(batch: int, side: int, channels: int = 3, width: int | None = None):
    """Smooth 8-bit images and noisier and noisier versions of them, float32 in [0, 1]."""
    rng = np.random.default_rng(7)
    coarse = torch.from_numpy(rng.random((batch, channels, 12, 12)))
    target = torch.nn.functional.interpolate(coarse, (side, width or side), mode="bicubic")
    noise = torch.from_numpy(rng.normal(size=target.shape)) * torch.linspace(0.02, 0.2, batch).view(
        -1, 1, 1, 1
    )
    return tuple(((x.clamp(0, 1) * 255).round() / 255).float() for x in (target + noise, target))


def _hwc(image_CHW: torch.Tensor) -> np.ndarray:
    return image_CHW.permute(1, 2, 0).double().numpy()


def test_psnr_is_per_image_and_equals_scikit_image():
    prediction, target = _pair(3, 40)
    values = image.psnr(prediction, target)
    for value, p, t in zip(values, prediction, target, strict=True):
        assert float(value) == pytest.approx(
            peak_signal_noise_ratio(_hwc(t), _hwc(p), data_range=1), abs=1e-9
        )
    assert values[0] > values[1] > values[2]


def test_psnr_of_equal_images_is_infinite():
    _, target = _pair(2, 16)
    assert image.psnr(target, target).tolist() == [math.inf, math.inf]


def test_hole_metrics_see_the_hole_only():
    prediction, target = _pair(4, 24)
    mask = torch.zeros(4, 1, 24, 24)
    mask[0, :, :7, 3:] = 1
    mask[1] = 1
    mask[2, :, 5, 5] = 1  # image 3 has no hole
    target[2, :, 5, 5] = prediction[2, :, 5, 5]
    psnr, l1 = image.hole_psnr(prediction, target, mask), image.hole_l1(prediction, target, mask)
    error = (prediction.double() - target.double()).numpy()
    assert float(psnr[0]) == pytest.approx(-10 * math.log10((error[0, :, :7, 3:] ** 2).mean()), abs=1e-9)
    assert float(l1[0]) == pytest.approx(np.abs(error[0, :, :7, 3:]).mean(), abs=1e-12)
    assert float(psnr[1]) == pytest.approx(float(image.psnr(prediction, target)[1]), abs=1e-9)
    assert float(psnr[2]) == math.inf and float(l1[2]) == 0.0
    assert math.isnan(psnr[3]) and math.isnan(l1[3])

    outside = torch.where(mask > 0.5, prediction, torch.rand_like(prediction))
    assert image.hole_psnr(outside, target, mask)[:3].tolist() == psnr[:3].tolist()


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 48, 61), (1, 40, 40), (6, 33, 33)])
def test_ssim_equals_scikit_image(channels, height, width):
    prediction, target = _pair(3, height, channels, width)
    values = image.ssim(prediction, target)
    for value, p, t in zip(values, prediction, target, strict=True):
        # scikit-image averages all but a rim of 5; mirrored rims make that the original area.
        rims = [np.pad(_hwc(x), ((5, 5), (5, 5), (0, 0)), mode="reflect") for x in (t, p)]
        expected = structural_similarity(
            *rims, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(value) == pytest.approx(expected, abs=2e-6)


def _window(image_HWC: np.ndarray) -> np.ndarray:
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights /= weights.sum()
    return convolve1d(convolve1d(image_HWC, weights, axis=0, mode="mirror"), weights, axis=1, mode="mirror")


def _ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2003: contrast and structure at five scales, luminance at the last; in float64."""
    c1, c2 = 0.01**2, 0.03**2
    result = 1.0
    for scale, beta in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            h, w, c = (x.shape[0] // 2, x.shape[1] // 2, x.shape[2])
            x, y = (z[: 2 * h, : 2 * w].reshape(h, 2, w, 2, c).mean(axis=(1, 3)) for z in (x, y))
        mx, my = _window(x), _window(y)
        vx, vy, cov = _window(x * x) - mx**2, _window(y * y) - my**2, _window(x * y) - mx * my
        structure = (2 * cov + c2) / (vx + vy + c2)
        if scale < 4:
            value = structure[5:-5, 5:-5].mean()  # full windows only
        else:
            value = (structure * (2 * mx * my + c1) / (mx**2 + my**2 + c1)).mean()
        result *= max(value, 0.0) ** beta
    return result


def test_ms_ssim_equals_scipy():
    prediction, target = _pair(3, 180, width=193)
    values = image.ms_ssim(prediction, target)
    expected = [_ms_ssim(_hwc(p), _hwc(t)) for p, t in zip(prediction, target, strict=True)]
    assert values.tolist() == pytest.approx(expected, abs=5e-6)
    assert len(set(np.round(expected, 2))) == 3


def test_sizes_at_and_below_the_limit():
    assert image.ms_ssim(torch.rand(1, 1, 176, 176), torch.rand(1, 1, 176, 176)).shape == (1,)
    with pytest.raises(MetricUnavailableError, match="needs images of at least 176 px, these are 175 px"):
        image.ms_ssim(torch.rand(1, 1, 300, 175), torch.rand(1, 1, 300, 175))
    assert image.ssim(torch.rand(1, 3, 11, 11), torch.rand(1, 3, 11, 11)).shape == (1,)
    with pytest.raises(MetricUnavailableError, match="at least 11 px, these are 10 px"):
        image.ssim(torch.rand(1, 3, 10, 64), torch.rand(1, 3, 10, 64))


@pytest.mark.parametrize("function", [image.psnr, image.ssim, image.ms_ssim])
@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(1, 3, 180, 180) - 0.1, torch.zeros(1, 3, 180, 180), "prediction: values must lie in"),
        (torch.zeros(1, 3, 180, 180), torch.zeros(1, 3, 180, 180) + 1.01, "target: values must lie in"),
        (torch.full((1, 3, 180, 180), math.nan), torch.zeros(1, 3, 180, 180), "reach from nan"),
        (torch.zeros(1, 3, 180, 180), torch.zeros(1, 1, 180, 180), "the same shape"),
        (torch.zeros(1, 3, 180, 180, dtype=torch.uint8), torch.zeros(1, 3, 180, 180), "uint8"),
    ],
)
def test_bad_images_are_refused(function, prediction, target, message):
    with pytest.raises(InputError, match=message):
        function(prediction, target)


def test_a_mask_of_another_size_is_refused():
    prediction, target = _pair(2, 16)
    with pytest.raises(InputError, match="mask: needs the shape"):
        image.hole_psnr(prediction, target, torch.ones(2, 1, 16, 15))
