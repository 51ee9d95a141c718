"""GAM against the paper's equations written out densely, over all tokens, in float64."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models import attention as attention_file
from igll.models import products
from igll.models.attention import GlobalAttention

CHANNELS, HEIGHT, WIDTH = 8, 6, 7
Keys = Literal["all", "background"]
KEYS: tuple[Keys, ...] = ("all", "background")


def holes() -> Tensor:
    """(6, 1, 6, 7): nothing, one token, a rectangle, scattered tokens, all but one token, everything."""
    hole_B1HW = torch.zeros(6, 1, HEIGHT, WIDTH, dtype=torch.bool)
    hole_B1HW[1, 0, 2, 3] = True
    hole_B1HW[2, 0, 1:4, 2:6] = True
    hole_B1HW[3, 0] = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5)) < 0.4
    hole_B1HW[4] = True
    hole_B1HW[4, 0, 5, 0] = False
    hole_B1HW[5] = True
    return hole_B1HW


def features(batch: int = 6, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.randn(batch, CHANNELS, height, width, generator=torch.Generator().manual_seed(1))


def module(heads: int = 1, position: bool = True, keys: Keys = "all", grid: int = 5) -> GlobalAttention:
    """GAM whose positions weigh as much as the content, so that a slip in them shows."""
    torch.manual_seed(2)
    attention = GlobalAttention(CHANNELS, heads, position, grid, keys)
    for name, parameter in attention.named_parameters():
        if name.startswith("position"):
            nn.init.normal_(parameter)
        else:
            nn.init.normal_(parameter, std=0.4)
    return attention


def resized(position_CG: Tensor, size: int) -> Tensor:
    """Linear interpolation between half-pixel centres, held constant beyond the first and the last."""
    grid = position_CG.shape[1]
    columns = []
    for place in range(size):
        source = min(max((place + 0.5) * grid / size - 0.5, 0.0), grid - 1.0)
        low = int(source)
        high, share = min(low + 1, grid - 1), source - low
        columns.append((1 - share) * position_CG[:, low] + share * position_CG[:, high])
    return torch.stack(columns, 1)


def dense_attention(attention: GlobalAttention, feature_BCHW: Tensor, hole_B1HW: Tensor) -> Tensor:
    """Equations 6 to 10 for one image after the other, with every token as a query."""
    height, width = feature_BCHW.shape[-2:]
    filled = []
    for feature_CHW, hole_1HW in zip(feature_BCHW, hole_B1HW, strict=True):
        hole_N = hole_1HW.flatten()
        if not hole_N.any() or (attention.keys == "background" and hole_N.all()):
            filled.append(feature_CHW)
            continue
        tokens_NC = feature_CHW.flatten(1).T
        query, key, value = (
            F.linear(tokens_NC, layer.weight, layer.bias)
            for layer in (attention.query, attention.key, attention.value)
        )
        position_NC = torch.zeros_like(key)
        if attention.position_row is not None and attention.position_column is not None:
            row_CH = resized(attention.position_row, height)
            column_CW = resized(attention.position_column, width)
            position_NC = torch.stack(
                [row_CH[:, row] + column_CW[:, column] for row in range(height) for column in range(width)]
            )
        size = key.shape[1] // attention.heads
        outputs = []
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            logits_NN = query[:, part] @ key[:, part].T + query[:, part] @ position_NC[:, part].T
            if attention.keys == "background":
                logits_NN = logits_NN.masked_fill(hole_N[None, :], float("-inf"))
            outputs.append((logits_NN / size**0.5).softmax(1) @ value[:, part])
        attended_NC = torch.cat(outputs, 1)
        if attention.heads > 1:
            assert isinstance(attention.join, nn.Linear)
            attended_NC = attended_NC @ attention.join.weight.T + attention.join.bias
        attended_CHW = attended_NC.T.reshape(feature_CHW.shape)
        filled.append(torch.where(hole_1HW, attended_CHW, feature_CHW))
    return torch.stack(filled)


VARIANTS = pytest.mark.parametrize(
    "heads, position, keys",
    [(heads, position, keys) for heads in (1, 3) for position in (True, False) for keys in KEYS],
)


@VARIANTS
def test_equals_the_dense_equations_with_their_gradients(heads: int, position: bool, keys: Keys) -> None:
    attention = module(heads, position, keys)
    reference = copy.deepcopy(attention).double()
    feature_BCHW = features().requires_grad_()
    exact_BCHW = feature_BCHW.detach().double().requires_grad_()
    out_BCHW = attention(feature_BCHW, holes())
    expected_BCHW = dense_attention(reference, exact_BCHW, holes())
    assert torch.allclose(out_BCHW.double(), expected_BCHW, rtol=0, atol=1e-5)

    weight_BCHW = torch.randn(out_BCHW.shape, generator=torch.Generator().manual_seed(3))
    (out_BCHW * weight_BCHW).sum().backward()
    (expected_BCHW * weight_BCHW).sum().backward()
    assert feature_BCHW.grad is not None and exact_BCHW.grad is not None
    assert torch.allclose(feature_BCHW.grad.double(), exact_BCHW.grad, rtol=1e-5, atol=1e-5)
    exact = dict(reference.named_parameters())
    for name, parameter in attention.named_parameters():
        expected = exact[name].grad
        assert parameter.grad is not None and expected is not None, name
        assert torch.allclose(parameter.grad.double(), expected, rtol=1e-5, atol=3e-5), name


@VARIANTS
def test_equals_the_dense_equations_in_float64(heads: int, position: bool, keys: Keys) -> None:
    attention = module(heads, position, keys).double()
    out_BCHW = attention(features().double(), holes())
    expected_BCHW = dense_attention(attention, features().double(), holes())
    assert torch.allclose(out_BCHW, expected_BCHW, rtol=0, atol=1e-12)


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Makes every product worth a convolution, whatever runs the tests; lists the sizes of the scores."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(products, "_LEAST", 0)
    monkeypatch.setattr(products, "_LEAST_VALUES", 0)
    seen: list[tuple[int, ...]] = []
    softmax = Tensor.softmax

    def listening(score: Tensor, dim: int) -> Tensor:
        seen.append(tuple(score.shape))
        return softmax(score, dim)

    monkeypatch.setattr(Tensor, "softmax", listening)
    return seen


@VARIANTS
@torch.no_grad()
def test_products_on_a_cpu_equal_the_dense_equations(
    heads: int, position: bool, keys: Keys, by_products: list[tuple[int, ...]]
) -> None:
    attention = module(heads, position, keys)
    filled = [attention(features()[image : image + 1], holes()[image : image + 1]) for image in range(6)]
    assert bool(by_products) == (heads == 1), "several heads are left to the fused kernel"
    expected_BCHW = dense_attention(copy.deepcopy(attention).double(), features().double(), holes())
    assert torch.allclose(torch.cat(filled).double(), expected_BCHW, rtol=0, atol=1e-5)
    together_BCHW = attention(features(), holes())
    assert torch.allclose(together_BCHW.double(), expected_BCHW, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("in_cache", "keys_at_once", "scores"),
    [
        (10**9, 4096, [(336, 1024)]),
        (200 * 1024, 4096, [(176, 1024)] * 2),
        (100 * 1024, 1024, [(96, 1024)] * 4),
        (10**9, 1023, [(336, 512)] * 2),
        (170 * 342, 400, [(176, 342), (176, 342), (176, 340)] * 2),
        (1, 1000, [(16, 512)] * 42),
    ],
)
@torch.no_grad()
def test_queries_and_keys_go_a_part_at_a_time(
    in_cache: int,
    keys_at_once: int,
    scores: list[tuple[int, int]],
    by_products: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_file, "IN_CACHE", in_cache)
    monkeypatch.setattr(attention_file, "_KEYS_AT_ONCE", keys_at_once)
    attention, feature_BCHW = module(), features(1, 32, 32)
    hole_B1HW = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    hole_B1HW[..., 3:14, 1:31] = True
    found = attention(feature_BCHW, hole_B1HW)
    # What is left is the softmax over the parts.
    assert [shape[1:] for shape in by_products if shape[2] > 16] == scores
    expected = dense_attention(copy.deepcopy(attention).double(), feature_BCHW.double(), hole_B1HW)
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 30.0, 1e4])
@torch.no_grad()
def test_parts_of_the_keys_count_by_what_their_scores_weigh(
    size: float, by_products: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly alike, apart, and so far apart that one key has it all: nothing over- or underflows."""
    monkeypatch.setattr(attention_file, "_KEYS_AT_ONCE", 7)
    attention, feature_BCHW = module(), features(1)
    attention.query.weight *= size
    found = attention(feature_BCHW, holes()[2:3])
    expected = dense_attention(copy.deepcopy(attention).double(), feature_BCHW.double(), holes()[2:3])
    # Scores are about as large as the queries, and are rounded.
    assert by_products and torch.allclose(found.double(), expected, rtol=0, atol=1e-5 + 3e-7 * size)


