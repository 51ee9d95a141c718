from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_expit

from igll.losses import (
    AdversarialLoss,
    LeastSquaresLoss,
    NonSaturatingLoss,
    RelativisticAverageLoss,
    WassersteinGradientPenaltyLoss,
)

REAL = np.array([1.2, -0.3, 2.5, 0.1])
FAKE = np.array([-1.0, 2.0, 1.4, -0.2])  # two of them above the mean of REAL, 0.875
GAP = np.array([0.3, 0.2, 0.05, 0.4])


def _tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    real, fake = (torch.tensor(values).float()[:, None].requires_grad_() for values in (REAL, FAKE))
    return real, fake, torch.tensor(GAP).float()


def test_generator_and_discriminator_equal_their_equations() -> None:
    real, fake, _ = _tensors()
    relative_real, relative_fake = REAL - FAKE.mean(), FAKE - REAL.mean()
    generator = -log_expit(relative_fake).mean() - log_expit(-relative_real).mean()
    discriminator = -log_expit(relative_real).mean() - log_expit(-relative_fake).mean()
    loss = RelativisticAverageLoss()
    assert loss.generator(real, fake).item() == pytest.approx(generator, rel=1e-6)
    assert loss.discriminator(real, fake).item() == pytest.approx(discriminator, rel=1e-6)


def test_players_want_opposite_things() -> None:
    loss = RelativisticAverageLoss()
    real, fake, _ = _tensors()
    (for_generator,) = torch.autograd.grad(loss.generator(real, fake), fake)
    (for_discriminator,) = torch.autograd.grad(loss.discriminator(real, fake), fake)
    assert (for_generator < 0).all()  # a step raises the scores of filled images
    assert (for_discriminator > 0).all()


def test_gap_is_added_where_the_discriminator_is_fooled() -> None:
    real, fake, gap = _tensors()
    relative = FAKE - REAL.mean()
    shifted = [score + shift if score > 0 else score for score, shift in zip(relative, GAP, strict=True)]
    expected = -log_expit(REAL - FAKE.mean()).mean() - log_expit(-np.array(shifted)).mean()
    loss = RelativisticAverageLoss().discriminator(real, fake, gap)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_gap_changes_the_gradient_of_fooled_samples_alone() -> None:
    loss = RelativisticAverageLoss()
    real, fake, gap = _tensors()
    (plain,) = torch.autograd.grad(loss.discriminator(real, fake), fake)
    (shifted,) = torch.autograd.grad(loss.discriminator(real, fake, gap), fake)
    fooled = torch.tensor(REAL.mean() < FAKE)[:, None]
    assert fooled.flatten().tolist() == [False, True, True, False]
    assert (shifted > plain)[fooled].all()  # the larger the gap, the harder it is pushed down
    torch.testing.assert_close(shifted[~fooled], plain[~fooled], rtol=0, atol=0)


def test_no_gradient_flows_into_the_gap() -> None:
    real, fake, gap = _tensors()
    gap.requires_grad_()
    RelativisticAverageLoss().discriminator(real, fake, gap).backward()
    assert gap.grad is None


def test_shapes_and_extremes() -> None:
    loss = RelativisticAverageLoss()
    real, fake, gap = _tensors()
    flat = loss.discriminator(real[:, 0], fake[:, 0], gap)
    assert flat.item() == pytest.approx(loss.discriminator(real, fake, gap).item())
    far = torch.full((2, 1), 500.0)
    assert loss.discriminator(-far, far).item() == pytest.approx(2000)
    assert loss.discriminator(far, -far).item() == 0
    assert loss.generator(real.bfloat16(), fake.bfloat16()).dtype == torch.float32


# The peers' forms, of scores per image and per patch.

PATCHES = (3, 1, 4, 5)


def _patch_scores() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    real, fake = (3 * torch.randn(PATCHES, generator=generator) for _ in range(2))
    return real.requires_grad_(), fake.requires_grad_()


def _bernoulli(scores: torch.Tensor, label: float) -> torch.Tensor:
    probability = torch.sigmoid(scores.detach().double())
    return F.binary_cross_entropy(probability, torch.full_like(probability, label))


def _squares(scores: torch.Tensor, label: float) -> torch.Tensor:
    probability = 1 / (1 + torch.exp(-scores.detach().double()))
    return F.mse_loss(probability, torch.full_like(probability, label))


@pytest.mark.parametrize("scores", ["images", "patches"])
@pytest.mark.parametrize(
    ("loss", "distance"), [(NonSaturatingLoss(), _bernoulli), (LeastSquaresLoss(), _squares)]
)
def test_peers_forms_equal_their_equations(loss: AdversarialLoss, distance, scores: str) -> None:
    real, fake = _tensors()[:2] if scores == "images" else _patch_scores()
    assert loss.generator(real, fake).item() == pytest.approx(distance(fake, 1).item(), rel=1e-6)
    expected = (distance(real, 1) + distance(fake, 0)) / 2
    assert loss.discriminator(real, fake).item() == pytest.approx(expected.item(), rel=1e-6)


FORMS = pytest.mark.parametrize(
    "loss", [NonSaturatingLoss(), LeastSquaresLoss(), WassersteinGradientPenaltyLoss()]
)


@FORMS
def test_peers_players_want_opposite_things_of_the_fakes_alone(loss: AdversarialLoss) -> None:
    real, fake = _patch_scores()
    for_generator, unused = torch.autograd.grad(loss.generator(real, fake), [fake, real], allow_unused=True)
    raised, lowered = torch.autograd.grad(loss.discriminator(real, fake), [real, fake])
    assert unused is None, "the generator does not ask what real images score"
    assert (for_generator < 0).all() and (lowered > 0).all() and (raised < 0).all()


@FORMS
def test_peers_forms_know_no_gap_and_are_float32(loss: AdversarialLoss) -> None:
    real, fake, gap = _tensors()
    assert isinstance(loss, AdversarialLoss)
    assert torch.equal(loss.discriminator(real, fake, gap), loss.discriminator(real, fake))
    for value in (
        loss.generator(real.bfloat16(), fake.bfloat16()),
        loss.discriminator(real.bfloat16(), fake.bfloat16()),
    ):
        assert value.dtype == torch.float32 and value.shape == ()


@pytest.mark.parametrize("loss", [NonSaturatingLoss(), LeastSquaresLoss()])
def test_peers_forms_stay_finite_far_out(loss: AdversarialLoss) -> None:
    far = torch.full((2, 1), 500.0, requires_grad=True)
    wrong = loss.discriminator(-far, far)
    wrong.backward()
    assert wrong.item() == pytest.approx(500 if isinstance(loss, NonSaturatingLoss) else 1)
    assert far.grad is not None and far.grad.isfinite().all()
    assert loss.discriminator(far, -far).item() == 0 and loss.generator(far, far).item() == 0


def test_the_gap_reaches_every_patch_of_its_own_image() -> None:
    real, fake = _patch_scores()
    gap = torch.tensor([0.3, 0.0, 0.7])
    shifted = (fake - real.mean()).detach()
    shifted = torch.where(shifted > 0, shifted + gap[:, None, None, None], shifted)
    relative_real = (real - fake.mean()).detach()
    expected = -log_expit(relative_real.numpy()).mean() - log_expit(-shifted.numpy()).mean()
    found = RelativisticAverageLoss().discriminator(real, fake, gap)
    assert found.item() == pytest.approx(expected, rel=1e-5)
