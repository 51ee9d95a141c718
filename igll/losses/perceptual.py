"""Perceptual and style loss on VGG features (section 3.6).

Both take the features of the prediction and of the target, so that VGG runs once on each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from igll.distributed import batch_mean
from igll.losses.features import PERCEPTUAL_LAYERS, STYLE_LAYERS
from igll.losses.precision import full_precision

FeatureScale = Literal["none", "unit"]
Features = Mapping[str, Tensor]


class PerceptualLoss(nn.Module):
    r"""Distance of VGG activations, the paper's :math:`L_{per}` (section 3.6).

    .. math:: L_{per} = \sum_l \frac{1}{N_l} \| \phi_l(\hat I) - \phi_l(I) \|_1, \quad l = relu1\_1 … relu5\_1

    Args:
        scale: ``none``, or ``unit``: divide a layer's features by the mean of the target's, so that layers
            and backbones weigh alike (a caffe-scale VGG16 has activations in the hundreds).
        layers: Which activations are compared.
        by_channels: Weigh each layer by :math:`10^3 / C_l^2`, as DMFN does (arXiv 2002.02609).
    """

    def __init__(
        self,
        scale: FeatureScale = "none",
        layers: Sequence[str] = PERCEPTUAL_LAYERS,
        by_channels: bool = False,
    ) -> None:
        super().__init__()
        self.scale, self.layers, self.by_channels = scale, tuple(layers), by_channels

    def forward(self, prediction: Features, target: Features) -> Tensor:
        """Compare features by name; no gradient flows into the target.

        Args:
            prediction: Activations (B, C, H, W) of the layers, of the filled images; B also counts groups of
                bands, see :class:`igll.losses.VGGFeatures`.
            target: The same of the complete images.

        Returns:
            Scalar, float32, ≥ 0.
        """
        losses = []
        for name in self.layers:
            found_BCHW, wanted_BCHW = scaled_pair(prediction[name], target[name], self.scale)
            weight = 1e3 / found_BCHW.shape[1] ** 2 if self.by_channels else 1.0
            losses.append(weight * (found_BCHW - wanted_BCHW).abs().mean())
        return torch.stack(losses).sum()


class StyleLoss(nn.Module):
    r"""Distance of Gram matrices, the paper's :math:`L_{sty}` (section 3.6; Gatys et al. 2016).

    .. math::
        L_{sty} = \sum_l \frac{1}{C_l^2} \| G_l(\hat I) - G_l(I) \|_1, \quad
        G_l = \frac{F_l F_l^T}{C_l H_l W_l}, \quad l = relu2\_2, relu3\_3, relu4\_3, relu5\_2

    Args:
        scale: As in :class:`PerceptualLoss`.
        layers: Which activations are compared.
    """

    def __init__(self, scale: FeatureScale = "none", layers: Sequence[str] = STYLE_LAYERS) -> None:
        super().__init__()
        self.scale, self.layers = scale, tuple(layers)

    def forward(self, prediction: Features, target: Features) -> Tensor:
        """Compare Gram matrices; arguments and result as in :class:`PerceptualLoss`."""
        losses = []
        for name in self.layers:
            found_BCHW, wanted_BCHW = scaled_pair(prediction[name], target[name], self.scale)
            losses.append((gram_matrix(found_BCHW) - gram_matrix(wanted_BCHW)).abs().mean())
        return torch.stack(losses).sum()


def gram_matrix(features_BCHW: Tensor) -> Tensor:
    """Inner products of the channels, divided by C·H·W: gram_BCC, float32."""
    with full_precision(features_BCHW):
        features_BCN = features_BCHW.float().flatten(2)
        return features_BCN @ features_BCN.mT / (features_BCN.shape[1] * features_BCN.shape[2])


def scaled_pair(prediction_BCHW: Tensor, target_BCHW: Tensor, scale: FeatureScale) -> tuple[Tensor, Tensor]:
    """Both features in float32, the target detached, divided by the target's mean if scale is ``unit``."""
    prediction_BCHW, target_BCHW = prediction_BCHW.float(), target_BCHW.detach().float()
    if scale == "none":
        return prediction_BCHW, target_BCHW
    # Activations are never negative; a layer that is silent on the target stays as it is small.
    mean = batch_mean(target_BCHW.mean()).clamp(min=1e-6)
    return prediction_BCHW / mean, target_BCHW / mean
