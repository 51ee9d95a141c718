"""YAML as a person writes it for a config: plain values of bounded size, or one reason why not."""

from __future__ import annotations

import reprlib
from typing import Any

import yaml

MAX_CHARACTERS = 100_000  # a resolved configuration has 5,000
_MAX_DEPTH = 20
_MAX_NODES = 10_000

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60


class YamlTextError(ValueError):
    """The text cannot be used; the message is one line without its source."""


def read_yaml(text: str) -> Any:
    """Values of a YAML text, read as ``yaml.safe_load`` does; dates, sets and numbers are Python's.

    Raises:
        YamlTextError: It is no YAML, too long, too deep or, with its aliases written out, too large; a key
            stands twice in a mapping; or a value is not of the form that its type has.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlTextError(f"too long for a config, more than {MAX_CHARACTERS:,} characters")
    try:
        _check_depth(text)
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _expanded_size(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")
        raise YamlTextError(f"not valid YAML: {shortened(reason, 200)}") from None
    except YamlTextError:
        raise
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # What PyYAML's constructors let through of dates, numbers and tagged values that are none.
        reason = shortened(" ".join(str(error).split()), 100)
        raise YamlTextError(f"not valid YAML: a date, number or tagged value is none ({reason})") from None


def _check_depth(text: str) -> None:
    """Refuse deep nesting while it is still a stream of events, which no recursion reads."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise YamlTextError(f"nested more than {_MAX_DEPTH} levels deep")


def _expanded_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Number of nodes below one, aliases written out; refuses doubled keys on the way.

    Args:
        node: Where to begin.
        sizes: Sizes that are known by now; None of nodes that are being counted.
    """
    if id(node) in sizes:
        known = sizes[id(node)]
        if known is None:
            raise YamlTextError("an alias (*) refers to what contains it")
        return known
    sizes[id(node)] = None
    children = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [child for pair in node.value for child in pair]
    size = 1 + sum(_expanded_size(child, sizes) for child in children)
    if size > _MAX_NODES:
        raise YamlTextError(f"more than {_MAX_NODES:,} values, aliases (*) written out")
    sizes[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse a key that stands twice: of the two, YAML readers take the last without a word."""
    seen = set()
    for key, _ in node.value:
        name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
        if name in seen:
            line = key.start_mark.line + 1
            raise YamlTextError(f"key '{shortened(key.value, 60)}' stands twice, again in line {line}")
        if name is not None:
            seen.add(name)


def shortened(text: str, length: int) -> str:
    """A text of at most so many characters, its end cut off if need be."""
    return text if len(text) <= length else text[: length - 1] + "…"


def shown(value: Any) -> str:
    """A value as an error message quotes it."""
    try:
        return shortened(_SHORT.repr(value), 120)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a huge number"
