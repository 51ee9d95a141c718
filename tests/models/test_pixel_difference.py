"""Every kind against its definition, summed pixel by pixel in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from igll.models.pixel_difference import DifferenceKind, PixelDifferenceConv2d

COMPASS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
CLOCKWISE = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
WINDOW = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def terms(kind: str) -> list[tuple[int, tuple[int, int], tuple[int, int] | None]]:
    """(row-major weight, offset added, offset subtracted), as the definitions state them."""
    if kind == "cv":
        return [(WINDOW.index(offset), offset, None) for offset in WINDOW]
    if kind == "cd":
        return [(WINDOW.index(offset), offset, (0, 0)) for offset in WINDOW]
    if kind == "ad":
        following = CLOCKWISE[1:] + CLOCKWISE[:1]
        return [(WINDOW.index(a), a, b) for a, b in zip(CLOCKWISE, following, strict=True)]
    return [(i + 1, (2 * dy, 2 * dx), (dy, dx)) for i, (dy, dx) in enumerate(COMPASS)]


def direct(conv: PixelDifferenceConv2d, image_BCHW: Tensor) -> np.ndarray:
    """The definition, with zeros outside the image, for a padding that keeps the size."""
    image = image_BCHW.numpy()
    weight = conv.weight.detach().numpy().reshape(conv.out_channels, -1, 9)
    batch, channels, height, width = image.shape
    rows, columns = range(0, height, conv.stride[0]), range(0, width, conv.stride[0])
    output = np.zeros((batch, conv.out_channels, len(rows), len(columns)))
    per_group_in, per_group_out = channels // conv.groups, conv.out_channels // conv.groups

    def pixel(b: int, c: int, y: int, x: int) -> float:
        return float(image[b, c, y, x]) if 0 <= y < height and 0 <= x < width else 0.0

    for b, o, (i, y), (j, x) in (
        (b, o, row, column)
        for b in range(batch)
        for o in range(conv.out_channels)
        for row in enumerate(rows)
        for column in enumerate(columns)
    ):
        total = 0.0 if conv.bias is None else conv.bias[o].item()
        for k in range(per_group_in):
            c = (o // per_group_out) * per_group_in + k
            for index, (ay, ax), subtracted in terms(conv.kind):
                value = pixel(b, c, y + ay * conv.dilation[0], x + ax * conv.dilation[0])
                if subtracted is not None:
                    sy, sx = subtracted
                    value -= pixel(b, c, y + sy * conv.dilation[0], x + sx * conv.dilation[0])
                total += weight[o, k, index] * value
        output[b, o, i, j] = total
    return output


@pytest.mark.parametrize("kind", ["cv", "cd", "ad", "rd"])
@pytest.mark.parametrize(
    ("stride", "dilation", "groups", "bias"), [(1, 1, 1, False), (2, 1, 2, True), (1, 3, 4, True)]
)
def test_equals_its_definition(
    kind: DifferenceKind, stride: int, dilation: int, groups: int, bias: bool
) -> None:
    torch.manual_seed(0)
    conv = PixelDifferenceConv2d(
        kind, 4, 4, stride=stride, dilation=dilation, groups=groups, bias=bias
    ).double()
    image_BCHW = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    output_BCHW = conv(image_BCHW).detach().numpy()
    expected_BCHW = direct(conv, image_BCHW)
    assert output_BCHW.shape == expected_BCHW.shape
    np.testing.assert_allclose(output_BCHW, expected_BCHW, rtol=0, atol=1e-13)


def test_given_padding_is_used() -> None:
    image_BCHW = torch.randn(1, 2, 11, 12, generator=torch.Generator().manual_seed(0))
    same, valid = PixelDifferenceConv2d("rd", 2, 3), PixelDifferenceConv2d("rd", 2, 3, padding=0)
    valid.load_state_dict(same.state_dict())
    torch.testing.assert_close(valid(image_BCHW), same(image_BCHW)[..., 2:-2, 2:-2])


@pytest.mark.parametrize("kind", ["cd", "ad", "rd"])
def test_differences_ignore_brightness(kind: DifferenceKind) -> None:
    torch.manual_seed(0)
    conv = PixelDifferenceConv2d(kind, 3, 5, padding=0, bias=False).double()
    image_BCHW = torch.randn(1, 3, 10, 10, dtype=torch.float64)
    torch.testing.assert_close(conv(image_BCHW + 7), conv(image_BCHW), rtol=0, atol=1e-12)
    assert conv(image_BCHW).abs().max() > 0.01


@pytest.mark.parametrize(("kind", "unused"), [("cd", 4), ("ad", 4), ("rd", 0)])
def test_only_the_documented_weight_is_unused(kind: DifferenceKind, unused: int) -> None:
    torch.manual_seed(0)
    conv = PixelDifferenceConv2d(kind, 2, 3)
    conv(torch.randn(1, 2, 12, 12)).square().sum().backward()
    assert conv.weight.grad is not None
    idle = conv.weight.grad.flatten(2).abs().sum(dim=(0, 1)) == 0
    assert idle.nonzero().flatten().tolist() == [unused]


def test_wide_central_kernel() -> None:
    torch.manual_seed(0)
    conv = PixelDifferenceConv2d("cd", 1, 1, kernel_size=5, bias=False).double()
    impulse_BCHW = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    impulse_BCHW[..., 4, 4] = 1
    response = conv(impulse_BCHW)[0, 0, 2:7, 2:7].flip(0, 1)
    expected = conv.weight[0, 0].clone()
    expected[2, 2] -= conv.weight.sum()
    torch.testing.assert_close(response, expected, rtol=0, atol=1e-14)


def test_state_dict_holds_weights_alone() -> None:
    conv = PixelDifferenceConv2d("rd", 2, 3)
    assert {name: tuple(value.shape) for name, value in conv.state_dict().items()} == {
        "weight": (3, 2, 3, 3),
        "bias": (3,),
    }


@pytest.mark.parametrize(("kind", "size"), [("xd", 3), ("ad", 5), ("rd", 5), ("cd", 4)])
def test_undefined_kinds_are_refused(kind: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"kind|kernel_size"):
        PixelDifferenceConv2d(kind, 2, 2, kernel_size=size)  # type: ignore[arg-type]
