"""Filling by example: what is copied, from where, and that nothing else is touched."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_cdt, gaussian_filter
from torch import Tensor

from igll.models import exemplar
from igll.models.exemplar import _Choice, _Level, _Search, away_from_ground, detail_of, fill_by_example
from igll.models.generator import Generator
from igll.models.prefill import prefill_harmonic


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def square_hole(height: int, width: int, top: int, left: int, side: int) -> Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., top : top + side, left : left + side] = 1
    return mask


def woven(height: int, width: int) -> Tensor:
    """A pattern that repeats every 16 pixels, on ground that grows brighter: image_BCHW."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    weave = torch.sin(rows * math.pi / 8) * torch.cos(columns * math.pi / 8)
    return torch.stack([0.5 * weave, 0.3 * weave.abs(), 0.2 + 0 * weave])[None]


def test_a_repeating_pattern_is_continued() -> None:
    truth, mask = woven(128, 128), square_hole(128, 128, 44, 40, 40)
    start = prefill_harmonic(truth, mask)
    filled = fill_by_example(start, mask)
    inside = mask.expand_as(truth) > 0
    error, before = ((image - truth)[inside].square().mean().sqrt() for image in (filled, start))
    assert before > 0.1
    assert error < 0.15 * before


def test_in_the_hole_stands_what_is_known_elsewhere_and_around_it_nothing_changes() -> None:
    """Of two grounds in two halves, each half of the hole is filled from its own."""
    image = torch.cat([noise(1, 3, 128, 64) * 0.2 - 0.7, noise(1, 3, 128, 64, seed=1) * 0.2 + 0.7], 3)
    mask = square_hole(128, 128, 40, 44, 40)
    filled = fill_by_example(prefill_harmonic(image, mask), mask)
    known = mask.expand_as(image) == 0
    assert torch.equal(filled[known], image[known])
    inside = filled[..., 40:80, 44:84]
    assert inside[..., :14].max() < -0.4 and inside[..., 26:].min() > 0.4
    # Grain, not the membrane's evenness.
    assert inside[..., :14].std() > 0.6 * image[..., :64].std()


