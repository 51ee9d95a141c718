"""Search for patches: each step against one written out place by place, in NumPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from igll.models import patch_search
from igll.models.patch_search import Level, PatchSearch

Array = NDArray[np.float64]
HEIGHT, WIDTH = 20, 24
STRIDES = pytest.mark.parametrize(("stride", "side"), [(1, 5), (2, 6)])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def square_hole(height: int, width: int, top: int, left: int, side: int) -> Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, top : top + side, left : left + side] = 1
    return mask


def level_of(stride: int, side: int, reach: int = 1) -> Level:
    return Level(1, stride, side, 1, reach, 0.8)


class Written:
    """The same patches, by their upper left pixel, which may lie before the image."""

    def __init__(self, image: Tensor, mask: Tensor, level: Level) -> None:
        self.level, self.margin = level, (level.side - level.stride) // 2
        self.image = self.wide(image)
        self.hole = self.wide(mask)[0] > 0
        inside = np.pad(mask[0].numpy() == 0, self.margin)
        height, width = mask.shape[1:]
        rows, columns = height - level.stride + 1, width - level.stride + 1
        self.sources = [
            p for p in itertools.product(range(rows), range(columns)) if self.patch(inside, p).all()
        ]
        cells = itertools.product(range(0, height, level.stride), range(0, width, level.stride))
        side = level.stride
        self.cells = [(y, x) for y, x in cells if mask[0, y : y + side, x : x + side].any()]

    def wide(self, image: Tensor) -> Array:
        margin = self.margin
        return np.pad(image.double().numpy(), ((0, 0), (margin, margin), (margin, margin)), mode="reflect")

    def patch(self, array: NDArray, place: tuple[int, int]) -> NDArray:
        side = self.level.side
        return array[..., place[0] : place[0] + side, place[1] : place[1] + side]

    def cost(self, image: Array, weight: Array, target: tuple[int, int], source: tuple[int, int]) -> float:
        apart = self.patch(image, target) - self.patch(self.image, source)
        return float((self.patch(weight, target) * apart**2).sum())


def places(search: PatchSearch, place_T: Tensor) -> list[tuple[int, int]]:
    return [(place // search.columns, place % search.columns) for place in place_T.tolist()]


@pytest.fixture(params=[(1, 5), (2, 6)], ids=["stride 1", "stride 2"])
def searched(request: pytest.FixtureRequest) -> tuple[PatchSearch, Written]:
    level, image, mask = (
        level_of(*request.param),
        noise(2, HEIGHT, WIDTH),
        square_hole(HEIGHT, WIDTH, 6, 9, 5),
    )
    return PatchSearch(image, mask, level), Written(image, mask, level)


def test_sources_are_whole_and_targets_lie_around_the_hole(searched: tuple[PatchSearch, Written]) -> None:
    search, written = searched
    assert places(search, search.source_S) == written.sources
    assert places(search, search.target_T) == written.cells


@pytest.mark.parametrize("sources", [10_000, 7])
@pytest.mark.parametrize("pairs", [2**24, 50])
def test_a_hole_is_filled_from_its_rim_inwards(
    monkeypatch: pytest.MonkeyPatch, searched: tuple[PatchSearch, Written], sources: int, pairs: int
) -> None:
    monkeypatch.setattr(patch_search, "_SOURCES", sources)
    monkeypatch.setattr(patch_search, "_PAIRS", pairs)
    search, written = searched
    compared = places(search, search._spread())
    assert len(set(compared)) == len(compared) == min(sources, len(written.sources))
    found = dict(zip(written.cells, places(search, search.grown()), strict=True))
    stride, margin = written.level.stride, written.margin
    image, there, left = written.image.copy(), 1.0 - written.hole, set(written.cells)
    while left:
        ring = [
            (y, x)
            for y, x in left
            if any(
                (y + stride * down, x + stride * right) not in left
                for down, right in itertools.product((-1, 0, 1), repeat=2)
            )
        ]
        chosen = {}
        for cell in ring:
            costs = [written.cost(image, there, cell, source) for source in compared]
            chosen[cell] = compared[int(np.argmin(costs))]
            assert found[cell] == chosen[cell], (cell, len(left))
        for (y, x), (from_y, from_x) in chosen.items():
            for down, right in itertools.product(range(margin, margin + stride), repeat=2):
                if not there[y + down, x + right]:
                    image[:, y + down, x + right] = written.image[:, from_y + down, from_x + right]
            there[y + margin : y + margin + stride, x + margin : x + margin + stride] = 1
        left -= set(ring)


def test_asking_neighbours_never_makes_a_choice_worse(searched: tuple[PatchSearch, Written]) -> None:
    search, written = searched
    shown = torch.where(search.hole_1HW > 0, noise(2, HEIGHT, WIDTH, seed=1), search.image_CHW)
    wide, weight = written.wide(shown), np.where(written.hole, 1.0, 2.0)
    start = search.source_S[:: len(search.source_S) // len(search.target_T)][: len(search.target_T)]
    before = start.clone()
    after = search.improved(shown, start)
    assert torch.equal(start, before)
    assert torch.isin(after, search.source_S).all()

    def costs(chosen: Tensor) -> Array:
        pairs = zip(written.cells, places(search, chosen), strict=True)
        return np.array([written.cost(wide, weight, target, source) for target, source in pairs])

    assert (costs(after) <= costs(before) + 1e-5).all() and (costs(after) < costs(before) - 1).any()
    np.testing.assert_allclose(
        search._costs(search._rows(shown), search.target_T, after), costs(after), rtol=1e-5
    )


@STRIDES
def test_one_good_choice_spreads_to_its_neighbours(stride: int, side: int) -> None:
    """In a pattern that repeats every 12 pixels one cell copies the same place of it, the others any."""
    tile = noise(2, 12, 12)
    image, mask = tile.repeat(1, 4, 4), square_hole(48, 48, 18, 18, 6)
    search = PatchSearch(image, mask, level_of(stride, side))
    chosen = search.source_S[torch.arange(len(search.target_T)) * 7]
    chosen[len(chosen) // 2] = search.target_T[len(chosen) // 2] - 12 * search.columns
    for _ in range(3):
        chosen = search.improved(image, chosen)
    assert (search._costs(search._rows(image), search.target_T, chosen) < 1e-6).all()


@STRIDES
def test_a_choice_that_is_one_pixel_off_is_moved(stride: int, side: int) -> None:
    """In waves from left to right; all are off alike, so that no neighbour knows better."""
    phase = torch.arange(48) * (2 * math.pi / 12)
    image, mask = (
        torch.stack([phase.cos(), phase.sin()])[:, None].repeat(1, 48, 1),
        square_hole(48, 48, 18, 18, 6),
    )
    search = PatchSearch(image, mask, level_of(stride, side))
    start = search.target_T - 12 * search.columns + 1
    costs = [
        search._costs(search._rows(image), search.target_T, one)
        for one in (start, search.improved(image, start))
    ]
    assert (costs[0] > 1).all() and (costs[1] < 1e-6).all()


def test_what_is_used_often_costs_more(searched: tuple[PatchSearch, Written]) -> None:
    search, written = searched
    side = written.level.side
    assert not search.crowding_N.any()
    chosen = search.source_S[:1].repeat(len(search.target_T))
    chosen[: len(chosen) // 2] = search.source_S[-1]
    search.note(chosen)
    found = search.crowding_N.view(-1, search.columns)
    uses = torch.bincount(chosen, minlength=found.numel()).view(found.shape).double().numpy()
    ground = search.image_CHW[:, search.hole_1HW[0] == 0].double()
    expected = len(chosen) / len(search.source_S)
    for y, x in written.sources[0], written.sources[-1]:
        window = uses[
            max(y - side // 2, 0) : y + side - side // 2, max(x - side // 2, 0) : x + side - side // 2
        ]
        wanted = side**2 * float(ground.var(1).sum()) * min(window.mean() / expected, 20) / 20
        assert float(found[y, x]) == pytest.approx(wanted, rel=1e-5) and wanted > 0
    # Level with them in the image, others are chosen for costing less.
    flat = PatchSearch(torch.zeros_like(search.image_CHW), search.hole_1HW, written.level)
    flat.crowding_N = search.crowding_N
    assert (flat.crowding_N[flat.improved(flat.image_CHW, chosen)] < search.crowding_N[chosen]).any()


@STRIDES
@pytest.mark.parametrize("pairs", [2**24, 40])
def test_patches_are_laid_over_each_other_by_their_distance_from_the_centre(
    monkeypatch: pytest.MonkeyPatch, stride: int, side: int, pairs: int
) -> None:
    monkeypatch.setattr(patch_search, "_PAIRS", pairs)
    image, mask = noise(2, 14, 12), square_hole(14, 12, 5, 6, 3)
    level = level_of(stride, side)
    search, written = PatchSearch(image, mask, level), Written(image, mask, level)
    chosen = search.source_S[torch.arange(len(search.target_T)) % len(search.source_S)]
    found = search.laid(chosen)
    total, weights = np.zeros_like(written.image), np.zeros(written.image.shape[1:])
    first, middle = written.margin - 1, written.margin + (stride - 1) / 2
    for target, source in zip(written.cells, places(search, chosen), strict=True):
        for down, right in itertools.product(range(first, first + stride + 2), repeat=2):
            weight = math.exp(-0.5 * ((down - middle) ** 2 + (right - middle) ** 2) / 0.8**2)
            total[:, target[0] + down, target[1] + right] += (
                weight * written.image[:, source[0] + down, source[1] + right]
            )
            weights[target[0] + down, target[1] + right] += weight
    margin = written.margin
    mean = (total / np.where(weights, weights, 1))[:, margin : margin + 14, margin : margin + 12]
    np.testing.assert_allclose(found, np.where(mask[0] > 0, mean, image), atol=1e-6)


@pytest.mark.parametrize(("stride", "side"), [(1, 3), (2, 4)])
def test_a_coarser_choice_is_carried_cell_beside_cell(stride: int, side: int) -> None:
    coarse = PatchSearch(noise(1, 12, 12), square_hole(12, 12, 4, 4, 2), Level(2, 1, 3, 1, 1, 0.7))
    fine = PatchSearch(noise(1, 24, 24), square_hole(24, 24, 8, 8, 4), level_of(stride, side))
    # The four missing pixels copy from rows 8 and 9, columns 2 and 3.
    chosen = torch.tensor([(8 + row) * coarse.columns + 2 + column for row in (0, 1) for column in (0, 1)])
    steps = range(0, 4, stride)
    expected = [(16 + row, 4 + column) for row in steps for column in steps]
    carried = fine.carried(coarse, chosen)
    assert places(fine, carried) == expected
    assert fine.is_whole_N[carried].all()


def test_what_is_compared_lies_everywhere() -> None:
    """Of more patches than are compared some in every part of a large image, in rows and columns alike."""
    image, mask = torch.zeros(1, 160, 160), square_hole(160, 160, 70, 70, 20)
    search = PatchSearch(image, mask, Level(1, 1, 7, 1, 1, 0.7))
    compared = search._spread()
    assert len(search.source_S) > 20_000 and 4_000 < len(compared) <= 4_096

    rows, columns = compared // search.columns, compared % search.columns
    assert len(rows.unique()) == len(columns.unique()) == 154
    shares = blocks(compared, search.columns) / blocks(search.source_S, search.columns)
    assert shares.min() > 0.85 * shares.mean() and shares.max() < 1.15 * shares.mean()


def blocks(place_S: Tensor, columns: int) -> Tensor:
    """How many places lie in each of 16 parts of an image of 160 × 160."""
    return torch.bincount(place_S // columns // 40 * 4 + place_S % columns // 40, minlength=16)
