"""HiFill, contextual residual aggregation (Yi et al., CVPR 2020, arXiv 2005.09704).

A coarse net sees the image at 256 pixels, a refinement net at up to 512. Attention is computed once, on a
grid of cells of 16 × 16 pixels; its scores fill the hole of three feature levels and, for images beyond 512
pixels, that of the detail which the reduction took away. The layer table is that of the authors' training
code; where it and the paper differ, the docstrings say which one is followed.
"""

from __future__ import annotations

from math import ceil
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.hole_layout import HoleLayout
from igll.models.interface import GeneratorOutput, InpaintingNetwork, without_hole
from igll.models.layers import composite, pad_to_stride

CELL = 16  # pixels on each side of an attention cell, at the size that the refinement net works at
COARSE_SIZE = 256  # longest side that the coarse net sees
SOFTMAX_SCALE = 10.0
PAINT_GAIN = 0.1  # start near mid-range: beyond 1 the clamp lets no gradient through
_SIGNAL_GAIN = 2.45  # 1 / sqrt(E[elu(z)²] / 4) for z ~ N(0, 1): an open gate halves what passes

Gate = Literal["single-channel", "pixelwise"]


class LightWeightGatedConvolution(nn.Module):
    """Gated convolution with a cheap gate, sigmoid(gate) · ELU(feature): the paper's LWGC, section 3.

    ``single-channel`` (LWGC-sc): one gate for all channels, by a convolution of the feature's own kernel; the
    coarse net's. ``pixelwise`` (LWGC-pw): one gate per channel, by a 1 × 1 convolution; the refinement net's,
    where the training code says depth-separable, but leaves the depthwise part out.

    The training code starts from weights of standard deviation 0.05, by which the signal fades to a millionth
    in the coarse net, and further in a narrower one; here it keeps its size, times ``gain``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        gate: Gate,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        geometry = (kernel_size, stride, dilation * (kernel_size // 2), dilation)
        self.feature = nn.Conv2d(in_channels, out_channels, *geometry)
        self.gate = (
            nn.Conv2d(in_channels, 1, *geometry)
            if gate == "single-channel"
            else nn.Conv2d(in_channels, out_channels, 1, stride)
        )
        for layer, scale in ((self.feature, gain * _SIGNAL_GAIN), (self.gate, 1.0)):
            nn.init.normal_(layer.weight, std=scale / layer.weight[0].numel() ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, input_BCHW: Tensor) -> Tensor:
        """Return the gated features."""
        gated_BCHW: Tensor = torch.sigmoid(self.gate(input_BCHW)) * F.elu(self.feature(input_BCHW))
        return gated_BCHW


class EnlargedConvolution(nn.Sequential):
    """Bilinear enlargement by two, then a gated convolution."""

    def __init__(self, in_channels: int, out_channels: int, gate: Gate, gain: float = 1.0) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            LightWeightGatedConvolution(in_channels, out_channels, gate, gain=gain),
        )


class CoarseNet(nn.Sequential):
    """Encoder, 14 convolutions of growing dilation, decoder, all with single-channel gates.

    Maps image and mask to an image in [-1, 1]; its features are at a quarter of the size.
    """

    DILATIONS = (1, 1, 1, 2, 2, 2, 2, 2, 4, 4, 4, 4, 8, 8)

    def __init__(self, image_channels: int, width: int) -> None:
        gate: Gate = "single-channel"

        def convolution(
            in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1
        ) -> LightWeightGatedConvolution:
            return LightWeightGatedConvolution(in_channels, out_channels, gate, kernel_size, stride, dilation)

        super().__init__(
            convolution(image_channels + 1, width, 5, 2),
            convolution(width, width),
            convolution(width, 2 * width, stride=2),
            *(convolution(2 * width, 2 * width) for _ in range(3)),
            *(convolution(2 * width, 2 * width, dilation=dilation) for dilation in self.DILATIONS),
            *(convolution(2 * width, 2 * width) for _ in range(3)),
            EnlargedConvolution(2 * width, width, gate),
            convolution(width, width),
            EnlargedConvolution(width, image_channels, gate, PAINT_GAIN),
            nn.Hardtanh(),
        )


def attention_scores(feature_BCHW: Tensor, valid_BN: Tensor) -> Tensor:
    r"""Attention of every cell to the cells without a hole: the attention computing module of section 3.

    .. math:: s_{ij} = e^{c_{ij}} / \sum_{i \in valid} e^{c_{ij}}

    The softmax is the paper's, over the valid cells alone (in the training code, the others take part in its
    denominator with :math:`e^0`). The similarity c is the code's: products of 3 × 3 neighbourhoods of every
    second feature, those of the keys normalised (in the paper, the queries as well), added up over
    neighbouring pairs, times 10.

    Args:
        feature_BCHW: Features with 2 × 2 positions to a cell.
        valid_BN: True for the N = H/2 · W/2 cells that may be attended to.

    Returns:
        attention_BNN, float32: row = the cell to fill; rows add up to 1, or are 0 if no cell is valid.
    """
    feature_BCHW = feature_BCHW[..., ::2, ::2].float()
    grid = (feature_BCHW.shape[-2], feature_BCHW.shape[-1])
    with torch.autocast(feature_BCHW.device.type, enabled=False):
        neighbourhood_BFN = F.unfold(feature_BCHW, 3, padding=1)
        similarity_BNN = neighbourhood_BFN.transpose(1, 2) @ F.normalize(neighbourhood_BFN, dim=1, eps=1e-8)
    score_BNN = SOFTMAX_SCALE * fuse_neighbours(similarity_BNN, grid)
    # Finite in place of -inf: a row without any valid cell must not become NaN, in its gradient either.
    score_BNN = score_BNN.masked_fill(~valid_BN[:, None], torch.finfo(score_BNN.dtype).min)
    return score_BNN.softmax(2) * valid_BN[:, None]


def fuse_neighbours(similarity_BNN: Tensor, grid: tuple[int, int]) -> Tensor:
    """Favour copying coherent regions: add the scores of the pairs one step before and after.

    A pair's neighbours are the pairs shifted alike, row by row first and column by column then (training
    code, after Yu et al. 2018, arXiv 1801.07892, section 4.1).
    """
    batch, cells, _ = similarity_BNN.shape
    fused_BNN = similarity_BNN
    for height, width in (grid, grid[::-1]):
        padded = F.pad(fused_BNN, (1, 1, 1, 1))
        fused_BNN = padded[:, :-2, :-2] + padded[:, 1:-1, 1:-1] + padded[:, 2:, 2:]
        fused_BNN = fused_BNN.view(batch, height, width, height, width).permute(0, 2, 1, 4, 3)
        fused_BNN = fused_BNN.reshape(batch, cells, cells)
    return fused_BNN


def transfer_attention(feature_BCHW: Tensor, attention_BNN: Tensor, stride: int, kernel_size: int) -> Tensor:
    """Fill every cell of a feature map with the attended cells of that map (attention transfer module).

    Cells are taken with a margin, so that they overlap, and are added up where they do.

    Args:
        feature_BCHW: Features with stride × stride positions to a cell.
        attention_BNN: As :func:`attention_scores` returns it.
        stride: Positions on each side of a cell.
        kernel_size: Positions on each side of what is copied; an odd excess lies before the cell.
    """
    size = (feature_BCHW.shape[-2], feature_BCHW.shape[-1])
    before = (kernel_size - stride + 1) // 2
    patches_BFN = F.unfold(feature_BCHW, kernel_size, stride=stride, padding=before)
    filled_BFN = patches_BFN @ attention_BNN.to(patches_BFN.dtype).transpose(1, 2)
    return F.fold(filled_BFN, size, kernel_size, stride=stride, padding=before)


class RefinementNet(nn.Module):
    """Encoder of three levels, dilations, attention, and a decoder that it guides at every level."""

    def __init__(self, image_channels: int, width: int) -> None:
        super().__init__()
        gate: Gate = "pixelwise"
        sizes = [image_channels + 1, width, 2 * width, 4 * width]

        def convolution(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Module:
            return LightWeightGatedConvolution(in_channels, out_channels, gate, dilation=dilation)

        self.encoder = nn.ModuleList(
            nn.Sequential(
                LightWeightGatedConvolution(sizes[level], sizes[level + 1], gate, stride=2),
                convolution(sizes[level + 1], sizes[level + 1]),
            )
            for level in range(3)
        )
        deep = 4 * width
        self.dilated = nn.Sequential(*(convolution(deep, deep, dilation) for dilation in (1, 2, 4, 8, 16)))
        self.after_attention = convolution(deep, deep)
        self.merge = convolution(2 * deep, deep)
        self.enlarge = nn.ModuleList(
            nn.Sequential(EnlargedConvolution(deep, channels, gate), convolution(channels, channels))
            for deep, channels in ((4 * width, 2 * width), (4 * width, width))
        )
        self.after_transfer = nn.ModuleList(
            nn.Sequential(convolution(channels, channels), convolution(channels, channels, 2))
            for channels in (2 * width, width)
        )
        self.paint = nn.Sequential(
            EnlargedConvolution(2 * width, image_channels, gate, PAINT_GAIN), nn.Hardtanh()
        )

    def forward(self, image_BCHW: Tensor, mask_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prediction_BCHW in [-1, 1] and the attention_BNN.

        Args:
            image_BCHW: Composite of the coarse prediction, sides divisible by 16.
            mask_B1HW: 1 = missing.
        """
        features, levels = torch.cat([image_BCHW, mask_B1HW], 1), []
        for level in self.encoder:
            features = level(features)
            levels.append(features)
        features = self.dilated(features)
        attention = attention_scores(features, valid_cells(mask_B1HW))
        copied = self.after_attention(transfer_attention(features, attention, 2, 3))
        features = self.merge(torch.cat([features, copied], 1))
        for index, stride in enumerate((4, 8)):
            features = self.enlarge[index](features)
            copied = transfer_attention(levels[1 - index], attention, stride, 2 * stride)
            features = torch.cat([self.after_transfer[index](copied), features], 1)
        return self.paint(features), attention


