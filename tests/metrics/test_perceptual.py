"""LPIPS against the values that torchmetrics documents, and without its weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from igll.errors import InputError
from igll.metrics import MetricUnavailableError
from igll.metrics.perceptual import PerceptualDistance
from igll.metrics.weights import cached_weights


@pytest.fixture
def torch_home(tmp_path, monkeypatch) -> Path:
    """An empty torch hub cache, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_, **__):
        raise AssertionError("tried to download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def squeeze(shared, monkeypatch) -> PerceptualDistance:
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights" / "torch_home"))
    return PerceptualDistance("squeeze")


def test_the_documented_examples(squeeze):
    # torchmetrics' examples draw in [0, 1] and map to [-1, 1] themselves; here [0, 1] goes in.
    torch.manual_seed(42)
    first, second = torch.rand(10, 3, 100, 100), torch.rand(10, 3, 100, 100)
    assert float(squeeze(first, second).mean()) == pytest.approx(0.1005, abs=5e-5)

    generator = torch.Generator().manual_seed(42)
    first, second = (torch.rand(2, 3, 100, 100, generator=generator) for _ in range(2))
    assert squeeze(first, second).tolist() == pytest.approx([0.1024, 0.0938], abs=5e-5)


def test_one_value_per_image_also_for_a_single_one(squeeze):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, 3, 40, 56, generator=generator) for _ in range(2))
    together = squeeze(first, second)
    alone = squeeze(first[1:2], second[1:2])
    assert together.shape == (3,) and alone.shape == (1,)
    assert float(alone) == pytest.approx(float(together[1]), rel=1e-5)
    assert squeeze(first, first).tolist() == [0.0, 0.0, 0.0]


def test_it_is_the_package_s_forward_pass_bit_for_bit(squeeze):
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.rand(2, 3, 64, 48, generator=generator) for _ in range(2))
    first, second = (images.contiguous(memory_format=torch.channels_last) for images in (first, second))
    expected = squeeze._network(first, second, normalize=True)
    assert torch.equal(squeeze(first, second), expected.flatten())


def test_building_it_leaves_the_random_numbers_alone(shared, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights" / "torch_home"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    PerceptualDistance("squeeze")
    assert torch.equal(torch.rand(3), expected)


def test_what_it_cannot_measure(squeeze):
    with pytest.raises(MetricUnavailableError, match="at least 32 px, these are 31 px"):
        squeeze(torch.rand(1, 3, 31, 64), torch.rand(1, 3, 31, 64))
    with pytest.raises(MetricUnavailableError, match="needs RGB images, these have 4 channels"):
        squeeze(torch.rand(1, 4, 64, 64), torch.rand(1, 4, 64, 64))
    with pytest.raises(InputError, match=r"values must lie in \[0, 1\]"):
        squeeze(torch.rand(1, 3, 64, 64) * 2 - 1, torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("net", "file"),
    [
        ("alex", "alexnet-owt-7be5be79.pth"),
        ("vgg", "vgg16-397923af.pth"),
        ("squeeze", "squeezenet1_1-b8a52dc0.pth"),
    ],
)
def test_missing_weights_are_named_and_nothing_is_downloaded(net, file, torch_home):
    with pytest.raises(MetricUnavailableError) as error:
        PerceptualDistance(net)
    assert file in str(error.value) and str(torch_home) in str(error.value)


def test_damaged_and_foreign_weights(torch_home):
    file = torch_home / "squeezenet1_1-b8a52dc0.pth"
    file.write_bytes(b"not weights")
    with pytest.raises(MetricUnavailableError, match="not a readable file of weights"):
        PerceptualDistance("squeeze")
    file.write_bytes(b"")
    with pytest.raises(MetricUnavailableError, match="not a readable file of weights"):
        PerceptualDistance("squeeze")
    torch.save({"features.0.weight": torch.zeros(1)}, file)
    with pytest.raises(MetricUnavailableError, match="does not hold the weights its name says"):
        PerceptualDistance("squeeze")
    torch.save([1, 2], file)
    with pytest.raises(MetricUnavailableError, match="holds no named tensors"):
        PerceptualDistance("squeeze")


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_weights_with_code_in_them_do_not_run_it(torch_home, tmp_path):
    burnt = tmp_path / "burnt"
    file = torch_home / "squeezenet1_1-b8a52dc0.pth"
    for write in (
        lambda: torch.save(_Bomb(burnt), file),
        lambda: file.write_bytes(pickle.dumps(_Bomb(burnt), protocol=2)),
    ):
        write()
        with pytest.raises(MetricUnavailableError, match="not a readable file of weights"):
            PerceptualDistance("squeeze")
        assert not burnt.exists()


def test_a_download_that_fails_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def fail(url, path, hash_prefix):
        asked.append((url, path, hash_prefix))
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(
        MetricUnavailableError, match=r"vgg16-397923af\.pth could not be downloaded .*no route"
    ):
        PerceptualDistance("vgg", allow_download=True)
    assert asked[0][0].startswith("https://") and asked[0][2] == "397923af"


def test_the_hash_in_a_name_with_several_dashes(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, hash_prefix: asked.append(hash_prefix))
    cached_weights("https://example.org/weights-inception-2015-12-05-6726825d.pth", allow_download=True)
    assert asked == ["6726825d"]


def test_unknown_trunk():
    with pytest.raises(InputError, match="'resnet' is not known; choose one of alex, vgg, squeeze"):
        PerceptualDistance("resnet")
