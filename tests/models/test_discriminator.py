"""Discriminator: shapes at any size, what the local net looks at, norms, and finding the rectangles."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.config import DiscriminatorConfig
from igll.errors import InputError
from igll.models.discriminator import (
    Discriminator,
    HalvingConv2d,
    Norm,
    Rectangle,
    StridedNet,
    hole_rectangles,
    weights_once,
)
from igll.models.spectral import SpectralNorm
from igll.registry import build_discriminator

WIDTH = 4
NORMS: tuple[Norm, ...] = ("none", "batch", "spectral")


def discriminator(norm: Norm = "spectral", edge: bool = True, channels: int = 3) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(channels, WIDTH, norm, edge)


def images(height: int, width: int, batch: int = 2, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def edges(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(2))


def masks(*boxes: Rectangle, size: int = 64) -> Tensor:
    mask_B1HW = torch.zeros(len(boxes), 1, size, size)
    for mask_1HW, box in zip(mask_B1HW, boxes, strict=True):
        mask_1HW[:, box.top : box.top + box.height, box.left : box.left + box.width] = 1
    return mask_B1HW


@pytest.mark.parametrize("height, width", [(64, 64), (128, 128), (256, 256), (61, 77), (33, 130), (16, 16)])
def test_any_size_is_judged(height: int, width: int) -> None:
    net = discriminator()
    with torch.no_grad():
        logits_B1, features, _ = net(images(height, width), edges(height, width))
    assert logits_B1.shape == (2, 1) and logits_B1.isfinite().all()
    assert len(features) == 6 + 5
    for level, feature in enumerate(features):
        depth = level if level < 6 else level - 6
        halved = [-(-side // 2 ** (depth + 1)) for side in (height, width)]
        assert list(feature.shape) == [2, min(2**depth, 8) * WIDTH, *halved]


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def convolved(net: StridedNet, input_BCHW: Tensor) -> Tensor:
    """Stride-2 5 × 5 convolutions, leaky ReLU, averages of a 4 × 4 grid of cells, one linear layer."""
    for layer in convolutions(net):
        input_BCHW = F.conv2d(input_BCHW, layer.weight, layer.bias, stride=2, padding=2)
        input_BCHW = torch.where(input_BCHW > 0, input_BCHW, 0.2 * input_BCHW)
    height, width = input_BCHW.shape[-2:]
    rows = [(i * height // 4, -(-(i + 1) * height // 4)) for i in range(4)]
    columns = [(i * width // 4, -(-(i + 1) * width // 4)) for i in range(4)]
    cells = [input_BCHW[:, :, r0:r1, c0:c1].mean((2, 3)) for r0, r1 in rows for c0, c1 in columns]
    vector_BF = F.linear(torch.stack(cells, 2).flatten(1), net.project.weight, net.project.bias)
    return torch.where(vector_BF > 0, vector_BF, 0.2 * vector_BF)


@pytest.mark.parametrize("height, width", [(64, 64), (256, 256), (150, 97)])
def test_equals_the_layers_written_out(height: int, width: int) -> None:
    net = discriminator("none").double()
    image, edge = images(height, width).double(), edges(height, width).double()
    frame = torch.cat([image, edge], 1)
    both_BF = [convolved(net.whole, frame), convolved(net.local, frame)]
    assert [vector_BF.shape for vector_BF in both_BF] == [(2, 512)] * 2
    expected_B1 = F.linear(torch.cat(both_BF, 1), net.judge.weight, net.judge.bias)
    with torch.no_grad():
        assert torch.allclose(net(image, edge).logits, expected_B1, rtol=0, atol=1e-12)


def test_the_local_net_sees_each_images_own_rectangle() -> None:
    net = discriminator("none")
    boxes = [Rectangle(3, 20, 32, 24), Rectangle(30, 0, 32, 24)]
    image, edge = images(64, 64), edges(64, 64)
    with torch.no_grad():
        judged = net(image, edge, boxes)
        crops = [
            torch.cat([image, edge], 1)[i, :, box.top : box.top + 32, box.left : box.left + 24]
            for i, box in enumerate(boxes)
        ]
        _, expected = net.local(torch.stack(crops))
        whole = net(image, edge)
        for feature, reference in zip(judged.features[6:], expected, strict=True):
            assert torch.equal(feature, reference)
        for feature, reference in zip(judged.features[:6], whole.features[:6], strict=True):
            assert torch.equal(feature, reference)
        assert not torch.equal(judged.logits, whole.logits)

        outside = masks(*boxes).expand_as(image) == 0
        changed = net(torch.where(outside, -image, image), edge, boxes)
        assert all(torch.equal(*pair) for pair in zip(changed.features[6:], judged.features[6:], strict=True))
        assert not torch.equal(changed.features[5], judged.features[5])


def test_one_rectangle_per_image_is_asked_for() -> None:
    with pytest.raises(ValueError):
        discriminator()(images(64, 64), edges(64, 64), [Rectangle(0, 0, 32, 32)])


def test_edges_condition_the_judgement_or_are_left_out() -> None:
    image, edge = images(64, 64), edges(64, 64)
    with torch.no_grad():
        net = discriminator("none")
        assert not torch.allclose(net(image, edge).logits, net(image, 1 - edge).logits, rtol=0, atol=1e-6)
        plain = discriminator("none", edge=False)
        assert plain(image).logits.shape == (2, 1)
    for judge, channels in ((net, 4), (plain, 3)):
        assert convolutions(judge.whole)[0].in_channels == channels
        assert convolutions(judge.local)[0].in_channels == channels


@pytest.mark.parametrize("edge", [True, False])
def test_edges_missing_or_too_many_are_refused(edge: bool) -> None:
    given = None if edge else edges(64, 64)
    with pytest.raises(ValueError, match="edge"):
        discriminator(edge=edge)(images(64, 64), given)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_gradients_reach_the_image_and_every_parameter(norm: Norm, channels: int) -> None:
    net = discriminator(norm, channels=channels)
    image = images(64, 64, channels=channels).requires_grad_()
    judged = net(image, edges(64, 64), [Rectangle(0, 0, 32, 32)] * 2)
    judged.logits.square().sum().backward()
    assert image.grad is not None and image.grad.isfinite().all() and image.grad.any()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("side", [16, 64])
def test_batch_norm_of_one_value_is_refused(side: int) -> None:
    with pytest.raises(InputError, match=r"discriminator\.norm: batch .* train\.batch_size=2"):
        discriminator("batch")(images(side, side, 1), edges(side, side, 1))
    small = [Rectangle(0, 0, 32, 20)]
    with pytest.raises(InputError, match="image or hole of 32 × 20 pixels"):
        discriminator("batch")(images(80, 80, 1), edges(80, 80, 1), small)
    for net, batch in ((discriminator(), 1), (discriminator("batch"), 2), (discriminator("batch").eval(), 1)):
        assert net(images(side, side, batch), edges(side, side, batch)).logits.isfinite().all()
    assert discriminator("batch")(images(65, 20, 1), edges(65, 20, 1)).logits.isfinite().all()


def test_batch_norm_follows_all_but_the_first_convolution() -> None:
    both = discriminator("batch")
    for net in (both.whole, both.local):
        kinds = [type(layer) for layer in net.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
        assert kinds == [HalvingConv2d] + [HalvingConv2d, nn.BatchNorm2d] * (len(convolutions(net)) - 1)
    for norm in NORMS:
        found = any(isinstance(layer, nn.BatchNorm2d) for layer in discriminator(norm).modules())
        assert found == (norm == "batch")


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (8, 1), (1, 8), (2, 2)])
def test_gradients_under_autocast_are_rounded_and_no_more(size: tuple[int, int]) -> None:
    """Where one column is seen, most of oneDNN's are wrong: ten layers at a time."""
    torch.manual_seed(0)
    for _ in range(10):
        layer, image = HalvingConv2d(64, 128), torch.randn(2, 64, *size)
        gradients = []
        for enabled in (False, True):
            layer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                layer(image).float().square().sum().backward()
            gradients.append(layer.weight.grad.clone())
        exact, rounded = gradients
        torch.testing.assert_close(rounded, exact, rtol=0, atol=0.03 * exact.abs().max().item())


