"""DMFN: its published sizes layer by layer, the network in NumPy, and what every network owes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igll.baselines.dmfn import DMFN, ChainedFusionBlock, MultiScaleFusionBlock, Variant
from igll.engine.cost import multiply_adds, parameters
from igll.errors import InputError

VARIANTS: tuple[Variant, ...] = ("published", "unofficial")
WIDTH = 3
Array = NDArray[np.float64]
Layer = tuple[int, int, int, int]  # channels in, channels out, kernel, side of the grid it is applied on

# At 256 × 256, the published width. A transposed convolution works on the grid of its input.
ENCODER: list[Layer] = [(4, 64, 5, 256), (64, 128, 3, 128), (128, 128, 3, 128), (128, 256, 3, 64)]
PUBLISHED_BLOCK: list[Layer] = [(256, 64, 3, 64), *[(64, 64, 3, 64)] * 4, (256, 256, 3, 64)]
PUBLISHED_DECODER: list[Layer] = [
    (256, 256, 3, 64),
    (256, 128, 4, 64),
    (128, 128, 3, 128),
    (128, 64, 4, 128),
    (64, 64, 3, 256),
    (64, 3, 3, 256),
]
UNOFFICIAL_BLOCK: list[Layer] = [(256, 64, 3, 64), *[(64, 64, 3, 64)] * 7, (256, 256, 1, 64)]
UNOFFICIAL_DECODER: list[Layer] = [(256, 256, 3, 64), (256, 128, 4, 64), (128, 64, 3, 128), (64, 3, 3, 256)]


@pytest.mark.parametrize(
    "variant, blocks, block, decoder, millions, billions",
    [
        ("published", 8, PUBLISHED_BLOCK, PUBLISHED_DECODER, 9.037, 45.9),
        ("unofficial", 24, UNOFFICIAL_BLOCK, UNOFFICIAL_DECODER, 13.036, 57.4),
    ],
)
def test_sizes(
    variant: Variant, blocks: int, block: list[Layer], decoder: list[Layer], millions: float, billions: float
) -> None:
    layers = ENCODER + block * blocks + decoder
    with torch.device("meta"):
        net = DMFN(blocks=(blocks,), variant=variant).eval()
    assert parameters(net) == sum(i * o * k * k + o for i, o, k, _ in layers)
    assert parameters(net) / 1e6 == pytest.approx(millions, abs=5e-4)
    counted = multiply_adds(net, 128)
    assert counted.true == counted.convolutions == sum(i * o * k * k * side**2 for i, o, k, side in layers)
    assert counted.true / 1e9 == pytest.approx(billions, abs=0.05)


def test_defaults_are_the_published_ones() -> None:
    with torch.device("meta"):
        assert parameters(DMFN()) == parameters(DMFN(3, 64, (8,), "published")) == 9_037_443


# The network in NumPy, on one image: arrays are (channels, height, width).


def convolve(x: Array, layer: nn.Module, stride: int = 1, rate: int = 1) -> Array:
    """Tap by tap, zeros outside."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    kernel, (_, height, width) = weight.shape[-1], x.shape
    pad = rate * (kernel // 2)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    taps = (
        np.einsum("oi,ihw->ohw", weight[:, :, r, c], padded[:, r * rate :, c * rate :][:, :height, :width])
        for r in range(kernel)
        for c in range(kernel)
    )
    return (sum(taps) + bias[:, None, None])[:, ::stride, ::stride]