def cells_with_hole(mask_B1HW: Tensor) -> Tensor:
    """Cells with any missing pixel, as bool_B1hw."""
    return F.max_pool2d(mask_B1HW.float(), CELL) > 0.5


def valid_cells(mask_B1HW: Tensor) -> Tensor:
    """Cells that may be attended to, as bool_BN: no hole in their 3 × 3 neighbourhood of cells."""
    return F.max_pool2d(cells_with_hole(mask_B1HW).float(), 3, 1, 1).flatten(1) < 0.5


def aggregate_residual(residual_BCHW: Tensor, attention_BNN: Tensor, filled_B1hw: Tensor) -> Tensor:
    """Fill cells with the attended cells of a residual image (the paper's CRA, section 3).

    Args:
        residual_BCHW: Detail of the known pixels, at full size.
        attention_BNN: Scores over the N = h · w cells.
        filled_B1hw: True for the cells to fill; the others come back as zeros.
    """
    batch, channels, height, width = residual_BCHW.shape
    rows, columns = filled_B1hw.shape[-2:]
    cells_BChpwq = residual_BCHW.reshape(batch, channels, rows, height // rows, columns, width // columns)
    cells_BNF = cells_BChpwq.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
    # Sample by sample, and only the rows of interest: cells are large at full size.
    aggregated_BNF = torch.stack(
        [
            torch.zeros_like(cells_NF).index_copy(
                0, chosen, (attention_NN[chosen].to(cells_NF.dtype) @ cells_NF).to(cells_NF.dtype)
            )
            for cells_NF, attention_NN, chosen in zip(
                cells_BNF,
                attention_BNN,
                (filled_N.nonzero()[:, 0] for filled_N in filled_B1hw.flatten(1)),
                strict=True,
            )
        ]
    )
    shape = (batch, rows, columns, channels, height // rows, width // columns)
    return aggregated_BNF.view(shape).permute(0, 3, 1, 4, 2, 5).reshape(residual_BCHW.shape)


def enlarge(image_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear enlargement."""
    return F.interpolate(image_BCHW, size, mode="bilinear", align_corners=False)


class HiFill(InpaintingNetwork):
    """Coarse net → composite → refinement net, with residual aggregation for large images.

    Images whose longer side is above ``working_size`` are averaged down by the smallest whole factor that
    brings them to it or below; the detail lost by that is restored in the hole from attended cells.

    Args:
        image_channels: Channels of the image, any number.
        width: Channels of the first convolution (32 in the authors' code).
        working_size: Longest side that the nets see, divisible by 16 (512 in the paper).

    Raises:
        ValueError: If ``working_size`` is not a positive multiple of 16.
    """

    def __init__(self, image_channels: int = 3, width: int = 32, working_size: int = 512) -> None:
        super().__init__(image_channels)
        if working_size < CELL or working_size % CELL:
            raise ValueError(f"working_size is {working_size}, it must be a positive multiple of {CELL}")
        self.working_size = working_size
        self.coarse = CoarseNet(image_channels, width)
        self.refinement = RefinementNet(image_channels, width)

    def fill(
        self,
        image_BCHW: Tensor,
        mask_B1HW: Tensor,
        edge_B1HW: Tensor | None = None,
        layout: HoleLayout | None = None,
    ) -> GeneratorOutput:
        """Fill the hole, in two stages; see :meth:`InpaintingNetwork.fill`.

        Beyond ``working_size``, the predictions are the nets' enlarged ones; the last one has the aggregated
        detail in the cells that hold missing pixels.
        """
        self.check(image_BCHW, mask_B1HW, edge_B1HW)
        height, width = image_BCHW.shape[-2:]
        factor = ceil(max(height, width) / self.working_size)
        image, mask = (pad_to_stride(tensor, CELL * factor) for tensor in without_hole(image_BCHW, mask_B1HW))
        if factor == 1:
            first, second, _ = self._paint(image, mask)
        else:
            first, second = self._paint_large(image, mask, factor)
        crop = (..., slice(height), slice(width))
        first, second = first[crop], second[crop]
        return GeneratorOutput(
            composite(first, image_BCHW, mask_B1HW),
            composite(second, image_BCHW, mask_B1HW),
            (first, second),
        )

    def _paint(self, image_BCHW: Tensor, mask_B1HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both stages' predictions and the attention_BNN, at a size that the nets can see."""
        size = (image_BCHW.shape[-2], image_BCHW.shape[-1])
        shrink = min(1.0, COARSE_SIZE / max(size))
        coarse_size = [4 * ceil(side * shrink / 4) for side in size]
        input_BCHW = F.interpolate(torch.cat([image_BCHW, mask_B1HW], 1), coarse_size, mode="area")
        first = enlarge(self.coarse(input_BCHW), size).to(image_BCHW.dtype)
        second, attention = self.refinement(composite(first, image_BCHW, mask_B1HW), mask_B1HW)
        return first, second.to(image_BCHW.dtype), attention

    def _paint_large(self, image_BCHW: Tensor, mask_B1HW: Tensor, factor: int) -> tuple[Tensor, Tensor]:
        """Both stages' predictions at full size: paint at reduced size, enlarge, add detail."""
        size = (image_BCHW.shape[-2], image_BCHW.shape[-1])
        # A reduced pixel is known if all of its pixels are: none is a mixture with the hole.
        small_mask = F.max_pool2d(mask_B1HW, factor)
        small_image, _ = without_hole(F.avg_pool2d(image_BCHW, factor), small_mask)
        first, second, attention = self._paint(small_image, small_mask)
        # Wrong next to the hole, where the reduced image is zero, but cells there are attended to by none.
        residual = torch.where(mask_B1HW > 0.5, 0.0, image_BCHW - enlarge(small_image, size))
        detail = aggregate_residual(residual, attention, cells_with_hole(small_mask))
        return enlarge(first, size), (enlarge(second, size) + detail).clamp(-1.0, 1.0)
