"""Training that starts from trained weights: what it takes over, what it does not, and what it refuses."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

from igll.cli import train as command
from igll.config import load_config
from igll.engine import train as engine
from igll.engine.checkpoint import load_checkpoint
from igll.engine.initial import initial_weights
from igll.engine.shared_weights import load_shared_weights, save_shared_weights
from igll.engine.state import build_state
from igll.engine.train import train
from igll.engine.trained import load_generator
from igll.errors import InputError
from igll.models.reconstruction import GATE_START
from igll.weights import BEST, SHIPPED
from tests.engine.conftest import QUICKSTART
from tests.engine.run_files import differing, last_of

CPU = torch.device("cpu")
SHORT = {"max_steps": 1, "checkpoint_every": 1, "eval_images": 1, "ema_decay": 0.5}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def source(small, home: Path) -> Path:
    """A checkpoint of one step, whose averaged weights are not the raw ones."""
    path = home / "run" / "checkpoints" / "last.pt"
    if not path.exists():
        train(small(train=SHORT, edges={"cache": str(home / "maps")}), home / "run")
        saved = load_checkpoint(path)
        assert differing(saved["ema"], saved["generator"])
    return path


@pytest.fixture
def started(monkeypatch):
    """Runs the training up to its first step and gives its state there."""

    def start(config, out: Path):
        states = []
        monkeypatch.setattr(engine, "_take_steps", lambda run, *_: states.append(run.state) or 0)
        train(config, out)
        return states[0]

    return start


def same(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    return not differing(dict(network.state_dict()), dict(weights))


def test_at_step_0_both_generators_have_the_averaged_weights_and_the_rest_is_fresh(
    small, source: Path, home: Path, tmp_path: Path, started
):
    cache = {"cache": str(home / "maps")}
    state = started(small(train={**SHORT, "init": str(source)}, edges=cache), tmp_path / "tuned")
    fresh = started(small(train=SHORT, edges=cache), tmp_path / "fresh")
    average = load_checkpoint(source)["ema"]
    assert same(state.generator, average) and same(state.ema, average)
    assert not same(fresh.generator, average)
    assert same(state.discriminator, fresh.discriminator.state_dict()), "the start draws no random number"
    assert state.step == 0 and state.best == -math.inf
    assert not state.generator_optimizer.state and not state.discriminator_optimizer.state
    assert load_config(tmp_path / "tuned" / "config.yaml").train.init == str(source)


def test_shared_weights_do_as_well(small, source: Path, tmp_path: Path):
    generator, config, step = load_generator(source)
    path = tmp_path / "w.safetensors"
    save_shared_weights(path, generator, config.model_copy(deep=True), step)
    tuned = small(train={**SHORT, "init": str(path)})
    state = build_state(tuned, CPU, initial_weights(tuned))
    assert same(state.generator, load_shared_weights(path)[0].state_dict())
    save_shared_weights(path, generator, tuned, step)
    assert load_shared_weights(path)[1].train.init is None, "a path of the machine stays at home"


def test_weights_that_ship_are_taken_by_their_name():
    shipped, config, _ = load_generator(SHIPPED[BEST].path)
    tuned = config.model_copy(update={"train": config.train.model_copy(update={"init": BEST})})
    assert differing(initial_weights(tuned), dict(shipped.state_dict())) == []


def test_a_network_shown_an_exemplar_may_start_from_one_without_but_not_the_other_way_round(
    small, tmp_path: Path
):
    def config(exemplar: bool, init: Path | None = None):
        model = {"width": 4, "structure_prior": "none", "skips": True, "exemplar": exemplar}
        return small(model=model, train={**SHORT, "init": None if init is None else str(init)})

    plain, shown = (build_state(config(exemplar), CPU).generator for exemplar in (False, True))
    torch.nn.init.normal_(plain.pern.decoder[-1].weight, std=0.05)
    for name, network in (("plain", plain), ("shown", shown)):
        save_shared_weights(tmp_path / f"{name}.safetensors", network, config(network is shown), 1, "float32")
    started = config(True, tmp_path / "plain.safetensors")
    network = build_state(started, CPU, initial_weights(started)).generator.eval()
    assert network.pern.decoder[-1].bias[-1] == GATE_START
    image_BCHW = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask_B1HW = torch.zeros(1, 1, 64, 64)
    mask_B1HW[..., 24:40, 20:36] = 1
    with torch.no_grad():
        expected, found = (net.eval()(image_BCHW, mask_B1HW)[1] for net in (plain, network))
        assert (found - expected).abs().max() > 0.1, "a part of the exemplar's detail from the start"
        network.pern.decoder[-1].bias[-1] = -50  # which is all that it sees of it
        # A layer with one more channel may add its products up in another order.
        torch.testing.assert_close(network(image_BCHW, mask_B1HW)[1], expected, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=r"was trained with model\.exemplar=True, but this run"):
        initial_weights(config(False, tmp_path / "shown.safetensors"))


def test_a_resumed_run_needs_the_file_no_more(small, source: Path, home: Path, tmp_path: Path):
    copied = shutil.copy(source, tmp_path / "start.pt")

    def tuned(steps: int):
        keys = {**SHORT, "max_steps": steps, "init": str(copied)}
        return small(train=keys, edges={"cache": str(home / "maps")})

    train(tuned(2), tmp_path / "whole")
    # Never begun, a run that may resume still starts from the file.
    train(tuned(1), tmp_path / "broken", resume=True)
    copied.unlink()
    assert train(tuned(2), tmp_path / "broken", resume=True) == 0
    whole, broken = last_of(tmp_path / "whole"), last_of(tmp_path / "broken")
    assert whole["step"] == 2 and differing(whole, broken) == []


def test_positions_of_another_grid_are_those_that_the_network_would_have_used(small, source: Path):
    keys = {**SHORT, "init": str(source)}
    wide = small(model={"position_grid": 24}, data={"crop_size": 96}, train=keys)
    state = build_state(wide, CPU, initial_weights(wide))
    before = load_generator(source)[0]
    image_BCHW = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask_B1HW = torch.zeros(1, 1, 96, 96)
    mask_B1HW[..., 30:60, 20:50] = 1
    with torch.inference_mode():
        expected, found = (
            network.eval()(image_BCHW, mask_B1HW, None)[1] for network in (before, state.generator)
        )
    assert torch.equal(found, expected)
    position = "pirn.attention_branch.attention.position_row"
    assert state.generator.state_dict()[position].shape[1] == 24
    assert before.state_dict()[position].shape[1] == 8


def test_another_model_is_refused_naming_what_differs(small, source: Path, tmp_path: Path):
    other = small(
        model={"width": 8, "prefill": "mean", "position_grid": 16}, train={**SHORT, "init": str(source)}
    )
    with pytest.raises(InputError) as raised:
        train(other, tmp_path / "run")
    assert str(raised.value) == (
        f"train.init: {source} was trained with model.width=4 model.prefill=pyramid, but this run has "
        "model.width=8 model.prefill=mean; give this run the same, or begin without train.init"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors"])
def test_a_path_without_a_file_is_one_line_and_nothing_is_written(tmp_path: Path, capsys, name: str):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as left:
        command(["--config", str(QUICKSTART), "--out", str(out), f"train.init={tmp_path / name}"])
    assert left.value.code == 2 and not out.exists()
    told = capsys.readouterr().err
    assert told.startswith(f"error: train.init: {tmp_path / name}: no such ") and told.count("\n") == 1
