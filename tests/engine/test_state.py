"""A training state that comes back from a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from igll.engine.checkpoint import load_checkpoint, save_checkpoint
from igll.engine.restoring import check_progress
from igll.engine.state import build_state
from igll.errors import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize("plain", [False, True])
def test_moments_follow_their_weights_whatever_memory_format_they_were_saved_in(
    small, tmp_path: Path, plain: bool
):
    config, path = small(), tmp_path / "last.pt"
    torch.manual_seed(0)
    state = build_state(config, CPU)
    torch.manual_seed(1)
    gradients = [torch.randn_like(parameter) for parameter in state.generator.parameters()]

    def step(trained) -> None:
        for parameter, gradient in zip(trained.generator.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone(memory_format=torch.preserve_format)
        trained.generator_optimizer.step()

    step(state)
    state.save(path, config)
    if plain:
        content = torch.load(path, weights_only=True)
        for moments in content["generator_optimizer"]["state"].values():
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = moments[name].contiguous()
        save_checkpoint(path, content)
    resumed = build_state(config, CPU)
    resumed.load(path, config, CPU)
    step(state)
    step(resumed)
    four_sided = 0
    for went_on, came_back in zip(state.generator.parameters(), resumed.generator.parameters(), strict=True):
        assert torch.equal(went_on, came_back)
        four_sided += went_on.dim() == 4 and not went_on.is_contiguous()
    assert four_sided > 10, "formats must differ for this to say anything"


@pytest.mark.parametrize("random_state", [torch.zeros(5056, dtype=torch.uint8), torch.zeros(3), None])
def test_random_numbers_that_are_none_are_refused_before_anything_moves(small, tmp_path: Path, random_state):
    config, path = small(), tmp_path / "last.pt"
    build_state(config, CPU).save(path, config)
    content = {name: value for name, value in load_checkpoint(path).items() if name != "format"}
    save_checkpoint(path, {**content, "random_state": random_state})
    state = build_state(config, CPU)
    before = {name: value.clone() for name, value in state.generator.state_dict().items()}
    with pytest.raises(InputError, match=r"last\.pt: damaged, its state of random numbers"):
        state.load(path, config, CPU)
    assert all(torch.equal(state.generator.state_dict()[name], value) for name, value in before.items())


def test_random_numbers_are_checked_on_the_host_wherever_a_checkpoint_was_loaded():
    class OnAnotherDevice:
        def cpu(self) -> torch.Tensor:
            return torch.get_rng_state()

    check_progress({"step": 3, "best": 1.0, "random_state": OnAnotherDevice()}, "last.pt")


def test_settings_of_an_optimiser_are_those_configured_now(small, tmp_path: Path):
    path = tmp_path / "last.pt"
    build_state(small(), CPU).save(path, small())
    config = small(train={"betas": [0.7, 0.8]})
    state = build_state(config, CPU)
    state.load(path, config, CPU)
    assert state.generator_optimizer.param_groups[0]["betas"] == (0.7, 0.8)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data": {"crop_size": 48}}, -math.inf),
        ({"mask": {"ratio": 0.4}}, -math.inf),
        ({"train": {"eval_images": 1}}, -math.inf),
        ({"train": {"lr": 0.5}, "data": {"workers": 1, "cache_mb": 0, "augment": False, "limit": 3}}, 31.5),
    ],
)
def test_a_score_of_other_validation_images_is_no_longer_the_best(small, tmp_path, capsys, change, expected):
    path, state = tmp_path / "last.pt", build_state(small(), CPU)
    state.best = 31.5
    state.save(path, small())
    state.load(path, small(**change), CPU)
    assert state.best == expected
    told = capsys.readouterr().err
    assert told.startswith("resuming with other settings than before: ") and told.count("\n") == 1
    assert ("other validation images, so best.pt is chosen anew" in told) == math.isinf(expected)
