"""Strips and boxes are made small so that their borders lie inside small rasters."""

from __future__ import annotations

import pytest


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of 64 rows, boxes of a block of 64×64 or a few rows, swaths of 64 columns."""
    monkeypatch.setattr("igll.geo.box.STRIP", 64)
    monkeypatch.setattr("igll.geo.box.MEMORY", 8 * 1000)
    monkeypatch.setattr("igll.geo.holes._SWATH", 64)
