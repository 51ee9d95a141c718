"""The training loop: it learns, records, stops, resumes exactly and refuses what cannot work."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from igll import cli
from igll.config import TrainConfig, load_config
from igll.engine import step as stepping
from igll.engine import train as engine
from igll.engine.checkpoint import load_checkpoint
from igll.engine.step import learning_rate
from igll.engine.train import train
from igll.errors import InputError, NumericsError
from tests.engine.conftest import QUICKSTART
from tests.engine.run_files import differing


def lines(run: Path, split: str) -> list[dict]:
    return [
        line
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if line["split"] == split
    ]


def test_a_run_leaves_everything_it_promises(small, tmp_path: Path):
    run = tmp_path / "run"
    assert train(small(), run) == 0
    assert load_config(run / "config.yaml") == small()
    assert {line["step"] for line in lines(run, "train")} == set(range(1, 7))
    assert [line["step"] for line in lines(run, "val")] == [3, 6]
    terms = {"generator/local", "generator/pixel", "generator/svd", "generator/edge", "generator/adversarial"}
    assert terms | {"generator/total", "discriminator/total"} <= lines(run, "train")[0].keys()
    assert all(math.isfinite(line["generator/total"]) for line in lines(run, "train"))
    assert (run / "checkpoints" / "best.pt").exists() and (run / "sheets" / "step_0000006.png").exists()
    assert Image.open(run / "sheets" / "step_0000006.png").width > 200
    assert any((run / "tensorboard").glob("events*"))
    saved = load_checkpoint(run / "checkpoints" / "last.pt")
    assert saved["step"] == 6 and saved["ema"].keys() == saved["generator"].keys()


def test_training_learns_to_fill(small, tmp_path: Path):
    """From an empty hole and fresh weights, the loss falls well below where it started."""
    config = small(
        model={"width": 8, "prefill": "none", "residual": False},
        data={"limit": 2, "augment": False},
        losses={"adversarial": 0},
        mask={"placement": "center"},
        train={"epochs": 1000, "max_steps": 60, "eval_every": 60, "checkpoint_every": 60},
    )
    train(config, tmp_path / "run")
    values = [line["generator/local"] for line in lines(tmp_path / "run", "train")]
    assert sum(values[-5:]) / 5 < 0.6 * values[0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("prior", ["learned", "oracle"])
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(small, tmp_path, monkeypatch, prior, workers):
    config = small(model={"structure_prior": prior}, data={"workers": workers})
    train(config, tmp_path / "whole")

    class Killed(BaseException):
        pass

    step = engine.train_step

    def dies_in_step_six(state, *rest):
        if state.step == 5:
            raise Killed
        return step(state, *rest)

    monkeypatch.setattr(engine, "train_step", dies_in_step_six)
    with pytest.raises(Killed):
        train(config, tmp_path / "killed")
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "killed" / "checkpoints" / "last.pt")["step"] == 4
    torch.manual_seed(1234)  # a new process starts with other random numbers
    assert train(config, tmp_path / "killed", resume=True) == 0

    whole, resumed = (
        load_checkpoint(tmp_path / run / "checkpoints" / "last.pt") for run in ("whole", "killed")
    )
    assert differing(whole, resumed) == []
    for split in ("train", "val"):
        logs = [lines(tmp_path / run, split) for run in ("whole", "killed")]
        assert [{**line, "time": 0} for line in logs[0]] == [{**line, "time": 0} for line in logs[1]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_leaves(small, tmp_path, monkeypatch, number, code):
    step = engine.train_step

    def signalled(state, *rest):
        if state.step == 2:
            os.kill(os.getpid(), number)
        return step(state, *rest)

    monkeypatch.setattr(engine, "train_step", signalled)
    before = signal.getsignal(number)
    assert train(small(train={"checkpoint_every": 100}), tmp_path / "run") == code
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 3
    assert signal.getsignal(number) is before


def test_a_run_is_not_overwritten(small, tmp_path: Path):
    train(small(train={"max_steps": 2}), tmp_path / "run")
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        train(small(), tmp_path / "run")
    with pytest.raises(InputError, match=r"other model settings \(model\.heads=1, here 3\)"):
        train(small(model={"heads": 3}), tmp_path / "run", resume=True)
    with pytest.raises(InputError, match=r"discriminator.* differs"):
        train(small(losses={"adversarial": 0}), tmp_path / "run", resume=True)


def test_a_non_finite_loss_stops_before_the_update(small, tmp_path, monkeypatch):
    before = {}

    def poisoned(self, prediction, target, mask):
        return prediction.sum() * math.nan

    build = engine.build_state

    def remembered(*arguments):
        before["state"] = build(*arguments)
        before["weights"] = {k: v.clone() for k, v in before["state"].generator.state_dict().items()}
        return before["state"]

    monkeypatch.setattr(engine, "build_state", remembered)
    monkeypatch.setattr("igll.losses.pixel.LocalL1Loss.forward", poisoned)
    with pytest.raises(NumericsError, match=r"step 1: 'generator/local' is nan; images: synthetic-0"):
        train(small(losses={"adversarial": 0}), tmp_path / "run")
    after = before["state"].generator.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before["weights"].items())


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_non_finite_gradient_spares_that_networks_weights(small, tmp_path, monkeypatch, network):
    measured = stepping._gradient_norm

    def poisoned(optimizer, loss, clip):
        norm = measured(optimizer, loss, clip)
        mine = optimizer is (
            built["state"].generator_optimizer
            if network == "generator"
            else built["state"].discriminator_optimizer
        )
        return norm * math.nan if mine else norm

    built, build = {}, engine.build_state

    def remembered(*arguments):
        built["state"] = build(*arguments)
        part = getattr(built["state"], network)
        built["weights"] = {name: value.clone() for name, value in part.named_parameters()}
        return built["state"]

    monkeypatch.setattr(engine, "build_state", remembered)
    monkeypatch.setattr(stepping, "_gradient_norm", poisoned)
    with pytest.raises(NumericsError, match=rf"step 1: 'gradient/{network}' is nan; images: synthetic-0"):
        train(small(), tmp_path / "run")
    after = dict(getattr(built["state"], network).named_parameters())
    assert all(torch.equal(after[name], value) for name, value in built["weights"].items())
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 0


def test_five_discriminator_steps_per_generator_step(small, tmp_path, monkeypatch):
    updates = []
    update = stepping._update
    monkeypatch.setattr(
        stepping, "_update", lambda optimizer, rate: (updates.append(optimizer), update(optimizer, rate))
    )
    train(small(discriminator={"steps": 5}, train={"max_steps": 2}), tmp_path / "run")
    assert [updates.count(optimizer) for optimizer in dict.fromkeys(updates)] == [10, 2]


def test_in_mixed_precision_a_network_is_seen_with_the_weights_of_its_last_update():
    """Autocast keeps 16-bit copies of weights as long as its context lasts, which is several updates."""
    torch.manual_seed(0)
    network, input_BC = torch.nn.Linear(4, 4), torch.rand(3, 4)
    optimizer = torch.optim.Adam(network.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        stepping._gradient_norm(optimizer, network(input_BC).float().square().sum(), 0.0)
        before = network(input_BC)
        stepping._update(optimizer, 0.5)
        after = network(input_BC)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(after, network(input_BC))
    assert not torch.equal(after, before)


def test_a_hole_filled_exactly_does_not_freeze_the_best_checkpoint(small, tmp_path, monkeypatch):
    others = iter([20.0, 30.0])
    monkeypatch.setattr(
        "igll.engine.validate.hole_psnr",
        lambda result, *_: torch.tensor([math.inf] + [next(others)] * (len(result) - 1)),
    )
    train(small(), tmp_path / "run")
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert best["step"] == 6 and math.isfinite(best["best"])


def test_pairs_without_a_hole_say_that_there_is_no_score(small, tmp_path: Path, capsys):
    for part, level in (("label", 60), ("cloud", 80)):  # even haze, which hides nothing
        (tmp_path / part).mkdir()
        for number in range(5):
            colour = (level, level + number, level)
            Image.new("RGB", (32, 32), colour).save(tmp_path / part / f"{number}.png")
    data = {"name": "rice1", "root": str(tmp_path), "use": "pairs", "test_fraction": 0.4}
    train(small(data=data, train={"max_steps": 2, "eval_every": 1}), tmp_path / "run")
    told = capsys.readouterr()
    assert told.err.count("none of the 2 validation image(s) has a hole") == 1
    assert "step 2: no hole PSNR: no validation image has a hole" in told.out and "nan" not in told.out
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")["step"] == 2


def test_resuming_says_which_settings_changed(small, tmp_path: Path, capsys):
    train(small(train={"max_steps": 1}), tmp_path / "run")
    train(small(train={"max_steps": 2}, seed=7), tmp_path / "run", resume=True)
    assert "resuming with other settings than before: seed, train.max_steps" in capsys.readouterr().err


@pytest.mark.parametrize("prior", ["none", "reference", "oracle"])
def test_every_structure_prior_trains(small, tmp_path: Path, prior: str):
    train(small(model={"structure_prior": prior}, train={"max_steps": 1}), tmp_path / "run")
    assert (tmp_path / "edge_maps").exists() == (prior != "none")


def test_the_released_codes_terms_and_vgg_train(small, tmp_path: Path, shared: Path):
    weights = str(shared / "weights" / "vgg16_features_fp16.safetensors")
    losses = {
        "perceptual": 1, "style": 5, "self_guided": 1, "alignment": 1, "feature_matching": 5,
        "backbone": "vgg16", "vgg_weights": weights, "feature_scale": "unit",
    }  # fmt: skip
    train(small(losses=losses, train={"max_steps": 1}), tmp_path / "run")
    names = {"perceptual", "style", "self_guided", "alignment", "feature_matching"}
    line = lines(tmp_path / "run", "train")[0]
    assert all(line[f"generator/{name}"] > 0 for name in names)


@pytest.mark.parametrize("asking", [{"perceptual": 1}, {"self_guided": 1, "alignment": 0.5}])
def test_missing_vgg_weights_refuse_to_start_and_say_what_to_do(small, tmp_path, monkeypatch, asking):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    without = " ".join(f"losses.{name}=0" for name in asking)
    with pytest.raises(InputError, match=rf"vgg19-dcbb9e9d\.pth.* do without: {re.escape(without)}$"):
        train(small(losses=asking), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_pidinet_weights_refuse_to_start_and_say_what_to_do(small, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"table5_pidinet\.pth.*edges\.weights"):
        train(small(edges={"detector": "pidinet"}), tmp_path / "run")


def test_testing_on_the_training_images_is_refused(small, tmp_path: Path):
    (tmp_path / "images").mkdir()
    folders = {"root": str(tmp_path / "images"), "val_root": str(tmp_path / "run" / ".." / "images")}
    with pytest.raises(InputError, match=r"^data\.val_root: .*images is data\.root too, .* leave it out"):
        train(small(data={"name": "folder", **folders}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("prior", "edge"), [("learned", 0), ("oracle", 1)])
def test_a_run_that_would_learn_nothing_is_refused(small, tmp_path: Path, prior: str, edge: int):
    losses = {"local": 0, "pixel": 0, "adversarial": 0, "svd": 0, "edge": edge}
    with pytest.raises(InputError, match=r"^losses: every weight is 0.*, so .* such as losses\.local=1"):
        train(small(model={"structure_prior": prior}, losses=losses), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_singular_values_than_the_crop_has_are_refused(small, tmp_path: Path):
    with pytest.raises(InputError, match=r"losses\.svd_leading: 40 singular values of a matrix of side 32"):
        train(small(losses={"svd_leading": 40}), tmp_path / "run")


def test_a_file_that_breaks_during_training_saves_what_was_learnt(small, tmp_path: Path):
    root = tmp_path / "images"
    root.mkdir()
    for number in range(6):
        Image.effect_noise((40, 40), 60).convert("RGB").save(root / f"{number}.png")
    config = small(
        model={"structure_prior": "none"},
        data={"name": "folder", "root": str(root)},
        train={"eval_images": 1, "checkpoint_every": 100},
    )
    step = engine.train_step

    def breaking(state, *rest):
        for path in root.iterdir():
            path.write_bytes(b"gone")
        return step(state, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "train_step", breaking)
        with pytest.raises(InputError, match=r"images/\d\.png"):
            train(config, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] >= 1


def test_schedules():
    steps = TrainConfig(lr=1e-4)
    assert [learning_rate(steps, step, 0) for step in (0, 1_999, 2_000, 40_000)] == [1e-4, 1e-4, 5e-5, 2.5e-5]
    cosine = TrainConfig(lr=1.0, schedule="cosine")
    assert [learning_rate(cosine, step, 4) for step in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0.0])
    assert learning_rate(TrainConfig(lr=0.3, schedule="constant"), 10**6, 4) == 0.3


def test_the_average_follows_the_weights(small, tmp_path: Path):
    config = small(train={"max_steps": 3, "ema_decay": 0.5})
    train(config, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    name = "pirn.feature_branch.0.0.weight"
    assert not torch.equal(saved["ema"][name], saved["generator"][name])
    assert (saved["ema"][name] - saved["generator"][name]).abs().max() < 3e-3
    train(small(train={"max_steps": 1, "ema_decay": 0}), tmp_path / "without")
    assert "ema" not in load_checkpoint(tmp_path / "without" / "checkpoints" / "last.pt")


@pytest.mark.parametrize(
    "path", sorted(QUICKSTART.parent.glob("release/igll_*.yaml")), ids=lambda path: path.stem
)
def test_release_configs_train_one_step(tmp_path: Path, shared: Path, path: Path):
    """The recipes of shipped weights; only sizes and places are overridden."""
    for number in range(5):
        folder = tmp_path / "data" / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 60).convert("RGB").save(folder / f"{number}.png")
    overrides = [
        f"data.root={tmp_path / 'data'}", "device=cpu", "model.width=4",
        "discriminator.width=4", "data.crop_size=64", "train.batch_size=2", "train.max_steps=1",
        "train.eval_images=2", f"losses.vgg_weights={shared / 'weights' / 'vgg16_features_fp16.safetensors'}",
        f"edges.cache={tmp_path / 'maps'}",
    ]  # fmt: skip
    config = load_config(path, overrides)
    assert train(config, tmp_path / "run") == 0
    (terms,) = lines(tmp_path / "run", "train")
    textured = path.stem.split("_")[2:3] in (["textured"], ["exemplar"])
    assert (
        config.model.skips and ("generator/style" in terms) == ("generator/adversarial" in terms) == textured
    )


@pytest.mark.parametrize("config", ["aid_77", "rice1_10_blind", "rice2_25", "clearview_77_blind"])
def test_shipped_configs_train_one_step_through_the_entry_point(tmp_path: Path, shared: Path, config: str):
    """Shipped YAML, published layouts, full losses; only sizes and weights' places are overridden."""
    name, root = config.split("_")[0], tmp_path / "data"
    folders = {"aid": "Farm", "rice1": "label", "rice2": "label", "clearview": "clear"}
    (root / folders[name]).mkdir(parents=True)
    for number in range(5):
        picture = Image.effect_noise((64, 64), 60).convert("RGB")
        picture.save(root / folders[name] / f"{number}.png")
    weights = shared / "weights"
    overrides = [
        f"data.root={root}", "model.width=4", "discriminator.width=4", "data.crop_size=64", "data.workers=0",
        "train.batch_size=2", "train.max_steps=1", "losses.backbone=vgg16", "losses.svd_leading=8",
        "device=cpu",
        f"losses.vgg_weights={weights / 'vgg16_features_fp16.safetensors'}", "losses.feature_scale=unit",
        f"edges.weights={weights / 'table5_pidinet.pth'}", f"edges.cache={tmp_path / 'maps'}",
    ]  # fmt: skip
    path = QUICKSTART.with_name(f"{config}.yaml")
    with pytest.raises(SystemExit) as end:
        cli.train(["--config", str(path), "--out", str(tmp_path / "run"), *overrides])
    assert end.value.code == 0
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert resolved["data"]["name"] == name and resolved["train"]["betas"] == [0.5, 0.9]
