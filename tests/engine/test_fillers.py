"""Models behind the interface that tiles are filled through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import igll
from igll.baselines import CLASSICAL
from igll.engine.fillers import MethodFiller, NetworkFiller
from igll.engine.rim import match_rim
from igll.engine.weights_source import find_weights
from igll.inpainter import Inpainter

pytest.importorskip("rasterio", reason="scenes need rasterio")

from tests.engine.scene_files import tiny

RNG = np.random.default_rng(1)
HOLE = np.zeros((40, 52), bool)
HOLE[10:25, 20:44] = True


def unit(bands: int) -> np.ndarray:
    return RNG.random((bands, *HOLE.shape), np.float32)


def filler(path, **options) -> NetworkFiller:
    tiny(path, **options)
    return NetworkFiller(Inpainter.from_checkpoint(path, ["device=cpu"]), find_weights(path))


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bands_go_through_in_groups(tmp_path, bands, channels):
    """The same as one call of the model for each group, put together by hand."""
    network = filler(tmp_path / "net.pt", channels=channels)
    unit_CHW = unit(bands)
    given_CHW = unit_CHW.copy()
    filled_CHW = network.fill(unit_CHW, HOLE, None)
    assert np.array_equal(unit_CHW, given_CHW)
    assert np.array_equal(filled_CHW[:, ~HOLE], unit_CHW[:, ~HOLE]) and np.isfinite(filled_CHW).all()
    model = igll.load(tmp_path / "net.pt", "cpu")
    done: dict[int, np.ndarray] = {}
    for first in range(0, max(bands, 1), channels):
        start = max(0, min(first, bands - channels))
        group = [min(start + channel, bands - 1) for channel in range(channels)]
        output_CHW = model.inpaint(torch.from_numpy(unit_CHW[group]), torch.from_numpy(HOLE)).numpy()
        for band in range(bands):
            if band in group and band not in done:
                done[band] = output_CHW[[place for place, one in enumerate(group) if one == band]].mean(0)
    wanted_CHW = match_rim(np.stack([done[band] for band in range(bands)]), HOLE)
    np.testing.assert_allclose(filled_CHW, wanted_CHW, atol=2e-6)


def test_a_reference_is_looked_at_by_the_models_that_take_one(tmp_path):
    network = filler(tmp_path / "net.pt", prior="oracle")
    assert network.uses_reference
    unit_CHW, reference_CHW = unit(5), unit(5)
    one, other = (
        network.fill(unit_CHW, HOLE, given) for given in (reference_CHW, reference_CHW[::-1].copy())
    )
    assert not np.array_equal(one, other)
    assert not filler(tmp_path / "blind.pt").uses_reference


def test_fingerprints_change_with_what_the_result_depends_on(tmp_path):
    plain, stretched = filler(tmp_path / "a.pt"), filler(tmp_path / "b.pt", stretch=[0.0, 3000.0])
    source = find_weights(tmp_path / "a.pt")
    raw = NetworkFiller(Inpainter.from_checkpoint(source.path, ["eval.weights=raw", "device=cpu"]), source)
    pidinet = NetworkFiller(Inpainter.from_checkpoint(source.path, ["edges.detector=pidinet"]), source)
    half = NetworkFiller(Inpainter.from_checkpoint(source.path, ["eval.amp=true"]), source)
    every = [one.fingerprint for one in (plain, stretched, raw, pidinet, half, MethodFiller("nearest"))]
    assert half.name == f"{plain.name}, bf16"
    assert len(set(every)) == len(every)
    assert filler(tmp_path / "a.pt").fingerprint == plain.fingerprint
    assert plain.limits is None and stretched.limits == (0, 3000)
    assert plain.name.endswith("structure prior learned, a.pt")


def test_shipped_weights_are_recorded_by_name_and_told_apart_by_content(tmp_path):
    shipped = find_weights("igll-small")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(shipped.path.read_bytes())
    model = igll.load("igll-small", "cpu")
    one, other = (NetworkFiller(model, source) for source in (shipped, find_weights(copy)))
    assert one.name == "igll, structure prior learned, igll-small" and other.name.endswith(
        ", copy.safetensors"
    )
    assert one.fingerprint == other.fingerprint and one.fingerprint.startswith(shipped.sha256)


@pytest.mark.parametrize("method", ["nearest", "harmonic", "mean_of_known"])
def test_methods(method):
    unit_CHW = unit(2)
    one = MethodFiller(method)
    filled_CHW = one.fill(unit_CHW, HOLE, None)
    wanted_1CHW = CLASSICAL[method](
        torch.from_numpy(unit_CHW)[None], torch.from_numpy(HOLE)[None, None].float()
    )
    np.testing.assert_array_equal(filled_CHW, wanted_1CHW[0].numpy())
    assert np.array_equal(filled_CHW[:, ~HOLE], unit_CHW[:, ~HOLE])
    assert (one.name, one.fingerprint, one.uses_reference, one.limits) == (method, method, False, None)
