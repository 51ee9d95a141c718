"""HINT, a transformer that attends over channels and carries the mask down its encoder.

Chen, Atapour-Abarghouei, Shum: *HINT: High-quality INpainting Transformer with Mask-Aware Encoding and
Enhanced Attention*, IEEE Transactions on Multimedia 2024, arXiv 2402.14185. Where the paper leaves a choice
open, the network here follows the code that its authors published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.errors import InputError
from igll.models.hole_layout import HoleLayout
from igll.models.interface import GeneratorOutput, InpaintingNetwork, without_hole
from igll.models.layers import composite, pad_to_stride

LEVELS = 4  # 1, 1/2, 1/4 and 1/8 of the image's side
HEADS = (1, 2, 4, 8)
EXPANSION = 2.66  # hidden channels of a feed-forward network per channel of its input
# Three halvings by the encoder, and one more inside the attention of the deepest level.
STRIDE = 2**LEVELS


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every pixel (Ba et al. 2016), with weight and bias."""

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Return the normalised feature_BCHW."""
        normalised_BHWC: Tensor = super().forward(feature_BCHW.permute(0, 2, 3, 1))
        return normalised_BHWC.permute(0, 3, 1, 2)


class GatedEmbedding(nn.Conv2d):
    """First layer: a 3 × 3 convolution of which one half of the channels gates the other through GELU.

    Args:
        in_channels: Image + mask channels.
        width: Channels after gating.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__(in_channels, 2 * width, 3, padding=1, bias=False)

    def forward(self, input_BCHW: Tensor) -> Tensor:
        """Return feature_BCHW with ``width`` channels."""
        return gelu_gate(super().forward(input_BCHW))


class GatedFeedForward(nn.Module):
    """Gated feed-forward network with a depth-wise 3 × 3 convolution (Restormer, Zamir et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(channels * EXPANSION)
        self.expand = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Return feature_BCHW, without the residual connection."""
        output_BCHW: Tensor = self.project(gelu_gate(self.depthwise(self.expand(feature_BCHW))))
        return output_BCHW


class SpatiallyActivatedChannelAttention(nn.Module):
    r"""SCAL: attention among channels, activated at every place by a convolutional branch (the paper's SCAL).

    .. math::
        \mathrm{SCAL}(X) = W_O \left( \mathrm{up}(S(\mathrm{pool}(X))) \odot
        \mathrm{softmax}(\tau\, \hat Q \hat K^T) V \right)

    :math:`\hat Q, \hat K` are C × HW with rows of length one, so that the attention matrix is C × C in each
    head and its cost grows linearly with the image; :math:`\tau` is learned for each head. The spatial
    branch S works at half the resolution: twice 3 × 3 convolution, normalisation, ReLU.

    Args:
        channels: Channels C of the feature map.
        heads: Attention heads; each attends among C / heads channels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature_M11 = nn.Parameter(torch.ones(heads, 1, 1))
        self.to_qkv = nn.Sequential(
            nn.Conv2d(channels, 3 * channels, 1, bias=False),
            nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False),
        )
        self.spatial = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(channels, channels, 3, padding=1),
            ChannelNorm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            ChannelNorm(channels),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
        )
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Return feature_BCHW, without the residual connection; both sides must be even."""
        qkv_BCHW = self.to_qkv(feature_BCHW)
        query, key, value = (
            part_BCHW.flatten(2).unflatten(1, (self.heads, -1)) for part_BCHW in qkv_BCHW.chunk(3, 1)
        )  # each BMcN: M heads of c channels, N pixels
        similarity_BMcc = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT
        attended_BMcN = (similarity_BMcc * self.temperature_M11).softmax(-1) @ value
        attended_BCHW = attended_BMcN.flatten(1, 2).unflatten(2, feature_BCHW.shape[-2:])
        output_BCHW: Tensor = self.project(self.spatial(feature_BCHW) * attended_BCHW)
        return output_BCHW


class SandwichBlock(nn.Module):
    """Feed-forward network, attention, feed-forward network, each normalised first and residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(ChannelNorm(channels), layer)
            for layer in (
                GatedFeedForward(channels),
                SpatiallyActivatedChannelAttention(channels, heads),
                GatedFeedForward(channels),
            )
        )

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Return feature_BCHW."""
        for step in self.steps:
            feature_BCHW = feature_BCHW + step(feature_BCHW)
        return feature_BCHW


