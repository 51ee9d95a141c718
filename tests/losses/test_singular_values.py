from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from igll.errors import InputError
from igll.losses import SingularValueLoss, leading_singular_values, singular_values
from igll.losses.singular_values import rotate_to_diagonal


@pytest.fixture(params=["cpu", "cuda"], autouse=True)
def way(request, monkeypatch) -> None:
    """Each test twice: as on a CPU, and by the rotations that stand for eigh on a GPU."""
    if request.param == "cuda":
        monkeypatch.setattr(torch.linalg, "eigh", rotate_to_diagonal)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def _decaying(count: int, rows: int, columns: int) -> torch.Tensor:
    """float64 matrices with singular values 1, 1/2, 1/3 … as photographs roughly have."""
    side = min(rows, columns)
    left = torch.linalg.qr(_random(count, rows, side, seed=1)).Q
    right = torch.linalg.qr(_random(count, columns, side, seed=2)).Q
    return left / torch.arange(1, side + 1) @ right.mT


@pytest.fixture(scope="module")
def photographs(shared: Path) -> torch.Tensor:
    files = sorted((shared / "data" / "rsscn7" / "val").glob("*/*.webp"))[::14]
    files += sorted((shared / "data" / "ucmerced_val").glob("*/*"))[::20]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("k", [1, 8, 16, 32])
def test_accurate_on_photographs(photographs: torch.Tensor, k: int) -> None:
    matrices = photographs.flatten(0, 1)
    expected = np.linalg.svd(matrices.numpy().astype(float), compute_uv=False)[:, :k]
    found = leading_singular_values(matrices, k).numpy()
    assert found.dtype == np.float32
    assert (np.abs(found - expected) / expected).max() < 1e-4


@pytest.mark.parametrize("contrast", [1.0, 1e-2, 1e-3])
def test_accurate_beside_a_dominant_mean(photographs: torch.Tensor, contrast: float) -> None:
    """Calm water: the first value is up to 100,000 times the sixteenth."""
    matrices = 0.7 + contrast * photographs.flatten(0, 1)
    expected = np.linalg.svd(matrices.numpy().astype(float), compute_uv=False)[:, :16]
    error = np.abs(leading_singular_values(matrices, 16).numpy() - expected) / expected[:, :1]
    assert error.max() < 5e-6


