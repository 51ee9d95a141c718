from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_expit

from igll.losses import RelativisticAverageLoss

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
