"""Checkpoints and shared weights with anything in them: read or refused in one line, never half resumed."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import igll
from igll.engine.checkpoint import load_checkpoint, save_checkpoint
from igll.engine.shared_weights import save_shared_weights
from igll.engine.state import build_state
from igll.engine.trained import load_generator
from igll.registry import build_generator
from tests.engine.conftest import small as small  # the fixture
from tests.fuzzing import answer, examples, mutated

CPU = torch.device("cpu")
# Made when drawn: other tests count the tensors that are alive.
TENSORS = (
    lambda: torch.zeros(()),
    lambda: torch.zeros(3),
    lambda: torch.zeros(0),
    lambda: torch.zeros(2, 3, dtype=torch.int64),
    lambda: torch.ones(4, 3, 5, 5),
    lambda: torch.full((2,), math.nan),
    lambda: torch.zeros(2, dtype=torch.complex64),
    lambda: torch.zeros(5056, dtype=torch.uint8),
    lambda: torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (2,)),
)
JUNK: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=6),
    st.sampled_from([[], {}, {"a": [1]}, ["x"], {"state": {}}, {"param_groups": []}, {0: 1}, (1, 2)]),
    st.sampled_from(TENSORS).map(lambda make: make()),
)  # fmt: skip


@pytest.fixture
def saved(small, tmp_path: Path):
    """A checkpoint after one update, its content and its settings."""
    config = small(losses={"adversarial": 0.1})
    torch.manual_seed(0)
    state = build_state(config, CPU)
    for network, optimizer in (
        (state.generator, state.generator_optimizer),
        (state.discriminator, state.discriminator_optimizer),
    ):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    state.save(tmp_path / "last.pt", config)
    return tmp_path / "last.pt", load_checkpoint(tmp_path / "last.pt"), config


def ways(content: Any, path: tuple = (), depth: int = 4) -> list[tuple]:
    """The way to every value of nested mappings and lists, as far down as that."""
    if depth == 0 or not isinstance(content, (dict, list)):
        return []
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    return [way for key in keys[:40] for way in [(*path, key), *ways(content[key], (*path, key), depth - 1)]]


def replaced(content: Any, way: tuple, junk: Any) -> Any:
    """A copy with one value replaced, or left out if the junk is ``...``."""
    top = inner = dict(content)
    for key in way[:-1]:
        inner[key] = copy.copy(inner[key])
        inner = inner[key]
    if junk is ... and isinstance(inner, dict):
        del inner[way[-1]]
    else:
        inner[way[-1]] = junk
    return top


def test_one_value_replaced_and_the_digest_right(saved, tmp_path: Path):
    _, whole, config = saved
    places = ways({name: part for name, part in whole.items() if name != "format"})
    other = tmp_path / "other.pt"
    state = build_state(config, CPU)

    @examples(30)
    @given(way=st.sampled_from(places), junk=st.one_of(JUNK, st.just(...)))
    @example(way=("random_state",), junk=b"\0" * 5056)
    @example(way=("generator_optimizer", "param_groups"), junk=[])
    @example(way=("step",), junk="3")
    @example(way=("best",), junk=None)
    def attempt(way: tuple, junk: Any) -> None:
        content = replaced(whole, way, junk)
        content.pop("format")
        save_checkpoint(other, content)
        if way[0] in ("generator", "ema", "config", "step"):
            answer(lambda: load_generator(other))
        before = {name: value.clone() for name, value in state.generator.state_dict().items()}
        steps = state.step

        def resume() -> bool:
            state.load(other, config, CPU)
            return True

        if answer(resume) is None:
            assert state.step == steps
            after = state.generator.state_dict()
            assert all(torch.equal(after[name], value) for name, value in before.items()), "half a resume"
        else:
            assert type(state.step) is int and state.step >= 0 and isinstance(state.best, float)

    attempt()


def test_bytes_changed(saved, tmp_path: Path):
    path, _, _ = saved
    other = tmp_path / "other.pt"

    @examples(150)
    @given(content=mutated([path.read_bytes()]))
    def attempt(content: bytes) -> None:
        other.write_bytes(content)
        found = answer(lambda: load_checkpoint(other))
        assert found is None or content == path.read_bytes()

    attempt()


@pytest.fixture
def shared_file(small, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = small()
    save_shared_weights(tmp_path / "w.safetensors", build_generator(config.model), config, 3)
    return tmp_path / "w.safetensors"


def test_shared_weights_with_bytes_changed(shared_file: Path, tmp_path: Path):
    other = tmp_path / "other.safetensors"

    @examples(150)
    @given(content=mutated([shared_file.read_bytes()], header=4000))
    def attempt(content: bytes) -> None:
        other.write_bytes(content)
        answer(lambda: igll.load(other, device="cpu"))

    attempt()


def test_shared_weights_with_other_metadata(shared_file: Path, tmp_path: Path):
    with safe_open(str(shared_file), framework="pt") as file:
        metadata = file.metadata()
    tensors, config = load_file(shared_file), json.loads(metadata["config"])
    other = tmp_path / "other.safetensors"
    plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.just([]))

    @examples(150)
    @given(way=st.sampled_from(ways(config)), junk=plain, step=st.one_of(st.just("3"), st.text(max_size=5)))
    def attempt(way: tuple, junk: Any, step: str) -> None:
        text = json.dumps(replaced(config, way, junk))
        save_file(tensors, other, {**metadata, "config": text, "step": step})
        answer(lambda: igll.load(other, device="cpu"))

    attempt()
