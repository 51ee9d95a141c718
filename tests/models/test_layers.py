"""Layer tables, grids, composites and what is put into the hole before the nets see it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.activations import ELU
from igll.models.hole_layout import HoleLayout
from igll.models.layers import (
    AttentionBranch,
    Decoder,
    EnlargingConv2d,
    FeatureBranch,
    composite,
    hole_on_grid,
    pad_to_stride,
)
from igll.models.prefill import prefill_harmonic, prefill_mean, prefill_pyramid
from igll.models.winograd import Conv2d

# (kernel, in, out, stride, dilation) in units of the base width c, 0 standing for the net's own input or
# output: the paper's layout.
FEATURE = [
    (5, 0, 1, 1, 1),
    (3, 1, 1, 2, 1),
    (3, 1, 2, 1, 1),
    (3, 2, 2, 2, 1),
    (3, 2, 4, 1, 1),
    (3, 4, 4, 1, 1),
] + [(3, 4, 4, 1, dilation) for dilation in (2, 4, 8, 16)]
ATTENTION = [
    (5, 0, 1, 1, 1), (3, 1, 1, 2, 1), (3, 1, 2, 1, 1), (3, 2, 4, 2, 1), (3, 4, 4, 1, 1), (3, 4, 4, 1, 1),
    (3, 4, 4, 1, 1), (3, 4, 4, 1, 1),
]  # fmt: skip
DECODER = [
    (3, 8, 4, 1, 1), (3, 4, 4, 1, 1), (3, 4, 2, 1, 1), (3, 2, 2, 1, 1), (3, 2, 1, 1, 1), (3, 1, 0.5, 1, 1),
    (3, 0.5, 0, 1, 1),
]  # fmt: skip


def convolutions(net: nn.Module, width: int, ends: int) -> list[tuple[float, ...]]:
    """The table of a net's convolutions, in the order in which they are registered."""
    table = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            kernel, stride, dilation = layer.kernel_size[0], layer.stride[0], layer.dilation[0]
            assert (
                layer.padding[0] == dilation * (kernel // 2) and layer.groups == 1 and layer.bias is not None
            )
            sides = [0 if size == ends else size / width for size in (layer.in_channels, layer.out_channels)]
            table.append((kernel, *sides, stride, dilation))
    return table


class Recorder(nn.Module):
    """An attention module that keeps what it was given."""

    def forward(self, feature_BCHW: Tensor, hole_B1HW: Tensor, layout: HoleLayout) -> Tensor:
        self.given = feature_BCHW, hole_B1HW, layout
        return feature_BCHW


def test_feature_branch_is_the_papers() -> None:
    branch = FeatureBranch(5, 8)
    assert convolutions(branch, 8, 5) == FEATURE
    assert sum(isinstance(layer, nn.ELU) for layer in branch.modules()) == len(FEATURE)
    assert branch(torch.zeros(2, 5, 24, 36)).shape == (2, 32, 6, 9)


def test_attention_branch_is_the_papers() -> None:
    recorder = Recorder()
    branch = AttentionBranch(5, 8, recorder)
    assert convolutions(branch, 8, 5) == ATTENTION
    kinds = [type(layer) for layer in branch.modules() if isinstance(layer, (nn.ELU, nn.ReLU))]
    assert kinds == [ELU] * 5 + [nn.ReLU] + [ELU] * 2
    layout = HoleLayout.of(torch.zeros(2, 1, 6, 9, dtype=torch.bool))
    out_BCHW = branch(torch.randn(2, 5, 24, 36, generator=torch.Generator().manual_seed(0)), layout)
    assert out_BCHW.shape == recorder.given[0].shape == (2, 32, 6, 9)
    assert recorder.given[0].min() == 0 and recorder.given[1] is layout.hole_B1HW
    assert out_BCHW.min() < 0


def test_decoder_is_the_papers() -> None:
    decoder = Decoder(8, 3)
    assert convolutions(decoder, 8, 3) == DECODER
    kinds = [type(layer) for layer in decoder.modules() if isinstance(layer, nn.Conv2d)]
    plain, enlarging = Conv2d, EnlargingConv2d
    assert kinds == [plain, plain, enlarging, plain, enlarging, plain, nn.Conv2d]
    assert sum(isinstance(layer, nn.ELU) for layer in decoder.modules()) == len(DECODER) - 1
    assert decoder(torch.zeros(2, 64, 6, 9)).shape == (2, 3, 24, 36)


@pytest.mark.parametrize("height, width", [(5, 7), (1, 1), (8, 2)])
def test_the_enlarging_convolution_is_that_of_the_enlarged_features(height: int, width: int) -> None:
    torch.manual_seed(0)
    layer = EnlargingConv2d(6, 4).double()
    feature_BCHW = torch.randn(2, 6, height, width, dtype=torch.float64, requires_grad=True)
    enlarged_BCHW = F.interpolate(feature_BCHW, scale_factor=2, mode="nearest")
    expected_BCHW = F.conv2d(enlarged_BCHW, layer.weight, layer.bias, padding=1)
    out_BCHW = layer(feature_BCHW)
    assert torch.allclose(out_BCHW, expected_BCHW, rtol=0, atol=1e-12)
    weight_BCHW = torch.randn_like(expected_BCHW)
    sources = (feature_BCHW, layer.weight, layer.bias)
    found = torch.autograd.grad((out_BCHW * weight_BCHW).sum(), sources)
    expected = torch.autograd.grad((expected_BCHW * weight_BCHW).sum(), sources)
    for gradient, wanted in zip(found, expected, strict=True):
        assert torch.allclose(gradient, wanted, rtol=0, atol=1e-11)


def test_nothing_is_normalised() -> None:
    for net in (FeatureBranch(5, 8), AttentionBranch(5, 8, Recorder()), Decoder(8, 3)):
        assert not [name for name, _ in net.named_buffers()]
        assert not [layer for layer in net.modules() if "Norm" in type(layer).__name__]


def test_composite_takes_the_hole_from_the_prediction_and_the_rest_from_the_image() -> None:
    image_BCHW = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    mask_B1HW = (torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    prediction_BCHW = torch.full_like(image_BCHW, 4.0)
    out_BCHW = composite(prediction_BCHW, image_BCHW, mask_B1HW)
    assert torch.equal(out_BCHW, torch.from_numpy(np.where(mask_B1HW == 1, 4.0, image_BCHW)).float())
    poisoned_BCHW = prediction_BCHW.masked_fill(mask_B1HW == 0, float("nan"))
    assert torch.equal(composite(poisoned_BCHW, image_BCHW, mask_B1HW), out_BCHW)


def test_a_grid_cell_is_hole_if_any_of_its_pixels_is() -> None:
    mask_B1HW = (torch.rand(3, 1, 20, 28, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    mask_B1HW[1], mask_B1HW[2] = 0, 1
    hole_B1HW = hole_on_grid(mask_B1HW)
    assert hole_B1HW.dtype == torch.bool and hole_B1HW.shape == (3, 1, 5, 7)
    expected = mask_B1HW.numpy().reshape(3, 1, 5, 4, 7, 4).max((3, 5)) == 1
    assert 0 < expected[0].sum() < 35
    assert np.array_equal(hole_B1HW.numpy(), expected)


@pytest.mark.parametrize("height, width", [(61, 50), (64, 48), (1, 1), (3, 5), (2, 7)])
def test_padding_repeats_the_last_row_and_column(height: int, width: int) -> None:
    image_BCHW = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    padding = ((0, 0), (0, 0), (0, -height % 4), (0, -width % 4))
    assert np.array_equal(pad_to_stride(image_BCHW).numpy(), np.pad(image_BCHW.numpy(), padding, mode="edge"))


# --- prefill -----------------------------------------------------------------------------------------------

Prefill = Callable[[Tensor, Tensor], Tensor]
ALL = pytest.mark.parametrize("prefill", [prefill_mean, prefill_pyramid, prefill_harmonic])
SIZES = pytest.mark.parametrize("height, width", [(64, 64), (61, 50), (68, 36), (5, 33), (1, 13), (1, 1)])


def scene(batch: int, height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def scattered(batch: int, height: int, width: int, share: float = 0.6) -> Tensor:
    """Holes of every size: many pixels gone, and a rectangle that touches a border."""
    draw = torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(1))
    mask_B1HW = (draw < share).float()
    mask_B1HW[..., height // 4 :, width // 3 : -(width // 5) or None] = 1
    return mask_B1HW


@ALL
@SIZES
def test_prefill_keeps_known_pixels_and_ignores_the_hole(prefill: Prefill, height: int, width: int) -> None:
    image_BCHW, mask_B1HW = scene(2, height, width), scattered(2, height, width)
    mask_B1HW[1] = 0
    filled_BCHW = prefill(image_BCHW, mask_B1HW)
    known = (mask_B1HW == 0).expand_as(image_BCHW)
    assert torch.equal(filled_BCHW[known], image_BCHW[known])
    for content in (float("nan"), float("inf"), 1e30):
        assert torch.equal(prefill(image_BCHW.masked_fill(mask_B1HW == 1, content), mask_B1HW), filled_BCHW)
    assert filled_BCHW.isfinite().all() and filled_BCHW.abs().max() <= 1


@ALL
@SIZES
def test_prefill_of_a_constant_is_the_constant(prefill: Prefill, height: int, width: int) -> None:
    image_BCHW = torch.tensor([0.3, -0.7, 1.0]).view(1, 3, 1, 1).expand(1, 3, height, width)
    mask_B1HW = scattered(1, height, width)
    mask_B1HW[..., 0, 0] = 0
    assert torch.allclose(prefill(image_BCHW, mask_B1HW), image_BCHW, rtol=0, atol=1e-6)


@ALL
def test_prefill_spreads_the_one_known_pixel_and_nothing_where_none_is(prefill: Prefill) -> None:
    image_BCHW, mask_B1HW = scene(2, 61, 50), torch.ones(2, 1, 61, 50)
    mask_B1HW[0, 0, 17, 41] = 0
    filled_BCHW = prefill(image_BCHW, mask_B1HW)
    expected_C11 = image_BCHW[0, :, 17, 41, None, None]
    assert torch.allclose(filled_BCHW[0], expected_C11.expand(3, 61, 50), rtol=0, atol=1e-6)
    assert torch.equal(filled_BCHW[1], torch.zeros(3, 61, 50))


@ALL
def test_prefill_treats_each_image_as_if_alone(prefill: Prefill) -> None:
    image_BCHW, mask_B1HW = scene(4, 37, 52), scattered(4, 37, 52)
    mask_B1HW[1], mask_B1HW[2] = 0, 1
    together_BCHW = prefill(image_BCHW, mask_B1HW)
    for sample in range(4):
        alone = prefill(image_BCHW[sample : sample + 1], mask_B1HW[sample : sample + 1])[0]
        assert torch.allclose(together_BCHW[sample], alone, rtol=0, atol=1e-6)


@ALL
def test_prefill_hands_gradients_to_known_pixels_alone(prefill: Prefill) -> None:
    image_BCHW, mask_B1HW = scene(2, 20, 29), scattered(2, 20, 29)
    mask_B1HW[1] = 1
    poisoned_BCHW = image_BCHW.masked_fill(mask_B1HW == 1, float("nan")).requires_grad_()
    prefill(poisoned_BCHW, mask_B1HW).sum().backward()
    assert poisoned_BCHW.grad is not None and poisoned_BCHW.grad.isfinite().all()
    known = (mask_B1HW == 0).expand_as(image_BCHW)
    # Every prefill is made of averages, so the pixels' shares add up; cut-off conjugate gradients alone may
    # give one a little less than its own.
    assert poisoned_BCHW.grad.sum().item() == pytest.approx(image_BCHW[0].numel(), rel=1e-5)
    least = 0.9 if prefill is prefill_harmonic else 1 - 1e-6
    assert (poisoned_BCHW.grad[known] >= least).all() and (poisoned_BCHW.grad[~known] == 0).all()
    # Weights of an average add up to one, so each filled pixel hands out one.
    assert poisoned_BCHW.grad[0].sum().item() == pytest.approx(3 * 20 * 29, rel=1e-5)


def test_prefill_mean_equals_numpy() -> None:
    image_BCHW, mask_B1HW = scene(3, 21, 30, channels=4), scattered(3, 21, 30)
    expected = image_BCHW.double().numpy().copy()
    for image_CHW, mask_HW in zip(expected, mask_B1HW[:, 0].numpy() == 1, strict=True):
        for band_HW in image_CHW:
            band_HW[mask_HW] = band_HW[~mask_HW].mean()
    assert np.abs(prefill_mean(image_BCHW, mask_B1HW).numpy() - expected).max() < 1e-6


def push_pull(value_HW: np.ndarray, known_HW: np.ndarray) -> np.ndarray:
    """One band, recursively: cell (i, j) of the level below covers rows 2i, 2i + 1 and columns 2j, 2j + 1."""
    height, width = value_HW.shape
    if height == width == 1:
        return np.where(known_HW, value_HW, 0.0)
    small_shape = (height + 1) // 2, (width + 1) // 2
    small_hw, small_known_hw = np.zeros(small_shape), np.zeros(small_shape, dtype=bool)
    for row in range(small_shape[0]):
        for column in range(small_shape[1]):
            cell = slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2)
            if known_HW[cell].any():
                small_hw[row, column] = value_HW[cell][known_HW[cell]].mean()
                small_known_hw[row, column] = True
    filled_hw = push_pull(small_hw, small_known_hw)
    rows, columns = ((np.arange(size) + 0.5) / 2 - 0.5 for size in (height, width))
    across_hW = np.stack([np.interp(columns, np.arange(small_shape[1]), line) for line in filled_hw])
    enlarged_HW = np.stack([np.interp(rows, np.arange(small_shape[0]), line) for line in across_hW.T], 1)
    return np.where(known_HW, value_HW, enlarged_HW)


@SIZES
def test_prefill_pyramid_equals_a_plain_push_pull(height: int, width: int) -> None:
    image_BCHW, mask_B1HW = scene(2, height, width, channels=1), scattered(2, height, width)
    filled_BCHW = prefill_pyramid(image_BCHW, mask_B1HW)
    for image_HW, mask_HW, filled_HW in zip(
        image_BCHW[:, 0], mask_B1HW[:, 0], filled_BCHW[:, 0], strict=True
    ):
        expected_HW = push_pull(image_HW.double().numpy(), mask_HW.numpy() == 0)
        assert np.abs(filled_HW.numpy() - expected_HW).max() < 1e-5


@pytest.mark.parametrize("size", [32, 33, 61, 64, 65, 68, 100, 132, 260])
def test_prefill_pyramid_carries_a_ramp_across_the_hole(size: int) -> None:
    """A hole over half of each side of a ramp from −1 to 1; the mean would be wrong by 0.26, at most 0.5."""
    ramp_BCHW = torch.linspace(-1, 1, size).expand(1, 1, size, size)
    mask_B1HW = torch.zeros(1, 1, size, size)
    mask_B1HW[..., size // 4 : size - size // 4, size // 4 : size - size // 4] = 1
    for image_BCHW in (ramp_BCHW, ramp_BCHW.mT, ramp_BCHW.flip(3)):
        error = (prefill_pyramid(image_BCHW, mask_B1HW) - image_BCHW).abs()[mask_B1HW == 1]
        assert error.mean() < 0.05 and error.max() < 0.15
