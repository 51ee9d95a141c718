"""Strips against unfold, sums along diagonals against a loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from igll.models.strips import diagonal_sum, gather_strips, parts, sum_rows
from igll.models.tokens import CACHE_LINE

CHANNELS, HEIGHT, WIDTH = 8, 8, 9


def test_gathered_strips_and_lengths_are_those_of_unfold() -> None:
    feature_BCHW = torch.randn(2, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    row_R = torch.tensor([0, 3, HEIGHT - 1])
    # Whole rows of the framed grid: beside each token stand its neighbours.
    centre_X = ((row_R[:, None] + 1) * (WIDTH + 2) + torch.arange(WIDTH + 2)).flatten()
    tokens_BNC = feature_BCHW.flatten(2).transpose(1, 2)
    strip_BXS, scale_BX = gather_strips(tokens_BNC, centre_X.expand(2, -1), (HEIGHT, WIDTH))
    strip_BRWS = strip_BXS.unflatten(1, (3, WIDTH + 2))
    assert (strip_BRWS[:, :, [0, -1]] == 0).all()
    patch_BCOHW = F.unfold(feature_BCHW, 3, padding=1).view(2, CHANNELS, 9, HEIGHT, WIDTH)
    expected_BCTRW = patch_BCOHW[:, :, 1::3, row_R]
    assert torch.equal(strip_BRWS[:, :, 1:-1], expected_BCTRW.permute(0, 3, 4, 2, 1).flatten(3))
    length_BRW = patch_BCOHW[:, :, :, row_R].flatten(1, 2).norm(dim=1)
    assert torch.allclose(1 / scale_BX.unflatten(1, (3, -1))[..., 1:-1], length_BRW, rtol=1e-6, atol=0)


def test_sums_along_the_diagonal_and_their_gradients() -> None:
    matrix_BXY = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    sum_BXY = diagonal_sum(matrix_BXY)
    for x in range(4):
        for y in range(5):
            on = [(x + step, y + step) for step in (-1, 0, 1) if 0 <= x + step < 4 and 0 <= y + step < 5]
            expected_B = sum(matrix_BXY[:, i, j] for i, j in on)
            assert torch.allclose(sum_BXY[:, x, y], expected_B, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(diagonal_sum, matrix_BXY.requires_grad_())


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 18, 31, 33, 100, 608, 1000])
@pytest.mark.parametrize("most", [0, 1, 16, 17, 40, 64, 999, 1000])
def test_parts_keep_each_row_once_and_see_those_beside_it(count: int, most: int) -> None:
    found = list(parts(count, most))
    every = range(count)
    assert [row for part in found for row in every[part.kept]] == list(every)
    for part in found:
        seen, kept = every[part.seen], every[part.kept]
        assert list(seen[part.inner]) == list(kept)
        assert {beside for row in kept for beside in (row - 1, row, row + 1) if beside in every} <= {*seen}
        assert len(seen) <= max(most, CACHE_LINE)
        assert len(seen) % CACHE_LINE == 0 or len(found) == 1
    assert len(found) <= max(1, -(-count // max(most - CACHE_LINE, CACHE_LINE - 2)))


def test_sums_beyond_what_cuda_counts_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    table_BMP = torch.randn(5, 6, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    index_BMO = torch.randint(6, (5, 4, 3), generator=generator)
    weight_BMO = torch.rand(5, 4, 3, generator=generator, dtype=torch.float64)
    whole_BMP = sum_rows(table_BMP, index_BMO, weight_BMO)
    (whole_gradient_BMP,) = torch.autograd.grad(whole_BMP.square().sum(), table_BMP)
    monkeypatch.setattr("igll.models.strips._MOST_SUMS", 60)
    parts_BMP = sum_rows(table_BMP, index_BMO, weight_BMO)
    assert torch.equal(parts_BMP, whole_BMP)
    (gradient_BMP,) = torch.autograd.grad(parts_BMP.square().sum(), table_BMP)
    assert torch.allclose(gradient_BMP, whole_gradient_BMP, rtol=0, atol=1e-12)


def test_rows_without_columns_add_up_to_rows_without_columns() -> None:
    table_BMP = torch.zeros(2, 5, 0)
    sum_BMP = sum_rows(table_BMP, torch.tensor([[[0, 4]], [[3, 3]]]), torch.ones(2, 1, 2))
    assert sum_BMP.shape == (2, 1, 0)
