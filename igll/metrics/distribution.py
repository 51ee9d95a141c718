"""FID and KID: how far two sets of images are apart in the features of a network.

Both are biased or noisy for few images: FID (Heusel et al. 2017) falls with the number of images,
so only values over equally many can be compared; KID (Binkowski et al. 2018) is unbiased.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from igll.compat import prepare_torchvision
from igll.metrics.image import check_images
from igll.metrics.names import MetricUnavailableError
from igll.metrics.weights import cached_weights, read_weights

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
_KID_SUBSET, _KID_SUBSETS, _KID_SEED = 1000, 100, 0


class SetDistances:
    """FID, KID and FD-effnet-lite0 between the predictions and the targets that were shown to it.

    Holds sums for the Fréchet distances and one feature vector per image for KID, never images. The
    network runs once per image for all; FD-effnet-lite0 is what FID is, on the features of another network.

    Args:
        names: Of ``fid``, ``kid`` and ``fd_effnet_lite0``, those wanted on this network.
        feature: Network from (B, 3, H, W) uint8 images to (B, D) features; None takes the Inception
            network of the published values, from torch hub's cache.
        allow_download: Fetch the Inception weights if the cache does not have them.
        device: Where the network runs.

    Raises:
        MetricUnavailableError: The Inception weights or the package torch-fidelity are missing.
    """

    def __init__(
        self,
        names: Iterable[str] = ("fid", "kid"),
        feature: nn.Module | None = None,
        allow_download: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self._names = tuple(names)
        self._feature = (inception(allow_download) if feature is None else feature).to(device).eval()
        self._metrics: dict[str, Any] = {}
        self._images = 0

    @torch.no_grad()
    def update(self, prediction_BCHW: Tensor, target_BCHW: Tensor) -> None:
        """Add a batch.

        Args:
            prediction_BCHW: (B, 3, H, W), float in [0, 1]; rounded to 8 bits here.
            target_BCHW: The same.

        Raises:
            InputError: Shapes differ or values leave [0, 1].
            MetricUnavailableError: The images are not RGB.
        """
        check_images(prediction_BCHW, target_BCHW)
        if target_BCHW.shape[1] != 3:
            raise MetricUnavailableError(f"needs RGB images, these have {target_BCHW.shape[1]} channels")
        for real, image_BCHW in ((True, target_BCHW), (False, prediction_BCHW)):
            features_BD = self._feature((image_BCHW * 255).round().to(torch.uint8)).double()
            if not self._metrics:
                self._metrics = _metrics_on_features(self._names, features_BD)
            for metric in self._metrics.values():
                metric.update(features_BD, real=real)
        self._images += len(target_BCHW)

    def compute(self) -> dict[str, float]:
        """The distances over everything added so far.

        KID is the mean over 100 random subsets of 1,000 images, the same ones on every call, or
        the value of the whole set if it has no more than that.

        Raises:
            MetricUnavailableError: Fewer than two images were added.
        """
        if self._images < 2:
            raise MetricUnavailableError(f"needs at least 2 images, there are {self._images}")
        values: dict[str, float] = {}
        for name, metric in self._metrics.items():
            if name == "kid":
                metric.subset_size = min(_KID_SUBSET, self._images)
                metric.subsets = _KID_SUBSETS if self._images > _KID_SUBSET else 1
            with torch.random.fork_rng(
                devices=[]
            ):  # torchmetrics draws the subsets from the global generator
                torch.manual_seed(_KID_SEED)
                value = metric.compute() if name == "kid" else _on_one_thread(metric.compute)
            values[name] = float(value[0] if name == "kid" else value)
        return values


def _on_one_thread(compute: Callable[[], Tensor]) -> Tensor:
    """On a busy machine the eigenvalues take many times as long with threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compute()
    finally:
        torch.set_num_threads(threads)


def inception(allow_download: bool = False) -> nn.Module:
    """The Inception network whose 2,048 features FID and KID are defined on.

    Returns:
        Module from (B, 3, H, W) uint8 to (B, 2048) float32.

    Raises:
        MetricUnavailableError: The weights or the package torch-fidelity are missing, or damaged.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise MetricUnavailableError('needs the package torch-fidelity: pip install "igll[fid]"')
    path = cached_weights(INCEPTION_URL, allow_download)
    # torch-fidelity unpickles this file without restrictions; what the restricted reader accepts is safe.
    read_weights(path)
    prepare_torchvision()
    from torchmetrics.image.fid import NoTrainInceptionV3

    with torch.random.fork_rng(devices=[]):
        try:
            return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
        except RuntimeError as error:
            raise MetricUnavailableError(f"{path.name} does not hold the weights its name says") from error


class _Features(nn.Module):
    """Stands where torchmetrics expects a network, for features that are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features_BD: Tensor) -> Tensor:
        return features_BD


def _metrics_on_features(names: Iterable[str], features_BD: Tensor) -> dict[str, Any]:
    """Distances of torchmetrics, set up to be fed with features like these."""
    prepare_torchvision()
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    kinds = {
        "fid": FrechetInceptionDistance,
        "kid": KernelInceptionDistance,
        "fd_effnet_lite0": FrechetInceptionDistance,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that KID keeps its features
        width, device = features_BD.shape[1], features_BD.device
        return {name: kinds[name](feature=_Features(width)).to(device) for name in names}
