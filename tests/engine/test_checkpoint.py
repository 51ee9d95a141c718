"""Checkpoints: whole or absent, readable without running anything."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import pytest
import torch

from igll import storage
from igll.config import build_config
from igll.engine.checkpoint import FORMAT, load_checkpoint, load_generator, save_checkpoint
from igll.errors import InputError, OutputError
from igll.registry import build_generator


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def saved(path: Path, **changes) -> Path:
    config = build_config({"model": {"width": 4, "structure_prior": "none", "position_grid": 4}})
    torch.manual_seed(0)
    state = {
        "generator": build_generator(config.model).state_dict(),
        "ema": None,
        "config": config.model_dump(),
        "step": 12,
    }
    save_checkpoint(path, {**state, **changes})
    return path


def test_a_generator_comes_back_equal_and_in_evaluation_mode(tmp_path: Path):
    generator, config, step = load_generator(saved(tmp_path / "last.pt"))
    torch.manual_seed(0)
    expected = build_generator(config.model).state_dict()
    assert step == 12 and not generator.training
    assert all(torch.equal(value, expected[name]) for name, value in generator.state_dict().items())


def test_the_average_is_taken_unless_raw_weights_are_asked_for(tmp_path: Path):
    path = saved(tmp_path / "last.pt")
    weights = load_checkpoint(path)["generator"]
    path = saved(tmp_path / "last.pt", ema={name: value + 1 for name, value in weights.items()})
    for kind, shift in (("ema", 1), ("raw", 0)):
        found = load_generator(path, kind)[0].state_dict()
        assert all(torch.equal(value, weights[name] + shift) for name, value in found.items())


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"format": FORMAT, "generator": bomb}])
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_bomb_is_refused_and_does_not_go_off(tmp_path: Path, wrap, write):
    path, target = tmp_path / "bomb.pt", tmp_path / "gone_off"
    write(wrap(Bomb(target)), path)
    with pytest.raises(InputError, match=r"bomb\.pt") as caught:
        load_checkpoint(path)
    assert not target.exists() and "\n" not in str(caught.value)
    with contextlib.suppress(RuntimeError):  # a plain pickle goes off, then turns out to be no torch file
        torch.load(path, weights_only=False)
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot|can be read"),
        (b"these are not weights", "can be read"),
        (b"PK\x03\x04" + b"\0" * 200, "can be read"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"other\.pt: .*({reason})"):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_named(tmp_path: Path):
    path = saved(tmp_path / "last.pt")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"last\.pt: not a checkpoint that can be read"):
        load_checkpoint(path)


def test_missing_foreign_and_newer_files(tmp_path: Path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(InputError, match="can be read"):
        load_checkpoint(tmp_path)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match="not a checkpoint written by igll-train"):
        load_checkpoint(tmp_path / "foreign.pt")
    torch.save({"format": FORMAT + 1, "generator": {}, "config": {}, "step": 0}, tmp_path / "newer.pt")
    with pytest.raises(InputError, match=f"format {FORMAT + 1}, this version of igll reads format {FORMAT}"):
        load_checkpoint(tmp_path / "newer.pt")


def test_weights_of_another_shape_are_named(tmp_path: Path):
    path = saved(tmp_path / "last.pt")
    weights = load_checkpoint(path)["generator"]
    weights["pirn.decoder.0.0.weight"] = weights["pirn.decoder.0.0.weight"][:, :1].clone()
    with pytest.raises(InputError, match=r"first difference: pirn\.decoder\.0\.0\.weight"):
        load_generator(saved(tmp_path / "other.pt", generator=weights))
    del weights["pirn.decoder.0.0.weight"]
    with pytest.raises(InputError, match=r"first difference: pirn\.decoder\.0\.0\.weight"):
        load_generator(saved(tmp_path / "other.pt", generator=weights))


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(tmp_path: Path, monkeypatch):
    path = saved(tmp_path / "last.pt")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OutputError, match=r"last\.pt: cannot be written \(No space left on device\)"):
        saved(path, step=13)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [{"generator": 3}, {"config": 3}])
def test_a_checkpoint_of_the_wrong_shape_is_named(tmp_path: Path, damage: dict):
    with pytest.raises(InputError, match=r"last\.pt: damaged"):
        load_generator(saved(tmp_path / "last.pt", **damage))