def test_one_pass_is_one_power_iteration_at_every_layer() -> None:
    """Down to a single pixel, under autocast too."""

    def directions(net: Discriminator) -> list[Tensor]:
        return [layer.parametrizations.weight[0]._v for layer in convolutions(net)]

    net = discriminator("spectral")
    other = copy.deepcopy(net)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        net(images(16, 16), edges(16, 16))
        for layer in convolutions(other):
            _ = layer.weight
    for found, expected in zip(directions(net), directions(other), strict=True):
        assert torch.equal(found, expected)


def test_autocast_does_not_reach_weights_that_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU it would change none of their operations; on CUDA, products."""
    iterate, found = SpectralNorm._iterate, []

    def noted(self: SpectralNorm, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found.append(torch.is_autocast_enabled("cpu"))
        return iterate(self, weight)

    net = discriminator("spectral")
    monkeypatch.setattr(SpectralNorm, "_iterate", noted)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), weights_once(net):
        net(images(16, 16), edges(16, 16))
    assert found == [False] * 11


def largest_singular_values(net: nn.Module) -> list[float]:
    return [torch.linalg.svdvals(layer.weight.flatten(1))[0].item() for layer in convolutions(net)]


def test_spectral_norm_holds_every_convolution_at_one() -> None:
    net = discriminator("spectral")
    with torch.no_grad():
        for _ in range(60):
            net(images(16, 16), edges(16, 16))  # one step of the power iteration each
        assert largest_singular_values(net.eval()) == pytest.approx([1] * 11, abs=0.02)
        assert all(abs(value - 1) > 0.02 for value in largest_singular_values(discriminator("none")))


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_each_image_is_judged_as_if_alone(norm: Norm) -> None:
    net = discriminator(norm).eval()
    boxes = [Rectangle(3, 20, 32, 32), Rectangle(30, 0, 32, 32)]
    image, edge = images(64, 64), edges(64, 64)
    with torch.no_grad():
        together_B1 = net(image, edge, boxes).logits
        for i in range(2):
            alone = net(image[i : i + 1], edge[i : i + 1], boxes[i : i + 1]).logits
            assert torch.allclose(together_B1[i : i + 1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("edge", [True, False])
def test_size_follows_from_the_layers(edge: bool) -> None:
    with torch.device("meta"):
        net = build_discriminator(DiscriminatorConfig(norm="none", edge=edge), image_channels=3)
    first, sizes = 3 + edge, [64, 128, 256, 512, 512, 512]
    expected = 1024 + 1
    for depth in (6, 5):
        pairs = zip([first, *sizes], sizes[:depth], strict=False)
        expected += sum(25 * i * o + o for i, o in pairs) + 512 * 16 * 512 + 512
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    assert 10e6 < expected < 50e6


def test_rectangles_are_found_where_all_holes_are_alike() -> None:
    boxes = [Rectangle(3, 20, 32, 24), Rectangle(0, 40, 32, 24), Rectangle(32, 0, 32, 24)]
    assert hole_rectangles(masks(*boxes)) == boxes
    assert hole_rectangles(masks(*boxes).bool()) == boxes
    assert hole_rectangles(torch.ones(2, 1, 8, 9)) == [Rectangle(0, 0, 8, 9)] * 2
    assert hole_rectangles(masks(Rectangle(63, 63, 1, 1))) == [Rectangle(63, 63, 1, 1)]


def test_no_rectangles_where_a_hole_is_irregular_another_size_or_absent() -> None:
    square = Rectangle(3, 20, 32, 24)
    for other in (Rectangle(3, 20, 30, 24), Rectangle(3, 20, 32, 25), Rectangle(3, 20, 24, 32)):
        assert hole_rectangles(masks(square, other)) is None
    bitten = masks(square, square)
    bitten[1, 0, 10, 30] = 0
    assert hole_rectangles(bitten) is None
    extended = masks(square, square)
    extended[0, 0, 60, 60] = 1
    assert hole_rectangles(extended) is None
    two = masks(Rectangle(0, 0, 8, 8)) + masks(Rectangle(8, 8, 8, 8))
    assert hole_rectangles(two) is None
    absent = masks(square, square)
    absent[1] = 0
    assert hole_rectangles(absent) is None