class MaskAwareDownSampling(nn.Module):
    """MPD: pixel-shuffle down-sampling that tells which pixels are valid (the paper's MPD).

    Pixel-unshuffling loses nothing, but its 2 × 2 phases each become a channel, and next to each other in
    one channel may lie pixels of the hole in one phase, known ones in another. So the mask is unshuffled
    too, and a grouped convolution joins every phase of every channel with the same phase of the mask.

    Args:
        channels: Channels C of the feature map, even; 2 × C come out at half the resolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)
        self.join = nn.Conv2d(4 * channels, 2 * channels, 3, padding=1, groups=2 * channels, bias=False)

    def forward(self, feature_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Return feature_BDhw with D = 2 × C on the H/2 × W/2 grid.

        Args:
            feature_BCHW: Features, both sides even.
            mask_B1HW: 1 = missing, at the same resolution.
        """
        phases_BDhw = F.pixel_unshuffle(self.halve(feature_BCHW), 2)  # channel 4·c + 2·row + column
        hole_B4hw = F.pixel_unshuffle(mask_B1HW, 2).to(phases_BDhw.dtype)
        hole_BDhw = hole_B4hw.repeat(1, phases_BDhw.shape[1] // 4, 1, 1)
        output_BDhw: Tensor = self.join(torch.stack([phases_BDhw, hole_BDhw], 2).flatten(1, 2))
        return output_BDhw


class HINT(InpaintingNetwork):
    """HINT: a U-shaped transformer of four levels with MPD, SCAL and sandwich blocks (arXiv 2402.14185).

    As in the published code, the net sees the image in [0, 1] with ones in the hole, and the mask beside
    it; the decoder's first level keeps the skip connection's channels beside its own.

    Args:
        image_channels: Channels of the image, any number.
        width: Channels of the first level, even; they double at each level.
        blocks: Sandwich blocks of the four levels; the decoder repeats the first three.

    Raises:
        InputError: If the width is odd or there are not four numbers of blocks.
    """

    def __init__(
        self, image_channels: int = 3, width: int = 48, blocks: Sequence[int] = (4, 6, 6, 8)
    ) -> None:
        if width < 2 or width % 2:
            raise InputError(f"width: HINT halves it when it goes down a level; {width} is not even")
        if len(blocks) != LEVELS:
            raise InputError(f"blocks: HINT has {LEVELS} levels; give {LEVELS} numbers, not {len(blocks)}")
        super().__init__(image_channels)
        widths = [width * 2**level for level in range(LEVELS)]
        levels = range(LEVELS - 1)
        self.embedding = GatedEmbedding(image_channels + 1, width)
        self.encoder = nn.ModuleList(_stage(widths[level], level, blocks[level]) for level in levels)
        self.down = nn.ModuleList(MaskAwareDownSampling(widths[level]) for level in levels)
        self.deepest = _stage(widths[-1], LEVELS - 1, blocks[-1])
        self.up = nn.ModuleList(_up_sampling(widths[level + 1]) for level in levels)
        self.join = nn.ModuleList(
            nn.Conv2d(2 * widths[level], widths[level], 1, bias=False) if level else nn.Identity()
            for level in levels
        )
        self.decoder = nn.ModuleList(
            _stage(widths[level] if level else 2 * width, level, blocks[level]) for level in levels
        )
        self.output = nn.Conv2d(2 * width, image_channels, 3, padding=1, bias=False)

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
        prediction = self._paint(pad_to_stride(image, STRIDE), pad_to_stride(mask, STRIDE))
        prediction = prediction.to(image.dtype)[..., :height, :width]
        result = composite(prediction, image, mask)
        return GeneratorOutput(result, result, (prediction,))

    def _paint(self, image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """The prediction_BCHW in [-1, 1] for the whole frame, whose sides the stride divides."""
        shown_BCHW = torch.where(mask_B1HW > 0.5, 1.0, (image_BCHW + 1) / 2)
        feature = self.embedding(torch.cat([shown_BCHW, mask_B1HW], 1))
        skips = []
        for level, (encode, down) in enumerate(zip(self.encoder, self.down, strict=True)):
            skips.append(encode(feature))
            # The nearest pixel's mask, as the published code scales it: a coarse cell's first pixel decides.
            feature = down(skips[-1], mask_B1HW[..., :: 2**level, :: 2**level])
        feature = self.deepest(feature)
        for level in reversed(range(LEVELS - 1)):
            joined = torch.cat([self.up[level](feature), skips[level]], 1)
            feature = self.decoder[level](self.join[level](joined))
        prediction_BCHW: Tensor = self.output(feature).tanh()
        return prediction_BCHW


def _stage(channels: int, level: int, blocks: int) -> nn.Sequential:
    """The sandwich blocks of one level."""
    return nn.Sequential(*(SandwichBlock(channels, HEADS[level]) for _ in range(blocks)))


def _up_sampling(channels: int) -> nn.Sequential:
    """Half the channels on a grid twice as fine, by pixel-shuffling."""
    return nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.PixelShuffle(2))


def gelu_gate(feature_BCHW: Tensor) -> Tensor:
    """GELU of the first half of the channels times the second half."""
    gate_BCHW, content_BCHW = feature_BCHW.chunk(2, 1)
    return F.gelu(gate_BCHW) * content_BCHW
