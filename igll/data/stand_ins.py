"""Another image in place of one that cannot be used (``data.on_error=skip``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from igll.errors import InputError

T = TypeVar("T")


class Unusable(NamedTuple):
    """An image that cannot be used.

    Attributes:
        name: The image's name in its dataset.
        reason: The whole error, one line.
    """

    name: str
    reason: str


class Replacement(NamedTuple):
    """A sample that another image stands in for.

    Attributes:
        passed_over: The images that could not be used, the sample's own first.
        stand_in: Name of the image that is used.
    """

    passed_over: list[Unusable]
    stand_in: str

    def encode(self) -> str:
        """As text, which collates to a list of texts; empty if the sample's own image is used."""
        return json.dumps(self) if self.passed_over else ""


def decode_replacements(texts: list[str]) -> list[Replacement]:
    """Back from :meth:`Replacement.encode`, without the samples that were not replaced."""
    decoded = [json.loads(text) for text in texts if text]
    return [Replacement([Unusable(*found) for found in images], name) for images, name in decoded]


def first_usable(
    names: Callable[[int], str], count: int, first: int, read: Callable[[int], T]
) -> tuple[T, Replacement]:
    """What is read of an image, or of the next one that can be used, in the dataset's order and cyclically.

    Args:
        names: Name of an image, by its position.
        count: Number of images.
        first: Position to begin with.
        read: Reads the image at a position, or raises ``InputError``.

    Returns:
        What was read, and how it came about.

    Raises:
        InputError: No image can be used; names the first and its reason.
    """
    passed_over = []
    for step in range(count):
        position = (first + step) % count
        try:
            result = read(position)
        except InputError as error:
            passed_over.append(Unusable(names(position), str(error)))
            continue
        return result, Replacement(passed_over, names(position))
    raise none_usable(passed_over, "training")


def none_usable(found: list[Unusable], part: str) -> InputError:
    """The error that ends a run without a usable image; ``found`` is all images of the part, not empty."""
    return InputError(f"none of the {len(found)} {part} images can be used; the first: {found[0].reason}")
