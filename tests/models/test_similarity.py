"""FFSM against a plain dense reference: one image at a time, convolution, loops, float64."""

from __future__ import annotations

import copy
import weakref
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from igll.models import similarity
from igll.models.hole_layout import HoleLayout, valid_patches
from igll.models.similarity import ChannelGate, FlexibleFeatureSimilarity
from igll.models.strips import diagonal_sum
from igll.models.tokens import CACHE_LINE

CHANNELS, HEIGHT, WIDTH = 16, 8, 9
Select = Literal["softmax", "best"]


def holes() -> Tensor:
    """(9, 1, 8, 9): see the comments."""
    hole_B1HW = torch.zeros(9, 1, HEIGHT, WIDTH, dtype=torch.bool)
    hole_B1HW[0, 0, 3, 4] = True  # one token
    hole_B1HW[1, 0, 2:5, 2:6] = True  # inside
    hole_B1HW[2, 0, :3, 5:] = True  # at a corner of the grid
    hole_B1HW[3, 0, :, 3:] = True  # all but a strip of three columns: six patches
    hole_B1HW[4, 0, :, 2:] = True  # all but a strip of two: no patch
    hole_B1HW[6] = True  # everything; number 5 has no hole
    hole_B1HW[7, 0, 1, 1] = hole_B1HW[7, 0, 6:, 0:2] = hole_B1HW[7, 0, 0, 8] = True  # three apart
    hole_B1HW[8, 0, ::3, ::3] = True  # no 3 × 3 patch is free of holes
    return hole_B1HW


UNFILLED = (4, 5, 6, 8)


