"""Edge maps on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from igll.data.edge_cache import EdgeCache
from igll.errors import InputError

RNG = np.random.default_rng(0)
IMAGE = RNG.random((20, 30, 3)).astype(np.float32)


def test_maps_come_back_to_8_bits(tmp_path: Path):
    cache = EdgeCache(str(tmp_path), "sobel-1")
    edge_HW = RNG.random((20, 30)).astype(np.float32)
    cache.save(IMAGE, edge_HW)
    loaded = cache.load(IMAGE, "a")
    assert loaded.dtype == np.float32
    assert np.abs(loaded - edge_HW).max() <= 0.5 / 255 + 1e-6
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_key_is_content_shape_and_detector(tmp_path: Path):
    cache = EdgeCache(str(tmp_path), "sobel-1")
    changed = IMAGE.copy()
    changed[3, 4, 1] += 0.5
    paths = {
        cache.path(IMAGE),
        cache.path(changed),
        cache.path(IMAGE.reshape(30, 20, 3)),
        EdgeCache(str(tmp_path), "pidinet-1").path(IMAGE),
    }
    assert len(paths) == 4
    assert cache.path(IMAGE) == cache.path(np.asfortranarray(IMAGE))


def test_a_missing_or_damaged_map_names_the_image(tmp_path: Path):
    cache = EdgeCache(str(tmp_path), "sobel-1")
    with pytest.raises(InputError, match=r"Farm/a\.png: its edge map .* cannot be read"):
        cache.load(IMAGE, "Farm/a.png")
    path = cache.path(IMAGE)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    with pytest.raises(InputError, match="cannot be read"):
        cache.load(IMAGE, "Farm/a.png")


def test_the_default_folder_follows_the_cache_home(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EdgeCache(None, "sobel-1").folder == tmp_path / "igll" / "edges" / "sobel-1"
