"""The peers' discriminators: patches for HAN and HINT, a Wasserstein critic for HiFill."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.discriminator import Discriminator, HalvingConv2d, Judgement, Norm, Rectangle, frame_of
from igll.models.spectral import spectral_norm


class PatchDiscriminator(nn.Module):
    """Judges every patch of 70 × 70 pixels (Isola et al. 2017, as EdgeConnect has it), for HAN and HINT.

    Five 4 × 4 convolutions without biases, the first three of stride 2.

    Args:
        image_channels: Channels of the image.
        width: Channels of the first convolution (64 gives 512 at the end).
        norm: ``spectral`` normalises every convolution's weight, ``batch`` the output of all but the first
            and the last.
        edge: Whether an edge map is concatenated.

    Attributes:
        mixes: Whether images of one batch influence each other.
    """

    SMALLEST_SIDE = 24  # which the first three layers leave 3 of, and the other two 1

    def __init__(
        self, image_channels: int = 3, width: int = 64, norm: Norm = "spectral", edge: bool = False
    ) -> None:
        super().__init__()
        self.edge = edge
        self.mixes = norm == "batch"
        sizes = [image_channels + edge, width, 2 * width, 4 * width, 8 * width, 1]
        self.layers = nn.ModuleList()
        for level, stride in enumerate((2, 2, 2, 1, 1)):
            convolution = nn.Conv2d(sizes[level], sizes[level + 1], 4, stride, 1, bias=False)
            if norm == "spectral":
                spectral_norm(convolution)
            inner = 0 < level < 4
            middle = nn.BatchNorm2d(sizes[level + 1]) if norm == "batch" and inner else nn.Identity()
            self.layers.append(nn.Sequential(convolution, middle))

    def forward(
        self,
        image_BCHW: Tensor,
        edge_B1HW: Tensor | None = None,
        rectangles: list[Rectangle] | None = None,
    ) -> Judgement:
        """Judge images of at least ``SMALLEST_SIDE`` pixels a side; arguments as in :class:`Discriminator`.

        The rectangles are not looked at: a net of patches judges every place alike.
        """
        activation = frame_of(image_BCHW, edge_B1HW, self.edge)
        activations = []
        for layer in list(self.layers)[:-1]:
            activation = F.leaky_relu(layer(activation), 0.2)
            activations.append(activation)
        return Judgement(self.layers[-1](activation), activations, [])


class Critic(nn.Module):
    """HiFill's critic (arXiv 2005.09704, as published): six stride-2 convolutions and one linear layer.

    No normalisation, as the gradient penalty asks for.

    Args:
        image_channels: Channels of the image.
        width: Channels of the first convolution; at most four times as many later.
        edge: Whether an edge map is concatenated.

    Attributes:
        mixes: Whether images of one batch influence each other: never.
    """

    GRID = 8  # 512 / 2**6: other sizes are averaged or repeated to this grid

    def __init__(self, image_channels: int = 3, width: int = 64, edge: bool = False) -> None:
        super().__init__()
        self.edge = edge
        self.mixes = False
        sizes = [image_channels + edge, *(min(2**level, 4) * width for level in range(6))]
        self.layers = nn.ModuleList(HalvingConv2d(*channels) for channels in pairwise(sizes))
        self.judge = nn.Linear(sizes[-1] * self.GRID**2, 1)

    def forward(
        self,
        image_BCHW: Tensor,
        edge_B1HW: Tensor | None = None,
        rectangles: list[Rectangle] | None = None,
    ) -> Judgement:
        """Judge images of any size; arguments as in :class:`Discriminator`, no rectangle is looked at."""
        activation = frame_of(image_BCHW, edge_B1HW, self.edge)
        activations = []
        for layer in self.layers:
            activation = F.leaky_relu(layer(activation), 0.2)
            activations.append(activation)
        grid = F.adaptive_avg_pool2d(activation, self.GRID)
        return Judgement(self.judge(grid.flatten(1)), activations, [])


AnyDiscriminator: TypeAlias = Discriminator | PatchDiscriminator | Critic
