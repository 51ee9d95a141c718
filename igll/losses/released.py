"""Terms that the paper does not name but the code released with it has; off by default.

They are those of DMFN (Hui et al. 2020, arXiv 2002.02609), from which that code descends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from igll.losses.perceptual import FeatureScale, scaled_pair

GUIDED_LAYERS = ("relu1_1", "relu2_1")
ALIGNED_LAYER = "relu4_1"


class SelfGuidedRegressionLoss(nn.Module):
    r"""Distance of shallow VGG features where the image is most wrong (arXiv 2002.02609).

    .. math::
        L_{sgr} = \sum_{l} \frac{10^3}{C_l^2} \frac{1}{N_l}
            \| M_l \odot (\phi_l(\hat I) - \phi_l(I)) \|_1, \quad l = relu1\_1, relu2\_1

    with the error map :math:`E_p = \frac1C \sum_c (\hat I_{pc} - I_{pc})^2`, the guidance
    :math:`M_1 = 1 + E / \max_p E` of every sample, and :math:`M_2` its 2 × 2 average. The guidance is a
    weight, not a target: no gradient flows into it.

    Args:
        scale: As in :class:`igll.losses.PerceptualLoss`.
    """

    def __init__(self, scale: FeatureScale = "none") -> None:
        super().__init__()
        self.scale = scale

    def forward(
        self,
        prediction_BCHW: Tensor,
        target_BCHW: Tensor,
        prediction: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
    ) -> Tensor:
        """Compare guided features.

        Args:
            prediction_BCHW: Filled images in [-1, 1].
            target_BCHW: Complete images in [-1, 1].
            prediction: VGG activations of the filled images.
            target: VGG activations of the complete images.

        Returns:
            Scalar, float32, ≥ 0.
        """
        error_B1HW = (prediction_BCHW.detach().float() - target_BCHW.detach().float()).square().mean(1, True)
        largest_B111 = error_B1HW.amax((1, 2, 3), keepdim=True)
        guidance_B1HW = 1 + error_B1HW / largest_B111.clamp(min=1e-12)
        losses = []
        for level, name in enumerate(GUIDED_LAYERS):
            if level:
                guidance_B1HW = avg_pool2d(guidance_B1HW, 2)
            found_NCHW, wanted_NCHW = scaled_pair(prediction[name], target[name], self.scale)
            groups = len(found_NCHW) // len(guidance_B1HW)  # of bands, which share the guidance
            guidance_N1HW = guidance_B1HW.repeat(groups, 1, 1, 1)
            distance = (guidance_N1HW * (found_NCHW - wanted_NCHW)).abs().mean()
            losses.append(distance * 1e3 / found_NCHW.shape[1] ** 2)
        return torch.stack(losses).sum()


class GeometricAlignmentLoss(nn.Module):
    r"""Distance of the centres of deep feature maps (arXiv 2002.02609).

    .. math::
        L_{align} = \mathbb E_{b,c} \| c(R_{bc}) - c(\hat R_{bc}) \|_2^2 / 2, \quad
        c(R) = \frac{\sum_p R_p\, (x_p, y_p)}{\sum_p R_p}

    R are the responses of relu4_1, x and y run from -1 to 1 over the map.
    """

    def forward(self, prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Compare centres; no gradient flows into the target.

        Args:
            prediction: VGG activations of the filled images.
            target: VGG activations of the complete images.

        Returns:
            Scalar in [0, 4], float32.
        """
        wanted_BC2 = response_centres(target[ALIGNED_LAYER].detach())
        return (response_centres(prediction[ALIGNED_LAYER]) - wanted_BC2).square().mean()


def response_centres(response_BCHW: Tensor) -> Tensor:
    """Centre of mass (x, y) of every non-negative map in [-1, 1]: centre_BC2, float32.

    A map without any response has its centre in the middle.
    """
    response_BCHW = response_BCHW.float()
    height, width = response_BCHW.shape[2:]
    x_W = torch.linspace(-1, 1, width, device=response_BCHW.device)
    y_H = torch.linspace(-1, 1, height, device=response_BCHW.device)
    mass_BC = response_BCHW.sum((2, 3)).clamp(min=1e-6)
    x_BC = (response_BCHW.sum(2) * x_W).sum(2) / mass_BC
    y_BC = (response_BCHW.sum(3) * y_H).sum(2) / mass_BC
    return torch.stack([x_BC, y_BC], dim=2)


class FeatureMatchingLoss(nn.Module):
    r"""Distance of a discriminator's activations (arXiv 2002.02609; Wang et al. 2018).

    .. math:: L_{fm} = \sum_l \frac{w_l}{N_l} \| D_l(\hat I) - D_l(I) \|_1

    Args:
        by_channels: :math:`w_l = 10^3 / C_l^2`, as in DMFN's published code; else 1.
    """

    def __init__(self, by_channels: bool = False) -> None:
        super().__init__()
        self.by_channels = by_channels

    def forward(self, prediction: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Compare activations layer by layer; no gradient flows into the target.

        Args:
            prediction: Activations of the filled images, as :class:`igll.models.Discriminator` returns them.
            target: Activations of the complete images, in the same order and shapes.

        Returns:
            Scalar, float32, ≥ 0.
        """
        distances = [
            (1e3 / found.shape[1] ** 2 if self.by_channels else 1.0)
            * (found.float() - wanted.detach().float()).abs().mean()
            for found, wanted in zip(prediction, target, strict=True)
        ]
        return torch.stack(distances).sum()
