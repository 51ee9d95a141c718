"""Results of an evaluation that were damaged on the way: compared as they are, or refused in one line."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igll.engine.compare import compare
from igll.engine.results import load_results
from igll.errors import InputError
from tests.engine.conftest import write_results as write_results  # the fixture
from tests.fuzzing import answer, examples, mutated

VALUES = {
    "mean of known": {"psnr": [20.125, 21.0, 22.5], "lpips": [0.3, 0.2, 0.1]},
    "IGLL": {"psnr": [30.1, math.inf, 28.7], "lpips": [0.1, math.nan, 0.3]},
}
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.just([]), st.just({}),
    st.just({"a": [1]}), st.just(["psnr"]), st.just("../../x"), st.just("\0"),
)  # fmt: skip


def places(content: Any, path: tuple = ()) -> list[tuple]:
    """The way to every value of nested mappings."""
    if not isinstance(content, dict):
        return []
    return [way for key in content for way in [(*path, key), *places(content[key], (*path, key))]]


@pytest.fixture
def folder(write_results) -> Path:
    return write_results("run", VALUES)


def test_one_value_of_the_summary_replaced(folder: Path):
    whole = json.loads((folder / "metrics.json").read_text())

    @examples(250)
    @given(way=st.sampled_from(places(whole)), junk=JUNK)
    def attempt(way: tuple, junk: object) -> None:
        content = inner = copy.deepcopy(whole)
        for key in way[:-1]:
            inner = inner[key]
        inner[way[-1]] = junk
        (folder / "metrics.json").write_text(json.dumps(content))
        results = answer(lambda: load_results(folder))
        assert results is None or results.summary is not None

    attempt()


def test_bytes_of_the_summary_changed(folder: Path):
    whole = (folder / "metrics.json").read_bytes()

    @examples(150)
    @given(content=mutated([whole]))
    def attempt(content: bytes) -> None:
        (folder / "metrics.json").write_bytes(content)
        answer(lambda: load_results(folder))

    attempt()


def test_bytes_of_the_table_changed_and_its_hash_put_right(folder: Path):
    """As by somebody who edits it: the content alone has to be seen through."""
    whole, summary = (
        (folder / "per_image.csv").read_bytes(),
        json.loads((folder / "metrics.json").read_text()),
    )

    @examples(250)
    @given(content=mutated([whole], header=len(whole)))
    def attempt(content: bytes) -> None:
        (folder / "per_image.csv").write_bytes(content)
        summary["per_image"]["sha256"] = hashlib.sha256(content).hexdigest()
        (folder / "metrics.json").write_text(json.dumps(summary))
        answer(lambda: compare(folder, folder, ["IGLL"]))

    attempt()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "", "null", "[]", "\ufeff{}"])
def test_texts_that_json_readers_choke_on(folder: Path, text: str):
    (folder / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.json: "):
        load_results(folder)
