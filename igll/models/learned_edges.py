"""The paper's learnable edges: the net that completes edges across a hole.

It is trained with the generator, and computes edges from nothing but the image with hole and the mask.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.activations import elu
from igll.models.pixel_difference import DifferenceKind, PixelDifferenceConv2d


class _CompletionBlock(nn.Module):
    """Residual: dilated depthwise difference convolution, then two 1×1 mixes."""

    def __init__(self, kind: DifferenceKind, channels: int, dilation: int) -> None:
        super().__init__()
        self.spread = PixelDifferenceConv2d(kind, channels, channels, dilation=dilation, groups=channels)
        self.mix_in = nn.Conv2d(channels, channels, 1)
        self.mix_out = nn.Conv2d(channels, channels, 1)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        return features_BCHW + self.mix_out(elu(self.mix_in(self.spread(features_BCHW)), inplace=True))


class _Stem(nn.ModuleList):
    """Difference convolutions of all kinds side by side, a quarter of the channels each, computed as one.

    Windows of 3 × 3 are framed with zeros: one convolution of 5 × 5 is faster than the four.
    """

    framing_WT: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        kinds: tuple[DifferenceKind, ...] = ("cd", "ad", "rd", "cv")
        super().__init__(
            PixelDifferenceConv2d(kind, in_channels, out_channels // len(kinds)) for kind in kinds
        )
        framing_W55 = F.pad(torch.eye(9).unflatten(1, (3, 3)), (1, 1, 1, 1))
        self.register_buffer("framing_WT", framing_W55.flatten(1), persistent=False)

    def forward(self, input_BCHW: Tensor) -> Tensor:
        convolutions = [cast(PixelDifferenceConv2d, module) for module in self]
        # Framed by a product, whose shape tracing knows; that of the kind rd reaches as far by itself.
        kernels = [
            convolution.plain_kernel()
            if convolution.kind == "rd"
            else (convolution.plain_kernel().flatten(2) @ self.framing_WT).unflatten(2, (5, 5))
            for convolution in convolutions
        ]
        bias_C = torch.cat([convolution.get_parameter("bias") for convolution in convolutions])
        input_BCHW = input_BCHW.contiguous(memory_format=torch.channels_last)
        return F.conv2d(input_BCHW, torch.cat(kernels), bias_C, padding=2)


class LearnedEdges(nn.Module):
    """The generator's structure prior: the edge map of the whole scene, from its known part alone.

    A full-resolution stem of central, angular, radial and plain convolutions reads the image and the mask;
    at a quarter of the resolution eight dilated difference blocks, reaching 228 pixels to every side, carry
    structure into the hole; the result is brought back up and joined with the stem. Trained against a
    detector's map of the complete image, which is never an input.

    Args:
        image_channels: Channels C of the image.
        width: Channels of the stem, a multiple of 4; 32 costs about 1.1 G multiply-adds at 256×256, of which
            a tenth by the zeros around small windows.

    Raises:
        ValueError: If ``width`` is not a positive multiple of 4.
    """

    # Kinds in PiDiNet's order; the radial window reaches twice as far as its dilation.
    _blocks: tuple[tuple[DifferenceKind, int], ...] = (
        ("cd", 1), ("ad", 2), ("rd", 4), ("cv", 8),
        ("cd", 2), ("ad", 4), ("rd", 8), ("cv", 16),
    )  # fmt: skip

    def __init__(self, image_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        if width <= 0 or width % 4:
            raise ValueError(f"width is {width}; it must be a positive multiple of 4")
        self.stem = _Stem(image_channels + 1, width)
        self.to_half = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.to_quarter = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.complete = nn.Sequential(*(_CompletionBlock(k, 2 * width, d) for k, d in self._blocks))
        self.quarter_to_half = nn.Conv2d(2 * width, width, 1)
        self.refine_half = nn.Conv2d(width, width, 3, padding=1)
        self.half_to_full = nn.Conv2d(width, width // 2, 1)
        self.stem_to_full = nn.Conv2d(width, width // 2, 1)
        self.refine_full = nn.Conv2d(width // 2, width // 2, 3, padding=1)
        self.to_logit = nn.Conv2d(width // 2, 1, 3, padding=1)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Keep signals of one size through the unnormalised stack, and start from few edges.

        From the default initialisation, the rush to the few edges that images have can saturate the last
        activations, and the prediction in the hole stays constant.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        for name, parameter in self.complete.named_parameters():
            if name.endswith("mix_out.weight"):
                parameter.mul_(len(self.complete) ** -0.5)
        nn.init.normal_(self.to_logit.weight, std=0.01)
        nn.init.constant_(self.to_logit.get_parameter("bias"), -2.0)

    def forward(self, image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Complete the edge map.

        Args:
            image_BCHW: Images in [-1, 1] with the hole blanked or pre-filled; any height and width. What
                stands in the hole is seen, so the caller removes the true pixels first.
            mask_B1HW: 1 in the hole, 0 where the image is known.

        Returns:
            Logits of shape (B, 1, H, W); their sigmoid is the edge map.
        """
        full_BCHW = elu(self.stem(torch.cat([image_BCHW, mask_B1HW], dim=1)), inplace=True)
        half_BCHW = elu(self.to_half(full_BCHW), inplace=True)
        quarter_BCHW = self.complete(elu(self.to_quarter(half_BCHW), inplace=True))
        half_BCHW = half_BCHW + _resize(self.quarter_to_half(quarter_BCHW), half_BCHW)
        half_BCHW = elu(self.refine_half(elu(half_BCHW, inplace=True)), inplace=True)
        full_BCHW = self.stem_to_full(full_BCHW) + _resize(self.half_to_full(half_BCHW), full_BCHW)
        return self.to_logit(elu(self.refine_full(elu(full_BCHW, inplace=True)), inplace=True))


def _resize(features_BCHW: Tensor, like_BCHW: Tensor) -> Tensor:
    """Bilinear resize to another tensor's grid."""
    return F.interpolate(features_BCHW, like_BCHW.shape[-2:], mode="bilinear")
