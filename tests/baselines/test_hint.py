"""HINT: its size and cost, its contract, and each block against dense references in NumPy, float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import Tensor, nn

from igll.baselines.hint import (
    EXPANSION,
    HINT,
    GatedEmbedding,
    GatedFeedForward,
    MaskAwareDownSampling,
    SandwichBlock,
    SpatiallyActivatedChannelAttention,
)
from igll.engine.cost import multiply_adds, parameters
from igll.errors import InputError

Array = np.ndarray[Any, np.dtype[np.float64]]


def network(seed: int = 0, **settings: Any) -> HINT:
    torch.manual_seed(seed)
    return HINT(**({"width": 4, "blocks": (1, 1, 1, 1)} | settings)).eval()


def images(batch: int = 3, height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def masks(batch: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """In turn: a rectangle inside; nothing; everything; random pixels."""
    mask_B1HW = torch.zeros(4, 1, height, width)
    mask_B1HW[0, :, height // 3 : height // 2 + 2, width // 3 : width // 2 + 3] = 1
    mask_B1HW[2] = 1
    mask_B1HW[3] = (torch.rand(1, height, width, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    return mask_B1HW[:batch]


# Size and cost


def level_table(width: int, blocks: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """(channels, heads, blocks, halvings of the image) of all seven stages, as published."""
    down = [(width << level, 1 << level, blocks[level], level) for level in range(4)]
    return [*down, down[2], down[1], (2 * width, 1, blocks[0], 0)]


def published_parameters(width: int, blocks: tuple[int, ...], channels: int = 3) -> int:
    total = 9 * (channels + 1) * 2 * width + 9 * 2 * width * channels  # embedding, output
    for c, heads, count, _ in level_table(width, blocks):
        hidden = int(2.66 * c)
        feed_forward = c * 2 * hidden + 9 * 2 * hidden + hidden * c
        attention = heads + 3 * c * c + 9 * 3 * c + c * c
        spatial = 2 * (9 * c * c + c) + 2 * 2 * c
        total += count * (2 * feed_forward + attention + spatial + 3 * 2 * c)
    for level in range(3):
        c = width << level
        total += 9 * c * (c // 2) + 9 * 2 * 2 * c  # MPD
        total += 9 * 2 * c * 4 * c  # pixel-shuffle up-sampling from 2c
        total += 2 * c * c if level else 0  # joins decoder and skip connection
    return total


def published_convolutions(width: int, blocks: tuple[int, ...], size: int, channels: int = 3) -> int:
    total = size * size * (9 * (channels + 1) * 2 * width + 9 * 2 * width * channels)
    for c, _, count, level in level_table(width, blocks):
        pixels, hidden = (size >> level) ** 2, int(2.66 * c)
        feed_forward = pixels * (c * 2 * hidden + 9 * 2 * hidden + hidden * c)
        attention = pixels * (3 * c * c + 9 * 3 * c + c * c)
        total += count * (2 * feed_forward + attention + pixels // 4 * 2 * 9 * c * c)
    for level in range(3):
        c, pixels = width << level, (size >> level) ** 2
        total += pixels * 9 * c * (c // 2) + pixels // 4 * 9 * 2 * 2 * c
        total += pixels // 4 * 9 * 2 * c * 4 * c
        total += pixels * 2 * c * c if level else 0
    return total


def published_products(width: int, blocks: tuple[int, ...], size: int) -> int:
    """Multiply-adds of Q·Kᵀ and of the attention times V."""
    return sum(
        count * 2 * (size >> level) ** 2 * c * (c // heads)
        for c, heads, count, level in level_table(width, blocks)
    )


def test_size_and_cost_are_those_of_the_published_network() -> None:
    with torch.device("meta"):
        net = HINT()
    cost = multiply_adds(net, side=128)
    published = (48, (4, 6, 6, 8))
    assert parameters(net) == published_parameters(*published) == 72_265_248
    assert cost.convolutions == published_convolutions(*published, 256)
    assert cost.true == published_convolutions(*published, 256) + published_products(*published, 256)
    assert cost.true == pytest.approx(220.6e9, rel=0.005)
    assert cost.convolutions == pytest.approx(211.7e9, rel=0.005)


def test_a_smaller_network_has_the_same_structure() -> None:
    with torch.device("meta"):
        net = HINT(image_channels=4, width=6, blocks=(1, 2, 3, 1))
    assert parameters(net) == published_parameters(6, (1, 2, 3, 1), channels=4)
    cost = multiply_adds(net, side=8, size=64)
    assert cost.convolutions == published_convolutions(6, (1, 2, 3, 1), 64, channels=4)


@pytest.mark.parametrize(
    "settings, words", [({"width": 5}, "not even"), ({"blocks": (1, 1, 1)}, "4 numbers")]
)
def test_impossible_sizes_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        HINT(**settings)


# Contract


@pytest.mark.parametrize("height, width", [(16, 16), (32, 48), (37, 50), (17, 70)])
def test_known_pixels_stay_bit_for_bit_at_any_size(height: int, width: int) -> None:
    image, mask = images(4, height, width), masks(4, height, width)
    with torch.no_grad():
        output = network().fill(image, mask)
    known = (mask == 0).expand_as(image)
    assert output.perception_BCHW.shape == image.shape and output.perception_BCHW.dtype == image.dtype
    assert torch.equal(output.perception_BCHW[known], image[known])
    assert torch.equal(output.pixel_BCHW, output.perception_BCHW)
    (prediction,) = output.predictions
    assert prediction.shape == image.shape
    assert prediction.isfinite().all() and prediction.abs().max() <= 1
    assert torch.equal(output.perception_BCHW[~known], prediction[~known])
    assert (prediction != image).any(1).all()


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_any_number_of_channels(channels: int) -> None:
    image, mask = images(2, 16, 24, channels), masks(2, 16, 24)
    with torch.no_grad():
        first, last = network(image_channels=channels)(image, mask)
    assert first.shape == last.shape == image.shape


def test_what_stands_in_the_hole_is_never_seen() -> None:
    image, mask = images(4), masks(4)
    net = network()
    with torch.no_grad():
        expected = net.fill(image, mask).predictions[0]
        found = net.fill(torch.where(mask > 0.5, torch.nan, image), mask).predictions[0]
    assert torch.equal(found, expected)


def test_each_image_is_filled_as_if_alone() -> None:
    net, image, mask = network().double(), images(4).double(), masks(4).double()
    with torch.no_grad():
        together = net.fill(image, mask).predictions[0]
        alone = torch.cat([net.fill(image[i : i + 1], mask[i : i + 1]).predictions[0] for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_every_parameter_learns() -> None:
    net = network(blocks=(1, 2, 1, 2))
    loss = (net.fill(images(), masks()).perception_BCHW - images().flip(3)).square().mean()
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_dtype_and_known_pixels(dtype: torch.dtype) -> None:
    net, image, mask = network(), images(4), masks(4)
    with torch.autocast("cpu", dtype):
        output = net.fill(image, mask)
    result, (prediction,) = output.perception_BCHW, output.predictions
    assert result.dtype == prediction.dtype == torch.float32
    assert prediction.isfinite().all() and prediction.std() > 0.01
    assert torch.equal(result[mask.expand_as(image) == 0], image[mask.expand_as(image) == 0])
    result.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_edges_are_refused() -> None:
    with pytest.raises(ValueError, match="takes no edge map"):
        network().fill(images(), masks(), masks())


# What the levels see


def test_embedding_sees_white_holes_and_each_level_its_nearest_mask() -> None:
    net, image, mask = network(), images(1), masks(4)[3:]
    seen: dict[str, tuple[Tensor, ...]] = {}
    for name in ("embedding", "down.0", "down.1", "down.2"):
        net.get_submodule(name).register_forward_hook(
            lambda _, inputs, __, name=name: seen.__setitem__(name, inputs)
        )
    with torch.no_grad():
        net(image, mask)
    hole = mask.expand_as(image) > 0.5
    shown = seen["embedding"][0]
    assert torch.equal(shown[:, 3:], mask)
    assert (shown[:, :3][hole] == 1).all()
    torch.testing.assert_close(shown[:, :3][~hole], (image[~hole] + 1) / 2)
    for level in range(3):
        side = 32 >> level
        expected = nn.functional.interpolate(mask, size=(side, side), mode="nearest")
        assert torch.equal(seen[f"down.{level}"][1], expected)


# Blocks against references


def randomised(module: nn.Module) -> nn.Module:
    """The module in float64, every parameter drawn anew, so that scales, shifts and temperatures count."""
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double()


def weights(module: nn.Module) -> list[Array]:
    return [parameter.detach().numpy() for parameter in module.parameters()]


def feature(channels: int, height: int = 6, width: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)


def agree(found: Tensor, expected: Array) -> None:
    torch.testing.assert_close(found.detach(), torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


def dense_convolution(x: Array, weight: Array) -> Array:
    """Zero-padded correlation; depth-wise where the weight has one input channel."""
    reach = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    height, width = x.shape[2:]
    total = np.zeros((x.shape[0], weight.shape[0], height, width))
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            moved = padded[:, :, row : row + height, column : column + width]
            tap = weight[:, :, row, column]
            if tap.shape[1] == 1 and x.shape[1] > 1:
                total += moved * tap[:, 0, None, None]
            else:
                total += np.einsum("oc,bchw->bohw", tap, moved)
    return total


def dense_norm(x: Array, scale: Array, shift: Array) -> Array:
    centred = x - x.mean(1, keepdims=True)
    normalised = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return normalised * scale[:, None, None] + shift[:, None, None]


def dense_gate(x: Array) -> Array:
    half = x.shape[1] // 2
    gate, content = x[:, :half], x[:, half:]
    return gate * 0.5 * (1 + erf(gate / np.sqrt(2))) * content


def dense_feed_forward(x: Array, layer: nn.Module) -> Array:
    expand, depthwise, project = weights(layer)
    return dense_convolution(dense_gate(dense_convolution(dense_convolution(x, expand), depthwise)), project)


def dense_attention(x: Array, layer: SpatiallyActivatedChannelAttention) -> Array:
    """SCAL written out: every image, every head, every pair of channels."""
    temperature, pointwise, depthwise = weights(layer)[:3]
    weight_1, bias_1, scale_1, shift_1, weight_2, bias_2, scale_2, shift_2, project = weights(layer)[3:]
    batch, channels, height, width = x.shape
    size = channels // layer.heads
    qkv = dense_convolution(dense_convolution(x, pointwise), depthwise)
    attended = np.zeros_like(x)
    for image in range(batch):
        for channel in range(channels):
            head = channel // size
            query = qkv[image, channel]
            scores = np.empty(size)
            for other in range(size):
                key = qkv[image, channels + head * size + other]
                cosine = (query * key).sum() / np.sqrt((query**2).sum() * (key**2).sum())
                scores[other] = np.exp(cosine * temperature[head, 0, 0])
            for other in range(size):
                value = qkv[image, 2 * channels + head * size + other]
                attended[image, channel] += scores[other] / scores.sum() * value
    y = x.reshape(batch, channels, height // 2, 2, width // 2, 2).mean((3, 5))
    y = np.maximum(dense_norm(dense_convolution(y, weight_1) + bias_1[:, None, None], scale_1, shift_1), 0)
    y = np.maximum(dense_norm(dense_convolution(y, weight_2) + bias_2[:, None, None], scale_2, shift_2), 0)
    activation = y.repeat(2, axis=2).repeat(2, axis=3)
    return dense_convolution(activation * attended, project)


def test_down_sampling_pairs_every_pixel_with_its_own_mask() -> None:
    channels, height, width = 4, 6, 8
    layer = randomised(MaskAwareDownSampling(channels))
    x = feature(channels, height, width)
    mask = masks(4, height, width)[2:].double()
    halve, join = weights(layer)
    half = dense_convolution(x.numpy(), halve)
    expected = np.zeros((2, 2 * channels, height // 2, width // 2))
    for image, out, row, column in np.ndindex(*expected.shape):
        # Output channel ``out`` knows one phase of one channel alone: pixels (2i + top, 2j + left).
        source, top, left = out // 4, out % 4 // 2, out % 2
        for tap_row in range(3):
            for tap_column in range(3):
                i, j = row + tap_row - 1, column + tap_column - 1
                if 0 <= i < height // 2 and 0 <= j < width // 2:
                    y, z = 2 * i + top, 2 * j + left
                    valid, missing = join[out, :, tap_row, tap_column]
                    expected[image, out, row, column] += (
                        valid * half[image, source, y, z] + missing * mask[image, 0, y, z].item()
                    )
    agree(layer(x, mask), expected)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_against_every_pair_of_channels(heads: int) -> None:
    layer = SpatiallyActivatedChannelAttention(8, heads)
    randomised(layer)
    x = feature(8)
    agree(layer(x), dense_attention(x.numpy(), layer))


def test_feed_forward_and_embedding_gate_by_gelu() -> None:
    x = feature(6)
    layer = randomised(GatedFeedForward(6))
    assert weights(layer)[2].shape[1] == int(6 * EXPANSION) == 15
    agree(layer(x), dense_feed_forward(x.numpy(), layer))
    embedding = randomised(GatedEmbedding(6, 4))
    agree(embedding(x), dense_gate(dense_convolution(x.numpy(), weights(embedding)[0])))


def test_sandwich_block_is_three_residual_steps_in_order() -> None:
    block = SandwichBlock(8, 2)
    randomised(block)
    first, attention, last = block.steps
    x = feature(8)
    expected = x.numpy()
    expected = expected + dense_feed_forward(dense_norm(expected, *weights(first[0])), first[1])
    expected = expected + dense_attention(dense_norm(expected, *weights(attention[0])), attention[1])
    expected = expected + dense_feed_forward(dense_norm(expected, *weights(last[0])), last[1])
    agree(block(x), expected)


def test_network_joins_levels_as_published() -> None:
    """Skip connections, resolutions and the order of concatenation, with the blocks taken as they are."""
    net = network(width=2).double()
    image, mask = images(1).double(), masks(1).double()
    shown = torch.where(mask > 0.5, 1.0, image / 2 + 0.5)
    half, quarter = mask[:, :, ::2, ::2], mask[:, :, ::4, ::4]

    def up(name: str, x: Tensor) -> Tensor:
        convolved = nn.functional.conv2d(x, net.get_parameter(f"{name}.0.weight"), padding=1)
        batch, channels, height, width = convolved.shape
        blocks = convolved.view(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        return blocks.reshape(batch, channels // 4, 2 * height, 2 * width)

    with torch.no_grad():
        e0 = net.encoder[0](net.embedding(torch.cat([shown, mask], 1)))
        e1 = net.encoder[1](net.down[0](e0, mask))
        e2 = net.encoder[2](net.down[1](e1, half))
        deepest = net.deepest(net.down[2](e2, quarter))
        d2 = net.decoder[2](net.join[2](torch.cat([up("up.2", deepest), e2], 1)))
        d1 = net.decoder[1](net.join[1](torch.cat([up("up.1", d2), e1], 1)))
        d0 = net.decoder[0](torch.cat([up("up.0", d1), e0], 1))
        expected = torch.tanh(nn.functional.conv2d(d0, net.output.weight, padding=1))
        found = net.fill(image, mask).predictions[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
