"""The peers' discriminators: sizes, what one score sees, conditions, and the layers written out."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.critics import Critic, PatchDiscriminator
from igll.models.discriminator import Discriminator, Norm, Rectangle

WIDTH = 4
KINDS = pytest.mark.parametrize("kind", [PatchDiscriminator, Critic])


def images(height: int, width: int, batch: int = 2, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def edges(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(2))


def small(kind: type[PatchDiscriminator | Critic], **settings) -> PatchDiscriminator | Critic:
    torch.manual_seed(0)
    return kind(width=WIDTH, **settings)


def patches(norm: Norm, **settings) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(width=WIDTH, norm=norm, **settings)


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def leaky(activation: Tensor) -> Tensor:
    return torch.where(activation > 0, activation, 0.2 * activation)


# Patches of 70 × 70.


@pytest.mark.parametrize("edge", [False, True])
def test_patch_discriminator_has_the_published_size(edge: bool) -> None:
    with torch.device("meta"):
        net = PatchDiscriminator(norm="none", edge=edge)
    expected = 4 * 4 * ((3 + edge) * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    assert expected == (2_764_800 if edge else 2_763_776)
    assert all(layer.bias is None for layer in convolutions(net))
    normalised = PatchDiscriminator(edge=edge)
    assert sum(parameter.numel() for parameter in normalised.parameters()) == expected


def test_patches_are_judged_on_a_grid_of_thirty() -> None:
    with torch.no_grad():
        judged = patches("none")(images(256, 256, 1))
    assert judged.logits.shape == (1, 1, 30, 30)
    assert [tuple(feature.shape[1:]) for feature in judged.features] == [
        (WIDTH, 128, 128), (2 * WIDTH, 64, 64), (4 * WIDTH, 32, 32), (8 * WIDTH, 31, 31),
    ]  # fmt: skip
    assert judged.local_features == []


def test_one_score_sees_seventy_pixels() -> None:
    net, image = patches("none").double(), images(160, 160, 1).double().requires_grad_()
    scores = net(image).logits[0, 0]
    row, column = 9, 8
    (gradient,) = torch.autograd.grad(scores[row, column], image)
    seen_HW = gradient[0].abs().amax(0) > 0
    rows, columns = seen_HW.any(1).nonzero()[:, 0], seen_HW.any(0).nonzero()[:, 0]
    assert (len(rows), len(columns)) == (70, 70)
    assert int(rows[-1] - rows[0]) == int(columns[-1] - columns[0]) == 69
    # Padding 1 at each level moves the first patch 23 pixels out; the next is 8 further on.
    assert (int(rows[0]), int(columns[0])) == (8 * row - 23, 8 * column - 23)
    assert seen_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


@pytest.mark.parametrize("height, width", [(32, 32), (61, 77), (64, 48)])
def test_patch_discriminator_is_its_layers_written_out(height: int, width: int) -> None:
    net = patches("none", edge=True).double()
    image, edge = images(height, width).double(), edges(height, width).double()
    activation, activations = torch.cat([image, edge], 1), []
    for layer, stride in zip(convolutions(net), (2, 2, 2, 1, 1), strict=True):
        activation = F.conv2d(activation, layer.weight, stride=stride, padding=1)
        activations.append(activation := leaky(activation) if len(activations) < 4 else activation)
    with torch.no_grad():
        judged = net(image, edge)
    for found, expected in zip([*judged.features, judged.logits], activations, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_norms_stand_where_they_are_said_to() -> None:
    kinds = [
        type(layer) for layer in patches("batch").modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))
    ]
    assert kinds == [nn.Conv2d] + [nn.Conv2d, nn.BatchNorm2d] * 3 + [nn.Conv2d]
    for norm in ("none", "spectral"):
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in patches(norm).modules())
    net = patches("spectral")
    with torch.no_grad():
        for _ in range(60):
            net(images(32, 32))  # one step of the power iteration each
        largest = [
            torch.linalg.svdvals(layer.weight.flatten(1))[0].item() for layer in convolutions(net.eval())
        ]
    assert largest == pytest.approx([1] * 5, abs=0.02)


# The critic.


@pytest.mark.parametrize("edge", [False, True])
def test_critic_has_the_size_that_its_layers_say(edge: bool) -> None:
    with torch.device("meta"):
        net = Critic(edge=edge)
    sizes = [3 + edge, 64, 128, 256, 256, 256, 256]
    expected = sum(25 * i * o + o for i, o in pairwise(sizes)) + 256 * 64 + 1
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    assert expected == 5_961_601 + 1600 * edge
    assert not [layer for layer in net.modules() if "Norm" in type(layer).__name__]
    assert not list(net.buffers()) and not any("parametrizations" in name for name in net.state_dict())


@pytest.mark.parametrize("height, width", [(512, 512), (64, 64), (150, 97), (256, 512)])
def test_critic_judges_any_size(height: int, width: int) -> None:
    with torch.no_grad():
        judged = small(Critic)(images(height, width))
    assert judged.logits.shape == (2, 1) and judged.logits.isfinite().all()
    halved = [[-(-side // 2**level) for side in (height, width)] for level in range(1, 7)]
    widths = [WIDTH, 2 * WIDTH] + [4 * WIDTH] * 4
    assert [list(feature.shape) for feature in judged.features] == [
        [2, channels, *sides] for channels, sides in zip(widths, halved, strict=True)
    ]
    assert judged.local_features == []


@pytest.mark.parametrize("side", [512, 64])
def test_critic_is_its_layers_written_out(side: int) -> None:
    net, image = small(Critic).double(), images(side, side, 1).double()
    activation = image
    for layer in convolutions(net):
        activation = leaky(F.conv2d(activation, layer.weight, layer.bias, stride=2, padding=2))
    repeated = activation.repeat_interleave(512 // side, 2).repeat_interleave(512 // side, 3)
    assert repeated.shape == (1, 4 * WIDTH, 8, 8)
    with torch.no_grad():
        expected = F.linear(repeated.flatten(1), net.judge.weight, net.judge.bias)
        torch.testing.assert_close(net(image).logits, expected, rtol=0, atol=1e-12)


# Both.


@KINDS
def test_edges_condition_the_judgement_or_are_left_out(kind: type[PatchDiscriminator | Critic]) -> None:
    image, edge = images(64, 64), edges(64, 64)
    conditioned, plain = small(kind, edge=True), small(kind, edge=False)
    with torch.no_grad():
        difference = conditioned(image, edge).logits - conditioned(image, 1 - edge).logits
    assert difference.abs().max() > 1e-6
    with pytest.raises(ValueError, match="needs an edge map"):
        conditioned(image)
    with pytest.raises(ValueError, match="takes no edge map"):
        plain(image, edge)


@KINDS
def test_rectangles_change_nothing(kind: type[PatchDiscriminator | Critic]) -> None:
    net, image = small(kind).eval(), images(64, 64)
    with torch.no_grad():
        judged = net(image, None, [Rectangle(3, 20, 32, 24)] * 2)
        assert torch.equal(judged.logits, net(image).logits)


@KINDS
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_gradients_reach_the_image_and_every_parameter(
    kind: type[PatchDiscriminator | Critic], channels: int
) -> None:
    net, image = small(kind, image_channels=channels), images(64, 64, channels=channels).requires_grad_()
    net(image).logits.square().sum().backward()
    assert image.grad is not None and image.grad.isfinite().all() and image.grad.any()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@KINDS
def test_each_image_is_judged_as_if_alone(kind: type[PatchDiscriminator | Critic]) -> None:
    net, image = small(kind).double().eval(), images(64, 80).double()
    with torch.no_grad():
        together = net(image).logits
        for index in range(2):
            alone = net(image[index : index + 1]).logits[0]
            torch.testing.assert_close(together[index], alone, rtol=0, atol=1e-12)


def test_local_features_of_the_strided_discriminator_are_those_of_its_local_net() -> None:
    torch.manual_seed(0)
    net = Discriminator(width=WIDTH, norm="none", edge=False)
    image, box = images(64, 64), Rectangle(3, 20, 32, 24)
    with torch.no_grad():
        judged = net(image, None, [box, box])
        _, expected = net.local(image[:, :, 3:35, 20:44])
    assert len(judged.local_features) == 5
    for found, wanted, tail in zip(judged.local_features, expected, judged.features[6:], strict=True):
        assert torch.equal(found, wanted) and found is tail
