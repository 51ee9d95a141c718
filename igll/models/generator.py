"""The IGLL generator: PIRN, then PERN (sections 3.2 to 3.5)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from igll.models.attention import GlobalAttention
from igll.models.exemplar import fill_by_example
from igll.models.hole_layout import HoleLayout
from igll.models.interface import GeneratorOutput, InpaintingNetwork, StructurePrior, without_hole
from igll.models.layers import (
    CANVAS_MARGIN,
    STRIDE_HALVINGS,
    WINDOW_MARGIN,
    composite,
    hole_on_grid,
    pad_to_stride,
)
from igll.models.learned_edges import LearnedEdges
from igll.models.prefill import prefill_harmonic, prefill_mean, prefill_pyramid
from igll.models.reconstruction import ReconstructionNet, SkippingNet
from igll.models.similarity import FlexibleFeatureSimilarity
from igll.models.uncompiled import uncompiled
from igll.models.vanilla import VanillaAttention

Prefill = Literal["none", "mean", "pyramid", "harmonic"]


class Generator(InpaintingNetwork):
    """PIRN → composite → PERN → composite, guided by a structure prior.

    Args:
        image_channels: Channels of the image, any number.
        width: Base width c (32 in the paper).
        structure_prior: ``oracle`` and ``reference`` take an edge map as input; ``learned`` completes
            its own from image and mask; ``none`` has no edge channel.
        prefill: What stands in the hole at the input: ``none`` (zeros), ``mean``, ``pyramid`` or
            ``harmonic``.
        residual: Both nets predict a correction to their input.
        skips: Skip connections, which the paper has not; see :class:`SkippingNet`.
        exemplar: Show PERN the image filled by example too, whose detail it may take.
        heads: Attention heads of GAM and FFSM.
        position: Learned positions in GAM and FFSM.
        position_grid: Side of the grid on which positions are learned.
        select: How FFSM chooses patches, ``softmax`` or ``best``.
        gam: ``gam``, or ``vanilla`` attention in its place.
        ffsm: ``ffsm``, or ``vanilla`` attention in its place.
        score_scale: Factor on FFSM's scores before its softmax.
    """

    def __init__(
        self,
        image_channels: int = 3,
        width: int = 32,
        structure_prior: StructurePrior = "oracle",
        prefill: Prefill = "none",
        residual: bool = False,
        skips: bool = False,
        exemplar: bool = False,
        heads: int = 1,
        position: bool = True,
        position_grid: int = 64,
        select: Literal["softmax", "best"] = "softmax",
        gam: Literal["gam", "vanilla"] = "gam",
        ffsm: Literal["ffsm", "vanilla"] = "ffsm",
        score_scale: float = 1.0,
    ) -> None:
        super().__init__(image_channels, structure_prior)
        self.prefill, self.exemplar = prefill, exemplar
        in_channels = image_channels + 1 + (structure_prior != "none")
        attention = (4 * width, heads, position, position_grid)
        first = VanillaAttention(*attention) if gam == "vanilla" else GlobalAttention(*attention)
        second = (
            VanillaAttention(*attention)
            if ffsm == "vanilla"
            else FlexibleFeatureSimilarity(*attention, select, score_scale)
        )
        self.edges = LearnedEdges(image_channels, width) if structure_prior == "learned" else None
        net = SkippingNet if skips else ReconstructionNet
        self.pirn = net(in_channels, image_channels, width, first, residual)
        self.pern = net(in_channels, image_channels, width, second, residual, exemplar)
        # Tokens are then rows of memory, and convolutions faster on CPUs and tensor cores.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @uncompiled
    def layout(self, mask_B1HW: Tensor, whole_frame: bool = True) -> HoleLayout:
        """What follows from the mask alone; see :meth:`InpaintingNetwork.layout`."""
        hole_B1HW = hole_on_grid(pad_to_stride(mask_B1HW.cpu().float()))
        return HoleLayout.of(hole_B1HW, None if whole_frame else (WINDOW_MARGIN, CANVAS_MARGIN))

    def fill(
        self,
        image_BCHW: Tensor,
        mask_B1HW: Tensor,
        edge_B1HW: Tensor | None = None,
        layout: HoleLayout | None = None,
    ) -> GeneratorOutput:
        """Fill the hole, in two stages; see :meth:`InpaintingNetwork.fill`."""
        self.check(image_BCHW, mask_B1HW, edge_B1HW)
        height, width = image_BCHW.shape[-2:]
        crop = (..., slice(height), slice(width))
        image, mask = map(pad_to_stride, without_hole(image_BCHW, mask_B1HW))
        layout = layout or self.layout(mask_B1HW).to(mask.device)
        start = self._prefilled(image, mask, layout.halvings)
        prior, edge_logits = [mask], None
        if self.edges is not None:
            edge_logits = self.edges(start, mask)
            prior.insert(0, edge_logits.sigmoid())
        elif edge_B1HW is not None:
            prior.insert(0, pad_to_stride(edge_B1HW))
        prior_BCHW = torch.cat([channel.to(image.dtype) for channel in prior], 1)
        first = self.pirn(start, prior_BCHW, layout)
        pixel = composite(first, image, mask)
        # Without the padding, which is nobody's ground.
        example = pad_to_stride(fill_by_example(start[crop], mask[crop])) if self.exemplar else None
        second = self.pern(pixel, prior_BCHW, layout, example)
        return GeneratorOutput(
            pixel[crop],
            composite(second, image, mask)[crop],
            (first[crop], second[crop]) if layout.canvas is None else (),
            None if edge_logits is None else edge_logits[crop],
        )

    def _prefilled(self, image_BCHW: Tensor, mask_B1HW: Tensor, halvings: int) -> Tensor:
        """The image with the net's starting point in its hole, where zeros stand before."""
        halvings += STRIDE_HALVINGS  # of the image
        match self.prefill:
            case "mean":
                return prefill_mean(image_BCHW, mask_B1HW)
            case "pyramid":
                return prefill_pyramid(image_BCHW, mask_B1HW, halvings=halvings)
            case "harmonic":
                return prefill_harmonic(image_BCHW, mask_B1HW, halvings)
            case _:
                return image_BCHW
