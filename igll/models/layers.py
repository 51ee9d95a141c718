"""Building blocks that the generator's two nets share."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.activations import ELU
from igll.models.hole_layout import HoleLayout
from igll.models.kept import Kept
from igll.models.shortcuts import may_shorten
from igll.models.winograd import Conv2d

STRIDE_HALVINGS = 2
STRIDE = 2**STRIDE_HALVINGS  # the feature grid is a quarter of the image on each side
# How many tokens beyond the hole its pixels depend on. From the attention's result on: two convolutions, then
# the decoder's two at a quarter, two at half and three at full resolution, 4 · 4 + 2 · 2 + 3 = 23 pixels.
# From the first enlargement on: the last five, 2 · 2 + 3 = 7 pixels.
WINDOW_MARGIN, CANVAS_MARGIN = 6, 2


class ConvELU(nn.Sequential):
    """Zero-padded convolution followed by an activation; the nets have no normalisation layers."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        activation: type[nn.Module] = ELU,
    ) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(
            Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation),
            activation(inplace=True),
        )


class EnlargingConv2d(nn.Conv2d):
    """A 3 × 3 convolution of features enlarged twice by repetition, without enlarging them.

    Of the nine pixels under the kernel at most 2 × 2 differ, so one transposed convolution with sums of the
    weights does the same: 16 products for each of the small features' pixels instead of 36.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self._transposed = Kept()

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, out_channels, 2 · H, 2 · W)."""
        make = transposed_kernel
        kernel = self._transposed.of(self.weight, make) if may_shorten(input) else make(self.weight)
        return F.conv_transpose2d(input, kernel, self.bias, stride=2, padding=1)


def transposed_kernel(weight_OC33: Tensor) -> Tensor:
    """The kernel (in, out, 4, 4) of an :class:`EnlargingConv2d`, channels last in memory.

    Along an axis a small pixel reaches four large ones, by the weights w₂, w₁ + w₂, w₀ + w₁ and w₀.
    """
    kernel = weight_OC33.transpose(0, 1)
    for axis in (2, 3):
        first, second, third = kernel.unbind(axis)
        kernel = torch.stack([third, second + third, first + second, first], axis)
    return kernel.contiguous(memory_format=torch.channels_last)


class FeatureBranch(nn.Sequential):
    """Encoder branch that widens the receptive field by dilations 2, 4, 8, 16 (section 3.2).

    Maps image-sized input_BCHW to feature_BCHW with 4 × width channels on the H/4 × W/4 grid.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__(
            ConvELU(in_channels, width, 5),
            ConvELU(width, width, stride=2),
            ConvELU(width, 2 * width),
            ConvELU(2 * width, 2 * width, stride=2),
            ConvELU(2 * width, 4 * width),
            ConvELU(4 * width, 4 * width),
            *(ConvELU(4 * width, 4 * width, dilation=dilation) for dilation in (2, 4, 8, 16)),
        )


class AttentionBranch(nn.Module):
    """Encoder branch around an attention module: GAM in PIRN, FFSM in PERN (section 3.2).

    Args:
        in_channels: Channels of the image-sized input.
        width: Base width c.
        attention: Module called with (feature_BCHW, hole_B1HW, layout) on the H/4 × W/4 grid.
    """

    def __init__(self, in_channels: int, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.before = nn.Sequential(
            ConvELU(in_channels, width, 5),
            ConvELU(width, width, stride=2),
            ConvELU(width, 2 * width),
            ConvELU(2 * width, 4 * width, stride=2),
            ConvELU(4 * width, 4 * width),
            ConvELU(4 * width, 4 * width, activation=nn.ReLU),
        )
        self.attention = attention
        self.after = nn.Sequential(ConvELU(4 * width, 4 * width), ConvELU(4 * width, 4 * width))

    def forward(self, input_BCHW: Tensor, layout: HoleLayout) -> Tensor:
        """Return feature_BCHW of the layout's window."""
        attended_BCHW = self.attention(self.before(input_BCHW), layout.hole_B1HW, layout)
        feature_BCHW: Tensor = self.after(in_window(attended_BCHW, layout))
        return feature_BCHW


class Decoder(nn.Sequential):
    """From both branches' features, concatenated (8 × width), back to the image (section 3.2)."""

    def __init__(self, width: int, out_channels: int) -> None:
        layers = {
            0: ConvELU(8 * width, 4 * width),
            1: ConvELU(4 * width, 4 * width),
            3: nn.Sequential(EnlargingConv2d(4 * width, 2 * width), ELU(inplace=True)),
            4: ConvELU(2 * width, 2 * width),
            6: nn.Sequential(EnlargingConv2d(2 * width, width), ELU(inplace=True)),
            7: ConvELU(width, width // 2),
            8: nn.Conv2d(width // 2, out_channels, 3, padding=1),
        }
        # Saved weights count the enlargements (2 and 5), which are layers in the paper.
        super().__init__(OrderedDict((str(number), layer) for number, layer in layers.items()))


def in_window(feature_BCHW: Tensor, layout: HoleLayout) -> Tensor:
    """The part of a feature map that the hole's pixels are painted from."""
    return feature_BCHW if layout.window is None else layout.window.crop(feature_BCHW)


def on_canvas(feature_BCHW: Tensor, layout: HoleLayout) -> Tensor:
    """The part of the window's feature map that is painted."""
    canvas = layout.canvas_in_window
    return feature_BCHW if canvas is None else canvas.crop(feature_BCHW)


def initialise_convolutions(module: nn.Module) -> None:
    """Give every convolution weights that keep the signal's size (He et al. 2015) and no bias.

    Without normalisation layers, torch's own initialisation shrinks the signal at every layer: at the last
    hidden one about 1 % of the first one's would be left, and training would stand still for a long time.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def composite(prediction_BCHW: Tensor, image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Prediction in the hole, input outside it, bit for bit (end of section 3.2's nets)."""
    return torch.where(mask_B1HW > 0.5, prediction_BCHW, image_BCHW)


def hole_on_grid(mask_B1HW: Tensor) -> Tensor:
    """The hole on the feature grid, as bool_B1hw: a cell is hole if any of its 4 × 4 pixels is."""
    return F.max_pool2d((mask_B1HW > 0.5).float(), STRIDE) > 0


def pad_to_stride(tensor_BCHW: Tensor, stride: int = STRIDE) -> Tensor:
    """Repeat the last row and column until both sides are divisible by the stride."""
    height, width = tensor_BCHW.shape[-2:]
    return F.pad(tensor_BCHW, (0, -width % stride, 0, -height % stride), mode="replicate")
