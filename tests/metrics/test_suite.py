"""The suite: everything at once, per image, with reasons for what is missing."""

from __future__ import annotations

import gc
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from igll.errors import InputError
from igll.metrics import HIGHER_IS_BETTER, METRIC_NAMES, MetricSuite, average, image, left_out


class Means(nn.Module):
    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW.float().mean(dim=(2, 3))


def _batch(batch: int, side: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(batch, 3, side, side, generator=generator)
    mask = torch.zeros(batch, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    prediction = torch.where(mask > 0.5, torch.rand(target.shape, generator=generator), target)
    return prediction, target, mask


def test_every_metric_has_a_direction():
    assert set(HIGHER_IS_BETTER) == set(METRIC_NAMES)


def test_values_are_those_of_the_single_metrics(shared, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights" / "torch_home"))
    fd_weights = str(shared / "weights" / "efficientnet-lite0-57934424.pth")
    suite = MetricSuite(METRIC_NAMES, lpips_net="squeeze", feature=Means(), fd_weights=fd_weights)
    batches = [_batch(2, 176, seed=1), _batch(1, 176, seed=2)]
    for prediction, target, mask in batches:
        values = suite.update(prediction, target, mask)
        assert list(values) == ["psnr", "psnr_hole", "l1_hole", "ssim", "ms_ssim", "lpips"]
        assert all(len(column) == len(target) for column in values.values())
        assert values["psnr"] == image.psnr(prediction, target).tolist()
        assert values["psnr_hole"] == image.hole_psnr(prediction, target, mask).tolist()
        assert values["l1_hole"] == image.hole_l1(prediction, target, mask).tolist()
        # Image by image, as the suite measures on CPUs: some round convolutions of a batch otherwise.
        pairs = list(zip(prediction.split(1), target.split(1), strict=True))
        assert values["ssim"] == [image.ssim(*pair).item() for pair in pairs]
        assert values["ms_ssim"] == [image.ms_ssim(*pair).item() for pair in pairs]
        assert all(0 < value < 1 for value in values["lpips"])
    results = suite.compute()
    assert results["fid"] > 0 and math.isfinite(results["kid"])
    assert results["fd_effnet_lite0"] > 0 and results["fd_effnet_lite0"] != results["fid"]
    assert suite.unavailable == {}


class Seen(nn.Module):
    """Means of the channels; counts the images that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, image_BCHW: Tensor) -> Tensor:
        self.images += len(image_BCHW)
        return image_BCHW.float().mean(dim=(2, 3))


@pytest.fixture
def suite_of(shared, monkeypatch):
    """Builds a suite; Inception is stood in for."""
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights" / "torch_home"))
    weights = str(shared / "weights" / "efficientnet-lite0-57934424.pth")

    def build(names: tuple[str, ...], methods: int = 1, feature: nn.Module | None = None) -> MetricSuite:
        network = Means() if feature is None else feature
        return MetricSuite(names, "squeeze", feature=network, fd_weights=weights, methods=methods)

    return build


BUT_THE_PROXY = METRIC_NAMES[:-1]  # its distance takes a second for each method


def test_on_a_cpu_no_digit_depends_on_the_batches(suite_of):
    prediction, target, mask = _batch(3, 176)
    found = []
    for size in (1, 2, 3):
        suite = suite_of(BUT_THE_PROXY)
        columns: dict[str, list[float]] = {}
        for start in range(0, 3, size):
            part = slice(start, start + size)
            for name, values in suite.update(prediction[part], target[part], mask[part]).items():
                columns.setdefault(name, []).extend(values)
        found.append({**columns, **suite.compute()})
    assert found[0] == found[1] == found[2] and set(found[0]) == set(BUT_THE_PROXY)


def test_methods_together_have_the_values_of_each_alone_and_targets_are_seen_once(suite_of):
    prediction, target, mask = _batch(2, 176)
    predictions = [prediction, (prediction + target) / 2, target]
    network = Seen()
    together = suite_of(BUT_THE_PROXY, 3, network)
    columns = together.update_all(predictions, target, mask)
    assert network.images == 2 * (1 + len(predictions))
    for number, result in enumerate(predictions):
        alone = suite_of(BUT_THE_PROXY)
        assert alone.update(result, target, mask) == columns[number]
        assert alone.compute() == together.compute(number)
    assert columns[1]["lpips"] != columns[0]["lpips"] and columns[2]["lpips"] == [0.0, 0.0]


def _bytes_held() -> int:
    """Bytes behind all living tensors, shared ones counted once."""
    gc.collect()
    living = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in living}.values())


def test_no_image_is_kept(suite_of):
    suite = suite_of(METRIC_NAMES, 2)
    held = []
    for count in (5, 45):
        for seed in range(count):
            prediction, target, mask = _batch(1, 64, seed)
            suite.update_all([prediction, target], target, mask)
        held.append(_bytes_held())
    # Two methods and the targets leave features of 3 and of 1,280 numbers: far less than a single image each.
    assert 0 < held[1] - held[0] <= 45 * 3 * 4 * (3 + 1280) < 45 * 4 * target.numel()


def test_missing_weights_leave_the_other_metrics_running(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    suite = MetricSuite(METRIC_NAMES)
    values = suite.update(*_batch(2, 64))
    assert all(
        math.isfinite(value) for name in ("psnr", "psnr_hole", "l1_hole", "ssim") for value in values[name]
    )
    assert all(math.isnan(value) for name in ("ms_ssim", "lpips") for value in values[name])
    assert all(math.isnan(value) for value in suite.compute().values())
    assert set(suite.unavailable) == {"ms_ssim", "lpips", "fid", "kid", "fd_effnet_lite0"}
    assert suite.unavailable["ms_ssim"] == "needs images of at least 176 px, these are 64 px"
    assert "alexnet-owt-7be5be79.pth" in suite.unavailable["lpips"]
    assert "weights-inception-2015-12-05-6726825d.pth" in suite.unavailable["fid"]


def test_a_metric_that_some_images_have_is_available():
    suite = MetricSuite(["psnr", "ms_ssim"])
    assert math.isnan(suite.update(*_batch(1, 64))["ms_ssim"][0])
    assert math.isfinite(suite.update(*_batch(1, 176))["ms_ssim"][0])
    assert suite.unavailable == {}


def test_no_hole_anywhere_is_said():
    suite = MetricSuite(["psnr_hole", "l1_hole", "psnr"])
    prediction, target, mask = _batch(2, 32)
    suite.update(prediction, target, torch.zeros_like(mask))
    assert suite.unavailable == {"psnr_hole": "no image has a hole", "l1_hole": "no image has a hole"}
    suite.update(prediction, target, mask)
    assert suite.unavailable == {}


def test_set_metrics_of_one_image_or_of_other_bands_are_unavailable():
    suite = MetricSuite(["fid"], feature=Means())
    assert suite.update(*_batch(1, 16)) == {}
    assert math.isnan(suite.compute()["fid"])
    assert suite.unavailable == {"fid": "needs at least 2 images, there are 1"}
    suite.update(*_batch(2, 16))
    assert math.isfinite(suite.compute()["fid"]) and suite.unavailable == {}
    bands = MetricSuite(["fid"], feature=Means())
    four = torch.rand(2, 4, 16, 16)
    bands.update(four, four, torch.ones(2, 1, 16, 16))
    assert math.isnan(bands.compute()["fid"]) and "these have 4 channels" in bands.unavailable["fid"]


def test_mistakes_are_not_taken_for_missing_metrics():
    with pytest.raises(InputError, match="'psnr_holes' is not known; choose from psnr, psnr_hole"):
        MetricSuite(["psnr", "psnr_holes"])
    with pytest.raises(InputError, match="lpips_net: 'alexnet' is not known"):
        MetricSuite(["lpips"], lpips_net="alexnet")
    prediction, target, mask = _batch(1, 32)
    with pytest.raises(InputError, match="prediction: values must lie in"):
        MetricSuite([]).update(prediction * 2, target, mask)


def test_averages():
    assert average([1.0, 2.0, 6.0]) == 3.0
    assert average([1.0, math.nan, math.inf, 3.0]) == 2.0
    assert average([math.inf, math.nan]) == math.inf
    assert math.isnan(average([math.nan])) and math.isnan(average([]))


def test_what_a_mean_leaves_out_is_told():
    assert left_out([math.inf, 1.0, math.nan, math.inf]) == (0, 3)
    assert left_out([math.inf, math.nan]) == left_out([math.nan, 1.0]) == left_out([]) == ()


def test_importing_the_package_does_not_import_the_heavy_libraries():
    code = "import sys, igll.metrics, igll.report, igll.baselines; print([*sys.modules])"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torchmetrics", "torchvision", "lpips", "matplotlib", "rasterio", "scipy"):
        assert f"'{heavy}'" not in modules
