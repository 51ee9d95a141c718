"""FID and KID against SciPy and NumPy in float64, and the Inception network's way in."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from igll.errors import InputError
from igll.metrics import MetricUnavailableError, distribution
from igll.metrics.distribution import SetDistances, inception, untrained_inception


class Bins(nn.Module):
    """Six features of a uint8 image: means and spreads of its channels, in float64."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        assert image_BCHW.dtype == torch.uint8
        pixels = image_BCHW.double().flatten(2) / 255
        return torch.cat([pixels.mean(2), pixels.std(2)], dim=1)


def _sets(images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    prediction = torch.rand(images, 3, 8, 8, generator=generator) ** 2
    target = torch.rand(images, 3, 8, 8, generator=generator)
    return tuple((x * 255).round() / 255 for x in (prediction, target))


def _features(image_BCHW: Tensor) -> np.ndarray:
    return Bins()((image_BCHW * 255).round().to(torch.uint8)).double().numpy()


def _fid(x: np.ndarray, y: np.ndarray) -> float:
    root = sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False))
    spread = np.trace(np.cov(x, rowvar=False) + np.cov(y, rowvar=False) - 2 * np.real(root))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + spread)


def _kid(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD with the cubic kernel, summed pair by pair."""

    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    own_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own_x + own_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_fid_equals_scipy_and_kid_equals_numpy():
    prediction, target = _sets(40)
    distances = SetDistances(feature=Bins())
    for start in range(0, 40, 7):  # uneven batches
        distances.update(prediction[start : start + 7], target[start : start + 7])
    values = distances.compute()
    x, y = _features(target), _features(prediction)
    assert values["fid"] == pytest.approx(_fid(x, y), rel=1e-6)
    assert values["kid"] == pytest.approx(_kid(x, y), rel=1e-9)
    assert distances.compute() == values


def test_methods_share_the_targets_and_blocks_do_not_depend_on_batches(monkeypatch):
    monkeypatch.setattr(distribution, "_BLOCK", 16)
    prediction, target = _sets(40)
    results = [prediction, (prediction + target) / 2]
    together = SetDistances(feature=Bins(), methods=2)
    for start in range(0, 40, 7):
        part = slice(start, start + 7)
        together.update_all([result[part] for result in results], target[part])
    for number, result in enumerate(results):
        alone = SetDistances(feature=Bins())
        alone.update(result, target)
        assert together.compute(number) == alone.compute()
    assert together.compute(0) != together.compute(1)


def test_equal_sets_are_at_distance_zero():
    _, target = _sets(30)
    distances = SetDistances(feature=Bins())
    distances.update(target, target)
    values = distances.compute()
    assert values["fid"] == pytest.approx(0, abs=1e-9)
    assert values["kid"] < 0  # unbiased: below zero for the very same images


def test_large_sets_use_fixed_subsets_and_leave_the_random_numbers_alone(monkeypatch):
    monkeypatch.setattr(distribution, "_KID_SUBSET", 10)
    prediction, target = _sets(40)
    values = []
    for seed in (1, 2):
        distances = SetDistances(["kid"], feature=Bins())
        distances.update(prediction, target)
        torch.manual_seed(seed)
        expected = torch.rand(2)
        torch.manual_seed(seed)
        values.append(distances.compute()["kid"])
        assert torch.equal(torch.rand(2), expected)
    whole = _kid(_features(target), _features(prediction))
    assert values[0] == values[1] != whole
    assert values[0] == pytest.approx(whole, rel=0.1)  # a mean of 100 unbiased estimates


def test_only_what_was_asked_for():
    prediction, target = _sets(5)
    distances = SetDistances(["fid"], feature=Bins())
    distances.update(prediction, target)
    assert list(distances.compute()) == ["fid"]


def test_what_it_cannot_measure():
    prediction, target = _sets(3)
    distances = SetDistances(feature=Bins())
    with pytest.raises(InputError, match="prediction: values must lie in"):
        distances.update(prediction + 1, target)  # would wrap around in 8 bits
    with pytest.raises(MetricUnavailableError, match="RGB images, these have 1 channels"):
        distances.update(prediction[:, :1], target[:, :1])
    distances.update(prediction[:1], target[:1])
    with pytest.raises(MetricUnavailableError, match="at least 2 images, there are 1"):
        distances.compute()


@pytest.fixture
def inception_file(tmp_path, monkeypatch) -> Path:
    """Where the Inception weights would lie in an otherwise empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / "weights-inception-2015-12-05-6726825d.pth"


def test_missing_weights_and_package_are_named(inception_file, monkeypatch):
    with pytest.raises(MetricUnavailableError) as error:
        inception()
    assert inception_file.name in str(error.value) and str(inception_file.parent) in str(error.value)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MetricUnavailableError, match=r"pip install \"igll\[fid\]\""):
        inception()


def test_weights_in_the_cache_are_used(inception_file):
    stand_in = untrained_inception()
    with torch.no_grad():
        stand_in.fc.weight.fill_(0.5)
    torch.save(stand_in.state_dict(), inception_file)
    images = (torch.rand(2, 3, 32, 32) * 255).to(torch.uint8)
    network = inception()
    features = network(images)
    assert features.shape == (2, 2048)
    assert torch.equal(features, stand_in(images))
    assert torch.equal(network.fc.weight, stand_in.fc.weight)


def test_the_untrained_network_is_the_same_each_time_and_leaves_random_numbers_alone():
    before = torch.get_rng_state()
    weights, again = (untrained_inception().state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())
    assert weights["Mixed_7c.branch1x1.conv.weight"].std() > 0


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_weights_with_code_in_them_do_not_run_it(inception_file, tmp_path):
    burnt = tmp_path / "burnt"
    for write in (
        lambda: torch.save({"fc.weight": _Bomb(burnt)}, inception_file),
        lambda: inception_file.write_bytes(pickle.dumps(_Bomb(burnt), protocol=2)),
    ):
        write()
        with pytest.raises(MetricUnavailableError, match="not a readable file of weights"):
            inception()
        assert not burnt.exists()


def test_foreign_weights(inception_file):
    torch.save({"fc.weight": torch.zeros(2)}, inception_file)
    with pytest.raises(MetricUnavailableError, match="does not hold the weights its name says"):
        inception()
