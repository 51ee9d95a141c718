"""WGAN-GP against critics whose slope is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from igll.losses.wasserstein import WassersteinGradientPenaltyLoss

SHAPE = (4, 2, 3, 5)


@pytest.fixture
def loss() -> WassersteinGradientPenaltyLoss:
    return WassersteinGradientPenaltyLoss()


class LinearCritic(nn.Linear):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(30, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image.flatten(1))

    def weight_gradient(self) -> torch.Tensor:
        assert self.weight.grad is not None
        return self.weight.grad


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def test_scores_are_averaged_with_their_signs(loss: WassersteinGradientPenaltyLoss) -> None:
    real, fake = torch.tensor([[1.0], [3.0]]), torch.tensor([[-2.0], [0.5]])
    assert loss.generator(real, fake).item() == 0.75
    assert loss.discriminator(real, fake).item() == -2.75


def test_the_slope_of_a_linear_critic_is_its_weight(loss: WassersteinGradientPenaltyLoss) -> None:
    critic = LinearCritic()
    weight = critic.weight
    penalty = loss.gradient_penalty(critic, *images(), None, seeded())
    norm = weight.detach().double().norm()
    assert penalty.item() == pytest.approx((norm.item() - 1) ** 2, rel=1e-5)
    penalty.backward()
    expected = 2 * (norm - 1) * weight.detach().double() / norm
    assert torch.allclose(critic.weight_gradient().double(), expected, atol=1e-6)


def test_the_mask_keeps_the_slope_in_the_hole(loss: WassersteinGradientPenaltyLoss) -> None:
    critic = LinearCritic()
    weight = critic.weight.detach().view(SHAPE[1:])
    mask = torch.zeros(4, 1, 3, 5)
    mask[:, :, 1:] = 1
    mask[0] = 0  # a sample without a hole: slope 0, penalty 1, finite gradient
    penalty = loss.gradient_penalty(critic, *images(), mask, seeded())
    hole = (weight[:, 1:].norm().item() - 1) ** 2
    assert penalty.item() == pytest.approx((1 + 3 * hole) / 4, rel=1e-5)
    penalty.backward()
    assert critic.weight_gradient().isfinite().all()


def test_samples_are_mixed_each_by_its_own_share(loss: WassersteinGradientPenaltyLoss) -> None:
    """D(x) = |x|² / 2 has the slope x: from 0 to a unit vector, its norm is the share ε itself."""
    direction = images()[1]
    direction = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    share = torch.rand(4, 1, 1, 1, generator=seeded()).flatten()

    def critic(image: torch.Tensor) -> torch.Tensor:
        return image.square().flatten(1).sum(1) / 2

    penalty = loss.gradient_penalty(critic, torch.zeros(SHAPE), direction, None, seeded())
    assert share.unique().numel() == 4
    assert penalty.item() == pytest.approx((share - 1).square().mean().item(), rel=1e-5)


def test_no_gradient_flows_into_the_images(loss: WassersteinGradientPenaltyLoss) -> None:
    real, fake = (image.requires_grad_() for image in images())
    critic = LinearCritic()
    (loss.gradient_penalty(critic, real, fake, None, seeded()) + critic.weight.sum()).backward()
    assert real.grad is None and fake.grad is None
