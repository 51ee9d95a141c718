"""Low-rank completion: recovery of exactly low-rank tensors, and the least objective by another solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from igll.baselines import halrtc, mean_of_known, tensor_nuclear_norm
from igll.baselines.tensor import shrink_singular_values

BOTH = pytest.mark.parametrize("fill", [halrtc, tensor_nuclear_norm], ids=lambda fill: fill.__name__)


def _low_rank(channels: int) -> Tensor:
    """A 60 × 50 image whose tensor has CP rank 2, so at most 2 in every unfolding and Fourier slice."""
    rng = np.random.default_rng(1)
    factors = [rng.standard_normal((size, 2)) for size in (channels, 60, 50)]
    return torch.from_numpy(np.einsum("cr,hr,wr->chw", *factors))[None]


def _scattered(height: int, width: int, share: float) -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).random((1, 1, height, width)) < share).double()


@BOTH
@pytest.mark.parametrize(("share", "channels"), [(0.3, 1), (0.3, 3), (0.5, 3), (0.4, 6)])
def test_low_rank_is_recovered(fill, share, channels):
    image, mask = _low_rank(channels), _scattered(60, 50, share)
    for tolerance, allowed in ((1e-4, 1e-3), (1e-6, 1e-5)):
        filled = fill(image.masked_fill(mask > 0.5, 9.0), mask, tolerance=tolerance)
        assert float(((filled - image) * mask).norm() / (image * mask).norm()) < allowed


@BOTH
def test_float32_and_the_default_tolerance_suffice(fill):
    image, mask = _low_rank(3).float(), _scattered(60, 50, 0.4).float()
    assert float(((fill(image, mask) - image) * mask).norm() / (image * mask).norm()) < 1e-3


@BOTH
def test_more_iterations_come_closer(fill):
    image, mask = _low_rank(3), _scattered(60, 50, 0.4)
    errors = [float((fill(image, mask, iterations=count) - image).norm()) for count in (1, 20, 40, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 50 * errors[-1]
    started = fill(image, mask, iterations=0)
    assert torch.allclose(started, mean_of_known(image, mask), rtol=0, atol=1e-12)


def _nuclear(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix).sum()


def _unfoldings(x_CHW: Tensor) -> Tensor:
    """The objective of HaLRTC with equal weights."""
    return torch.stack([_nuclear(x_CHW.movedim(mode, 0).flatten(1)) for mode in range(3)]).mean()


def _spectrum(x_CHW: Tensor) -> Tensor:
    """The tensor nuclear norm, from all slices of the Fourier transform."""
    return torch.stack([_nuclear(slice_HW) for slice_HW in torch.fft.fft(x_CHW, dim=0)]).mean()


@pytest.mark.parametrize(
    ("fill", "objective", "channels"),
    [
        pytest.param(halrtc, _unfoldings, 3, id="halrtc"),
        pytest.param(halrtc, lambda x_CHW: _nuclear(x_CHW[0]), 1, id="halrtc-matrix"),
        pytest.param(tensor_nuclear_norm, _spectrum, 3, id="tnn-odd"),
        pytest.param(tensor_nuclear_norm, _spectrum, 4, id="tnn-even"),
        pytest.param(tensor_nuclear_norm, _spectrum, 1, id="tnn-matrix"),
    ],
)
def test_no_other_filling_has_a_lower_objective(fill, objective, channels):
    """The problems are convex: where L-BFGS finds no way down from the filling, it is the best one."""
    rng = np.random.default_rng(4)
    smooth = np.cumsum(np.cumsum(rng.standard_normal((1, channels, 16, 13)), axis=2), axis=3)
    mask = torch.zeros(1, 1, 16, 13, dtype=torch.float64)
    mask[..., 4:10, 5:11] = 1
    hole = mask[0, 0] > 0.5
    known = smooth[0][:, ~hole.numpy()]
    scaled = (smooth[0] - known.mean(1)[:, None, None]) / known.std(1)[:, None, None]
    image = torch.from_numpy(scaled)[None]

    def at(missing: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        variable = torch.from_numpy(missing).requires_grad_()
        x_CHW = image[0].masked_scatter(hole, variable.view(channels, -1))
        value = objective(x_CHW)
        value.backward()
        return float(value.detach()), variable.grad.numpy()

    filled = fill(image, mask, tolerance=1e-7)[0][:, hole].flatten().numpy()
    mean = mean_of_known(image, mask)[0][:, hole].flatten().numpy()
    truth = image[0][:, hole].flatten().numpy()
    reached = at(filled)[0]
    for start in (filled, mean, truth):
        assert reached <= minimize(at, start, jac=True, method="L-BFGS-B").fun * (1 + 1e-6)
    assert reached < 0.995 * at(mean)[0]


@pytest.mark.parametrize("shape", [(7, 7), (5, 30), (30, 5), (3, 4, 9), (1, 6)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_shrinking_equals_the_decomposition(shape, dtype):
    matrix = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    for threshold in (0.0, 0.5, float(s.max()) + 1):
        expected = (u * (s - threshold).clamp(min=0).unsqueeze(-2)) @ v
        assert torch.allclose(shrink_singular_values(matrix, threshold), expected, atol=1e-12)


def test_shrinking_of_rank_one_and_of_nothing():
    one = torch.outer(torch.arange(1.0, 6.0), torch.arange(1.0, 9.0)).double()
    size = float(one.norm())
    assert torch.allclose(shrink_singular_values(one, size / 2), one / 2, atol=1e-6)
    assert torch.equal(shrink_singular_values(torch.zeros(4, 6).double(), 0.3), torch.zeros(4, 6).double())


@BOTH
def test_rows_missing_all_across_come_out_at_the_mean(fill):
    """The least nuclear norm says nothing else of them; the documentation says so."""
    image = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (1, 3, 20, 25)))
    mask = torch.zeros(1, 1, 20, 25)
    mask[..., 6:9, :] = 1
    assert torch.allclose(fill(image, mask), mean_of_known(image, mask), rtol=0, atol=1e-9)
