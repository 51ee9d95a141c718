"""FID and KID: how far two sets of images are apart in the features of a network.

Both are biased or noisy for few images: FID (Heusel et al. 2017) falls with the number of images,
so only values over equally many can be compared; KID (Binkowski et al. 2018) is unbiased.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from igll.compat import prepare_torchvision
from igll.distributed import gather_rows, size
from igll.metrics.image import check_images
from igll.metrics.layout import for_convolutions, pieces, place
from igll.metrics.names import MetricUnavailableError
from igll.metrics.weights import cached_weights, read_weights

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
_FEATURES = ("inception-v3-compat", ["2048"])  # what is asked of torch-fidelity
_KID_SUBSET, _KID_SUBSETS, _KID_SEED = 1000, 100, 0
_BLOCK = 64  # feature vectors that are added up at once


class SetDistances:
    """FID, KID and FD-effnet-lite0 between the results of methods and the targets that were shown to it.

    Holds sums for the Fréchet distances and one feature vector per image for KID, never images. The
    network runs once per image for all; FD-effnet-lite0 is what FID is, on the features of another network.

    Args:
        names: Of ``fid``, ``kid`` and ``fd_effnet_lite0``, those wanted on this network.
        feature: Network from (B, 3, H, W) uint8 images to (B, D) features; None takes the Inception
            network of the published values, from torch hub's cache.
        allow_download: Fetch the Inception weights if the cache does not have them.
        device: Where the network runs.
        methods: How many methods share the targets.

    Raises:
        MetricUnavailableError: The Inception weights or the package torch-fidelity are missing.
    """

    def __init__(
        self,
        names: Iterable[str] = ("fid", "kid"),
        feature: nn.Module | None = None,
        allow_download: bool = False,
        device: torch.device | str = "cpu",
        methods: int = 1,
    ) -> None:
        self._names = tuple(names)
        self._feature = place(inception(allow_download) if feature is None else feature, device).eval()
        self._targets = _FeatureSet(self._names, real=True)
        self._results = [_FeatureSet(self._names, real=False) for _ in range(methods)]

    def update(self, prediction_BCHW: Tensor, target_BCHW: Tensor) -> None:
        """Add a batch of a single method; see :meth:`update_all`."""
        self.update_all([prediction_BCHW], target_BCHW)

    @torch.no_grad()
    def update_all(self, predictions: Sequence[Tensor], target_BCHW: Tensor) -> None:
        """Add a batch.

        Args:
            predictions: Of each method (B, 3, H, W), float in [0, 1]; rounded to 8 bits here.
            target_BCHW: The same, for all of them.

        Raises:
            InputError: Shapes differ or values leave [0, 1].
            MetricUnavailableError: The images are not RGB.
        """
        for prediction_BCHW in predictions:
            check_images(prediction_BCHW, target_BCHW)
        if target_BCHW.shape[1] != 3:
            raise MetricUnavailableError(f"needs RGB images, these have {target_BCHW.shape[1]} channels")
        sets = [self._targets, *self._results]
        for seen, image_BCHW in zip(sets, (target_BCHW, *predictions), strict=True):
            image_BCHW = for_convolutions((image_BCHW * 255).round().to(torch.uint8))
            for piece in pieces(len(image_BCHW), image_BCHW.device):
                seen.add(self._feature(image_BCHW[piece]))

    def join(self) -> None:
        """Put together what the processes of a run added, each of its own images, in their order."""
        for seen in (self._targets, *self._results):
            seen.join()

    @torch.inference_mode()
    def compute(self, method: int = 0) -> dict[str, float]:
        """The distances of one method over everything added so far.

        KID is the mean over 100 random subsets of 1,000 images, the same ones on every call, or
        the value of the whole set if it has no more than that.

        Raises:
            MetricUnavailableError: Fewer than two images were added.
        """
        real, fake = self._targets, self._results[method]
        if real.images < 2:
            raise MetricUnavailableError(f"needs at least 2 images, there are {real.images}")
        real.settle()
        fake.settle()
        return {
            name: _kernel_distance(real, fake) if name == "kid" else _frechet_distance(real, fake)
            for name in self._names
        }


class _FeatureSet:
    """What is kept of the features of one set of images.

    They are added up in blocks: the outer product of dozens of vectors costs hardly more than that of one,
    and blocks of one size make the sums the same whatever the batches were.

    Args:
        names: The distances wanted.
        real: Whether these are the targets.

    Attributes:
        images: How many were added.
        sums: torchmetrics' Fréchet distance, one side of which holds this set's sums; None if not wanted.
        kept: The features themselves, block by block, if KID is wanted.
    """

    def __init__(self, names: Iterable[str], real: bool) -> None:
        self._names, self._real = tuple(names), real
        self._waiting: list[Tensor] = []
        self.images = 0
        self.sums: Any = None
        self.kept: list[Tensor] = []

    def add(self, features_BD: Tensor) -> None:
        """Add a few images; of several processes, each keeps its own until they :meth:`join`."""
        self.images += len(features_BD)
        for vector_D in features_BD:
            self._waiting.append(vector_D)
            if len(self._waiting) == _BLOCK and size() == 1:
                self.settle()

    def join(self) -> None:
        """Add up the features of all processes as one process would have."""
        if size() == 1:
            return
        features_ND = gather_rows(torch.stack(self._waiting) if self._waiting else torch.empty(0))
        self.images, self._waiting = len(features_ND), []
        for block_BD in features_ND.split(_BLOCK):
            self._waiting = list(block_BD)
            self.settle()

    def settle(self) -> None:
        """Add up what waits for its block to be full."""
        if not self._waiting:
            return
        block_BD = torch.stack(self._waiting)
        self._waiting = []
        if "kid" in self._names:
            self.kept.append(block_BD)
        if set(self._names) - {"kid"}:
            if self.sums is None:
                self.sums = _frechet_metric(block_BD)
            self.sums.update(block_BD.double(), real=self._real)


def _frechet_distance(real: _FeatureSet, fake: _FeatureSet) -> float:
    metric = fake.sums
    for state in ("real_features_sum", "real_features_cov_sum", "real_features_num_samples"):
        setattr(metric, state, getattr(real.sums, state))
    # Eigenvalues of a matrix that is not symmetric are slow on a GPU, where torch has them at all.
    return float(_on_one_thread(metric.to("cpu").compute))


def _kernel_distance(real: _FeatureSet, fake: _FeatureSet) -> float:
    prepare_torchvision()
    from torchmetrics.image.kid import KernelInceptionDistance

    real_ND, fake_ND = torch.cat(real.kept), torch.cat(fake.kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that KID keeps its features
        metric = KernelInceptionDistance(
            feature=_Given(real_ND.shape[1]),
            subset_size=min(_KID_SUBSET, real.images),
            subsets=_KID_SUBSETS if real.images > _KID_SUBSET else 1,
            sync_on_compute=False,  # it has the features of all processes
        ).to(real_ND.device)
    metric.update(real_ND.double(), real=True)
    metric.update(fake_ND.double(), real=False)
    # torchmetrics draws the subsets from the global generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_KID_SEED)
        return float(metric.compute()[0])


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
    _require_torch_fidelity()
    path = cached_weights(INCEPTION_URL, allow_download)
    # torch-fidelity unpickles this file without restrictions; what the restricted reader accepts is safe.
    read_weights(path)
    prepare_torchvision()
    from torchmetrics.image.fid import NoTrainInceptionV3

    with torch.random.fork_rng(devices=[]):
        try:
            return NoTrainInceptionV3(*_FEATURES, str(path))
        except RuntimeError as error:
            raise MetricUnavailableError(f"{path.name} does not hold the weights its name says") from error


def untrained_inception() -> nn.Module:
    """The network of :func:`inception` with random weights: it takes as long, and its features mean nothing.

    Raises:
        MetricUnavailableError: The package torch-fidelity is missing.
    """
    _require_torch_fidelity()
    prepare_torchvision()
    from torchmetrics.image.fid import NoTrainInceptionV3

    class Untrained(NoTrainInceptionV3):
        """Keeps the weights that it starts with, where its parent insists on a file."""

        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Nothing."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # and no GPU's
        return Untrained(*_FEATURES, empty)  # type: ignore[arg-type]  # its loader takes files too


def _require_torch_fidelity() -> None:
    if importlib.util.find_spec("torch_fidelity") is None:
        raise MetricUnavailableError('needs the package torch-fidelity: pip install "igll[fid]"')


class _Given(nn.Module):
    """Stands where torchmetrics expects a network, for features that are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features_BD: Tensor) -> Tensor:
        return features_BD


def _frechet_metric(features_BD: Tensor) -> Any:
    """Fréchet distance of torchmetrics, set up to be fed with features like these."""
    prepare_torchvision()
    from torchmetrics.image.fid import FrechetInceptionDistance

    # What it adds up are the features of all processes: nothing is to be exchanged.
    metric = FrechetInceptionDistance(feature=_Given(features_BD.shape[1]), sync_on_compute=False)
    return metric.to(features_BD.device)
