"""DMFN, the dense multi-scale fusion network of Hui et al. 2020, *Image Fine-grained Inpainting*.

arXiv 2002.02609. One stage, no attention: the field of view comes from dilated convolutions alone. Every
normalisation is instance normalisation without weights, so each image is treated by itself, in training too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from igll.errors import InputError
from igll.models.hole_layout import HoleLayout
from igll.models.interface import GeneratorOutput, InpaintingNetwork, without_hole
from igll.models.layers import STRIDE, composite, pad_to_stride

Variant = Literal["published", "unofficial"]

DILATIONS = (1, 2, 4, 8)


def convolution(in_channels: int, out_channels: int, kernel: int = 3, dilation: int = 1) -> nn.Conv2d:
    """Convolution with zero padding that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, kernel, 1, dilation * (kernel // 2), dilation)


def halving(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3 × 3 convolution of stride 2."""
    return nn.Conv2d(in_channels, out_channels, 3, 2, 1)


def doubling(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """4 × 4 transposed convolution of stride 2."""
    return nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1)


class MultiScaleFusionBlock(nn.Module):
    r"""Dense multi-scale fusion block (DMFB) as in the authors' code.

    A quarter of the channels goes through four dilated convolutions :math:`D_r` side by side. Their running
    sums, of denser and denser sampling, are concatenated, fused and added to the input:

    .. math::
        u = ReLU(IN(R * x)), \quad s_k = \sum_{r \le 2^k} D_r * u, \quad
        y = x + IN(F * ReLU(IN([s_0, s_1, s_2, s_3])))

    The paper draws a second column of convolutions behind the dilated ones and fuses by 1 × 1, as
    :class:`ChainedFusionBlock` does; the authors' code has no such column, and its F is 3 × 3.

    Args:
        channels: Channels of the input, a multiple of four.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        part = channels // len(DILATIONS)
        self.reduce = convolution(channels, part)
        self.scales = nn.ModuleList(convolution(part, part, dilation=rate) for rate in DILATIONS)
        self.fuse = convolution(channels, channels)
        self.normalise = nn.InstanceNorm2d(channels)
        self.normalise_part = nn.InstanceNorm2d(part)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Return feature_BCHW of the same shape."""
        reduced_BCHW = self.normalise_part(self.reduce(feature_BCHW)).relu()
        sums_BCHW = torch.cat(list(accumulate(scale(reduced_BCHW) for scale in self.scales)), 1)
        return feature_BCHW + self.normalise(self.fuse(self.normalise(sums_BCHW).relu()))


class ChainedFusionBlock(nn.Module):
    r"""Fusion block of the unofficial variant: each scale is refined before it joins the next one.

    .. math::
        u = R * IN(ReLU(x)), \quad k_0 = C_0 * u, \quad k_i = C_i * (D_{2^i} * u + k_{i-1}), \quad
        y = x + F * IN([k_0, k_1, k_2, k_3])

    F is 1 × 1, all others are 3 × 3; nothing is activated inside the block.

    Args:
        channels: Channels of the input, a multiple of four.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        part = channels // len(DILATIONS)
        self.reduce = convolution(channels, part)
        self.refine = nn.ModuleList(convolution(part, part) for _ in DILATIONS)
        self.scales = nn.ModuleList(convolution(part, part, dilation=rate) for rate in DILATIONS[1:])
        self.fuse = convolution(channels, channels, 1)
        self.normalise = nn.InstanceNorm2d(channels)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Return feature_BCHW of the same shape."""
        reduced_BCHW = self.reduce(self.normalise(feature_BCHW.relu()))
        chain = [self.refine[0](reduced_BCHW)]
        for scale, refine in zip(self.scales, list(self.refine)[1:], strict=True):
            chain.append(refine(scale(reduced_BCHW) + chain[-1]))
        return feature_BCHW + self.fuse(self.normalise(torch.cat(chain, 1)))


class DMFN(InpaintingNetwork):
    """DMFN's generator: encoder to a quarter of the size, fusion blocks, decoder.

    It sees the image with zeros in the hole and the mask, and paints the whole frame through tanh.
    Convolutions have biases throughout although instance normalisation removes most of them at once: the
    published sizes count them.

    Args:
        image_channels: Channels of the image, any number.
        width: Channels of the first convolution (64 as published); the blocks have four times as many.
        blocks: Number of fusion blocks, one entry (8 as published, 24 in the unofficial variant).
        variant: ``published``, the authors' code, or ``unofficial``, a third party's reading of the paper
            whose size Table 3 of IGLL gives for DMFN: :class:`ChainedFusionBlock`, normalisation after the
            activation, and a shorter decoder that ends in a bilinear enlargement.

    Raises:
        InputError: If ``blocks`` is not one positive number.
    """

    def __init__(
        self,
        image_channels: int = 3,
        width: int = 64,
        blocks: Sequence[int] = (8,),
        variant: Variant = "published",
    ) -> None:
        super().__init__(image_channels)
        if len(blocks) != 1 or blocks[0] < 1:
            raise InputError(
                f"blocks: DMFN has one row of blocks, got {list(blocks)}; give one number, such as [8]"
            )
        published = variant == "published"
        layers = (_published_layers if published else _unofficial_layers)(image_channels, width, blocks[0])
        self.layers = nn.Sequential(*layers, nn.Tanh())
        _initialise(self, transposed=not published)

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
        image, mask = without_hole(image_BCHW, mask_B1HW)
        painted = self.layers(pad_to_stride(torch.cat([image, mask], 1), STRIDE))
        prediction = painted[..., :height, :width].to(image.dtype)
        result = composite(prediction, image, mask)
        return GeneratorOutput(result, result, (prediction,))


def _published_layers(image_channels: int, width: int, blocks: int) -> list[nn.Module]:
    """The authors' layers: convolution, instance normalisation, ReLU; none normalises the first and last."""
    return [
        *(convolution(image_channels + 1, width, 5), nn.ReLU()),
        *_normalised(halving(width, 2 * width)),
        *_normalised(convolution(2 * width, 2 * width)),
        *_normalised(halving(2 * width, 4 * width)),
        *(MultiScaleFusionBlock(4 * width) for _ in range(blocks)),
        *_normalised(convolution(4 * width, 4 * width)),
        *_normalised(doubling(4 * width, 2 * width)),
        *_normalised(convolution(2 * width, 2 * width)),
        *_normalised(doubling(2 * width, width)),
        *_normalised(convolution(width, width)),
        convolution(width, image_channels),
    ]


def _unofficial_layers(image_channels: int, width: int, blocks: int) -> list[nn.Module]:
    """The unofficial variant's layers: convolution, ReLU, instance normalisation, with gaps at both ends."""
    return [
        convolution(image_channels + 1, width, 5),
        *_activated(halving(width, 2 * width)),
        *_activated(convolution(2 * width, 2 * width)),
        *_activated(halving(2 * width, 4 * width)),
        *(ChainedFusionBlock(4 * width) for _ in range(blocks)),
        *_activated(convolution(4 * width, 4 * width)),
        *(doubling(4 * width, 2 * width), nn.InstanceNorm2d(2 * width)),
        convolution(2 * width, width),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        convolution(width, image_channels),
    ]


def _normalised(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    return layer, nn.InstanceNorm2d(layer.out_channels), nn.ReLU()


def _activated(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    return layer, nn.ReLU(), nn.InstanceNorm2d(layer.out_channels)


def _initialise(network: nn.Module, transposed: bool) -> None:
    """Draw weights from N(0, 0.02²), biases 0; the authors leave transposed convolutions as torch does."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d) if transposed else (nn.Conv2d,)
    for layer in network.modules():
        if isinstance(layer, kinds):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
