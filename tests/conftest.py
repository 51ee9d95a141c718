"""Fixtures that every test folder shares."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the checkout; skips the test where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real images and weights are not here ({SHARED} is absent)")
    return SHARED
