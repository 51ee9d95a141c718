"""The membrane in the hole against an exact sparse solve of Laplace's equation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.sparse.linalg import splu
from torch import Tensor

from igll.data.masks import MASK_KINDS, make_mask
from igll.models.generator import Generator
from igll.models.layers import STRIDE_HALVINGS
from igll.models.prefill import prefill_harmonic, prefill_pyramid

Array = NDArray[np.float64]
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)


def membrane(image_CHW: Array, hole_HW: NDArray[np.bool_]) -> Array:
    """Every missing pixel the mean of its neighbours, of those that the image has: solved directly."""
    height, width = hole_HW.shape
    number_HW = np.full(hole_HW.shape, -1)
    number_HW[hole_HW] = np.arange(hole_HW.sum())
    matrix = scipy.sparse.lil_matrix((hole_HW.sum(), hole_HW.sum()))
    right = np.zeros((hole_HW.sum(), len(image_CHW)))
    for number, (row, column) in enumerate(np.argwhere(hole_HW)):
        for y, x in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if not (0 <= y < height and 0 <= x < width):
                continue
            matrix[number, number] += 1
            if hole_HW[y, x]:
                matrix[number, number_HW[y, x]] = -1
            else:
                right[number] += image_CHW[:, y, x]
    solved_CHW = image_CHW.copy()
    solved_CHW[:, hole_HW] = splu(matrix.tocsc()).solve(right).T
    return solved_CHW


def filled(image_CHW: Array, hole_HW: NDArray[np.bool_], prefill=prefill_harmonic) -> Array:
    image_BCHW = torch.from_numpy(image_CHW.copy())[None].float()
    return prefill(image_BCHW, torch.from_numpy(hole_HW)[None, None].float())[0].double().numpy()


def scene(size: int, smooth: bool, seed: int = 3) -> Array:
    """White noise, or the same blurred to structures of some pixels, in [-1, 1]."""
    image_CHW = np.random.default_rng(seed).uniform(-1, 1, (2, size, size))
    if smooth:
        image_CHW = gaussian_filter(image_CHW, (0, 3, 3))
    return image_CHW / np.abs(image_CHW).max()


def errors(image_CHW: Array, hole_HW: NDArray[np.bool_], prefill=prefill_harmonic) -> tuple[float, float]:
    """Largest and root mean square distance from the exact membrane, relative to the range of the rim."""
    rim_HW = binary_dilation(hole_HW, CROSS) & ~hole_HW
    span_C = np.ptp(image_CHW[:, rim_HW], axis=1)
    solved_CHW = membrane(image_CHW, hole_HW)
    off = (filled(image_CHW, hole_HW, prefill) - solved_CHW)[:, hole_HW] / span_C[:, None]
    return float(np.abs(off).max()), float(np.sqrt((off**2).mean()))


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.6])
@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize(
    ("smooth", "largest", "root_mean_square", "gain"), [(True, 0.01, 0.002, 9.0), (False, 0.04, 0.005, 9.0)]
)
def test_is_close_to_the_exact_membrane(
    kind: str, ratio: float, smooth: bool, largest: float, root_mean_square: float, gain: float
) -> None:
    hole_HW = make_mask(kind, 64, 64, ratio, np.random.default_rng(5))
    image_CHW = scene(64, smooth)
    found = errors(image_CHW, hole_HW)
    assert found[0] < largest and found[1] < root_mean_square
    # The pyramid that it starts from is further off.
    assert errors(image_CHW, hole_HW, prefill_pyramid)[1] > gain * found[1]


@pytest.mark.parametrize("size", [32, 61, 100])
def test_carries_a_ramp_across_the_hole(size: int) -> None:
    """A ramp is its own membrane; the hole takes half of each side."""
    ramp_HW = np.linspace(-1, 1, size)[None].repeat(size, 0)
    hole_HW = np.zeros((size, size), dtype=bool)
    hole_HW[size // 4 : size - size // 4, size // 4 : size - size // 4] = True
    for image_CHW in (
        ramp_HW[None],
        ramp_HW.T[None],
        ramp_HW[None, :, ::-1],
        (ramp_HW + ramp_HW.T)[None] / 2,
    ):
        assert np.abs(membrane(image_CHW, hole_HW) - image_CHW).max() < 1e-12
        off = np.abs(filled(image_CHW, hole_HW) - image_CHW)
        assert off.max() < 0.001 and off[:, hole_HW].mean() < 0.0004


def test_no_value_leaves_the_range_of_the_rim() -> None:
    """A membrane's maximum principle holds although it is solved but nearly."""
    image_CHW = scene(61, smooth=False)
    for kind in MASK_KINDS:
        hole_HW = make_mask(kind, 61, 61, 0.4, np.random.default_rng(2))
        result_CHW, known_CK = filled(image_CHW, hole_HW), image_CHW[:, ~hole_HW].astype(np.float32)
        assert (result_CHW.max((1, 2)) <= known_CK.max(1) + 1e-6).all()
        assert (result_CHW.min((1, 2)) >= known_CK.min(1) - 1e-6).all()


@pytest.mark.parametrize("prefill", [prefill_pyramid, prefill_harmonic])
@pytest.mark.parametrize(
    ("kind", "ratio"), [("irregular", 0.6), ("cloud", 0.4), ("gaps", 0.2), ("square", 1.0)]
)
def test_more_halvings_than_the_hole_needs_change_nothing(prefill, kind: str, ratio: float) -> None:
    hole_HW = make_mask(kind, 64, 96, min(ratio, 0.8), np.random.default_rng(4)) | (ratio == 1)
    mask_B1HW = torch.from_numpy(hole_HW)[None, None].float()
    image_BCHW = torch.from_numpy(scene(96, smooth=False)[None, :, :64]).float()
    needed = generator().layout(mask_B1HW).halvings + STRIDE_HALVINGS
    assert needed <= 7 and (needed < 7) == (ratio < 1)
    result_BCHW = prefill(image_BCHW, mask_B1HW, halvings=needed)
    assert torch.equal(result_BCHW, prefill(image_BCHW, mask_B1HW))
    assert torch.equal(result_BCHW, prefill(image_BCHW, mask_B1HW, halvings=12))


def generator(**settings) -> Generator:
    torch.manual_seed(0)
    return Generator(width=4, structure_prior="none", position_grid=8, **settings).eval()


def pair() -> tuple[Tensor, Tensor]:
    image_BCHW = torch.from_numpy(np.stack([scene(32, True)[[0, 1, 0]], scene(32, False)[[1, 0, 1]]])).float()
    mask_B1HW = torch.stack(
        [torch.from_numpy(make_mask(kind, 32, 32, 0.3, np.random.default_rng(1)))[None].float()
         for kind in ("square", "irregular")]
    )  # fmt: skip
    return image_BCHW, mask_B1HW


def test_a_fresh_residual_generator_starts_at_the_harmonic_fill() -> None:
    image_BCHW, mask_B1HW = pair()
    expected_BCHW = prefill_harmonic(image_BCHW, mask_B1HW)
    poisoned_BCHW = image_BCHW.masked_fill(mask_B1HW > 0.5, float("nan"))
    with torch.no_grad():
        output = generator(prefill="harmonic", residual=True).fill(poisoned_BCHW, mask_B1HW)
        other = generator(prefill="pyramid", residual=True).fill(poisoned_BCHW, mask_B1HW)
    for result_BCHW in (output.pixel_BCHW, output.perception_BCHW, *output.predictions):
        assert torch.equal(result_BCHW, expected_BCHW)
    assert not torch.equal(other.perception_BCHW, expected_BCHW)