@torch.no_grad()
def test_attention_whose_parts_are_small_is_left_to_the_fused_kernel(
    by_products: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of 41 queries and 42 keys, or of 21 and 21 at a time."""
    attention, (feature_BCHW, hole_B1HW) = module(), (features(1), holes()[4:5])
    for width, rows in ((42, 41), (21, 32)):
        monkeypatch.setattr(attention_file, "_KEYS_AT_ONCE", width)
        monkeypatch.setattr(attention_file, "IN_CACHE", width * rows)
        monkeypatch.setattr(products, "_LEAST", rows * CHANNELS * width + 1)
        by_products.clear()
        attention(feature_BCHW, hole_B1HW)
        assert not by_products
        monkeypatch.setattr(products, "_LEAST", rows * CHANNELS * width)
        attention(feature_BCHW, hole_B1HW)
        assert by_products


@pytest.mark.parametrize("keys", KEYS)
def test_known_tokens_and_images_without_a_hole_pass_unchanged(keys: Keys) -> None:
    feature_BCHW, hole_B1HW = features(), holes()
    out_BCHW = module(keys=keys)(feature_BCHW, hole_B1HW)
    known = (~hole_B1HW).expand_as(out_BCHW)
    assert torch.equal(out_BCHW[known], feature_BCHW[known])
    assert torch.equal(out_BCHW[0], feature_BCHW[0])
    moved_BHW = (out_BCHW - feature_BCHW).abs().amax(1)
    assert (moved_BHW[:5][hole_B1HW[:5, 0]] > 1e-3).all()
    assert torch.equal(out_BCHW[5], feature_BCHW[5]) == (keys == "background"), "a full hole"
    assert torch.equal(module(keys=keys)(feature_BCHW[:1], hole_B1HW[:1]), feature_BCHW[:1])


def test_query_key_and_position_learn() -> None:
    attention = module(heads=3)
    out_BCHW = attention(features(), holes())
    out_BCHW.square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-3, name


def test_background_keys_make_the_hole_tokens_content_matter_to_itself_alone() -> None:
    feature_BCHW, hole_B1HW = features()[2:3], holes()[2:3]
    changed_BCHW = feature_BCHW.clone()
    changed_BCHW[0, :, 2, 3] += 5.0
    for keys in KEYS:
        attention = module(keys=keys)
        difference_HW = (
            (attention(changed_BCHW, hole_B1HW) - attention(feature_BCHW, hole_B1HW))[0].abs().amax(0)
        )
        assert difference_HW[2, 3] > 1e-3
        difference_HW[2, 3] = 0
        assert bool((difference_HW > 1e-3).any()) == (keys == "all")


@pytest.mark.parametrize("height, width", [(5, 5), (6, 7), (12, 3), (1, 9), (17, 20)])
def test_position_is_resized_bilinearly(height: int, width: int) -> None:
    attention = module(grid=5).double()
    row, column = attention.position_row, attention.position_column
    assert row is not None and column is not None and row.shape == column.shape == (CHANNELS, 5)
    learned_CGG = row[:, :, None] + column[:, None, :]
    size = (height, width)
    expected_CHW = F.interpolate(learned_CGG[None], size, mode="bilinear", align_corners=False)[0]
    position_NC = attention.position_NC(height, width)
    assert position_NC is not None and position_NC.shape == (height * width, CHANNELS)
    assert torch.allclose(position_NC.T.reshape(CHANNELS, height, width), expected_CHW, rtol=0, atol=1e-12)


def test_position_tells_apart_what_content_cannot() -> None:
    flat_BCHW = torch.ones(1, CHANNELS, HEIGHT, WIDTH)
    flat_BCHW[:, :, 0] = -1.0
    hole_B1HW = torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    hole_B1HW[..., 3:5, 3] = True
    mirrored_BCHW = flat_BCHW.flip(2)
    with_position, without = module(), module(position=False)
    attended = without(flat_BCHW, hole_B1HW), without(mirrored_BCHW, hole_B1HW)
    assert torch.allclose(attended[0][..., 3, 3], attended[1][..., 3, 3], rtol=0, atol=1e-5)
    attended = with_position(flat_BCHW, hole_B1HW), with_position(mirrored_BCHW, hole_B1HW)
    assert not torch.allclose(attended[0][..., 3, 3], attended[1][..., 3, 3], rtol=0, atol=1e-2)
    assert without.position_NC(3, 3) is None
    assert not [name for name in without.state_dict() if name.startswith("position")]


@pytest.mark.parametrize("keys", KEYS)
def test_each_image_is_treated_as_if_alone(keys: Keys) -> None:
    attention = module(heads=3, keys=keys)
    feature_BCHW, hole_B1HW = features(), holes()
    together_BCHW = attention(feature_BCHW, hole_B1HW)
    for sample in range(6):
        alone = attention(feature_BCHW[sample : sample + 1], hole_B1HW[sample : sample + 1])[0]
        assert torch.allclose(together_BCHW[sample], alone, rtol=0, atol=1e-5)


def test_lower_precision_stays_close_and_keeps_the_type() -> None:
    attention = module(keys="background")
    feature_BCHW = features().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out_BCHW = attention(feature_BCHW, holes())
    assert out_BCHW.dtype == torch.bfloat16
    expected_BCHW = dense_attention(copy.deepcopy(attention).double(), feature_BCHW.double(), holes())
    error = (out_BCHW.double() - expected_BCHW).abs()
    assert error.mean() < 0.01 and error.max() < 0.15


@VARIANTS
def test_weights_explain_what_a_token_becomes(heads: int, position: bool, keys: Keys) -> None:
    attention = module(heads, position, keys)
    hole_B1HW = holes()[2:3]
    hole_B1HW = torch.cat([hole_B1HW, hole_B1HW.clone(), torch.ones_like(hole_B1HW)])
    hole_B1HW[1, 0, 0, :5] = True  # fewer keys than the first: padding has no weight
    feature_BCHW = features(3)
    out_BCHW = attention(feature_BCHW, hole_B1HW)
    value_BGNC = attention.value(feature_BCHW.flatten(2).transpose(1, 2)).unflatten(2, (heads, -1))
    for row, column in ((1, 2), (3, 5), (2, 4)):
        weights_BGHW = attention.weights(feature_BCHW, hole_B1HW, row, column)
        mixed_BGC = torch.einsum("bgn,bngc->bgc", weights_BGHW.flatten(2), value_BGNC)
        expected_BC = attention.join(mixed_BGC.flatten(1))
        used = slice(None) if keys == "all" else slice(2)
        assert torch.allclose(out_BCHW[used, :, row, column], expected_BC[used], rtol=0, atol=1e-5)
        total_BG = weights_BGHW.sum((2, 3))
        assert torch.allclose(total_BG[used], torch.ones(()), rtol=0, atol=1e-5)
        if keys == "background":
            assert (weights_BGHW * hole_B1HW == 0).all() and (weights_BGHW[2] == 0).all()


@pytest.mark.parametrize("row, column", [(0, 0), (-1, 3), (6, 0), (2, 7)])
def test_weights_of_a_token_that_is_no_hole_are_refused(row: int, column: int) -> None:
    with pytest.raises(ValueError, match="is not in the hole of the 6 × 7 grid"):
        module().weights(features(1), holes()[2:3], row, column)
