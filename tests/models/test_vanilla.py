"""Vanilla attention against the equation written out in float64, and in its places in the generator."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.config import ModelConfig
from igll.models.attention import GlobalAttention
from igll.models.generator import Generator
from igll.models.similarity import FlexibleFeatureSimilarity
from igll.models.vanilla import VanillaAttention
from igll.registry import build_generator

CHANNELS, HEIGHT, WIDTH = 8, 6, 7
HOLE = torch.zeros(2, 1, HEIGHT, WIDTH, dtype=torch.bool)
HOLE[0, 0, 1:4, 2:6] = True


def features() -> Tensor:
    return torch.randn(2, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def module(heads: int = 1, position: bool = True) -> VanillaAttention:
    """Weights and positions large enough that a slip in them shows."""
    torch.manual_seed(2)
    attention = VanillaAttention(CHANNELS, heads, position, 5)
    for name, parameter in attention.named_parameters():
        nn.init.normal_(parameter, std=1.0 if name.startswith("position") else 0.4)
    return attention


def dense(attention: VanillaAttention, feature_BCHW: Tensor) -> Tensor:
    """softmax(Q(K + P)ᵀ / √d) V, image by image and head by head."""
    height, width = feature_BCHW.shape[-2:]
    results = []
    for feature_CHW in feature_BCHW:
        tokens_NC = torch.stack(
            [feature_CHW[:, row, column] for row in range(height) for column in range(width)]
        )
        query, key, value = (
            F.linear(tokens_NC, layer.weight, layer.bias)
            for layer in (attention.query, attention.key, attention.value)
        )
        if attention.position_row is not None and attention.position_column is not None:
            learned = attention.position_row[:, :, None] + attention.position_column[:, None, :]
            resized = F.interpolate(learned[None], (height, width), mode="bilinear", align_corners=False)[0]
            key = key + resized.flatten(1).T
        size = key.shape[1] // attention.heads
        parts = []
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            weights_NN = (query[:, part] @ key[:, part].T / size**0.5).exp()
            parts.append(weights_NN / weights_NN.sum(1, keepdim=True) @ value[:, part])
        joined_NC = torch.cat(parts, 1)
        if attention.heads > 1:
            joined_NC = F.linear(joined_NC, attention.join.weight, attention.join.bias)
        results.append(joined_NC.T.reshape(CHANNELS, height, width))
    return torch.stack(results)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("position", [True, False])
def test_equals_the_dense_equation_with_its_gradients(heads: int, position: bool) -> None:
    attention = module(heads, position)
    reference = copy.deepcopy(attention).double()
    feature_BCHW = features().requires_grad_()
    exact_BCHW = feature_BCHW.detach().double().requires_grad_()
    out_BCHW, expected_BCHW = attention(feature_BCHW, HOLE), dense(reference, exact_BCHW)
    assert out_BCHW.dtype == torch.float32
    assert torch.allclose(out_BCHW.double(), expected_BCHW, rtol=0, atol=1e-5)
    weight_BCHW = torch.randn(out_BCHW.shape, generator=torch.Generator().manual_seed(3))
    (out_BCHW * weight_BCHW).sum().backward()
    (expected_BCHW * weight_BCHW).sum().backward()
    assert torch.allclose(feature_BCHW.grad.double(), exact_BCHW.grad, rtol=1e-5, atol=1e-5)
    exact = dict(reference.named_parameters())
    for name, parameter in attention.named_parameters():
        assert torch.allclose(parameter.grad.double(), exact[name].grad, rtol=1e-5, atol=5e-5), name
        assert parameter.grad.abs().max() > 1e-3, name


def test_equals_torchs_own_multi_head_attention() -> None:
    attention = module(heads=2, position=False).double()
    theirs = nn.MultiheadAttention(CHANNELS, 2, batch_first=True).double()
    layers = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        theirs.in_proj_bias.copy_(
            torch.cat([attention.query.bias, torch.zeros(CHANNELS), attention.value.bias])
        )
        theirs.out_proj.load_state_dict(attention.join.state_dict())
    tokens_BNC = features().double().flatten(2).transpose(1, 2)
    expected_BNC = theirs(tokens_BNC, tokens_BNC, tokens_BNC, need_weights=False)[0]
    found_BNC = attention(features().double(), HOLE).flatten(2).transpose(1, 2)
    assert torch.allclose(found_BNC, expected_BNC, rtol=0, atol=1e-12)


def test_every_token_is_new_and_the_hole_plays_no_part() -> None:
    attention, feature_BCHW = module(), features()
    out_BCHW = attention(feature_BCHW, HOLE)
    assert ((out_BCHW - feature_BCHW).abs().amax(1) > 1e-3).all()
    assert torch.equal(out_BCHW, attention(feature_BCHW, ~HOLE))


def test_in_the_hole_it_is_gam_with_all_keys() -> None:
    vanilla, gam = module(heads=3), GlobalAttention(CHANNELS, 3, True, 5)
    gam.load_state_dict(vanilla.state_dict())
    hole = HOLE.expand(-1, CHANNELS, -1, -1)
    found, expected = vanilla(features(), HOLE)[hole], gam(features(), HOLE)[hole]
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)


def net(**settings: str) -> Generator:
    torch.manual_seed(0)
    return build_generator(ModelConfig(width=4, position_grid=8, **settings))


def test_each_key_replaces_its_module_alone() -> None:
    for settings, kinds in (
        ({}, (GlobalAttention, FlexibleFeatureSimilarity)),
        ({"gam": "vanilla"}, (VanillaAttention, FlexibleFeatureSimilarity)),
        ({"ffsm": "vanilla"}, (GlobalAttention, VanillaAttention)),
        ({"gam": "vanilla", "ffsm": "vanilla"}, (VanillaAttention, VanillaAttention)),
    ):
        built = net(**settings)
        modules = (built.pirn.attention_branch.attention, built.pern.attention_branch.attention)
        assert tuple(map(type, modules)) == kinds


def test_parameters_differ_by_the_channel_gate_alone() -> None:
    def names(built: Generator) -> set[str]:
        return {name.replace("attention.attention.", "attention.") for name in built.state_dict()}

    full = net()
    assert names(net(gam="vanilla")) == names(full)
    gone = names(full) - names(net(ffsm="vanilla"))
    assert gone and all(".channel_gate." in name for name in gone)
    assert names(net(ffsm="vanilla")) <= names(full)


@pytest.mark.parametrize("settings", [{"gam": "vanilla"}, {"ffsm": "vanilla"}])
def test_the_generator_keeps_known_pixels_and_learns_through_it(settings: dict[str, str]) -> None:
    built = net(**settings)
    image = torch.rand(2, 3, 32, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mask = torch.zeros(2, 1, 32, 28)
    mask[:, :, 8:20, 4:16] = 1
    pixel, perception = built(image, mask, torch.rand(2, 1, 32, 28))
    known = (mask == 0).expand_as(image)
    assert torch.equal(pixel[known], image[known]) and torch.equal(perception[known], image[known])
    (pixel.square().sum() + perception.square().sum()).backward()
    branch = (built.pirn if "gam" in settings else built.pern).attention_branch
    for name, parameter in branch.attention.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