@pytest.mark.parametrize("width", [1, 9, 48])
def test_rotations_finish_what_the_iteration_leaves(width: int) -> None:
    # As the iteration leaves them: entries beside the diagonal small for the rows and columns they are in.
    beside = 0.02 * _random(3, width, width)
    beside = torch.eye(width, dtype=beside.dtype) + beside + beside.mT
    sizes = 10.0 ** -torch.linspace(0, 3, width, dtype=torch.float64)
    sizes = torch.stack([sizes, sizes, sizes[torch.arange(width) // 2]])
    matrices = sizes[:, :, None] * beside * sizes[:, None]
    values, vectors = rotate_to_diagonal(matrices)
    expected = np.linalg.eigvalsh(matrices.numpy())
    np.testing.assert_allclose(values.sort(1).values.numpy(), expected, rtol=0, atol=1e-10)
    product = vectors.mT @ vectors
    torch.testing.assert_close(product, torch.eye(width, dtype=product.dtype).expand_as(product))


def _repeated() -> dict[str, torch.Tensor]:
    """Matrices with equal singular values, where rotations have no gap to go by."""
    draw = torch.Generator().manual_seed(0)
    step, blocks = torch.arange(16.0), torch.randn(300, 4, 4, generator=draw)
    sparse = torch.zeros(200, 32, 32)
    for matrix in sparse:
        count = int(torch.randint(1, 96, (1,), generator=draw))
        matrix.view(-1)[torch.randperm(1024, generator=draw)[:count]] = 1
    return {
        "identity": torch.eye(16)[None],
        "permutation": torch.eye(64)[torch.randperm(64, generator=draw)][None],
        "circulant": ((step[:, None] + step) % 16)[None],
        "twice the same block": torch.stack([torch.block_diag(block, block) for block in blocks]),
        "dots": sparse,
        "squares": torch.stack([sparse[:4, :, :], sparse[:4, :, :]])
        .flatten(0, 1)
        .repeat(1, 2, 2)[:, :40, :40],
    }


@pytest.mark.parametrize("name", _repeated())
@pytest.mark.parametrize("k", [1, 4, 8])
def test_equal_singular_values(name: str, k: int) -> None:
    matrices = _repeated()[name].double().requires_grad_()
    found, expected = leading_singular_values(matrices, k), torch.linalg.svdvals(matrices.detach())[:, :k]
    assert ((found - expected).abs() <= 3e-4 * expected[:, :1]).all()
    found.sum().backward()
    assert matrices.grad.isfinite().all() and matrices.grad.flatten(1).norm(dim=1).max() < k + 1e-3


@pytest.mark.parametrize(
    "entries",
    [[[1, 0], [0, 1]], [[1, 0.5], [0.5, 1]], [[0, 2], [2, 0]], [[0, 0], [0, 0]], [[1, 1e-13], [0, 1]]],
)
def test_rotations_between_equal_entries(entries: list[list[float]]) -> None:
    matrix = torch.tensor([entries], dtype=torch.float64)
    matrix = (matrix + matrix.mT) / 2
    values, vectors = rotate_to_diagonal(matrix)
    torch.testing.assert_close(values.sort(1).values, torch.linalg.eigvalsh(matrix), rtol=0, atol=1e-10)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(2).double()[None], rtol=0, atol=1e-10)


def test_gradient_on_photographs_is_that_of_the_full_decomposition(photographs: torch.Tensor) -> None:
    matrices = photographs[:6].flatten(0, 1).requires_grad_()
    leading_singular_values(matrices, 16).sum().backward()
    left, _, right = np.linalg.svd(matrices.detach().numpy().astype(float))
    expected = left[:, :, :16] @ right[:, :16]
    error = np.linalg.norm(matrices.grad.numpy() - expected, axis=(1, 2)) / np.linalg.norm(
        expected, axis=(1, 2)
    )
    assert error.max() < 1e-2
    assert np.median(error) < 1e-4


@pytest.mark.parametrize(("rows", "columns"), [(40, 64), (64, 40), (40, 40), (12, 20)])
def test_values_and_gradient_in_float64(rows: int, columns: int) -> None:
    matrices = _decaying(2, rows, columns).requires_grad_()
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    found = leading_singular_values(matrices, 4)
    torch.testing.assert_close(found, torch.linalg.svdvals(matrices)[:, :4], rtol=1e-9, atol=0)
    (gradient,) = torch.autograd.grad((found * weights).sum(), matrices)
    # Central differences of an independent routine, along ten directions.
    step = 1e-6
    for seed in range(10):
        direction = _random(2, rows, columns, seed=10 + seed)
        ahead, behind = (
            (np.linalg.svd((matrices.detach() + sign * step * direction).numpy())[1][:, :4] * weights.numpy())
            for sign in (1, -1)
        )
        expected = (ahead - behind).sum() / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_no_device_but_a_cpu_waits_for_lapack(monkeypatch) -> None:
    monkeypatch.setattr(torch.linalg, "eigh", None)
    # "meta" stands for a GPU; there is no autocast on it that could be turned off.
    monkeypatch.setattr(singular_values, "full_precision", nullcontext)
    assert leading_singular_values(torch.empty(2, 40, 64, device="meta"), 4).shape == (2, 4)
    with pytest.raises(TypeError):
        leading_singular_values(torch.zeros(2, 40, 64), 4)


def test_flat_spectra_are_the_hard_case() -> None:
    # White noise has no leading values to speak of; what is found may be a little too small, never too large.
    matrices = _random(4, 256, 256).float()
    expected = torch.linalg.svdvals(matrices.double())[:, :16]
    error = (leading_singular_values(matrices, 16) - expected) / expected
    assert error.max() < 1e-6
    assert error.min() > -2e-3


@pytest.mark.parametrize("side", [16, 64])
def test_degenerate_matrices(side: int) -> None:
    k = 4
    line = torch.linspace(-1, 1, side)
    cases = torch.stack(
        [
            torch.zeros(side, side),
            torch.full((side, side), 0.7),
            torch.outer(line, line.flip(0)),
            torch.eye(side),
            torch.block_diag(3 * torch.eye(2), torch.zeros(side - 2, side - 2)),
        ]
    ).requires_grad_()
    found = leading_singular_values(cases, k)
    expected = torch.zeros(5, k)
    expected[1, 0] = 0.7 * side
    expected[2, 0] = line.square().sum()
    expected[3] = 1
    expected[4, :2] = 3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    found.sum().backward()
    assert cases.grad.isfinite().all()
    # A singular value's gradient has norm 1 at most, whichever of the equal vectors it picks.
    assert cases.grad.flatten(1).norm(dim=1).max() < k + 1e-3


@pytest.mark.parametrize("side", [16, 64])
def test_a_matrix_that_is_not_finite_gives_nan_and_spares_its_neighbours(side: int) -> None:
    matrices = _decaying(3, side, side).float()
    expected = leading_singular_values(matrices, 4)
    matrices[1, 3, 5] = torch.nan
    found = leading_singular_values(matrices, 4)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])


