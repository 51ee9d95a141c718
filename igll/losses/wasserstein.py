"""Wasserstein adversarial loss with gradient penalty."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from igll.distributed import rank, size
from igll.losses.adversarial import AdversarialLoss
from igll.losses.precision import full_precision


class WassersteinGradientPenaltyLoss(AdversarialLoss):
    r"""WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028, equation 3), as HiFill uses it (arXiv 2005.09704).

    .. math::
        L_G = -\overline{D(x_f)}, \qquad
        L_D = \overline{D(x_f)} - \overline{D(x_r)} + \lambda\, P, \qquad
        P = \mathbb E_{\hat x} (\| \nabla D(\hat x) \|_2 - 1)^2

    The penalty P comes from :meth:`gradient_penalty`; its usual weight λ is 10.
    """

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What the generator minimises: a scalar, float32, of any sign; filled images' scores alone count."""
        return -fake_logits.float().mean()

    def discriminator(
        self, real_logits: Tensor, fake_logits: Tensor, fake_shift: Tensor | None = None
    ) -> Tensor:
        """What the critic minimises besides the penalty: a scalar, float32, of any sign."""
        return fake_logits.float().mean() - real_logits.float().mean()

    def gradient_penalty(
        self,
        critic: Callable[[Tensor], Tensor],
        real_BCHW: Tensor,
        fake_BCHW: Tensor,
        mask_B1HW: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        r"""How far the critic's slope is from 1 between real and filled images.

        At :math:`\hat x = x_r + \epsilon (x_f - x_r)`, one :math:`\epsilon \sim U(0, 1)` for every sample.

        Args:
            critic: Scores images sample by sample, (B, 1) or (B,); no batch normalisation.
            real_BCHW: Complete images.
            fake_BCHW: Filled images. No gradient flows into either.
            mask_B1HW: 1 = missing; only the slope there counts, :math:`\| \nabla D(\hat x) \odot m \|_2` (Yu
                et al. 2018, arXiv 1801.07892, on Wasserstein GANs for inpainting). ``None`` counts the whole
                slope, as HiFill does.
            generator: Draws ε, on its own device.

        Returns:
            Scalar, float32, ≥ 0, differentiable in the critic's parameters.
        """
        device = real_BCHW.device
        # Drawn for the samples of all processes, so that their generators stay alike.
        drawn = torch.rand(size() * len(real_BCHW), 1, 1, 1, generator=generator, device=generator.device)
        epsilon_B111 = drawn.chunk(size())[rank()]
        if device.type == "cuda" and not epsilon_B111.is_cuda:
            epsilon_B111 = epsilon_B111.pin_memory()  # else the host would wait for the copy
        real_BCHW, fake_BCHW = real_BCHW.detach().float(), fake_BCHW.detach().float()
        between_BCHW = torch.lerp(
            real_BCHW, fake_BCHW, epsilon_B111.to(device, non_blocking=True)
        ).requires_grad_()
        # A slope of 1 to a percent is what counts here, and 16 bits would spend that on rounding.
        with full_precision(between_BCHW):
            (slope_BCHW,) = torch.autograd.grad(critic(between_BCHW).sum(), between_BCHW, create_graph=True)
        if mask_B1HW is not None:
            slope_BCHW = slope_BCHW * (mask_B1HW > 0.5)
        return (torch.linalg.vector_norm(slope_BCHW.float(), dim=(1, 2, 3)) - 1).square().mean()
