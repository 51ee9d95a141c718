"""Blended weights lie where they should between two networks, and networks that are not alike are refused."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from igll.engine.blending import blend
from igll.engine.initial import show_exemplar
from igll.engine.shared_weights import load_shared_weights, read_notes, save_shared_weights
from igll.errors import InputError
from igll.registry import build_generator

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export_weights.py"


@pytest.fixture
def pair(small):
    config = small()
    torch.manual_seed(0)
    return config, build_generator(config.model), build_generator(config.model)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_weight_is_the_weighted_mean(pair, share: float):
    config, one, other = pair
    expected = {
        name: (1 - share) * value.double().numpy() + share * other.state_dict()[name].double().numpy()
        for name, value in one.state_dict().items()
    }
    before = {name: value.clone() for name, value in other.state_dict().items()}
    blend(one, config, other, config, share, "other.pt")
    for name, value in one.state_dict().items():
        np.testing.assert_allclose(value.double().numpy(), expected[name], atol=1e-7)
        assert torch.equal(other.state_dict()[name], before[name])


def test_weights_without_an_exemplar_stand_for_the_start_of_a_training_with_one(small):
    plain, shown = (small(model={"exemplar": exemplar}) for exemplar in (False, True))
    torch.manual_seed(0)
    start, network = build_generator(plain.model), build_generator(shown.model)
    blend(network, shown, start, plain, 1.0, "start.pt")
    expected = dict(start.state_dict())
    show_exemplar(expected, 3)
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    with pytest.raises(InputError, match=r"other\.pt: model\.exemplar is True, not False"):
        blend(start, plain, network, shown, 0.5, "other.pt")


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_is_refused_and_changes_nothing(pair, share: float):
    config, one, other = pair
    before = {name: value.clone() for name, value in one.state_dict().items()}
    with pytest.raises(InputError, match="a number from 0 to 1"):
        blend(one, config, other, config, share, "other.pt")
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


def test_networks_of_other_settings_are_refused(pair, small):
    config, one, _ = pair
    other_config = small(model={"heads": 2})
    with pytest.raises(InputError, match=r"other\.pt: model\.heads is 2, not 1"):
        blend(one, config, build_generator(other_config.model), other_config, 0.5, "other.pt")


def test_the_script_writes_what_lies_between_and_says_so(
    pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, one, other = pair
    for name, generator in (("one", one), ("other", other)):
        save_shared_weights(tmp_path / f"{name}.safetensors", generator, config, 7, "float32")

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["export_weights", str(tmp_path / "one.safetensors"), *arguments])
        assert runpy.run_path(str(SCRIPT))["main"]() == 0

    out, towards = tmp_path / "between.safetensors", str(tmp_path / "other.safetensors")
    run("--out", str(out), "--precision", "float32", "--blend", towards, "0.25")
    found = load_shared_weights(out)[0].state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(found[name], 0.75 * value + 0.25 * other.state_dict()[name])
    assert read_notes(out)["blend"].startswith("0.25 of the way to weights of step 7, sha256 ")
    for share, message in (("much", "--blend .* much: the share is a number"), ("2", "from 0 to 1")):
        with pytest.raises(InputError, match=message):
            run("--out", str(out), "--blend", towards, share)
    for name in ("blend", "exemplar"):
        with pytest.raises(InputError, match="a name of your own"):
            run("--out", str(out), "--note", f"{name}=none")


def test_the_script_adds_an_exemplar_to_what_was_trained_without(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = small()
    plain, path, out = (
        build_generator(config.model),
        tmp_path / "plain.safetensors",
        tmp_path / "shown.safetensors",
    )
    save_shared_weights(path, plain, config, 7, "float32")
    arguments = ["--precision", "float32", "--exemplar", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["export_weights", str(path), *arguments])
    assert runpy.run_path(str(SCRIPT))["main"]() == 0
    shown, shown_config, step = load_shared_weights(out)
    assert shown_config.model.exemplar and step == 7
    expected = plain.state_dict()
    show_exemplar(expected, 3)
    assert all(torch.equal(value, expected[name]) for name, value in shown.state_dict().items())
    assert read_notes(out)["exemplar"].startswith("added without training to weights of step 7, sha256 ")
    monkeypatch.setattr(sys, "argv", ["export_weights", str(out), *arguments])
    with pytest.raises(InputError, match=r"shown\.safetensors: model\.exemplar can be added"):
        runpy.run_path(str(SCRIPT))["main"]()
