"""Checkpoints: whole or absent, readable without running anything."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from igll import storage
from igll.config import build_config
from igll.engine.checkpoint import (
    FORMAT,
    DamagedCheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from igll.engine.trained import load_generator
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
        (b"", "damaged, empty"),
        (b"\0" * 5_000, "damaged, begins with zeros"),
        (b"these are not weights", r"not a checkpoint that can be read \(of another kind\)"),
        (b"PK\x03\x04" + b"\0" * 200, "damaged, cut off or overwritten"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"other\.pt: {reason}") as caught:
        load_checkpoint(path)
    assert isinstance(caught.value, DamagedCheckpointError) == ("damaged" in reason)


def of_format_1(path: Path) -> Path:
    """As the first version wrote them: the zip and nothing behind it."""
    content = torch.load(saved(path), weights_only=True)
    torch.save({**content, "format": 1}, path)
    return path


def test_checkpoints_of_the_first_format_are_still_read(tmp_path: Path):
    path = of_format_1(tmp_path / "old.pt")
    generator, _, step = load_generator(path)
    expected = load_generator(saved(tmp_path / "last.pt"))[0].state_dict()
    assert load_checkpoint(path)["format"] == 1 and step == 12
    assert all(torch.equal(value, expected[name]) for name, value in generator.state_dict().items())


@pytest.mark.parametrize("write", [saved, of_format_1])
def test_damage_anywhere_is_noticed(tmp_path: Path, write):
    """A flipped bit in 300 places, every way of being cut off, and blocks of zeros as after a power cut."""
    path = write(tmp_path / "last.pt")
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    damaged = [
        whole[:length]
        for length in (1, 100, len(whole) // 2, len(whole) - 77, len(whole) - 5, len(whole) - 1)
    ]
    for start in (0, len(whole) // 3, len(whole) - 4096):
        damaged.append(whole[:start] + bytes(4096) + whole[start + 4096 :])
    if write is saved:  # without a digest, some bytes of a zip are covered by nothing
        for place, bit in zip(draw.integers(0, len(whole), 300), draw.integers(0, 8, 300), strict=True):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(DamagedCheckpointError, match=r"last\.pt: damaged") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_flipped_weights_are_noticed_without_a_digest_too(tmp_path: Path):
    path = of_format_1(tmp_path / "old.pt")
    weight = load_checkpoint(path)["generator"]["pirn.decoder.0.0.weight"]
    weights = bytes(weight.untyped_storage())
    content = bytearray(path.read_bytes())
    content[content.index(weights) + len(weights) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"old\.pt: damaged"):
        load_checkpoint(path)


def test_a_disk_that_cannot_read_is_damage(tmp_path: Path, monkeypatch):
    path = saved(tmp_path / "last.pt")

    def broken(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(DamagedCheckpointError, match=r"last\.pt: .*Input/output error"):
        load_checkpoint(path)


def test_the_digest_is_of_the_content_and_others_need_not_know_of_it(tmp_path: Path):
    path = saved(tmp_path / "last.pt")
    content = path.read_bytes()
    assert content[-76:] == b"igll sha256 " + hashlib.sha256(content[:-76]).hexdigest().encode()
    plain = torch.load(path, weights_only=True)
    mapped = torch.load(path, weights_only=True, mmap=True)
    for name, value in load_checkpoint(path)["generator"].items():
        assert torch.equal(value, plain["generator"][name]) and torch.equal(value, mapped["generator"][name])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and archive.comment == content[-76:]


def test_a_bomb_with_a_digest_is_refused_and_not_called_damaged(tmp_path: Path):
    target = tmp_path / "gone_off"
    saved(tmp_path / "bomb.pt", extra=Bomb(target))
    with pytest.raises(InputError, match=r"bomb\.pt: refused, it holds more than weights") as caught:
        load_checkpoint(tmp_path / "bomb.pt")
    assert not isinstance(caught.value, DamagedCheckpointError) and not target.exists()


def test_the_one_before_survives_under_another_name(tmp_path: Path):
    path, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (1, 2, 3):
        save_checkpoint(path, {"generator": {}, "config": {}, "step": step}, previous)
    assert load_checkpoint(path)["step"] == 3 and load_checkpoint(previous)["step"] == 2


def test_missing_foreign_and_newer_files(tmp_path: Path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(InputError, match=r"not a checkpoint that can be read \(Is a directory\)"):
        load_checkpoint(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "scene.png")
    with pytest.raises(InputError, match="not a checkpoint that can be read"):
        load_checkpoint(tmp_path / "scene.png")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match="not a checkpoint written by igll-train"):
        load_checkpoint(tmp_path / "foreign.pt")
    torch.save({"format": FORMAT + 1, "generator": {}, "config": {}, "step": 0}, tmp_path / "newer.pt")
    newer = rf"format {FORMAT + 1} of a newer igll, this version reads up to format {FORMAT}; upgrade igll"
    with pytest.raises(InputError, match=newer) as caught:
        load_checkpoint(tmp_path / "newer.pt")
    assert not isinstance(caught.value, DamagedCheckpointError)
    for number in (0, -1, "2"):
        torch.save({"format": number, "generator": {}, "config": {}, "step": 0}, tmp_path / "odd.pt")
        with pytest.raises(InputError, match="not a checkpoint written by igll-train"):
            load_checkpoint(tmp_path / "odd.pt")


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