def test_no_random_numbers_of_others_are_used() -> None:
    matrices = _random(2, 64, 64).float()
    torch.manual_seed(3)
    first = leading_singular_values(matrices, 4)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(4)
    assert torch.equal(first, leading_singular_values(matrices, 4))


@pytest.mark.parametrize("side", [16, 64])
def test_autocast_does_not_reach_the_decomposition(side: int) -> None:
    matrices = _random(2, side, side).float()
    plain = leading_singular_values(matrices, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(leading_singular_values(matrices, 4), plain)
    assert leading_singular_values(matrices.bfloat16(), 4).dtype == torch.float32


def _patches(image: np.ndarray, side: int) -> list[np.ndarray]:
    height, width = image.shape
    padded = np.zeros((-(-height // side) * side, -(-width // side) * side))
    padded[:height, :width] = image
    return [
        padded[top : top + side, left : left + side]
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


@pytest.mark.parametrize(("k", "patch"), [(16, 0), (3, 0), (5, 16), (4, 32)])
def test_loss_equals_its_equation(k: int, patch: int) -> None:
    prediction, target = (5 * _decaying(12, 40, 32)).float().view(2, 2, 3, 40, 32)
    prediction = prediction * torch.tensor([0.9, 0.6])[:, None, None, None] + 0.01
    gaps = []
    for filled, complete in zip(prediction.numpy(), target.numpy(), strict=True):
        differences = []
        for channel in range(3):
            pair = [
                _patches(image[channel], patch) if patch else [image[channel]] for image in (filled, complete)
            ]
            for found, wanted in zip(*pair, strict=True):
                values = [
                    np.linalg.svd(matrix.astype(float), compute_uv=False)[:k] for matrix in (found, wanted)
                ]
                differences.append(np.abs(values[0] - values[1]) / np.sqrt(found.size))
        gaps.append(np.mean(differences))
    loss = SingularValueLoss(k, patch, normalise=True)
    assert loss(prediction, target).item() == pytest.approx(np.mean(gaps), rel=1e-4)
    np.testing.assert_allclose(loss.gap_per_sample(prediction, target).numpy(), gaps, rtol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (256, 160)])
def test_loss_does_not_depend_on_the_size(size: tuple[int, int]) -> None:
    # A constant image c has the one singular value |c| sqrt(HW).
    bright, dark = torch.full((1, 2, *size), 0.5), torch.full((1, 2, *size), -0.1)
    assert SingularValueLoss(k=4, normalise=True)(bright, dark).item() == pytest.approx(0.4 / 4, rel=1e-5)


def test_gradient_reaches_the_prediction_alone() -> None:
    prediction, target = (_random(2, 1, 32, 32, seed=seed).requires_grad_() for seed in (0, 1))
    loss = SingularValueLoss(k=4, normalise=True)
    loss(prediction, target).backward()
    assert prediction.grad.abs().max() > 0
    assert target.grad is None
    assert not loss.gap_per_sample(prediction, target).requires_grad


def test_too_many_values_are_refused() -> None:
    with pytest.raises(InputError, match=r"svd_leading=16.*svd_patch=8"):
        SingularValueLoss(k=16, patch=8)
    image = torch.zeros(1, 3, 12, 20)
    with pytest.raises(InputError, match=r"svd_leading=16: a 12 × 20 matrix has 1 to 12"):
        SingularValueLoss(k=16)(image, image)


def test_without_normalising_the_loss_is_the_papers_plain_difference() -> None:
    generator = torch.Generator().manual_seed(3)
    image, other = torch.rand(2, 1, 3, 12, 20, generator=generator)
    expected = (
        (torch.linalg.svdvals(image.double()) - torch.linalg.svdvals(other.double()))[..., :4].abs().mean()
    )
    assert SingularValueLoss(k=4)(image, other).item() == pytest.approx(expected.item(), rel=1e-5)