def features(batch: int = 9) -> Tensor:
    return torch.randn(batch, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def module(
    select: Select = "softmax", heads: int = 1, position: bool = True, score_scale: float = 1.0
) -> FlexibleFeatureSimilarity:
    torch.manual_seed(2)
    ffsm = FlexibleFeatureSimilarity(CHANNELS, heads, position, 5, select, score_scale)
    for name, parameter in ffsm.named_parameters():
        nn.init.normal_(parameter, std=1.0 if "gate" in name or "position" in name else 0.4)
    return ffsm


def free_centres(hole_HW: Tensor) -> list[tuple[int, int]]:
    height, width = hole_HW.shape
    return [
        (row, column)
        for row in range(1, height - 1)
        for column in range(1, width - 1)
        if not any(hole_HW[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1))
    ]


def gated(gate: ChannelGate, feature_CHW: Tensor, hole_HW: Tensor) -> Tensor:
    """Squeeze over the known tokens, two layers, and each channel multiplied by its sigmoid."""
    known = [feature_CHW[:, row, column] for row, column in (~hole_HW).nonzero().tolist()]
    mean_C = torch.stack(known).mean(0)
    first, second = gate.gate[0], gate.gate[2]
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    hidden = (first.weight @ mean_C + first.bias).clamp_min(0)
    return feature_CHW / (1 + torch.exp(-(second.weight @ hidden + second.bias)))[:, None, None]


def dense_one(ffsm: FlexibleFeatureSimilarity, feature_CHW: Tensor, hole_HW: Tensor) -> Tensor:
    centres = free_centres(hole_HW)
    if not hole_HW.any() or not centres:
        return feature_CHW
    height, width = hole_HW.shape
    assert ffsm.attention.keys == "background"
    foreground_1CHW = ffsm.attention(feature_CHW[None], hole_HW[None, None])  # held by test_attention.py
    background_CHW = gated(ffsm.channel_gate, feature_CHW, hole_HW)
    kernel_KC33 = torch.stack(
        [background_CHW[:, row - 1 : row + 2, col - 1 : col + 2] for row, col in centres]
    )
    unit_KC33 = kernel_KC33 / kernel_KC33.flatten(1).norm(dim=1)[:, None, None, None]
    length_HW = F.unfold(foreground_1CHW, 3, padding=1)[0].norm(dim=0).reshape(height, width)
    score_KHW = F.conv2d(foreground_1CHW, unit_KC33, padding=1)[0] / length_HW * hole_HW
    ones_1133 = score_KHW.new_ones(1, 1, 3, 3)
    score_KHW = F.conv2d(score_KHW[:, None], ones_1133, padding=1)[:, 0]
    if ffsm.select == "softmax":
        share_KHW = (ffsm.score_scale * score_KHW).softmax(0)
    else:
        share_KHW = F.one_hot(score_KHW.argmax(0), len(centres)).permute(2, 0, 1).to(score_KHW.dtype)
    share_KHW = share_KHW * hole_HW
    pasted_CHW = F.conv_transpose2d(share_KHW[None], kernel_KC33, padding=1)[0]
    cover_HW = F.conv_transpose2d(hole_HW.to(score_KHW.dtype)[None, None], ones_1133, padding=1)[0, 0]
    return torch.where(hole_HW, pasted_CHW / cover_HW.clamp_min(1), feature_CHW)


def dense(ffsm: FlexibleFeatureSimilarity, feature_BCHW: Tensor, hole_B1HW: Tensor) -> Tensor:
    pairs = zip(feature_BCHW, hole_B1HW[:, 0], strict=True)
    return torch.stack([dense_one(ffsm, feature_CHW, hole_HW) for feature_CHW, hole_HW in pairs])


@pytest.mark.parametrize(
    "select, heads, position, score_scale",
    [
        ("softmax", 1, True, 1.0),
        ("best", 1, True, 1.0),
        ("softmax", 3, False, 1.0),
        ("best", 3, False, 10.0),
        ("softmax", 1, True, 10.0),
    ],
)
def test_equals_the_dense_reference_with_its_gradients(
    select: Select, heads: int, position: bool, score_scale: float
) -> None:
    ffsm = module(select, heads, position, score_scale)
    reference = copy.deepcopy(ffsm).double()
    feature_BCHW = features().requires_grad_()
    exact_BCHW = feature_BCHW.detach().double().requires_grad_()
    out_BCHW = ffsm(feature_BCHW, holes())
    expected_BCHW = dense(reference, exact_BCHW, holes())
    assert torch.allclose(out_BCHW.double(), expected_BCHW, rtol=0, atol=1e-5)

    weight_BCHW = torch.randn(out_BCHW.shape, generator=torch.Generator().manual_seed(3))
    (out_BCHW * weight_BCHW).sum().backward()
    (expected_BCHW * weight_BCHW).sum().backward()
    assert feature_BCHW.grad is not None and exact_BCHW.grad is not None
    assert torch.allclose(feature_BCHW.grad.double(), exact_BCHW.grad, rtol=1e-5, atol=1e-5)
    exact = dict(reference.named_parameters())
    for name, parameter in ffsm.named_parameters():
        expected = exact[name].grad
        if select == "best" and name.startswith("attention."):
            # The best patch is picked, not weighed: nothing flows into the scores.
            assert parameter.grad is None and expected is None, name
            continue
        assert parameter.grad is not None and expected is not None, name
        assert expected.abs().max() > 1e-5, name
        assert torch.allclose(parameter.grad.double(), expected, rtol=1e-5, atol=3e-5), name


@pytest.mark.parametrize("select", ["softmax", "best"])
def test_known_tokens_and_images_without_a_patch_pass_unchanged(select: Select) -> None:
    feature_BCHW, hole_B1HW = features(), holes()
    assert [not free_centres(hole_HW) or not hole_HW.any() for hole_HW in hole_B1HW[:, 0]] == [
        sample in UNFILLED for sample in range(9)
    ]
    out_BCHW = module(select)(feature_BCHW, hole_B1HW)
    known = (~hole_B1HW).expand_as(out_BCHW)
    assert torch.equal(out_BCHW[known], feature_BCHW[known])
    for sample in range(9):
        assert torch.equal(out_BCHW[sample], feature_BCHW[sample]) == (sample in UNFILLED), sample


@pytest.mark.parametrize("select", ["softmax", "best"])
@pytest.mark.parametrize("samples", [[0], [3], [4], [5], [6], [4, 5, 6], [3, 4], [0, 5]])
def test_each_image_is_treated_as_if_alone(select: Select, samples: list[int]) -> None:
    ffsm = module(select)
    feature_BCHW, hole_B1HW = features(), holes()
    together_BCHW = ffsm(feature_BCHW, hole_B1HW)[samples]
    apart_BCHW = ffsm(feature_BCHW[samples], hole_B1HW[samples])
    assert torch.allclose(together_BCHW, apart_BCHW, rtol=0, atol=1e-5)


class LargestScore(TorchFunctionMode):
    """Notes how many scores are selected from at a time, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("softmax", "argmax"):
            self.sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("select", ["softmax", "best"])
@pytest.mark.parametrize("in_cache", [1, 5000, 10**9])
@pytest.mark.parametrize("budget", [1, 700, 3000])
def test_chunks_give_the_same_and_hold_the_budget(
    monkeypatch: pytest.MonkeyPatch, select: Select, budget: int, in_cache: int
) -> None:
    ffsm, feature_BCHW, hole_B1HW = module(select), features(4), holes()[:4]
    diagonals: list[int] = []

    def noted(matrix_BXY: Tensor) -> Tensor:
        diagonals.append(matrix_BXY.numel())
        return diagonal_sum(matrix_BXY)

    monkeypatch.setattr(similarity, "diagonal_sum", noted)
    with torch.no_grad(), LargestScore() as whole:
        expected_BCHW = ffsm(feature_BCHW, hole_B1HW)
    assert len(diagonals) == 2 and min(diagonals) > 5000
    diagonals.clear()
    monkeypatch.setattr(similarity, "SCORE_BUDGET", budget)
    monkeypatch.setattr(similarity, "IN_CACHE", in_cache)
    with torch.no_grad(), LargestScore() as chunked:
        out_BCHW = ffsm(feature_BCHW, hole_B1HW)
    assert torch.allclose(out_BCHW, expected_BCHW, rtol=0, atol=1e-6)
    assert len(whole.sizes) == 1 and len(chunked.sizes) > 1
    assert sum(chunked.sizes) == whole.sizes[0]
    one_row = 4 * HoleLayout.of(hole_B1HW).sources.index_BM.shape[1]
    assert max(chunked.sizes) <= max(budget, one_row)
    lines = CACHE_LINE * 4 * HoleLayout.of(hole_B1HW).foreground.place_BX.shape[1]
    assert lines < 5000 and len(diagonals) > 2 and max(diagonals) <= max(in_cache, lines)
    with LargestScore() as training:
        ffsm(feature_BCHW, hole_B1HW)
    assert training.sizes == whole.sizes, "with gradients everything is kept anyway"


def test_one_matrix_of_scores_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ffsm, held, alive = module(), [], []
    shares, score = ffsm._shares, ffsm._score

    def watched(score_BMY: Tensor) -> Tensor:
        memory = shares(score_BMY).numpy().copy()
        held.append(weakref.ref(memory))
        return torch.from_numpy(memory)

    def counting(*given: Any) -> Tensor:
        alive.append(sum(memory() is not None for memory in held))
        score_BMY, memory_E = score(*given), given[-1]
        if held:  # the one from before is written over
            assert score_BMY.data_ptr() == memory_E.data_ptr() == held[-1]().ctypes.data
        return score_BMY

    monkeypatch.setattr(ffsm, "_shares", watched)
    monkeypatch.setattr(ffsm, "_score", counting)
    monkeypatch.setattr(similarity, "SCORE_BUDGET", 700)
    monkeypatch.setattr(similarity, "IN_CACHE", 1)
    with torch.no_grad():
        ffsm(features(4), holes()[:4])
    assert len(alive) > 2 and alive == [0] + [1] * (len(alive) - 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_parts_are_added_up_precisely(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Rounding each sum of two parts to 16 bits would add up to three times the error of one part."""
    torch.manual_seed(0)
    ffsm = FlexibleFeatureSimilarity(CHANNELS).double()
    feature_BCHW = 1 + 0.5 * torch.randn(1, CHANNELS, 48, 48, dtype=torch.float64)
    hole_B1HW = torch.zeros(1, 1, 48, 48, dtype=torch.bool)
    hole_B1HW[..., 8:20, 8:20] = True
    errors = []
    with torch.no_grad():
        expected_BCHW = ffsm(feature_BCHW, hole_B1HW)
        for in_cache in (10**9, 1):
            monkeypatch.setattr(similarity, "IN_CACHE", in_cache)
            out_BCHW = copy.deepcopy(ffsm).to(dtype)(feature_BCHW.to(dtype), hole_B1HW)
            errors.append((out_BCHW - expected_BCHW)[hole_B1HW.expand_as(out_BCHW)].abs().mean().item())
    assert errors[1] < max(1.2 * errors[0], 1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_features_stay_within_16_bits(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    feature_BCHW, hole_B1HW = 40 * torch.randn(4, 128, HEIGHT, WIDTH, generator=generator), holes()[:4]
    torch.manual_seed(0)
    ffsm = FlexibleFeatureSimilarity(128)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        assert ffsm(feature_BCHW, hole_B1HW).isfinite().all()


def test_valid_patches_are_those_that_a_loop_finds() -> None:
    for hole_B1HW in (holes(), torch.zeros(1, 1, 2, 5, dtype=torch.bool), torch.zeros(1, 1, 3, 3).bool()):
        for hole_HW, valid_HW in zip(hole_B1HW[:, 0], valid_patches(hole_B1HW)[:, 0], strict=True):
            assert [tuple(place) for place in valid_HW.nonzero().tolist()] == free_centres(hole_HW)


def test_the_best_patch_of_a_periodic_texture_restores_it() -> None:
    """On a texture of period 4, with attention blind, every hole token finds what belongs there."""
    tile_C44 = torch.randn(CHANNELS, 4, 4, generator=torch.Generator().manual_seed(4))
    texture_1CHW = tile_C44.repeat(1, 4, 4)[None]
    hole_B1HW = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    hole_B1HW[..., 7, 7] = True
    ffsm = FlexibleFeatureSimilarity(CHANNELS, position=False, select="best")
    for parameter in ffsm.parameters():
        nn.init.zeros_(parameter)  # the attended token is zero; the eight around it decide
    nn.init.constant_(ffsm.channel_gate.gate.get_parameter("2.bias"), 30.0)  # sigmoid 1
    damaged_1CHW = torch.where(hole_B1HW, 9.0, texture_1CHW)
    assert torch.allclose(ffsm(damaged_1CHW, hole_B1HW), texture_1CHW, rtol=0, atol=1e-6)


def test_features_of_nothing_but_zeros_have_finite_gradients() -> None:
    feature_BCHW = torch.zeros(9, CHANNELS, HEIGHT, WIDTH, requires_grad=True)
    ffsm = module()
    for parameter in ffsm.attention.parameters():
        nn.init.zeros_(parameter)
    out_BCHW = ffsm(feature_BCHW, holes())
    assert torch.equal(out_BCHW, torch.zeros_like(out_BCHW))
    out_BCHW.sum().backward()
    assert feature_BCHW.grad is not None and feature_BCHW.grad.isfinite().all()
    for name, parameter in ffsm.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_channel_gate_reads_the_known_tokens_alone() -> None:
    gate, feature_BCHW, hole_B1HW = module().channel_gate, features(4), holes()[:4]
    tokens_BNC, hole_BN = feature_BCHW.flatten(2).transpose(1, 2), hole_B1HW.flatten(1)
    out_BNC = gate(tokens_BNC, hole_BN)
    other_BNC = torch.where(hole_BN[..., None], 7.0, tokens_BNC)
    assert torch.equal(gate(other_BNC, hole_BN)[~hole_BN], out_BNC[~hole_BN])
    for sample in range(4):
        expected_CHW = gated(gate, feature_BCHW[sample], hole_B1HW[sample, 0])
        assert torch.allclose(out_BNC[sample].T, expected_CHW.flatten(1), rtol=0, atol=1e-5)


def test_lower_precision_stays_close_and_keeps_the_type() -> None:
    ffsm, feature_BCHW = module(), features().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out_BCHW = ffsm(feature_BCHW, holes())
    assert out_BCHW.dtype == torch.bfloat16
    expected_BCHW = dense(copy.deepcopy(ffsm).double(), feature_BCHW.double(), holes())
    error = (out_BCHW.double() - expected_BCHW).abs()
    assert error.mean() < 0.01 and error.max() < 0.15


@pytest.mark.parametrize("select", ["softmax", "best"])
@pytest.mark.parametrize("heads, score_scale", [(1, 1.0), (3, 1.0), (1, 10.0)])
def test_weights_explain_what_a_token_becomes(select: Select, heads: int, score_scale: float) -> None:
    ffsm = module(select, heads, score_scale=score_scale).double()
    hole_B1HW = holes()[[1, 1, 3, 2]]
    hole_B1HW[1, 0, 7, :3] = hole_B1HW[3, 0, 2, 3:6] = True
    feature_BCHW = features(4).double()
    out_BCHW = ffsm(feature_BCHW, hole_B1HW)
    tokens_BNC = feature_BCHW.flatten(2).transpose(1, 2)
    gated_BNC = ffsm.channel_gate(tokens_BNC, hole_B1HW.flatten(1))
    for row, column in ((2, 5), (2, 3), (2, 4)):
        weights_B1HW = ffsm.weights(feature_BCHW, hole_B1HW, row, column)
        expected_BC = (weights_B1HW.flatten(1)[:, None] @ gated_BNC)[:, 0]
        assert torch.allclose(out_BCHW[:, :, row, column], expected_BC, rtol=0, atol=1e-10)
        assert torch.allclose(weights_B1HW.sum((1, 2, 3)), torch.ones(4).double(), rtol=0, atol=1e-10)
        assert (weights_B1HW * hole_B1HW == 0).all()


def test_a_larger_score_scale_sharpens_the_choice_up_to_the_best_patch_alone() -> None:
    feature_BCHW, hole_B1HW = features(1).double(), holes()[1:2]
    plain, scaled, best = (
        ffsm.double().weights(feature_BCHW, hole_B1HW, 3, 3)
        for ffsm in (module(), module(score_scale=10.0), module("best"))
    )
    assert plain.max() < scaled.max() < best.max()
    limit = module(score_scale=1000.0).double()(feature_BCHW, hole_B1HW)
    wanted = module("best").double()(feature_BCHW, hole_B1HW)
    assert torch.allclose(limit, wanted, rtol=0, atol=1e-6)
    assert torch.equal(
        module(score_scale=10.0).scores(feature_BCHW.float(), hole_B1HW, 3, 3).nan_to_num(),
        module().scores(feature_BCHW.float(), hole_B1HW, 3, 3).nan_to_num(),
    ), "scores stay cosines, whatever the softmax makes of them"


def test_scores_are_sums_of_cosines_over_the_neighbourhood() -> None:
    ffsm = module().double()
    hole_B1HW, feature_BCHW = holes()[[1, 2]], features(2).double()
    foreground_BCHW = ffsm.attention(feature_BCHW, hole_B1HW)
    row, column = 2, 5
    scores_B1HW = ffsm.scores(feature_BCHW, hole_B1HW, row, column)
    assert torch.equal(~scores_B1HW.isnan(), valid_patches(hole_B1HW))
    for image, hole_HW in enumerate(hole_B1HW[:, 0]):
        background_CHW = gated(ffsm.channel_gate, feature_BCHW[image], hole_HW)
        around_CHW = F.pad(foreground_BCHW[image], (1, 1, 1, 1))
        for top, left in free_centres(hole_HW):
            kernel = background_CHW[:, top - 1 : top + 2, left - 1 : left + 2].flatten()
            expected = sum(
                F.cosine_similarity(around_CHW[:, r : r + 3, c : c + 3].flatten(), kernel, 0)
                for r in range(row - 1, row + 2)
                for c in range(column - 1, column + 2)
                if hole_HW[r, c]
            )
            assert abs(scores_B1HW[image, 0, top, left] - expected) < 1e-9


@pytest.mark.parametrize("select", ["softmax", "best"])
def test_a_token_with_nothing_to_copy_has_no_weights(select: Select) -> None:
    ffsm = module(select)
    for case in ([4], [6], [1, 4]):
        hole_B1HW, feature_BCHW = holes()[case], features(len(case))
        assert (ffsm.weights(feature_BCHW, hole_B1HW, 2, 3)[-1] == 0).all()
        assert ffsm.scores(feature_BCHW, hole_B1HW, 2, 3)[-1].isnan().all()
    with pytest.raises(ValueError, match="is not in the hole"):
        ffsm.weights(features(1), holes()[1:2], 0, 0)
