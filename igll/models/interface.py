"""What every network that fills holes offers, whoever designed it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from igll.models.hole_layout import HoleLayout

StructurePrior = Literal["oracle", "learned", "reference", "none"]


class GeneratorOutput(NamedTuple):
    """What one pass through a network gives.

    Attributes:
        pixel_BCHW: The first stage's composite in [-1, 1] (PIRN's); networks of one stage repeat the result.
        perception_BCHW: The last stage's composite in [-1, 1] (PERN's): the result.
        predictions: What each stage painted on the whole frame, before the known pixels were put back, in
            order, at the size of the frame; none where the layout has a part of it painted alone.
        edge_logits_B1HW: Completed edges before the sigmoid with the prior ``learned``, else None.
    """

    pixel_BCHW: Tensor
    perception_BCHW: Tensor
    predictions: tuple[Tensor, ...]
    edge_logits_B1HW: Tensor | None = None


class InpaintingNetwork(nn.Module, ABC):
    """A network that fills the holes of images in [-1, 1].

    Args:
        image_channels: Channels of the image.
        structure_prior: Where its edges come from; ``none`` for networks that use no edges.
    """

    def __init__(self, image_channels: int, structure_prior: StructurePrior = "none") -> None:
        super().__init__()
        self.image_channels = image_channels
        self.structure_prior = structure_prior

    def layout(self, mask_B1HW: Tensor, whole_frame: bool = True) -> HoleLayout | None:
        """What follows from the mask alone, for :meth:`fill`; None for networks that need nothing.

        On a GPU a pass that is given its layout never waits for the device, if the layout was worked out from
        a mask on the CPU; but for one that fills by example, see :mod:`igll.models.exemplar`.

        Args:
            mask_B1HW: 1 = missing, on any device.
            whole_frame: Whether :attr:`GeneratorOutput.predictions` are wanted. Without them a network may
                leave out what the hole's pixels do not depend on.

        Returns:
            The layout, on the CPU.
        """
        return None

    @abstractmethod
    def fill(
        self,
        image_BCHW: Tensor,
        mask_B1HW: Tensor,
        edge_B1HW: Tensor | None = None,
        layout: HoleLayout | None = None,
    ) -> GeneratorOutput:
        """Fill the hole and return every intermediate that a loss needs.

        Args:
            image_BCHW: Image in [-1, 1], any H × W; the content of the hole is ignored, NaN included.
            mask_B1HW: 1 = missing.
            edge_B1HW: Edge map in [0, 1], for the priors ``oracle`` and ``reference`` alone.
            layout: What :meth:`layout` made of the mask, on the image's device; by default it is made here,
                for the whole frame.

        Raises:
            ValueError: If shapes do not fit, or an edge map is missing, or given to a network that must not
                see one.
        """

    def forward(
        self, image_BCHW: Tensor, mask_B1HW: Tensor, edge_B1HW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Fill the hole; see :meth:`fill` for the arguments.

        Returns:
            The first and the last stage's composites, both in [-1, 1] and equal to the input outside the
            hole.
        """
        self.check(image_BCHW, mask_B1HW, edge_B1HW)
        layout = self.layout(mask_B1HW, whole_frame=False)
        on_device = None if layout is None else layout.to(image_BCHW.device)
        output = self.fill(image_BCHW, mask_B1HW, edge_B1HW, on_device)
        return output.pixel_BCHW, output.perception_BCHW

    def check(self, image_BCHW: Tensor, mask_B1HW: Tensor, edge_B1HW: Tensor | None) -> None:
        """Refuse what would fail later, and edges of the ground truth where a network must not see them.

        Raises:
            ValueError: As :meth:`fill`.
        """
        batch, channels, height, width = image_BCHW.shape
        if channels != self.image_channels:
            raise ValueError(f"the image has {channels} channels, this generator takes {self.image_channels}")
        if mask_B1HW.shape != (batch, 1, height, width):
            raise ValueError(f"mask {tuple(mask_B1HW.shape)} does not fit image {tuple(image_BCHW.shape)}")
        needs_edge = self.structure_prior in ("oracle", "reference")
        if needs_edge and edge_B1HW is None:
            raise ValueError(f"structure prior '{self.structure_prior}' needs an edge map")
        if not needs_edge and edge_B1HW is not None:
            raise ValueError(f"structure prior '{self.structure_prior}' takes no edge map from outside")
        if edge_B1HW is not None and edge_B1HW.shape != mask_B1HW.shape:
            raise ValueError(
                f"edge map {tuple(edge_B1HW.shape)} does not fit image {tuple(image_BCHW.shape)}"
            )


def without_hole(image_BCHW: Tensor, mask_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """The image with zeros in its hole, whatever was there, and the mask as exact 0 and 1 of its dtype."""
    hole_B1HW = mask_B1HW > 0.5
    return torch.where(hole_B1HW, 0.0, image_BCHW), hole_B1HW.to(image_BCHW.dtype)
