"""HAN, the Hourglass Attention Network (Deng et al., ECCV 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from igll.models.fused_attention import fused_attention
from igll.models.hole_layout import HoleLayout
from igll.models.interface import GeneratorOutput, InpaintingNetwork, without_hole
from igll.models.layers import composite, pad_to_stride
from igll.models.tokens import to_device

GRID_STRIDE = 4  # pixels per side of a cell of the feature grid
HEADS_PER_PATCH_SIDE = 4
INPUT_NOISE = 1 / 256  # standard deviation, images in [-1, 1]
PRIOR_ENTRIES = 2**24  # of the distance prior held at once: all of it up to 64 × 64 tokens, 64 MiB in float32


class ResidualBlock(nn.Module):
    """Two convolutions around a normalisation, and a shortcut (the public code's encoder and decoder).

    Instance normalisation → SiLU → convolution → instance normalisation → SiLU → convolution, plus the
    input, which a 1 × 1 convolution brings to the output's shape where that differs. The normalisations
    have no parameters.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Of both convolutions.
        stride: Of the first convolution and of the shortcut.
        preactivated: Whether the block begins with a normalisation and an activation; not on an image.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        preactivated: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, stride)
        )
        self.body = nn.Sequential(
            *((nn.InstanceNorm2d(in_channels), nn.SiLU()) if preactivated else ()),
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding),
            nn.InstanceNorm2d(out_channels),
            nn.SiLU(),
            nn.Conv2d(out_channels, out_channels, kernel_size, 1, padding),
        )

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Return feature_BCHW with the new channels and size."""
        result_BCHW: Tensor = self.shortcut(feature_BCHW) + self.body(feature_BCHW)
        return result_BCHW


class LaplaceAttention(nn.Module):
    r"""Multi-head attention among patches that favours near ones (the paper's Laplace attention).

    Every patch of s × s cells with all its channels is one token. Its channels, channel before cell, are cut
    into 4·s heads of d entries, and

    .. math:: \operatorname{softmax}\left(\frac{QK^\top - \operatorname{softplus}(a)\,D}{\sqrt d}\right) V

    with :math:`D_{ij} = |y_i - y_j| + |x_i - x_j|` the city-block distance of two patches, in patches, and a
    learned scalar a: the weights are multiplied by a Laplace distribution around the query.

    The dense prior would hold N² entries for N patches: 64 MiB in float32 for an image of 256 × 256 and
    s = 1, 1 GiB for 512 × 512, 16 GiB for 1024 × 1024. It is computed from row and column distances for at
    most ``PRIOR_ENTRIES`` entries at a time, so the prior costs 64 MiB at any size; when there are several
    such bands, each is computed again in the backward pass.

    Args:
        channels: Channels of the feature map, a multiple of 4.
        patch: Side s of a patch in cells.
    """

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.heads = HEADS_PER_PATCH_SIDE * patch
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.decay = nn.Parameter(torch.ones(1))

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Return the attended feature_BCHW; both sides of the input are multiples of the patch's."""
        packed_BChw = F.pixel_unshuffle(self.project(feature_BCHW), self.patch)
        height, width = packed_BChw.shape[-2:]
        packed_B3hdN = packed_BChw.flatten(2).unflatten(1, (3, self.heads, -1))
        query_BhNd, key_BhNd, value_BhNd = packed_B3hdN.transpose(-1, -2).contiguous().unbind(1)
        tokens = height * width
        band = max(1, PRIOR_ENTRIES // tokens)
        attended = []
        for start in range(0, tokens, band):
            query_BhMd = query_BhNd[:, :, start : start + band]
            arguments = (query_BhMd, key_BhNd, value_BhNd, start, height, width)
            if band < tokens and torch.is_grad_enabled():
                attended.append(checkpoint(self._attend, *arguments, use_reentrant=False))
            else:
                attended.append(self._attend(*arguments))
        attended_BhdN = torch.cat(attended, 2).transpose(-1, -2)
        return F.pixel_shuffle(attended_BhdN.flatten(1, 2).unflatten(2, (height, width)), self.patch)

    def _attend(
        self, query_BhMd: Tensor, key_BhNd: Tensor, value_BhNd: Tensor, start: int, height: int, width: int
    ) -> Tensor:
        """Attend from M tokens, the first of which is number ``start``, to all of the grid."""
        weight = F.softplus(self.decay) / math.sqrt(query_BhMd.shape[3])
        token_M = torch.arange(start, start + query_BhMd.shape[2], device=query_BhMd.device)
        # Weighted before they are added up: of the sum, autograd would keep M × N distances.
        vertical_MH = -weight * distances(token_M // width, height)
        horizontal_MW = -weight * distances(token_M % width, width)
        prior_MN = (vertical_MH[:, :, None] + horizontal_MW[:, None, :]).flatten(1)
        return fused_attention(query_BhMd, key_BhNd, value_BhNd, prior_MN.to(query_BhMd.dtype))


def distances(place_M: Tensor, side: int) -> Tensor:
    """Distances of M places on a line from each of its places 0 to ``side`` - 1, as (M, side)."""
    return (place_M[:, None] - torch.arange(side, device=place_M.device)).abs()


class HourglassBlock(nn.Module):
    """Laplace attention, then a convolutional feed-forward net, each added to its input.

    Args:
        channels: Channels of the feature map.
        patch: Side of the attention's patches in cells.
    """

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            LaplaceAttention(channels, patch), nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2)
        )
        self.feed_forward = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
            nn.InstanceNorm2d(channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels),
            nn.LeakyReLU(0.2),
        )

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Return feature_BCHW, same shape."""
        feature_BCHW = feature_BCHW + self.attention(feature_BCHW)
        return feature_BCHW + self.feed_forward(feature_BCHW)


class HAN(InpaintingNetwork):
    """Hourglass Attention Network for image inpainting (Deng et al., ECCV 2022), as its public code has it.

    A convolutional encoder to a quarter of the size, attention blocks whose patches grow and shrink again,
    and a convolutional decoder. While training, the input carries Gaussian noise; the public code adds it
    when testing too, which would make results irreproducible. The public code works at 256 × 256 alone;
    here any size is padded to whole patches.

    Args:
        image_channels: Channels of the image.
        width: Channels of the first layer; the attention works on four times as many.
        blocks: Patch sides of the attention blocks on the way in; the way out mirrors them.
    """

    def __init__(
        self, image_channels: int = 3, width: int = 64, blocks: Sequence[int] = (1, 2, 4, 8)
    ) -> None:
        super().__init__(image_channels)
        self.stride = GRID_STRIDE * math.lcm(*blocks)
        self.encoder = nn.Sequential(
            ResidualBlock(image_channels + 1, width, kernel_size=5, preactivated=False),
            ResidualBlock(width, 2 * width, stride=2),
            ResidualBlock(2 * width, 2 * width),
            ResidualBlock(2 * width, 4 * width, stride=2),
            ResidualBlock(4 * width, 4 * width),
        )
        self.hourglass = nn.Sequential(
            *(HourglassBlock(4 * width, patch) for patch in (*blocks, *reversed(blocks)))
        )
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            ResidualBlock(4 * width, 2 * width),
            ResidualBlock(2 * width, 2 * width),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            ResidualBlock(2 * width, width),
            ResidualBlock(width, width),
            nn.Conv2d(width, image_channels, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
                assert layer.bias is not None  # noqa: S101  (narrows for the type checker)
                nn.init.zeros_(layer.bias)

    def fill(
        self,
        image_BCHW: Tensor,
        mask_B1HW: Tensor,
        edge_B1HW: Tensor | None = None,
        layout: HoleLayout | None = None,
    ) -> GeneratorOutput:
        """Fill the hole, in one stage; see :meth:`InpaintingNetwork.fill`."""
        self.check(image_BCHW, mask_B1HW, edge_B1HW)
        height, width = image_BCHW.shape[-2:]
        image, mask = (pad_to_stride(tensor, self.stride) for tensor in without_hole(image_BCHW, mask_B1HW))
        seen = image
        if self.training:
            # Drawn on the host, whose random state a run saves with its weights.
            seen = image + INPUT_NOISE * to_device(torch.randn(image.shape), image.device).to(image.dtype)
        input_BCHW = torch.cat([seen, 1 - mask], 1)  # 1 = known, as the public code has it
        prediction = self.decoder(self.hourglass(self.encoder(input_BCHW))).to(image.dtype)
        prediction = prediction[..., :height, :width]
        result = composite(prediction, image_BCHW, mask_B1HW)
        return GeneratorOutput(result, result, (prediction,))
