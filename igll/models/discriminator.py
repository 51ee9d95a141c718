"""Edge-conditioned global and local discriminator (section 3.3, equation 5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from igll.errors import InputError
from igll.models.spectral import spectral_norm

Norm = Literal["none", "batch", "spectral"]


class Rectangle(NamedTuple):
    """A rectangular hole: top row, left column and size in pixels."""

    top: int
    left: int
    height: int
    width: int


class Judgement(NamedTuple):
    """One pass through the discriminator.

    Attributes:
        logits: Score before the sigmoid, high = real: (B, 1), or (B, 1, H', W') of a net that judges patches.
        features: Activations of every convolution, for feature matching.
        local_features: Those among them that saw the hole alone; empty where no net does.
    """

    logits: Tensor
    features: list[Tensor]
    local_features: list[Tensor]


class HalvingConv2d(nn.Conv2d):
    """A 5 × 5 convolution of stride 2, in full precision under autocast where a CPU gives it a single column.

    There the gradient of the weights that oneDNN computes in 16 bits is wrong, or no number (torch 2.13).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 5, 2, 2)

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, out_channels, H / 2, W / 2), rounded up."""
        on_cpu = input.device.type == "cpu"
        if not on_cpu or input.shape[-1] > 1 or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            weight = self.weight  # once: a spectral norm iterates every time
            return self._conv_forward(input.to(weight.dtype), weight, self.bias)


class StridedNet(nn.Module):
    """Stride-2 5 × 5 convolutions down to a vector of 512 features, for any input size.

    Args:
        in_channels: Image + edge channels.
        width: Channels of the first convolution; they double up to 8 × width.
        depth: Number of convolutions (six for the whole image, five for the hole).
        norm: ``spectral`` normalises every convolution's weight, ``batch`` the output of all but the first.
    """

    GRID = 4  # 256 / 2**6 and 128 / 2**5: other sizes are averaged to this grid

    def __init__(self, in_channels: int, width: int, depth: int, norm: Norm) -> None:
        super().__init__()
        sizes = [in_channels] + [min(2**level, 8) * width for level in range(depth)]
        self.batch_norm = norm == "batch"
        self.layers = nn.ModuleList()
        for level in range(depth):
            convolution = HalvingConv2d(sizes[level], sizes[level + 1])
            if norm == "spectral":
                spectral_norm(convolution)
            middle = nn.BatchNorm2d(sizes[level + 1]) if self.batch_norm and level else nn.Identity()
            self.layers.append(nn.Sequential(convolution, middle, nn.LeakyReLU(0.2)))
        self.project = nn.Linear(sizes[-1] * self.GRID**2, 512)

    def forward(self, input_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return vector_BF and the activations of every layer.

        Raises:
            InputError: Batch normalisation would be of a single value.
        """
        height, width = input_BCHW.shape[-2:]
        shrunk = 2 ** len(self.layers)
        if self.training and self.batch_norm and len(input_BCHW) == 1 and max(height, width) <= shrunk:
            raise InputError(
                "discriminator.norm: batch cannot normalise what is left of one image or hole of "
                f"{height} × {width} pixels; use train.batch_size=2 or more, larger crops or holes, or, in a "
                "new run, spectral"
            )
        activations = []
        for layer in self.layers:
            input_BCHW = layer(input_BCHW)
            activations.append(input_BCHW)
        grid = F.adaptive_avg_pool2d(input_BCHW, self.GRID)
        return F.leaky_relu(self.project(grid.flatten(1)), 0.2), activations


class Discriminator(nn.Module):
    """Judges image and edge together: the whole frame, and the hole.

    Args:
        image_channels: Channels of the image.
        width: Channels of the first convolution (64 gives 512 at the end).
        norm: ``none``, ``batch`` or ``spectral``.
        edge: Whether an edge map is concatenated (the conditional y of equation 5).

    Attributes:
        mixes: Whether images of one batch influence each other.
    """

    LEAST_ALONE = 2**6 + 1  # pixels a side of which more than one value is left to normalise

    def __init__(
        self, image_channels: int = 3, width: int = 64, norm: Norm = "spectral", edge: bool = True
    ) -> None:
        super().__init__()
        self.edge = edge
        self.mixes = norm == "batch"
        in_channels = image_channels + edge
        self.whole = StridedNet(in_channels, width, depth=6, norm=norm)
        self.local = StridedNet(in_channels, width, depth=5, norm=norm)
        self.judge = nn.Linear(1024, 1)

    def forward(
        self,
        image_BCHW: Tensor,
        edge_B1HW: Tensor | None = None,
        rectangles: list[Rectangle] | None = None,
    ) -> Judgement:
        """Judge images.

        Args:
            image_BCHW: Real images or composites in [-1, 1].
            edge_B1HW: Edge map in [0, 1], if the discriminator is conditioned on edges.
            rectangles: Each image's hole where all holes are rectangles of one size; the local net
                sees those. Without them it sees the whole image, as irregular holes ask for.

        Raises:
            InputError: Batch normalisation would be of a single value.
            ValueError: If an edge map is missing, or given to a discriminator without edges.
        """
        hole = frame = frame_of(image_BCHW, edge_B1HW, self.edge)
        if rectangles is not None:
            hole = torch.stack(
                [
                    sample[:, box.top : box.top + box.height, box.left : box.left + box.width]
                    for sample, box in zip(frame, rectangles, strict=True)
                ]
            )
        whole_BF, whole_activations = self.whole(frame)
        local_BF, local_activations = self.local(hole)
        logits_B1 = self.judge(torch.cat([whole_BF, local_BF], 1))
        return Judgement(logits_B1, whole_activations + local_activations, local_activations)


def frame_of(image_BCHW: Tensor, edge_B1HW: Tensor | None, edge: bool) -> Tensor:
    """Image and edge map on top of each other.

    Raises:
        ValueError: An edge map is missing, or given to a discriminator without edges.
    """
    if (edge_B1HW is not None) != edge:
        raise ValueError(f"this discriminator {'needs an' if edge else 'takes no'} edge map")
    return image_BCHW if edge_B1HW is None else torch.cat([image_BCHW, edge_B1HW.to(image_BCHW.dtype)], 1)


@contextmanager
def weights_once(network: nn.Module) -> Iterator[None]:
    """Inside, spectrally normalised weights are computed once for all passes, in full precision.

    A power iteration belongs to an update, not to a pass (Miyato et al. 2018, algorithm 1).
    """
    with parametrize.cached():
        device = next(network.parameters()).device
        with torch.autocast(device.type, enabled=False):
            for module in network.modules():
                if parametrize.is_parametrized(module, "weight"):
                    _ = module.weight  # computed now, and remembered until the end
        yield


def hole_rectangles(mask_B1HW: Tensor) -> list[Rectangle] | None:
    """Each mask's hole, if every hole is one full rectangle and all have the same size; else None.

    Works on the host: call it with the loader's mask, before the copy to the device.
    """
    boxes: list[Rectangle] = []
    for mask_HW in mask_B1HW[:, 0] > 0.5:
        rows, columns = mask_HW.any(1).nonzero()[:, 0], mask_HW.any(0).nonzero()[:, 0]
        if len(rows) == 0:
            return None
        box = Rectangle(
            int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        )
        if int(mask_HW.sum()) != box.height * box.width or (boxes and box[2:] != boxes[0][2:]):
            return None
        boxes.append(box)
    return boxes