@pytest.mark.parametrize("sources", [10_000, 7])
@pytest.mark.parametrize("pairs", [2**24, 50])
def test_the_nearest_patch_is_that_of_a_search_through_all(
    monkeypatch: pytest.MonkeyPatch, sources: int, pairs: int
) -> None:
    monkeypatch.setattr(exemplar, "_SOURCES", sources)
    monkeypatch.setattr(exemplar, "_PAIRS", pairs)
    side, image, mask = 5, noise(2, 20, 24), square_hole(20, 24, 6, 9, 5)[0]
    search = _Search(image, mask, _Level(1, 1, side, 1))
    chosen = search.nearest(image)
    wide = np.pad(image.double().numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
    hole = np.pad(mask[0].numpy(), 2, mode="reflect") > 0
    weight = np.where(hole, 1.0, 2.0)
    places = [(row, column) for row in range(20) for column in range(24)]

    def patch(array: np.ndarray, place: tuple[int, int]) -> np.ndarray:
        return array[..., place[0] : place[0] + side, place[1] : place[1] + side]

    whole = [place for place in places if not patch(hole, place).any()]
    means = {place: patch(wide, place).mean((1, 2), keepdims=True) for place in whole}
    compared = search.compared_Q.tolist()
    assert len(set(compared)) == len(compared) == min(sources, len(whole))
    targets = [place for place in places if mask[0][place] > 0]
    assert [int(cell) for cell in search.source_S] == [row * 24 + column for row, column in whole]
    for number, target in enumerate(targets):
        distance = [
            (patch(weight, target) * (patch(wide, target) - patch(wide, place)) ** 2).sum()
            - 0.4 * (patch(hole, target) * (patch(wide, place) - means[place]) ** 2).sum()
            for place in (whole[index] for index in compared)
        ]
        assert int(chosen[number]) == compared[int(np.argmin(distance))], target


def test_patches_are_laid_over_each_other_by_their_distance_from_the_centre() -> None:
    image, mask = noise(1, 12, 12), square_hole(12, 12, 5, 5, 2)[0]
    search = _Search(image, mask, _Level(1, 1, 3, 1))
    chosen = torch.tensor([0, 3, 8, 20])
    found = search.laid(chosen)
    total, weights = np.zeros((12, 12)), np.zeros((12, 12))
    for target, source in zip(search.target_T.tolist(), search.source_S[chosen].tolist(), strict=True):
        for row in (-1, 0, 1):
            for column in (-1, 0, 1):
                weight = math.exp(-2 * (row**2 + column**2))
                place = target // 12 + row, target % 12 + column
                # The image's own border is reflected: -1 is 1.
                total[place] += weight * image[0, abs(source // 12 + row), abs(source % 12 + column)].item()
                weights[place] += weight
    expected = np.where(mask[0].numpy() > 0, total / np.where(weights, weights, 1), image[0].numpy())
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)


def test_a_coarser_choice_is_carried_cell_beside_cell() -> None:
    mask = square_hole(16, 16, 4, 4, 4)[0]
    search = _Search(noise(1, 16, 16), mask, _Level(1, 1, 3, 1))
    # On a grid of 8 × 8 cells those from (2, 2) to (3, 3) are missing; they copy from row 5, columns 5 and 6.
    source = torch.full((64,), -1)
    source[[18, 19, 26, 27]] = torch.tensor([45, 46, 45, 46])
    carried = search.source_S[search.carried(_Choice(source, 8, 2))].tolist()
    rows, columns = [cell // 16 for cell in carried], [cell % 16 for cell in carried]
    assert rows == [10] * 4 + [11] * 4 + [10] * 4 + [11] * 4
    assert columns == [10, 11, 12, 13] * 4


@pytest.mark.parametrize("size", [(5, 9), (16, 200), (24, 200), (61, 83)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_any_size_and_any_hole(size: tuple[int, int], share: float) -> None:
    image = noise(2, 4, *size)
    mask = torch.zeros(2, 1, *size)
    mask[..., : round(share * size[1])] = 1
    filled = fill_by_example(image, mask)
    assert filled.shape == image.shape and filled.isfinite().all()
    known = mask.expand_as(image) == 0
    assert torch.equal(filled[known], image[known])
    assert torch.equal(filled, image) == (share in (0.0, 1.0) or min(size) <= 16)
    assert filled.abs().max() <= 1


def test_what_is_compared_lies_everywhere() -> None:
    """Of more patches than are compared some in every part of a large image, in rows and columns alike."""
    image, mask = torch.zeros(1, 160, 160), square_hole(160, 160, 70, 70, 20)[0]
    search = _Search(image, mask, _Level(1, 1, 7, 1))
    assert len(search.source_S) > 20_000 and 4_000 < len(search.compared_Q) <= 4_096
    cells = search.source_S[search.compared_Q]
    rows, columns = cells // 160, cells % 160
    assert len(rows.unique()) == len(columns.unique()) == 160
    counts = torch.bincount(rows // 40 * 4 + columns // 40, minlength=16)
    whole = torch.bincount(search.source_S // 160 // 40 * 4 + search.source_S % 160 // 40, minlength=16)
    share = counts / whole
    assert share.min() > 0.85 * share.mean() and share.max() < 1.15 * share.mean()


@pytest.mark.parametrize("side", [65, 97, 101])
def test_nothing_is_copied_from_beyond_the_border(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    """Sides that the coarsest level does not divide are padded; what stands there is no ground."""
    searches: list[_Search] = []

    class Noted(_Search):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            searches.append(self)

    monkeypatch.setattr(exemplar, "_Search", Noted)
    image, mask = noise(1, 3, side, side), square_hole(side, side, 24, 24, side // 3)
    fill_by_example(prefill_harmonic(image, mask), mask)
    assert any(len(search.source_S) for search in searches)
    for search in searches:
        level = search.level
        for place in (search.source_S // search.columns, search.source_S % search.columns):
            end = (place * level.stride - (level.side - level.stride) // 2 + level.side) * level.scale
            assert (end <= side).all()


def test_images_of_a_batch_do_not_influence_each_other_and_dtypes_stay() -> None:
    image = noise(2, 3, 64, 64)
    mask = torch.cat([square_hole(64, 64, 20, 20, 9), square_hole(64, 64, 4, 30, 20)])
    together = fill_by_example(image, mask)
    for number in range(2):
        alone = fill_by_example(image[number : number + 1], mask[number : number + 1])
        assert torch.equal(alone[0], together[number])
    assert fill_by_example(image.double(), mask.double()).dtype == torch.float64
    assert fill_by_example(image.bfloat16(), mask).dtype == torch.bfloat16
    assert not fill_by_example(image.requires_grad_(), mask).requires_grad


def test_the_share_of_detail_rises_with_the_distance_from_known_ground() -> None:
    mask = (noise(2, 1, 50, 60) > -0.999).float()
    mask[1] = square_hole(50, 60, 0, 20, 40)
    found = away_from_ground(mask)
    for share, hole in zip(found[:, 0], mask[:, 0].numpy(), strict=True):
        distance = distance_transform_cdt(hole, "chessboard")
        np.testing.assert_allclose(share.numpy(), np.minimum(distance, 10) / 10, atol=1e-6)
    assert not away_from_ground(torch.zeros(1, 1, 8, 8)).any()
    assert (away_from_ground(torch.ones(1, 1, 8, 8)) == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_detail_of_other_types_is_that_of_float32(dtype: torch.dtype) -> None:
    image = noise(1, 3, 40, 40).to(dtype)
    found = detail_of(image)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), detail_of(image.float()), atol=4e-3)


def test_within_mixed_precision_the_search_is_exact_all_the_same() -> None:
    image, mask = noise(1, 3, 64, 64) * 0.1 + 0.8, square_hole(64, 64, 20, 20, 20)
    start = prefill_harmonic(image, mask)
    filled = fill_by_example(start, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fill_by_example(start, mask), filled)
        within = detail_of(filled)
    assert torch.equal(within, detail_of(filled))


def test_detail_is_what_a_gaussian_takes_away() -> None:
    image = noise(2, 3, 40, 52)
    found = detail_of(image)
    for sample, wanted in zip(found.flatten(0, 1), image.flatten(0, 1), strict=True):
        blurred = gaussian_filter(wanted.double().numpy(), 6.0, mode="nearest", truncate=2.0)
        np.testing.assert_allclose(sample.numpy(), wanted.numpy() - blurred, atol=1e-6)


def test_the_gate_says_how_much_of_the_detail_is_taken() -> None:
    torch.manual_seed(0)
    net = Generator(
        width=4, structure_prior="none", prefill="harmonic", residual=True, skips=True, exemplar=True
    ).eval()
    image, mask = noise(1, 3, 96, 96), square_hole(96, 96, 30, 30, 30)
    start = prefill_harmonic(image, mask)
    detail = detail_of(fill_by_example(start, mask))
    bias = net.pern.decoder[-1].bias
    for gate in (-50.0, 0.0, 50.0):
        with torch.no_grad():
            bias[-1] = gate
            first, second = net(image, mask)
        # Fresh nets with residual prediction add nothing of their own.
        taken = torch.sigmoid(torch.tensor(gate)) * away_from_ground(mask) * detail
        expected = torch.where(mask > 0, (first + taken).clamp(-1, 1), image)
        assert torch.allclose(second, expected, atol=1e-6)
    with torch.enable_grad():
        net(image, mask)[1][..., 30:60, 30:60].square().mean().backward()
    assert net.pern.decoder[-1].weight.grad.isfinite().all()
