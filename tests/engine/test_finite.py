"""A training step neither waits for the device nor moves anything once a value is not finite."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from igll.engine import step as engine
from igll.engine.batches import open_data, training_batches
from igll.engine.edge_maps import prepare_edge_maps
from igll.engine.finite import FiniteWatch
from igll.engine.objectives import Objectives
from igll.engine.state import TrainState, build_state
from igll.engine.step import train_step
from igll.errors import NumericsError
from igll.losses.singular_values import rotate_to_diagonal

CPU = torch.device("cpu")

# On CUDA each of these makes the host wait.
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero", "item")


class Waits(TorchDispatchMode):
    """Counts operators that would make the host wait for a CUDA device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def run(small, tmp_path: Path):
    """A state, its objectives, config, batches and data; numbers are looked at when asked, as on CUDA."""

    def build(**sections):
        config = small(**sections)
        training, _, detector = open_data(config)
        if detector is not None and training.edges is not None:
            prepare_edge_maps(training, training.edges, detector, CPU)
        torch.manual_seed(0)
        state = build_state(config, CPU)
        state.watch.immediate = False
        objectives = Objectives(config.losses, config.model.structure_prior == "learned", 32)
        layout_of = partial(state.generator.layout, whole_frame=objectives.whole_frame)
        batches = training_batches(config, training, 0, 9, CPU, layout_of)
        return state, objectives, config, batches, training

    return build


@pytest.mark.parametrize("adversarial_form", ["relativistic", "wasserstein", "least_squares"])
def test_a_step_never_waits_for_the_device(run, monkeypatch, adversarial_form: str):
    state, objectives, config, batches, training = run(
        losses={"adversarial_form": adversarial_form, "feature_matching": 1},
        discriminator={"norm": "none" if adversarial_form == "wasserstein" else "spectral"},
        train={"clip_gradient": 1.0},
    )
    # LAPACK's, which would wait on a GPU and does not show it here, is for the low-rank loss on CPUs alone.
    eigh = Mock(side_effect=rotate_to_diagonal)
    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    batch = next(batches)
    assert batch.layout is not None
    with Waits() as waits:
        terms = train_step(state, objectives, config, batch, training)
        assert not waits.seen
        state.settle()
        assert waits.seen["_local_scalar_dense"] == 1
    assert eigh.call_count == 1
    assert {"generator/svd", "gradient/discriminator"} <= terms.keys()


def weights(state: TrainState) -> dict[str, dict[str, torch.Tensor]]:
    """All that a bad step must not move: parameters, average, optimisers."""
    parts = {"generator": state.generator, "discriminator": state.discriminator, "ema": state.ema}
    found = {name: {k: v.clone() for k, v in part.named_parameters()} for name, part in parts.items()}
    for name in ("generator", "discriminator"):
        moments = copy.deepcopy(getattr(state, f"{name}_optimizer").state_dict()["state"])
        found[f"{name} optimizer"] = {
            f"{number}.{key}": value for number, values in moments.items() for key, value in values.items()
        }
    return found


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_what_is_noticed_late_has_moved_nothing(run, monkeypatch, network: str):
    state, objectives, config, batches, training = run()
    taken = []

    def step() -> None:
        taken.append(next(batches))
        train_step(state, objectives, config, taken[-1], training)
        state.step += 1

    step()
    step()
    before, measured = weights(state), engine._gradient_norm
    optimizer = getattr(state, f"{network}_optimizer")

    def poisoned(which, loss, clip):
        norm = measured(which, loss, clip)
        return norm * math.nan if which is optimizer else norm

    monkeypatch.setattr(engine, "_gradient_norm", poisoned)
    step()
    monkeypatch.setattr(engine, "_gradient_norm", measured)
    step()  # nobody has looked yet
    names = ", ".join(training.name(index) for index in taken[2].indices)
    with pytest.raises(NumericsError, match=rf"^step 3: 'gradient/{network}' is nan; images: {names}$"):
        state.settle()
    assert state.step == 2
    after = weights(state)
    # In its own step the discriminator's update comes before the generator's loss is known.
    untouched = before.keys() - (
        {"discriminator", "discriminator optimizer"} if network == "generator" else set()
    )
    for part in untouched:
        assert all(torch.equal(after[part][name], value) for name, value in before[part].items()), part


def test_nothing_is_saved_before_somebody_looked(run, monkeypatch, tmp_path: Path):
    state, objectives, config, batches, training = run()
    monkeypatch.setattr(
        "igll.losses.pixel.LocalL1Loss.forward", lambda self, prediction, *_: prediction.sum() * math.nan
    )
    train_step(state, objectives, config, next(batches), training)
    with pytest.raises(NumericsError, match="step 1: 'generator/local' is nan"):
        state.save(tmp_path / "last.pt", config)
    assert not (tmp_path / "last.pt").exists()
    state.save(tmp_path / "last.pt", config)  # seen and said: what was learnt before is kept
    assert (tmp_path / "last.pt").exists()


def test_a_watch_does_not_keep_values_for_ever():
    watch = FiniteWatch(CPU)
    watch.immediate = False
    for step in range(1_000):
        assert not watch.full
        watch.note(step, {"loss": torch.tensor(1.0)}, lambda: "a.png")
    assert watch.full
    assert watch.failure() is None and not watch.full
    watch.note(7, {"a": torch.tensor(1.0), "b": torch.tensor(math.inf)}, lambda: "a.png, b.png")
    assert watch.broken.item() == 1
    assert watch.failure() == (7, "step 8: 'b' is inf; images: a.png, b.png")


def test_what_is_noted_keeps_no_batch_alive(run):
    state, objectives, config, batches, training = run()
    batch = next(batches)
    images, layout = weakref.ref(batch.image_BCHW), weakref.ref(batch.layout.hole_B1HW)
    train_step(state, objectives, config, batch, training)
    del batch, batches
    gc.collect()
    assert images() is None and layout() is None
    assert state.watch.failure() is None


def test_an_optimiser_saved_by_other_kernels_goes_on_with_fused_ones(small, tmp_path: Path):
    config = small()
    state = build_state(config, CPU)
    for kind in ("generator", "discriminator"):
        for group in getattr(state, f"{kind}_optimizer").param_groups:
            group["fused"], group["foreach"] = False, True
    state.save(tmp_path / "last.pt", config)
    again = build_state(config, CPU)
    again.load(tmp_path / "last.pt", config, CPU)
    assert all(group["fused"] for group in again.generator_optimizer.param_groups)
