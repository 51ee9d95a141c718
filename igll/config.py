"""Reading a configuration: YAML and overrides in, a checked :class:`Config` or one clear line out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from igll.errors import InputError
from igll.schema import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    EdgeConfig,
    EvalConfig,
    LossConfig,
    MaskConfig,
    ModelConfig,
    Section,
    TrainConfig,
)
from igll.storage import replacing
from igll.yaml_text import MAX_CHARACTERS, YamlTextError, read_yaml, shortened, shown

__all__ = [
    "Config",
    "DataConfig",
    "DiscriminatorConfig",
    "EdgeConfig",
    "EvalConfig",
    "LossConfig",
    "MaskConfig",
    "ModelConfig",
    "TrainConfig",
    "all_keys",
    "build_config",
    "load_config",
    "save_config",
]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply ``key.sub=value`` overrides and check everything.

    Args:
        path: YAML file; keys that it leaves out keep their defaults.
        overrides: Strings such as ``"train.batch_size=4"``; the value is read as YAML.

    Raises:
        InputError: One line with the key, what is wrong, the nearest valid name and the file.
    """
    source = str(path)
    try:
        with Path(path).open(encoding="utf-8") as file:
            loaded = read_yaml(file.read(MAX_CHARACTERS + 1))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{source}: cannot read the config: {reason}; name a YAML file, see configs/"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{source}: not a text file; a config is YAML") from None
    except YamlTextError as error:
        raise InputError(f"{source}: {error}") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{source}: a config is a mapping of keys to values, such as 'model:' or 'train:'")
    return build_config(loaded, overrides, source)


def build_config(values: dict[str, Any], overrides: Sequence[str] = (), source: str = "config") -> Config:
    """Check a nested mapping, with overrides applied, and return the typed configuration.

    Args:
        values: Nested mapping as read from YAML or from a checkpoint.
        overrides: ``key.sub=value`` strings.
        source: What error messages call the origin of ``values``.

    Raises:
        InputError: As :func:`load_config`.
    """
    merged: dict[str, Any] = {
        key: dict(value) if isinstance(value, dict) else value for key, value in values.items()
    }
    overridden = {}
    for override in overrides:
        key, value = _parse_override(override)
        overridden[key] = override
        _assign(merged, key, value)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise InputError(_describe(_first_mistake(error), overridden, source)) from None


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration, every key included, as YAML that :func:`load_config` reads.

    Raises:
        OutputError: It cannot be written; an older file stays as it was.
    """
    text = yaml.safe_dump(config.model_dump(), sort_keys=False)
    with replacing(path) as temporary:
        temporary.write_text(f"# Resolved configuration of this run, every key spelled out.\n{text}", "utf-8")


def _parse_override(override: str) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise InputError(
            f"'{shortened(override, 100)}': an override is written key.sub=value, such as train.batch_size=4"
        )
    try:
        return key.strip(), read_yaml(text)
    except YamlTextError as error:
        raise InputError(f"'{shortened(override, 100)}': {error}; quote the value if it is text") from None


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    schema: type[Section] | None = Config
    for section in sections:
        schema = schema and _section(schema, section)
        if not isinstance(values.get(section), dict):
            if schema and values.get(section) is not None:
                return  # of a section that is none, the schema says what is wrong
            values[section] = {}
        values = values[section]
    values[last] = value


def _first_mistake(error: ValidationError) -> Any:
    """The first key that is wrong; where it may be a number or a list, what is wrong with the form it has."""
    details = error.errors(include_url=False)
    first = details[0]
    forms = [detail for detail in details if detail["loc"][:2] == first["loc"][:2]]
    return forms[-1] if isinstance(first["input"], list) else first


def _describe(detail: Any, overridden: dict[str, str], source: str) -> str:
    """One line for the first thing that pydantic found wrong."""
    names = [shortened(str(part), 60) for part in detail["loc"]]
    section: type[Section] = Config
    known: list[str] = []
    for name in names:
        known.append(name)
        inner = _section(section, name)
        if inner is None:
            break
        section = inner
    key = ".".join(known)
    inside = (text for name, text in overridden.items() if name.startswith(f"{key}."))
    blamed = overridden.get(key) or (None if detail["type"] == "model_type" else next(inside, None))
    origin = source if blamed is None else f"'{shortened(blamed, 100)}'"
    if detail["type"] == "extra_forbidden":
        near = _nearest(key)
        known_here = shortened(", ".join(section.model_fields), 250)
        hint = f"did you mean '{near}'?" if near else f"known here: {known_here}"
        return f"{origin}: unknown key '{key}'; {hint}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "string_type":
        message = f"input should be text; if it is, quote it twice: {key}='\"...\"'"
    if detail["type"] in ("bool_parsing", "bool_type"):
        message = "give true or false"
    if detail["type"] == "model_type":
        message = f"is a section; its keys are {shortened(', '.join(all_keys(section)), 250)}"
    return f"{origin}: {key}: {message[0].lower() + message[1:]} (got {shown(detail['input'])})"


def _section(parent: type[Section], name: str) -> type[Section] | None:
    """The section of that name; None if there is none."""
    field = parent.model_fields.get(name)
    kind = None if field is None else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def all_keys(section: type[Section] = Config, prefix: str = "") -> list[str]:
    """Every settable key, dotted."""
    keys = []
    for name in section.model_fields:
        inner = _section(section, name)
        keys += [prefix + name] if inner is None else all_keys(inner, f"{prefix}{name}.")
    return keys


def _nearest(key: str) -> str | None:
    """The valid key closest to a misspelt one: by full name, then by last part, then among section names."""
    keys = all_keys()
    match = difflib.get_close_matches(key, [*keys, *Config.model_fields], n=1, cutoff=0.7)
    if match:
        return match[0]
    by_last = {name.rpartition(".")[2]: name for name in reversed(keys)}
    match = difflib.get_close_matches(key.rpartition(".")[2], list(by_last), n=1, cutoff=0.7)
    return by_last[match[0]] if match else None
