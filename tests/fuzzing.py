"""What the tests that try many bad inputs share: how many, and what counts as an answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from igll.errors import InputError

T = TypeVar("T")
LONGEST = 500
TIMES = int(os.environ.get("IGLL_FUZZ_TIMES", "1"))  # more tries than a test run has time for


def examples(count: int) -> settings:
    """The same inputs in every run, so that a failure is one of the code and not of luck."""
    return settings(
        max_examples=count * TIMES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def answer(work: Callable[[], T]) -> T | None:
    """What the work returns, or None if it refuses as promised: ``InputError``, one line of sane length.

    Any other exception is the test's failure.
    """
    try:
        return work()
    except InputError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert 10 < len(message) < LONGEST, f"{len(message)} characters: {message[:200]}"
        return None


def mutated(originals: list[bytes], header: int = 64) -> st.SearchStrategy[bytes]:
    """Files with some bytes changed, mostly near the beginning, some cut short or padded."""

    @st.composite
    def draw_file(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(originals)))
        for _ in range(draw(st.integers(0, 4))):
            near = draw(st.booleans())
            place = draw(st.integers(0, min(header, len(content)) - 1 if near else len(content) - 1))
            content[place] = draw(st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255)))
        if draw(st.booleans()):
            place, length = draw(st.integers(0, len(content))), draw(st.integers(1, 4))
            content[place : place + length] = draw(st.binary(max_size=6))
        if draw(st.integers(0, 3)) == 0:
            del content[draw(st.integers(0, len(content))) :]
        return bytes(content)

    return draw_file()
