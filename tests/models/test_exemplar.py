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
from igll.models.exemplar import away_from_ground, detail_of, fill_by_example
from igll.models.generator import Generator
from igll.models.patch_search import PatchSearch
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


@pytest.mark.parametrize("size", [(5, 9), (7, 200), (8, 200), (24, 200), (61, 83)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_any_size_and_any_hole(size: tuple[int, int], share: float) -> None:
    image = noise(2, 4, *size)
    mask = torch.zeros(2, 1, *size)
    mask[..., : round(share * size[1])] = 1
    filled = fill_by_example(image, mask)
    assert filled.shape == image.shape and filled.isfinite().all()
    known = mask.expand_as(image) == 0
    assert torch.equal(filled[known], image[known])
    assert torch.equal(filled, image) == (share in (0.0, 1.0) or min(size) < 8)
    assert filled.abs().max() <= 1


@pytest.mark.parametrize(
    ("ground", "begun"), [(96, 8), (40, 4), (20, 2), (12, 1), (7, None)], ids=lambda value: f"{value}"
)
def test_the_search_begins_where_there_is_enough_and_goes_on_to_the_end(
    monkeypatch: pytest.MonkeyPatch, ground: int, begun: int | None
) -> None:
    """Gaps of 8 pixels between so many of known ground; at a scale patches have sides of 7 times as many."""
    called: list[tuple[int, str]] = []

    class Noted(PatchSearch):
        def grown(self) -> Tensor:
            called.append((self.level.scale, "grown"))
            return super().grown()

        def carried(self, *coarser: Any) -> Tensor:
            called.append((self.level.scale, "carried"))
            return super().carried(*coarser)

        def note(self, source_T: Tensor) -> None:
            called.append((self.level.scale, "note"))
            super().note(source_T)

        def improved(self, *choice: Tensor) -> Tensor:
            called.append((self.level.scale, "improved"))
            return super().improved(*choice)

    monkeypatch.setattr(exemplar, "PatchSearch", Noted)
    side = 4 * (ground + 8)
    mask = ((torch.arange(side) % (ground + 8)) >= ground).float().expand(1, 1, side, side)
    fill_by_example(noise(1, 3, side, side), mask)
    rounds = {8: 6, 4: 4, 2: 3, 1: 1}
    expected = []
    for scale in [scale for scale in rounds if begun is not None and scale <= begun]:
        expected.append((scale, "grown" if scale == begun else "carried"))
        expected += rounds[scale] * [(scale, "note"), (scale, "improved")]
    assert called == expected


@pytest.mark.parametrize("side", [65, 97, 101])
def test_nothing_is_copied_from_beyond_the_border(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    """Sides that the coarsest level does not divide are padded; what stands there is no ground."""
    searches: list[PatchSearch] = []

    class Noted(PatchSearch):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            searches.append(self)

    monkeypatch.setattr(exemplar, "PatchSearch", Noted)
    image, mask = noise(1, 3, side, side), square_hole(side, side, 24, 24, side // 3)
    fill_by_example(prefill_harmonic(image, mask), mask)
    assert any(len(search.source_S) for search in searches)
    for search in searches:
        level = search.level
        for place in (search.source_S // search.columns, search.source_S % search.columns):
            end = (place - search.margin + level.side) * level.scale
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


@pytest.mark.parametrize("pixels", [5, 32])
def test_the_distance_from_known_ground_is_counted_so_far(pixels: int) -> None:
    mask = (noise(2, 1, 80, 90) > -0.999).float()
    mask[1] = square_hole(80, 90, 0, 20, 70)
    found = away_from_ground(mask, pixels)
    for share, hole in zip(found[:, 0], mask[:, 0].numpy(), strict=True):
        distance = distance_transform_cdt(hole, "chessboard")
        np.testing.assert_allclose(share.numpy(), np.minimum(distance, pixels) / pixels, atol=1e-6)
    assert not away_from_ground(torch.zeros(1, 1, 8, 8), pixels).any()
    assert (away_from_ground(torch.ones(1, 1, 8, 8), pixels) == 1).all()


def test_detail_is_what_gaussians_take_away_more_of_it_far_from_known_ground() -> None:
    image, mask = noise(2, 3, 90, 82), square_hole(90, 82, 10, 2, 74).expand(2, -1, -1, -1)
    found = detail_of(image, mask)
    distance = distance_transform_cdt(mask[0, 0].numpy(), "chessboard")
    far, taken = np.minimum(distance, 32) / 32, np.minimum(distance, 5) / 5
    assert distance.max() > 32
    for sample, wanted in zip(found.flatten(0, 1), image.flatten(0, 1), strict=True):
        pixels = wanted.double().numpy()
        fine, coarse = (gaussian_filter(pixels, width, mode="nearest", truncate=2.0) for width in (3.0, 16.0))
        expected = taken * (pixels - fine * (1 - far) - coarse * far)
        np.testing.assert_allclose(sample.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_detail_of_other_types_is_that_of_float32(dtype: torch.dtype) -> None:
    image, mask = noise(1, 3, 40, 40).to(dtype), square_hole(40, 40, 4, 4, 30)
    found = detail_of(image, mask.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.float(), detail_of(image.float(), mask), atol=4e-3)


def test_within_mixed_precision_the_search_is_exact_all_the_same() -> None:
    image, mask = noise(1, 3, 64, 64) * 0.1 + 0.8, square_hole(64, 64, 20, 20, 20)
    start = prefill_harmonic(image, mask)
    filled = fill_by_example(start, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fill_by_example(start, mask), filled)
        within = detail_of(filled, mask)
    assert torch.equal(within, detail_of(filled, mask))


def test_the_gate_says_how_much_of_the_detail_is_taken() -> None:
    torch.manual_seed(0)
    net = Generator(
        width=4, structure_prior="none", prefill="harmonic", residual=True, skips=True, exemplar=True
    ).eval()
    image, mask = noise(1, 3, 96, 96), square_hole(96, 96, 30, 30, 30)
    start = prefill_harmonic(image, mask)
    detail = detail_of(fill_by_example(start, mask), mask)
    bias = net.pern.decoder[-1].bias
    for gate in (-50.0, 0.0, 50.0):
        with torch.no_grad():
            bias[-1] = gate
            first, second = net(image, mask)
        # Fresh nets with residual prediction add nothing of their own.
        taken = torch.sigmoid(torch.tensor(gate)) * detail
        expected = torch.where(mask > 0, (first + taken).clamp(-1, 1), image)
        assert torch.allclose(second, expected, atol=1e-6)
    with torch.enable_grad():
        net(image, mask)[1][..., 30:60, 30:60].square().mean().backward()
    assert net.pern.decoder[-1].weight.grad.isfinite().all()
