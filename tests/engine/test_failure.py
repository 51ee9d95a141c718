"""A step that was not finite is written down; repeating it shows the same numbers and where they break."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from igll.engine.batches import open_data, training_batches
from igll.engine.edge_maps import prepare_edge_maps
from igll.engine.failure import RecordedImages, record_failure, repeat_failure
from igll.engine.objectives import build_objectives
from igll.engine.state import build_state
from igll.engine.step import train_step
from igll.engine.train import train
from igll.engine.trained import load_generator
from igll.errors import InputError, NumericsError

CPU = torch.device("cpu")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "repeat_failure.py"


@pytest.fixture
def failed(small, tmp_path: Path):
    """Trains two steps, damages something, and records the step that fails."""

    def run(damage, **sections) -> tuple[Path, str]:
        config = small(**sections)
        training, _, detector = open_data(config)
        if detector is not None and training.edges is not None:
            prepare_edge_maps(training, training.edges, detector, CPU)
        torch.manual_seed(0)
        state, objectives = build_state(config, CPU), build_objectives(config)
        layout_of = partial(state.generator.layout, whole_frame=objectives.whole_frame)
        batches = training_batches(config, training, 0, 3, CPU, layout_of)
        for _ in range(2):
            train_step(state, objectives, config, next(batches), training)
            state.step += 1
        batch = next(batches)
        damage(state, batch)
        with pytest.raises(NumericsError) as raised:
            train_step(state, objectives, config, batch, training)
        images = RecordedImages([training.name(index) for index in batch.indices], len(training))
        record_failure(tmp_path / "step.pt", state, config, batch, images, str(raised.value))
        return tmp_path / "step.pt", str(raised.value)

    return run


def test_a_broken_target_is_found_in_the_batch(failed):
    def damage(state, batch) -> None:
        batch.target_BCHW[1, 0, 3, 4] = math.nan

    path, message = failed(damage, losses={"adversarial": 0})
    found = repeat_failure(path)
    assert found.recorded == message and "step 3: 'generator/local' is nan" in message
    assert found.inputs == ["target_BCHW"] and found.weights == [] and found.output is None
    assert {"generator/local", "generator/total"} <= set(found.again)


def test_a_layer_that_overflows_is_named(failed):
    def damage(state, batch) -> None:
        with torch.no_grad():
            state.generator.pirn.decoder[0][0].weight.fill_(3e38)

    path, _ = failed(damage, losses={"adversarial": 0})
    found = repeat_failure(path)
    assert found.inputs == [] and found.weights == []
    assert found.output == "generator.pirn.decoder.0.0"
    assert any(name.startswith("generator.pirn.") for name in found.gradients)


def test_layers_that_are_computed_as_one_are_named_together(failed):
    def damage(state, batch) -> None:
        with torch.no_grad():
            state.generator.edges.stem[3].weight.fill_(3e38)

    path, _ = failed(damage, model={"structure_prior": "learned"}, losses={"adversarial": 0, "edge": 1})
    found = repeat_failure(path)
    assert found.weights == [] and found.output == "generator.edges.stem"


def test_a_broken_weight_of_the_discriminator_is_named(failed):
    def damage(state, batch) -> None:
        with torch.no_grad():
            next(state.discriminator.parameters())[0] = math.inf

    path, message = failed(damage)
    found = repeat_failure(path)
    assert "'discriminator/total' is nan" in message and found.again[0] == "discriminator/total"
    assert len(found.weights) == 1 and found.weights[0].startswith("discriminator.")


def test_terms_that_were_finite_come_out_as_they_were_and_nothing_moves(failed, monkeypatch):
    """The generator's half fails: what it saw of the discriminator is what the record holds."""
    seen, before = {}, {}

    def damage(state, batch) -> None:
        from igll.losses.edges import EdgeCompletionLoss

        monkeypatch.setattr(EdgeCompletionLoss, "forward", lambda self, logits, *_: logits.sum() * math.nan)
        note = state.watch.note

        def remembering(step, values, images) -> None:
            seen.update({name: value.item() for name, value in values.items()})
            note(step, values, images)

        state.watch.note = remembering
        before.update({name: value.clone() for name, value in state.generator.state_dict().items()})

    path, message = failed(damage)
    assert "'generator/edge' is nan" in message
    found = repeat_failure(path)
    for name in ("generator/local", "generator/pixel", "generator/svd"):
        assert found.terms[name] == seen[name]
    # Spectral normalisation's running vectors have moved on by a pass.
    assert found.terms["generator/adversarial"] == pytest.approx(seen["generator/adversarial"], rel=1e-4)
    assert set(found.again) == {"generator/edge", "generator/total", "gradient/generator"}
    saved = torch.load(path, weights_only=True)["generator"]
    assert all(torch.equal(saved[name], value) for name, value in before.items())


def test_a_step_that_is_finite_is_said_to_be(failed):
    path, _ = failed(lambda state, batch: batch.target_BCHW.fill_(math.nan), losses={"adversarial": 0})
    content = torch.load(path, weights_only=True)
    content["batch"]["target_BCHW"] = content["batch"]["image_BCHW"]
    from igll.engine.checkpoint import save_checkpoint

    save_checkpoint(path, {name: value for name, value in content.items() if name != "format"})
    assert repeat_failure(path).again == []


def test_the_script_prints_what_it_found(failed):
    path, message = failed(lambda state, batch: batch.target_BCHW.fill_(math.nan), losses={"adversarial": 0})
    done = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout and "not finite in the batch: target_BCHW" in done.stdout
    assert "not finite again: generator/" in done.stdout


def test_a_plain_checkpoint_is_no_record(small, tmp_path: Path):
    config = small()
    build_state(config, CPU).save(tmp_path / "last.pt", config)
    with pytest.raises(InputError, match="not the record of a step"):
        repeat_failure(tmp_path / "last.pt")


def test_a_run_that_fails_leaves_the_record_that_repeats_it(small, tmp_path: Path, monkeypatch):
    """The batch is made anew from the seed and the step, with the weights that the failing step saw."""
    whole = train_step.__globals__["_gradient_norm"]
    poisoned = []

    def poison(optimizer, loss, clip):
        if len(poisoned) == 2:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0][0] = math.nan
        poisoned.append(None)
        return whole(optimizer, loss, clip)

    monkeypatch.setattr("igll.engine.step._gradient_norm", poison)
    run = tmp_path / "run"
    with pytest.raises(NumericsError, match=r"step 4: .* is nan; images: .*step_0000004\.pt"):
        train(small(losses={"adversarial": 0}, train={"eval_every": 100}), run)
    monkeypatch.undo()
    found = repeat_failure(run / "failures" / "step_0000004.pt")
    assert found.recorded.startswith("step 4: 'generator/") and found.again[0] in found.recorded
    assert len(found.weights) == 1 and found.weights[0].startswith("generator.")


def test_a_record_is_no_trained_network(failed):
    def damage(state, batch) -> None:
        batch.target_BCHW[1, 0, 3, 4] = math.nan

    path, _ = failed(damage, losses={"adversarial": 0})
    with pytest.raises(InputError, match="record of a step that was not finite"):
        load_generator(path)
