"""Any text as a config, any override: a configuration, or one line."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from igll.config import Config, all_keys, build_config, load_config, save_config
from igll.errors import InputError
from igll.yaml_text import MAX_CHARACTERS
from tests.fuzzing import answer, examples

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").rglob("*.yaml"))
TEXTS = [path.read_text(encoding="utf-8") for path in CONFIGS if path.stem != "equal_budget"]
VALUES = [yaml.safe_load(text) for text in TEXTS]
KEYS = [*all_keys(), *Config.model_fields]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([10**400, -(10**400), 2**31, 2**63, 0, -1]),
    st.floats(),
    st.text(max_size=30),
    st.binary(max_size=5),
    st.dates(),
    st.datetimes(),
    st.sampled_from(["auto", "igll", "square", "relu1_1", "x" * 5000, "1e3", "a\nb", "\u2028", "\ud800"]),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), inner, max_size=4),
        st.dictionaries(st.one_of(st.integers(), st.none(), st.dates(), st.floats()), inner, max_size=2),
    ),
    max_leaves=8,
)
PIECES = st.sampled_from(
    [
        *("a", "seed", "train", "lr", ": ", ":", "- ", "\n", "\n  ", "{", "}", "[", "]", ", ", "&a ", "*a"),
        *(
            "!!int ",
            "!!bool ",
            "!!timestamp ",
            "!!binary ",
            "!!set ",
            "!!omap ",
            "!!python/none ",
            "<<: ",
            "? ",
        ),
        *(
            "'",
            '"',
            "#",
            "---",
            "...",
            "%",
            "|",
            ">",
            "0x",
            "0b_",
            "1:59:1",
            "2001-13-01",
            ".nan",
            ".inf",
            "~",
        ),
        *("\t", "\\", "\ufeff", "\0", "é", "true", "3", "1e999", "@", "`", "_"),
    ]
)
SHORT = st.one_of(st.text(max_size=15), st.lists(PIECES, max_size=6).map("".join))
PATHS = st.lists(st.sampled_from(["train", "lr", "", "a", "model", " "]), max_size=5).map(".".join)
OVERRIDES = st.one_of(
    st.text(max_size=30),
    st.tuples(st.sampled_from(KEYS), SHORT).map("=".join),
    st.tuples(PATHS, st.sampled_from(["3", "{a: 1}", "[", "null"])).map("=".join),
)


def sound(config: Config | None) -> None:
    """A configuration that was accepted holds finite numbers and survives being written and read."""
    if config is None:
        return
    assert isinstance(config, Config) and build_config(config.model_dump()) == config
    values = [value for section in config.model_dump().values() if isinstance(section, dict)
              for value in section.values()]  # fmt: skip
    assert all(math.isfinite(value) for value in values if isinstance(value, float))


def loaded(path: Path, content: str | bytes, overrides: tuple[str, ...] = ()) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    sound(answer(lambda: load_config(path, overrides)))


@examples(250)
@given(text=st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join)))
@example(text="a: 2001-13-45")
@example(text="seed: 0b_")
@example(text="seed: !!int ''")
@example(text="seed: !!timestamp foo")
@example(text="seed: !!bool foo")
@example(text="seed: !!binary ===")
@example(text="seed: " + "9" * 5000)
@example(text="seed: 0x" + "f" * 5000)
@example(text="[" * 3000)
@example(text="{a: " * 2000)
@example(text="train: &a {lr: *a}")
@example(text="seed: &a [*a]")
@example(text="device: " + "x" * 5000)
@example(text="k" * 5000 + ": 3")
@example(text='"a\\nb": 3')
@example(text='"a\\u2028b": 3')
@example(text='device: "\\ud800"')
def test_random_text(tmp_path: Path, text: str):
    loaded(tmp_path / "c.yaml", text)


@examples(60)
@given(content=st.binary(max_size=80))
def test_random_bytes(tmp_path: Path, content: bytes):
    loaded(tmp_path / "c.yaml", content)


@examples(60)
@given(text=st.sampled_from(TEXTS), data=st.data())
def test_shipped_configs_with_pieces_cut_out_and_put_in(tmp_path: Path, text: str, data: st.DataObject):
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(st.one_of(PIECES, st.text(max_size=4))) + text[end:]
    loaded(tmp_path / "c.yaml", text)


@examples(300)
@given(values=st.sampled_from(VALUES), key=st.sampled_from(KEYS), junk=JUNK)
@example(values={}, key="train.lr", junk=10**400)
@example(values={}, key="losses", junk=["x" * 60] * 9)
@example(values={}, key="losses.zzzzzzzzzz", junk=3)
@example(values={}, key="model.name", junk={"a": 1})
@example(values={}, key="mask.ratio", junk=[math.nan, math.nan])
@example(values={}, key="model", junk=[["name", "igll"]])
def test_shipped_configs_with_one_value_replaced_by_junk(values: dict[str, Any], key: str, junk: Any):
    """As from a checkpoint: values that no YAML text gave."""
    values = copy.deepcopy(values)
    *sections, last = key.split(".")
    inner = values
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = junk
    sound(answer(lambda: build_config(values)))


@examples(100)
@given(values=st.dictionaries(st.one_of(st.sampled_from(KEYS), SCALARS), JUNK, max_size=4))
def test_mappings_of_junk(values: dict[Any, Any]):
    sound(answer(lambda: build_config(values)))


@examples(200)
@given(overrides=st.lists(OVERRIDES, max_size=3))
@example(overrides=["seed=" + "9" * 5000])
@example(overrides=["a" * 9000])
@example(overrides=["train.lr=" + "[" * 3000])
@example(overrides=["train.lr" + ".a" * 3000 + "=1"])
@example(overrides=["a\nb=3"])
@example(overrides=["=3"])
def test_overrides(overrides: list[str]):
    sound(answer(lambda: build_config({}, overrides)))


@pytest.mark.parametrize("key", ["seed", "train.lr", "device", "model.blocks", "mask.ratio", "nonsense"])
@pytest.mark.parametrize("value", [10**5000, -(10**5000), [10**5000], {"a": 10**5000}], ids="abcd")
def test_a_number_that_python_does_not_print(key: str, value: Any):
    section, _, last = key.partition(".")
    assert answer(lambda: build_config({section: {last: value} if last else value})) is None


def laughs(levels: int, each: int = 10) -> str:
    """Aliases of aliases: ``each`` to the power of ``levels`` values in a few lines."""
    names = ["seed", "device", "model", "data", "train", "mask", "eval", "edges", "losses"][:levels]
    lines = [f"{names[0]}: &a0 [{', '.join('x' * each)}]"]
    for level in range(1, levels):
        lines.append(f"{names[level]}: &a{level} [{', '.join([f'*a{level - 1}'] * each)}]")
    return "\n".join(lines)


@pytest.mark.parametrize("levels", [5, 9])
def test_a_billion_laughs_are_refused_at_once(tmp_path: Path, levels: int):
    (tmp_path / "c.yaml").write_text(laughs(levels))
    with pytest.raises(InputError, match=r"c\.yaml: more than 10,000 values, aliases \(\*\) written out"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(InputError, match="more than 10,000 values"):
        build_config({}, ["data.stretch=" + laughs(levels)])


def test_a_few_aliases_are_as_good_as_what_they_stand_for(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("train: &t {lr: 0.5, betas: &b [0.1, 0.2]}\nlosses: {svd: 2.0}\n")
    plain = load_config(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text(
        "train: {<<: {lr: 0.9, betas: [0.1, 0.2]}, lr: &l 0.5}\nlosses: {svd: 2.0}\n"
    )
    assert load_config(tmp_path / "c.yaml") == plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {lr: 0.1}\nseed: 1\ntrain: {batch_size: 2}", "key 'train' stands twice, again in line 3"),
        ("train:\n  lr: 0.1\n  lr: 0.2\n", "key 'lr' stands twice, again in line 3"),
        ("train: &a {lr: *a}", "refers to what contains it"),
        ("[" * 50, "nested more than 20 levels deep"),
        ("#" * (MAX_CHARACTERS + 1), "too long for a config"),
        ("seed: 2001-02-30", "a date, number or tagged value is none"),
    ],
)
def test_what_yaml_would_take_or_choke_on_is_named(tmp_path: Path, text: str, expected: str):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "c.yaml")
    assert expected in str(caught.value) and str(caught.value).startswith(f"{tmp_path / 'c.yaml'}: ")


def test_an_endless_file_is_not_read_to_its_end():
    with pytest.raises(InputError, match="/dev/zero: "):
        load_config("/dev/zero")


@examples(60)
@given(root=st.text(max_size=20), seed=st.integers(0, 2**31 - 1), lr=st.floats(1e-300, 1, exclude_min=True))
def test_what_is_accepted_is_written_and_read_back_equal(tmp_path: Path, root: str, seed: int, lr: float):
    config = build_config({"seed": seed, "data": {"root": root}, "train": {"lr": lr}})
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config
