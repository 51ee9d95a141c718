"""Adversarial losses: the paper's relativistic average with its singular-value term, and the peers'."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from igll.distributed import batch_mean


class AdversarialLoss(nn.Module, ABC):
    """What generator and discriminator minimise, of scores before the sigmoid; any shape, both the same."""

    @abstractmethod
    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What the generator minimises: scalar, float32."""

    @abstractmethod
    def discriminator(
        self, real_logits: Tensor, fake_logits: Tensor, fake_shift: Tensor | None = None
    ) -> Tensor:
        """What the discriminator minimises: scalar, float32."""


class RelativisticAverageLoss(AdversarialLoss):
    r"""Relativistic average binary cross-entropy (RaGAN, Jolicoeur-Martineau 2018).

    With :math:`\phi_r = D(x_r) - \overline{D(x_f)}`, :math:`\phi_f = D(x_f) - \overline{D(x_r)}` and
    :math:`BCE(\phi, t)` the cross-entropy of :math:`\sigma(\phi)` with the label t:

    .. math:: L_G = BCE(\phi_f, 1) + BCE(\phi_r, 0), \qquad L_D = BCE(\phi_r, 1) + BCE(\phi_f, 0)
    """

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What the generator minimises.

        Args:
            real_logits: Scores of complete images, (B, 1) or (B,), before the sigmoid.
            fake_logits: Scores of filled images, the same shape.

        Returns:
            Scalar, float32, ≥ 0.
        """
        real, fake = _relative(real_logits, fake_logits)
        return softplus(-fake).mean() + softplus(real).mean()

    def discriminator(
        self, real_logits: Tensor, fake_logits: Tensor, fake_shift: Tensor | None = None
    ) -> Tensor:
        r"""What the discriminator minimises.

        With ``fake_shift`` this is the paper's :math:`L_{dis}` (section 3.6): the singular-value gap
        :math:`\Delta` of a filled image is added to its score, but only where the discriminator takes that
        image for real:

        .. math:: L_{dis} = BCE(\phi_r, 1) + BCE(\phi_f + \Delta\,[\phi_f > 0], 0)

        Args:
            real_logits: As in :meth:`generator`.
            fake_logits: As in :meth:`generator`; detach the images, not the scores.
            fake_shift: Gap of every sample, (B,), ≥ 0, as
                :meth:`igll.losses.SingularValueLoss.gap_per_sample` returns it. No gradient flows into it.

        Returns:
            Scalar, float32, ≥ 0.
        """
        real, fake = _relative(real_logits, fake_logits)
        if fake_shift is not None:
            shift = fake_shift.detach().float().view(-1, *[1] * (fake.dim() - 1))
            fake = fake + shift * (fake.detach() > 0)
        return softplus(-real).mean() + softplus(fake).mean()


class NonSaturatingLoss(AdversarialLoss):
    r"""Cross-entropy, the generator's with flipped labels (Goodfellow et al. 2014, section 3); HAN's.

    .. math:: L_G = BCE(D(x_f), 1), \qquad L_D = \tfrac12 (BCE(D(x_r), 1) + BCE(D(x_f), 0))
    """

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """See :class:`AdversarialLoss`; the real images' scores are not looked at."""
        return softplus(-fake_logits.float()).mean()

    def discriminator(
        self, real_logits: Tensor, fake_logits: Tensor, fake_shift: Tensor | None = None
    ) -> Tensor:
        """See :class:`AdversarialLoss`; there is no singular-value term."""
        return (softplus(-real_logits.float()).mean() + softplus(fake_logits.float()).mean()) / 2


class LeastSquaresLoss(AdversarialLoss):
    r"""Squared distance of probabilities from their labels, as HINT's code has it (after Mao et al. 2017).

    .. math::
        L_G = \overline{(\sigma(D(x_f)) - 1)^2}, \qquad
        L_D = \tfrac12 (\overline{(\sigma(D(x_r)) - 1)^2} + \overline{\sigma(D(x_f))^2})
    """

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """See :class:`AdversarialLoss`; the real images' scores are not looked at."""
        return (fake_logits.float().sigmoid() - 1).square().mean()

    def discriminator(
        self, real_logits: Tensor, fake_logits: Tensor, fake_shift: Tensor | None = None
    ) -> Tensor:
        """See :class:`AdversarialLoss`; there is no singular-value term."""
        real, fake = real_logits.float().sigmoid(), fake_logits.float().sigmoid()
        return ((real - 1).square().mean() + fake.square().mean()) / 2


@torch.no_grad()
def relative_accuracy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Share of scores on the right side: of real images above the fakes' mean, of fakes below the reals'.

    What the relativistic average loss rewards, and the same measure for every other form: 1/2 for a
    discriminator that guesses, 1 for one that is never wrong.

    Args:
        real_logits: Scores of complete images, any shape.
        fake_logits: Scores of filled images.

    Returns:
        Scalar in [0, 1], float32.
    """
    real, fake = _relative(real_logits, fake_logits)
    return ((real > 0).float().mean() + (fake < 0).float().mean()) / 2


def _relative(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Every score relative to the mean score of the other kind in the whole batch."""
    real_logits, fake_logits = real_logits.float(), fake_logits.float()
    real_mean, fake_mean = batch_mean(torch.stack([real_logits.mean(), fake_logits.mean()]))
    return real_logits - fake_mean, fake_logits - real_mean
