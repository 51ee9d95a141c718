"""HAN: its size against a sum over the published layers, its attention against dense NumPy, its contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from igll.baselines import han
from igll.baselines.han import HAN, HourglassBlock, LaplaceAttention, ResidualBlock
from igll.engine.cost import multiply_adds, parameters

WIDTH = 4


def network(seed: int = 0, **settings: Any) -> HAN:
    torch.manual_seed(seed)
    return HAN(width=WIDTH, **settings)


def images(batch: int = 2, height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def masks(batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
    """In turn: a rectangle inside, all but 14 columns, nothing, everything."""
    mask_B1HW = torch.zeros(4, 1, height, width)
    mask_B1HW[0, :, height // 3 : height // 2 + 2, width // 3 : width // 2 + 3] = 1
    mask_B1HW[1, :, :, 14:] = 1
    mask_B1HW[3] = 1
    return mask_B1HW[:batch]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Size and cost.


def published_layers() -> list[tuple[int, int, int, int]]:
    """Every convolution as (input channels, output channels, kernel, side of its output) at 256 × 256."""
    layers = [(4, 64, 5, 256), (64, 64, 5, 256), (4, 64, 1, 256)]
    for inputs, outputs, side in [(64, 128, 128), (128, 128, 128), (128, 256, 64), (256, 256, 64)]:
        layers += [(inputs, outputs, 3, side), (outputs, outputs, 3, side)]
        layers += [(inputs, outputs, 1, side)] * (inputs != outputs)
    for _ in range(8):  # query, key, value; after the attention, and two of the feed-forward net
        layers += [(256, 256, 1, 64)] * 3 + [(256, 256, 3, 64)] * 3
    for inputs, outputs, side in [(256, 128, 128), (128, 128, 128), (128, 64, 256), (64, 64, 256)]:
        layers += [(inputs, outputs, 3, side), (outputs, outputs, 3, side)]
        layers += [(inputs, outputs, 1, side)] * (inputs != outputs)
    return [*layers, (64, 3, 7, 256)]


def test_size_and_cost_are_those_of_the_published_layers():
    with torch.device("meta"):
        net = HAN().eval()
    layers = published_layers()
    count = sum(i * o * k * k + o for i, o, k, _ in layers) + 8  # and each attention's decay
    convolutions = sum(i * o * k * k * side * side for i, o, k, side in layers)
    # Q·Kᵀ and its product with V, patches of s × s cells on 64 × 64, on the way in and out.
    attention = 2 * sum(2 * ((64 // s) ** 2) ** 2 * 256 * s * s for s in (1, 2, 4, 8))
    assert parameters(net) == count == 19_446_475
    assert count / 1e6 == pytest.approx(19.446, rel=5e-3)
    cost = multiply_adds(net, side=128)
    assert cost.convolutions == convolutions == pytest.approx(114.737e9, rel=5e-3)
    assert cost.true == convolutions + attention == pytest.approx(137.4e9, rel=5e-3)


def test_nothing_of_an_image_s_size_is_kept():
    net = network().eval()
    assert not dict(net.named_buffers())
    before = {name: value.shape for name, value in net.state_dict().items()}
    with torch.no_grad():
        net(images(1, 64, 96), masks(1, 64, 96))
    assert {name: value.shape for name, value in net.state_dict().items()} == before


# Laplace attention.


def dense_attention(attention: LaplaceAttention, feature_CHW: NDArray[np.float64]) -> NDArray[np.float64]:
    """The definition, patch by patch and head by head, in float64."""
    patch, heads = attention.patch, 4 * attention.patch
    channels, height, width = feature_CHW.shape
    kernel = attention.project.weight.detach().numpy()[:, :, 0, 0]
    bias = attention.project.bias.detach().numpy()  # type: ignore[union-attr]
    projected = np.einsum("oc,chw->ohw", kernel, feature_CHW) + bias[:, None, None]
    places = [(y, x) for y in range(height // patch) for x in range(width // patch)]
    query, key, value = (
        np.stack(
            [
                part[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].reshape(heads, -1)
                for y, x in places
            ]
        )
        for part in np.split(projected, 3)
    )
    decay = np.log1p(np.exp(attention.decay.item()))
    result = np.empty_like(feature_CHW)
    for i, (y, x) in enumerate(places):
        distance = np.array([abs(y - v) + abs(x - u) for v, u in places])
        rows = []
        for head in range(heads):
            score = (key[:, head] @ query[i, head] - decay * distance) / np.sqrt(query.shape[2])
            weight = np.exp(score - score.max())
            rows.append(weight @ value[:, head] / weight.sum())
        cell = np.stack(rows).reshape(channels, patch, patch)
        result[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch] = cell
    return result


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("entries", [2**24, 40])
def test_laplace_attention_equals_the_dense_definition(
    patch: int, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(han, "PRIOR_ENTRIES", entries)  # 40: bands of one to six queries
    torch.manual_seed(0)
    attention = LaplaceAttention(8, patch).double()
    with torch.no_grad():
        attention.decay.fill_(0.7)
        attention.project.weight.mul_(3)
    feature_BCHW = drawn(2, 8, 8, 12)
    found = attention(feature_BCHW).detach().numpy()
    for sample, feature in zip(found, feature_BCHW.numpy(), strict=True):
        np.testing.assert_allclose(sample, dense_attention(attention, feature), rtol=0, atol=1e-12)


def test_bands_change_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention = LaplaceAttention(8, 2).double()
    feature_BCHW, direction_BCHW = drawn(2, 8, 8, 12).requires_grad_(), drawn(2, 8, 8, 12, seed=1)
    wanted = [feature_BCHW, *attention.parameters()]
    results = []
    for entries in (2**24, 60):
        monkeypatch.setattr(han, "PRIOR_ENTRIES", entries)
        results.append(torch.autograd.grad((attention(feature_BCHW) * direction_BCHW).sum(), wanted))
    for whole, in_bands in zip(*results, strict=True):
        torch.testing.assert_close(in_bands, whole, rtol=1e-10, atol=1e-12)
    assert results[0][1].abs() > 1e-6, "the decay is learned"
    assert torch.autograd.gradcheck(attention, drawn(1, 8, 4, 6, seed=2).requires_grad_())


def test_a_band_holds_no_more_of_the_prior_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor) -> Tensor:
        seen.append(tuple(attn_mask.shape))
        return query

    monkeypatch.setattr(han.F, "scaled_dot_product_attention", watched)
    with torch.no_grad():
        LaplaceAttention(4, 1)(torch.zeros(1, 4, 72, 72))
    assert [rows for rows, _ in seen] == [3236, 5184 - 3236] and {columns for _, columns in seen} == {5184}
    assert max(rows * columns for rows, columns in seen) <= 2**24


# The other blocks.


def normalised(feature_BCHW: Tensor) -> Tensor:
    mean, variance = feature_BCHW.mean((2, 3), True), feature_BCHW.var((2, 3), unbiased=False, keepdim=True)
    return (feature_BCHW - mean) / (variance + 1e-5).sqrt()


def convolutions(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [
        (layer.weight, layer.bias)  # type: ignore[misc]
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
    ]


def swish(feature: Tensor) -> Tensor:
    return feature * feature.sigmoid()


@pytest.mark.parametrize("stride", [1, 2])
def test_residual_block_by_its_formula(stride: int):
    block = ResidualBlock(4, 6, stride=stride).double()
    shortcut, first, second = convolutions(block)
    feature = drawn(2, 4, 10, 12)
    hidden = normalised(F.conv2d(swish(normalised(feature)), *first, stride=stride, padding=1))
    wanted = F.conv2d(swish(hidden), *second, padding=1) + F.conv2d(feature, *shortcut, stride=stride)
    torch.testing.assert_close(block(feature), wanted, rtol=1e-12, atol=1e-12)


def test_first_block_does_not_normalise_its_input():
    block = ResidualBlock(4, 6, kernel_size=5, preactivated=False).double()
    shortcut, first, second = convolutions(block)
    feature = drawn(2, 4, 10, 12)
    hidden = swish(normalised(F.conv2d(feature, *first, padding=2)))
    wanted = F.conv2d(hidden, *second, padding=2) + F.conv2d(feature, *shortcut)
    torch.testing.assert_close(block(feature), wanted, rtol=1e-12, atol=1e-12)


def test_hourglass_block_by_its_formula():
    block = HourglassBlock(8, 2).double()
    _, after, dilated, plain = convolutions(block)
    feature = drawn(2, 8, 8, 12)
    attended = block.attention[0](feature)
    between = feature + F.leaky_relu(F.conv2d(attended, *after, padding=1), 0.2)
    hidden = F.leaky_relu(normalised(F.conv2d(between, *dilated, padding=2, dilation=2)), 0.2)
    hidden = F.leaky_relu(normalised(F.conv2d(hidden, *plain, padding=1)), 0.2)
    torch.testing.assert_close(block(feature), between + hidden, rtol=1e-12, atol=1e-12)


def test_patches_grow_and_shrink_again():
    net = HAN(width=WIDTH, blocks=(1, 3))
    patches = [layer.patch for layer in net.modules() if isinstance(layer, LaplaceAttention)]
    assert patches == [1, 3, 3, 1]
    sizes: list[tuple[int, ...]] = []
    for block in net.hourglass:
        block.register_forward_hook(lambda _module, _arguments, output: sizes.append(tuple(output.shape)))
    with torch.no_grad():
        net(images(1, 40, 20), masks(1, 40, 20))
    assert sizes == [(1, 4 * WIDTH, 12, 6)] * 4, "padded to 48 × 24: a quarter of it, whole patches of 3"


# The contract.


@pytest.mark.parametrize("height, width", [(32, 32), (61, 50), (16, 70)])
def test_known_pixels_stay_bit_for_bit_at_any_size(height: int, width: int) -> None:
    net = network().eval()
    image, mask = images(4, height, width), masks(4, height, width)
    with torch.no_grad():
        output = net.fill(image, mask)
    known = (mask == 0).expand_as(image)
    (prediction,) = output.predictions
    for result in (output.pixel_BCHW, output.perception_BCHW):
        assert result.shape == prediction.shape == image.shape and result.dtype == image.dtype
        assert result.isfinite().all() and result.abs().max() <= 1
        assert torch.equal(result[known], image[known]) and torch.equal(result[~known], prediction[~known])
    assert prediction.abs().max() <= 1 and (prediction != image).any()


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_any_number_of_channels(channels: int) -> None:
    net = network(image_channels=channels).eval()
    image = images(1, 18, 26, channels)
    with torch.no_grad():
        (prediction,) = net.fill(image, masks(1, 18, 26)).predictions
    assert prediction.shape == image.shape and prediction.isfinite().all()


def test_content_of_the_hole_is_ignored_and_what_is_known_is_not():
    net, image, mask = network().eval(), images(), masks()
    with torch.no_grad():
        wanted = net(image, mask)[1]
        assert torch.equal(net(image.masked_fill(mask > 0, torch.nan), mask)[1], wanted)
        changed = net(torch.where(mask > 0, image, -image), mask)[1]
    hole = (mask > 0).expand_as(image)
    assert not torch.equal(changed[hole], wanted[hole])


def test_samples_of_a_batch_are_independent_in_eval_mode():
    net = network().eval().double()
    image, mask = images(3).double(), masks(3).double()
    with torch.no_grad():
        together = net(image, mask)[1]
        for i in range(3):
            alone = net(image[i : i + 1], mask[i : i + 1])[1][0]
            torch.testing.assert_close(together[i], alone, rtol=1e-10, atol=1e-12)


def test_only_training_adds_noise_and_a_seed_repeats_it():
    net, image, mask = network(), images(), masks()
    inputs: list[Tensor] = []
    net.encoder.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    for training, seed in [(False, 0), (True, 0), (True, 0), (True, 1)]:
        torch.manual_seed(seed)
        net.train(training)(image, mask)
    plain, first, again, other = inputs
    assert torch.equal(plain[:, :3], image.masked_fill(mask > 0, 0)) and torch.equal(plain[:, 3:], 1 - mask)
    assert torch.equal(first, again) and not torch.equal(first, other)
    noise = first - plain
    assert noise[:, :3].std().item() == pytest.approx(1 / 256, rel=0.05) and not noise[:, 3:].any()


def test_gradients_reach_every_parameter():
    net = network().double()
    image, mask = images(2, 64, 96).double(), masks(2, 64, 96).double()  # six of the largest patches
    (prediction,) = net.fill(image, mask).predictions
    (prediction - image).square().mean().backward()
    # A normalisation takes out the bias before it, and a softmax that of the keys.
    without_effect = set()
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            for child, following in zip(module, list(module)[1:], strict=False):
                if isinstance(child, nn.Conv2d) and isinstance(following, nn.InstanceNorm2d):
                    without_effect.add(child.bias)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter in without_effect or parameter.grad.abs().max() > 0, name
    assert len(without_effect) == 9 + 2 * 8


def test_weights_start_as_published():
    net = HAN(width=16)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None and not layer.bias.any()
            if layer.weight.numel() > 4000:
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        elif isinstance(layer, LaplaceAttention):
            assert layer.decay.item() == 1


def test_lower_precision_gives_about_the_same():
    net, image, mask = network().eval(), images(1), masks(1)
    with torch.no_grad():
        wanted = net(image, mask)[1]
        with torch.autocast("cpu", torch.bfloat16):
            found = net(image, mask)[1]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="takes no edge map"):
        network()(images(), masks(), masks())
