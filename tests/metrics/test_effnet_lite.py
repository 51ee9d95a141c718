"""FD-effnet-lite0: the network against a plain loop over its file, the distance against SciPy in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor
from torch.nn import functional

from igll.metrics import MetricSuite, MetricUnavailableError
from igll.metrics.effnet_lite import WEIGHTS_NAME, WEIGHTS_SHA256, EfficientNetLite0, effnet_lite0

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the 16 blocks


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    return shared / "weights" / WEIGHTS_NAME


@pytest.fixture(scope="module")
def network(weights: Path) -> EfficientNetLite0:
    return effnet_lite0(str(weights))


def _reference(state: dict[str, Tensor], image_BCHW: Tensor) -> Tensor:
    """The same features in float64, straight from the state's entries."""
    state = {key: value.double() for key, value in state.items()}

    def convolve(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
        full = functional.conv2d(x, weight, padding=kernel, groups=groups)  # every position there is
        sides = [math.ceil(side / stride) for side in x.shape[-2:]]
        total = [
            max((out - 1) * stride + kernel - side, 0) for out, side in zip(sides, x.shape[-2:], strict=True)
        ]
        top, left = (kernel - missing // 2 for missing in total)
        return full[..., top::stride, left::stride][..., : sides[0], : sides[1]]

    def normalise(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"].view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 0.001).sqrt() * weight + bias

    x = (image_BCHW.double() - 127) / 128
    x = normalise(convolve(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    for index, stride in enumerate(STRIDES):
        block, before = f"_blocks.{index}", x
        if f"{block}._expand_conv.weight" in state:
            x = normalise(convolve(x, f"{block}._expand_conv"), f"{block}._bn0").clamp(0, 6)
        x = normalise(convolve(x, f"{block}._depthwise_conv", stride), f"{block}._bn1").clamp(0, 6)
        x = normalise(convolve(x, f"{block}._project_conv"), f"{block}._bn2")
        if x.shape == before.shape:
            x = x + before
    return normalise(convolve(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))


def _scenes(shared: Path, side: int = 64) -> Tensor:
    """One real scene of each class, (21, 3, side, side) uint8."""
    folders = sorted((shared / "data" / "ucmerced_val").iterdir())
    files = [min(folder.iterdir()) for folder in folders if folder.is_dir()]
    pictures = [np.asarray(Image.open(file).convert("RGB"))[:side, :side] for file in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _frechet(x: np.ndarray, y: np.ndarray) -> float:
    """In a basis of all that the features span: the distance does not depend on the axes."""
    basis = np.linalg.svd(np.concatenate([x, y]), full_matrices=False)[2]
    x, y = x @ basis.T, y @ basis.T
    root = np.real(sqrtm(np.cov(x, rowvar=False)))
    cross = np.real(np.trace(sqrtm(root @ np.cov(y, rowvar=False) @ root)))
    spread = np.trace(np.cov(x, rowvar=False)) + np.trace(np.cov(y, rowvar=False)) - 2 * cross
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + spread)


@pytest.mark.parametrize("sides", [(64, 64), (33, 50), (45, 32)])
def test_features_equal_a_plain_float64_forward(network, weights, sides):
    state = torch.load(weights, weights_only=True)
    image = torch.randint(0, 256, (2, 3, *sides), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    features = network(image)
    assert features.shape == (2, 1280) and features.dtype == torch.float32
    torch.testing.assert_close(features.double(), _reference(state, image), rtol=1e-4, atol=1e-5)


def test_every_entry_of_the_file_has_its_place(network, weights):
    state = torch.load(weights, weights_only=True)
    own = network.state_dict()
    assert set(state) - set(own) == {"_fc.weight", "_fc.bias"} and set(own) <= set(state)
    assert all(torch.equal(own[key], state[key]) for key in own)
    assert not network.training and WEIGHTS_SHA256[:8] in WEIGHTS_NAME


def test_distance_equals_scipy_whatever_the_batches(network, weights, shared):
    target = _scenes(shared)
    prediction = target.clone()
    prediction[..., 16:48, 16:48] = 127
    values = []
    for batch in (1, 8):
        suite = MetricSuite(["fd_effnet_lite0"], fd_weights=str(weights))
        for start in range(0, len(target), batch):
            part = slice(start, start + batch)
            mask = torch.ones(len(target[part]), 1, 64, 64)
            suite.update(prediction[part] / 255, target[part] / 255, mask)
        values.append(suite.compute()["fd_effnet_lite0"])
        assert suite.unavailable == {}
    x, y = (network(image).double().numpy() for image in (target, prediction))
    assert values[0] == pytest.approx(_frechet(x, y), rel=1e-5)
    assert values[0] == pytest.approx(values[1], rel=1e-6) and values[0] > 1


def test_weights_are_looked_for_in_the_cache_and_their_absence_is_said(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    suite = MetricSuite(["psnr", "fd_effnet_lite0"])
    assert all(math.isfinite(value) for value in suite.update(image, 1 - image, image[:, :1])["psnr"])
    assert math.isnan(suite.compute()["fd_effnet_lite0"])
    folder = tmp_path / "hub" / "checkpoints"
    assert suite.unavailable == {
        "fd_effnet_lite0": f"weights {WEIGHTS_NAME} are not in {folder}, and eval.fd_weights names no file"
    }
    folder.mkdir(parents=True)
    (folder / WEIGHTS_NAME).symlink_to(weights)
    assert isinstance(effnet_lite0(), EfficientNetLite0)


def test_other_files_are_not_taken_for_the_weights(tmp_path):
    with pytest.raises(MetricUnavailableError, match=r"eval\.fd_weights: .*absent\.pth is not a file"):
        effnet_lite0(str(tmp_path / "absent.pth"))
    torch.save(EfficientNetLite0().state_dict(), tmp_path / WEIGHTS_NAME)
    with pytest.raises(MetricUnavailableError, match=f"is not the published {WEIGHTS_NAME}: its SHA-256"):
        effnet_lite0(str(tmp_path / WEIGHTS_NAME))


def test_images_too_small_for_the_network(weights):
    suite = MetricSuite(["fd_effnet_lite0"], fd_weights=str(weights))
    small = torch.rand(2, 3, 31, 40)
    suite.update(small, small, torch.ones(2, 1, 31, 40))
    assert math.isnan(suite.compute()["fd_effnet_lite0"])
    assert suite.unavailable == {"fd_effnet_lite0": "needs images of at least 32 px, these are 31 px"}
