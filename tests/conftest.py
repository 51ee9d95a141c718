"""Fixtures that every test folder shares."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from igll.data import sources

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the checkout; skips the test where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real images and weights are not here ({SHARED} is absent)")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def scenes_rendered_once() -> Iterator[None]:
    """Embedded scenes depend on seed and size alone; drawing them takes longer than a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "render_scene", cache(sources.render_scene))
        yield