def spread(x: Array, layer: nn.Module) -> Array:
    """Transposed convolution 4 × 4, stride 2: every pixel paints a square, one pixel is cut off all round."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    _, height, width = x.shape
    canvas = np.zeros((weight.shape[1], 2 * height + 2, 2 * width + 2))
    for row in range(height):
        for column in range(width):
            square = np.einsum("i,iohw->ohw", x[:, row, column], weight)
            canvas[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += square
    return canvas[:, 1:-1, 1:-1] + bias[:, None, None]


def enlarge(x: Array) -> Array:
    """Twice the size, bilinear: three quarters of the nearest pixel and one of the next, along each axis."""
    for axis in (1, 2):
        n = x.shape[axis]
        before, after = x.take([0, *range(n - 1)], axis), x.take([*range(1, n), n - 1], axis)
        pair = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
    return x


def norm(x: Array) -> Array:
    return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def published_block(x: Array, block: MultiScaleFusionBlock) -> Array:
    u = relu(norm(convolve(x, block.reduce)))
    d1, d2, d4, d8 = (convolve(u, block.scales[i], rate=2**i) for i in range(4))
    sums = np.concatenate([d1, d1 + d2, d1 + d2 + d4, d1 + d2 + d4 + d8])
    return x + norm(convolve(relu(norm(sums)), block.fuse))


def unofficial_block(x: Array, block: ChainedFusionBlock) -> Array:
    u = convolve(norm(relu(x)), block.reduce)
    k0 = convolve(u, block.refine[0])
    k1 = convolve(convolve(u, block.scales[0], rate=2) + k0, block.refine[1])
    k2 = convolve(convolve(u, block.scales[1], rate=4) + k1, block.refine[2])
    k3 = convolve(convolve(u, block.scales[2], rate=8) + k2, block.refine[3])
    return x + convolve(norm(np.concatenate([k0, k1, k2, k3])), block.fuse)


def published_net(x: Array, net: DMFN) -> Array:
    c, (b1, b2) = parts(net, MultiScaleFusionBlock)
    x = relu(convolve(x, c[0]))
    x = relu(norm(convolve(x, c[1], stride=2)))
    x = relu(norm(convolve(x, c[2])))
    x = relu(norm(convolve(x, c[3], stride=2)))
    x = published_block(published_block(x, b1), b2)
    x = relu(norm(convolve(x, c[4])))
    x = relu(norm(spread(x, c[5])))
    x = relu(norm(convolve(x, c[6])))
    x = relu(norm(spread(x, c[7])))
    x = relu(norm(convolve(x, c[8])))
    return np.tanh(convolve(x, c[9]))


def unofficial_net(x: Array, net: DMFN) -> Array:
    c, (b1, b2) = parts(net, ChainedFusionBlock)
    x = convolve(x, c[0])
    x = norm(relu(convolve(x, c[1], stride=2)))
    x = norm(relu(convolve(x, c[2])))
    x = norm(relu(convolve(x, c[3], stride=2)))
    x = unofficial_block(unofficial_block(x, b1), b2)
    x = norm(relu(convolve(x, c[4])))
    x = enlarge(convolve(norm(spread(x, c[5])), c[6]))
    return np.tanh(convolve(x, c[7]))


def parts(net: DMFN, kind: type[nn.Module]) -> tuple[list[nn.Module], list[nn.Module]]:
    """Convolutions outside the blocks, and the blocks, in the order in which they are applied."""
    outside = [layer for layer in net.layers if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    return outside, [layer for layer in net.layers if isinstance(layer, kind)]


def network(variant: Variant, blocks: int = 2, channels: int = 3) -> DMFN:
    """A small net in float64 with biases and with weights large enough that a slip shows."""
    torch.manual_seed(0)
    net = DMFN(channels, WIDTH, (blocks,), variant).double().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def scene(height: int, width: int, batch: int = 2, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Images, and masks of a block and of scattered pixels."""
    random = torch.Generator().manual_seed(1)
    image = torch.rand(batch, channels, height, width, generator=random, dtype=torch.float64) * 2 - 1
    mask = (torch.rand(batch, 1, height, width, generator=random) < 0.1).double()
    mask[:, :, 2 : height // 2, 3 : width // 2] = 1
    return image, mask


@pytest.mark.parametrize("variant, expected", [("published", published_net), ("unofficial", unofficial_net)])
def test_equals_the_layers_in_numpy(variant: Variant, expected: Callable[[Array, DMFN], Array]) -> None:
    net = network(variant)
    image, mask = scene(44, 40)  # wide enough for dilation 8 on the grid of 11 × 10
    with torch.no_grad():
        output = net.fill(image, mask)
    inputs = torch.cat([image * (1 - mask), mask], 1).numpy()
    for painted, one in zip(output.predictions[0].numpy(), inputs, strict=True):
        np.testing.assert_allclose(painted, expected(one, net), rtol=0, atol=1e-10)
        assert painted.std() > 0.1 and np.abs(painted).max() < 1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("height, width", [(16, 16), (17, 30), (61, 34)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_size_and_any_number_of_channels(
    variant: Variant, height: int, width: int, channels: int
) -> None:
    net = network(variant, 1, channels)
    image, mask = scene(height, width, 1, channels)
    with torch.no_grad():
        output = net.fill(image, mask)
    known = mask.expand_as(image) == 0
    assert output.perception_BCHW.shape == image.shape == output.predictions[-1].shape
    assert torch.equal(output.perception_BCHW[known], image[known])
    assert torch.equal(output.perception_BCHW[~known], output.predictions[-1][~known])
    assert torch.equal(output.pixel_BCHW, output.perception_BCHW)
    assert output.predictions[-1].abs().max() <= 1 and len(output.predictions) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_repeated_borders_make_up_for_sides_that_four_does_not_divide(variant: Variant) -> None:
    net = network(variant)
    image, mask = scene(18, 31)
    rows, columns = [*range(18), 17, 17], [*range(31), 30]
    with torch.no_grad():
        inner = net.fill(image, mask).predictions[0]
        outer = net.fill(image[:, :, rows][..., columns], mask[:, :, rows][..., columns]).predictions[0]
    assert torch.equal(inner, outer[..., :18, :31])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("content", [float("nan"), float("inf"), 0.7])
def test_what_stands_in_the_hole_does_not_matter(variant: Variant, content: float) -> None:
    net = network(variant)
    image, mask = scene(24, 24)
    with torch.no_grad():
        plain = net.fill(image, mask)
        other = net.fill(torch.where(mask > 0, content, image), mask)
    assert torch.equal(plain.perception_BCHW, other.perception_BCHW)
    assert torch.equal(plain.predictions[0], other.predictions[0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_every_image_is_treated_by_itself(variant: Variant, training: bool) -> None:
    net = network(variant).train(training)
    image, mask = scene(20, 24, batch=3)
    image[1] *= 0.01
    with torch.no_grad():
        together = net.fill(image, mask).predictions[0]
        alone = torch.cat([net.fill(image[i : i + 1], mask[i : i + 1]).predictions[0] for i in range(3)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("missing", [0.0, 1.0])
def test_nothing_or_everything_missing(variant: Variant, missing: float) -> None:
    torch.manual_seed(0)
    net = DMFN(3, WIDTH, (2,), variant).eval()
    image = scene(32, 32)[0].float()
    with torch.no_grad():
        output = net.fill(image, torch.full((2, 1, 32, 32), missing))
    assert output.predictions[0].isfinite().all()
    assert torch.equal(output.perception_BCHW, output.predictions[0] if missing else image)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_weight(variant: Variant) -> None:
    torch.manual_seed(0)
    net = DMFN(3, 4, (2,), variant).double()
    image, mask = scene(64, 64)  # the widest dilation reaches half-way across the grid of 16 × 16
    (net.fill(image, mask).perception_BCHW - image).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if name.endswith("weight"):
            assert (parameter.grad != 0).all(), name
    biases = [parameter.grad for name, parameter in net.named_parameters() if name.endswith("bias")]
    assert biases[0].abs().min() > 1e-9 and biases[-1].abs().min() > 1e-9
    if variant == "published":
        assert all(bias.abs().max() < 1e-15 for bias in biases[1:-1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_leaves_known_pixels_alone(variant: Variant) -> None:
    torch.manual_seed(0)
    net = DMFN(3, 4, (2,), variant).eval()
    image, mask = (tensor.float() for tensor in scene(24, 24))
    with torch.no_grad():
        full = net.fill(image, mask).predictions[0]
        with torch.autocast("cpu", torch.bfloat16):
            output = net.fill(image, mask)
    known = mask.expand_as(image) == 0
    assert output.perception_BCHW.dtype == torch.float32
    assert torch.equal(output.perception_BCHW[known], image[known])
    assert not torch.equal(output.predictions[0], full)
    assert (output.predictions[0] - full).abs().max() < 0.05


@pytest.mark.parametrize("variant", VARIANTS)
def test_initial_weights(variant: Variant) -> None:
    torch.manual_seed(0)
    net = DMFN(3, 16, (1,), variant)
    for layer in net.modules():
        transposed = isinstance(layer, nn.ConvTranspose2d)
        if isinstance(layer, nn.Conv2d) or (transposed and variant == "unofficial"):
            spread = 3 * 0.02 / (2 * layer.weight.numel()) ** 0.5
            assert layer.weight.std().item() == pytest.approx(0.02, abs=spread)
            assert layer.weight.abs().max() > 0.04 and not layer.bias.any()
        elif transposed:
            bound = (layer.weight.shape[1] * 16) ** -0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound and layer.bias.any()


@pytest.mark.parametrize("blocks", [(), (0,), (4, 4)])
def test_one_positive_number_of_blocks(blocks: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="blocks"):
        DMFN(3, 4, blocks)


def test_what_does_not_fit_is_refused() -> None:
    net = network("published", 1)
    image, mask = scene(16, 16)
    with pytest.raises(ValueError, match="edge map"):
        net(image, mask, mask)
    with pytest.raises(ValueError, match="channels"):
        net(image[:, :1], mask)
    with pytest.raises(ValueError, match="mask"):
        net(image, mask[..., :-1])
