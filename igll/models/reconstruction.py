"""The net that IGLL consists of, twice: two encoder branches and a decoder (section 3.2)."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn

from igll.models.activations import elu
from igll.models.exemplar import detail_of
from igll.models.hole_layout import HoleLayout
from igll.models.layers import (
    STRIDE,
    AttentionBranch,
    Decoder,
    FeatureBranch,
    in_window,
    initialise_convolutions,
    on_canvas,
)

_RESIDUAL_GAIN = 0.3  # of a layer that is added to its input: five in a row then grow the signal by a fifth
_RESIDUAL_FROM = 5  # the feature branch's first layer that keeps its size
GATE_START = 2.2  # nine tenths of the exemplar's detail, before the gate has learned where to trust it


class ReconstructionNet(nn.Module):
    """Two encoder branches and a decoder; PIRN and PERN differ in the attention module alone.

    Args:
        in_channels: Image + edge (if any) + mask channels.
        out_channels: Image channels.
        width: Base width c.
        attention: GAM, FFSM or vanilla attention on 4 × width channels.
        residual: Predict a correction to the input image instead of the image; the last convolution
            then starts at zero, so that training starts from the input.
        exemplar: Take an image filled by example too, and add its detail, away from known ground and pixel by
            pixel as much of it as the net says by one more output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        attention: nn.Module,
        residual: bool,
        exemplar: bool = False,
    ) -> None:
        super().__init__()
        in_channels, out_channels = in_channels + exemplar * out_channels, out_channels + exemplar
        self.feature_branch = FeatureBranch(in_channels, width)
        self.attention_branch = AttentionBranch(in_channels, width, attention)
        self.decoder = Decoder(width, out_channels)
        self.residual = residual
        initialise_convolutions(self)
        last = self.decoder[-1]
        assert isinstance(last, nn.Conv2d)  # noqa: S101  (narrows for the type checker)
        with torch.no_grad():
            # Start at the input, or near mid-range: far out, the clamp lets no gradient through.
            last.weight.mul_(0.0 if residual else 0.1)
            if exemplar:
                last.get_parameter("bias")[-1] = GATE_START

    def forward(
        self,
        image_BCHW: Tensor,
        prior_BCHW: Tensor,
        layout: HoleLayout,
        example_BCHW: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction_BCHW in [-1, 1] for the layout's canvas; around it, the input.

        Args:
            image_BCHW: Image whose hole holds the net's starting point.
            prior_BCHW: Edge (if any) and mask channels.
            layout: Where the hole is on the feature grid.
            example_BCHW: The image filled by example, for a net that takes one.
        """
        guides = [prior_BCHW] if example_BCHW is None else [example_BCHW, prior_BCHW]
        input_BCHW = torch.cat([image_BCHW, *(guide.to(image_BCHW.dtype) for guide in guides)], 1)
        input_BCHW = input_BCHW.contiguous(memory_format=torch.channels_last)
        output_BCHW = self.paint(input_BCHW, layout).to(image_BCHW.dtype)
        canvas = layout.canvas
        if example_BCHW is not None:
            detail_BCHW = detail_of(example_BCHW, prior_BCHW[:, -1:])
            if canvas is not None:
                detail_BCHW = canvas.crop_pixels(detail_BCHW, STRIDE)
            trust_B1HW = output_BCHW[:, -1:].sigmoid()
            output_BCHW = output_BCHW[:, :-1] + trust_B1HW * detail_BCHW
        if self.residual:
            output_BCHW = output_BCHW + (
                image_BCHW if canvas is None else canvas.crop_pixels(image_BCHW, STRIDE)
            )
        output_BCHW = output_BCHW.clamp(-1.0, 1.0)
        return output_BCHW if canvas is None else canvas.put_pixels(image_BCHW, output_BCHW, STRIDE)

    def paint(self, input_BCHW: Tensor, layout: HoleLayout) -> Tensor:
        """What the last convolution gives for the layout's canvas, a gate last of all with an exemplar.

        Args:
            input_BCHW: Image, exemplar and edge (if any) and mask channels of the whole frame.
            layout: Where the hole is on the feature grid.
        """
        features = [
            in_window(self.feature_branch(input_BCHW), layout),
            self.attention_branch(input_BCHW, layout),
        ]
        join, mix_quarter, *larger = self.decoder
        output_BCHW = on_canvas(mix_quarter(join(torch.cat(features, 1))), layout)
        for layer in larger:
            output_BCHW = layer(output_BCHW)
        return output_BCHW


class SkippingNet(ReconstructionNet):
    """A reconstruction net with skip connections, which neither the paper nor its released code has.

    Layers of feature branch and decoder that keep their size are added to their input. The feature branch's
    results at full and at half resolution, through a 1 × 1 convolution each, are added where the decoder
    comes back to those resolutions. Weights start at a gain of 1, with which signals neither grow nor sink
    into ELU's flat part on their way. Arguments as of :class:`ReconstructionNet`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        attention: nn.Module,
        residual: bool,
        exemplar: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, width, attention, residual, exemplar)
        self.skip_full = nn.Conv2d(width, width, 1)
        self.skip_half = nn.Conv2d(2 * width, 2 * width, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer is not self.decoder[-1]:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        with torch.no_grad():
            at_quarter = islice(self.feature_branch, _RESIDUAL_FROM, None)
            for layer in (*at_quarter, self.decoder[1], self.decoder[3]):
                layer.get_parameter("0.weight").mul_(_RESIDUAL_GAIN)
            for skip in (self.skip_full, self.skip_half):
                nn.init.zeros_(skip.get_parameter("bias"))

    def paint(self, input_BCHW: Tensor, layout: HoleLayout) -> Tensor:
        """See :meth:`ReconstructionNet.paint`."""
        widen, to_half, at_half, *at_quarter = self.feature_branch
        full_BCHW = widen(input_BCHW)
        half_BCHW = at_half(to_half(full_BCHW))
        feature_BCHW = half_BCHW
        for number, layer in enumerate(at_quarter, start=3):
            after_BCHW = layer(feature_BCHW)
            feature_BCHW = feature_BCHW + after_BCHW if number >= _RESIDUAL_FROM else after_BCHW
        features = [in_window(feature_BCHW, layout), self.attention_branch(input_BCHW, layout)]
        canvas = layout.canvas
        if canvas is not None:
            half_BCHW = canvas.crop_pixels(half_BCHW, STRIDE // 2)
            full_BCHW = canvas.crop_pixels(full_BCHW, STRIDE)
        join, mix_quarter, enlarge, mix_half, enlarge_more, narrow, last = self.decoder
        joined_BCHW = join(torch.cat(features, 1))
        quarter_BCHW = on_canvas(joined_BCHW + mix_quarter(joined_BCHW), layout)
        enlarged_BCHW = enlarge.get_submodule("0")(quarter_BCHW) + self.skip_half(half_BCHW)
        joined_BCHW = elu(enlarged_BCHW, inplace=True)
        enlarged_BCHW = enlarge_more.get_submodule("0")(joined_BCHW + mix_half(joined_BCHW)) + self.skip_full(
            full_BCHW
        )
        output_BCHW: Tensor = last(narrow(elu(enlarged_BCHW, inplace=True)))
        return output_BCHW
