"""All the metrics of an evaluation behind one update and one compute."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igll.distributed import gather
from igll.errors import InputError
from igll.metrics import image
from igll.metrics.distribution import SetDistances
from igll.metrics.effnet_lite import effnet_lite0
from igll.metrics.layout import pieces
from igll.metrics.names import IMAGE_METRICS, METRIC_NAMES, SET_METRICS, MetricUnavailableError
from igll.metrics.perceptual import PerceptualDistance

_NO_HOLE = "no image has a hole"
_PROXY = "fd_effnet_lite0"


class MetricSuite:
    """Measures completed images of one or several methods batch by batch and keeps none of them.

    Networks are loaded once, and see each target once for all methods. On a CPU images are measured one by
    one, so that no value depends on the batch that an image came in. A metric that cannot be computed
    (weights missing, images too small) gives NaN, and its reason in ``unavailable``; the others go on.

    Args:
        names: Which of ``METRIC_NAMES`` to compute.
        lpips_net: Trunk of LPIPS: ``alex``, ``vgg`` or ``squeeze``.
        allow_download: Fetch weights that torch hub's cache does not have.
        device: Where the metrics are computed; batches are moved there.
        feature: Network for FID and KID instead of Inception, see `SetDistances`.
        fd_weights: Weights file of FD-effnet-lite0, see `effnet_lite0`.
        methods: How many methods are measured on the same targets.

    Raises:
        InputError: Unknown metric or trunk.
    """

    def __init__(
        self,
        names: Sequence[str],
        lpips_net: str = "alex",
        allow_download: bool = False,
        device: torch.device | str = "cpu",
        feature: nn.Module | None = None,
        fd_weights: str | None = None,
        methods: int = 1,
    ) -> None:
        unknown = [name for name in names if name not in METRIC_NAMES]
        if unknown:
            raise InputError(f"metrics: '{unknown[0]}' is not known; choose from {', '.join(METRIC_NAMES)}")
        self.image_names = tuple(name for name in IMAGE_METRICS if name in names)
        self.set_names = tuple(name for name in SET_METRICS if name in names)
        self._device = torch.device(device)
        self._reasons: dict[str, str] = {}
        self._measured: set[str] = set()
        self._perceptual: PerceptualDistance | None = None
        self._distances: dict[tuple[str, ...], SetDistances] = {}  # one network each
        if "lpips" in names:
            try:
                self._perceptual = PerceptualDistance(lpips_net, allow_download, device)
            except MetricUnavailableError as reason:
                self._reasons["lpips"] = str(reason)
        on_inception = tuple(name for name in self.set_names if name != _PROXY)
        for group in (on_inception, (_PROXY,) if _PROXY in names else ()):
            if not group:
                continue
            try:
                network = effnet_lite0(fd_weights) if _PROXY in group else feature
                self._distances[group] = SetDistances(group, network, allow_download, device, methods)
            except MetricUnavailableError as reason:
                self._reasons |= dict.fromkeys(group, str(reason))

    @property
    def unavailable(self) -> dict[str, str]:
        """Metrics that have no value for any image so far, with the reason."""
        return {name: reason for name, reason in self._reasons.items() if name not in self._measured}

    def update(
        self, prediction_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor
    ) -> dict[str, list[float]]:
        """Measure a batch of a single method; see :meth:`update_all`."""
        return self.update_all([prediction_BCHW], target_BCHW, mask_B1HW)[0]

    @torch.no_grad()
    def update_all(
        self, predictions: Sequence[Tensor], target_BCHW: Tensor, mask_B1HW: Tensor
    ) -> list[dict[str, list[float]]]:
        """Measure a batch.

        Args:
            predictions: Completed images of each method, (B, C, H, W), float in [0, 1], rounded to 8 bits
                if they will be stored so.
            target_BCHW: The true images, the same shape and range.
            mask_B1HW: 1 where a pixel was missing.

        Returns:
            Of each method, for each per-image metric asked for, B values. NaN where it cannot be computed:
            see ``unavailable``; in ``psnr_hole`` and ``l1_hole`` also for an image without a hole.

        Raises:
            InputError: Shapes differ or values leave [0, 1].
        """
        predictions = [prediction_BCHW.to(self._device) for prediction_BCHW in predictions]
        target_BCHW, mask_B1HW = target_BCHW.to(self._device), mask_B1HW.to(self._device)
        for prediction_BCHW in predictions:
            image.check_images(prediction_BCHW, target_BCHW)
        columns: list[dict[str, list[float]]] = [{name: [] for name in self.image_names} for _ in predictions]
        for piece in pieces(len(target_BCHW), self._device):
            truth = _Truth(target_BCHW[piece], mask_B1HW[piece])
            for values, prediction_BCHW in zip(columns, predictions, strict=True):
                for name in self.image_names:
                    values[name] += self._values(name, prediction_BCHW[piece], truth)
        self._update_distances(predictions, target_BCHW)
        return columns

    def join(self) -> None:
        """Put together what the processes of a run measured, each of its own images, in their order."""
        parts = gather({"reasons": self._reasons, "measured": sorted(self._measured)})
        for part in reversed(parts):
            self._reasons |= part["reasons"]
            self._measured |= set(part["measured"])
        self._distances = {
            group: distances
            for group, distances in self._distances.items()
            if not self._reasons.keys() & set(group)
        }
        for distances in self._distances.values():
            distances.join()

    def compute(self, method: int = 0) -> dict[str, float]:
        """One method's metrics of the whole set, over everything updated so far; NaN where unavailable."""
        values = dict.fromkeys(self.set_names, math.nan)
        for group, distances in self._distances.items():
            try:
                values |= distances.compute(method)
            except MetricUnavailableError as reason:
                self._reasons |= dict.fromkeys(group, str(reason))
            else:
                self._measured |= set(group)
        return values

    def _update_distances(self, predictions: Sequence[Tensor], target_BCHW: Tensor) -> None:
        for group, distances in list(self._distances.items()):
            try:
                distances.update_all(predictions, target_BCHW)
            except MetricUnavailableError as reason:
                # A distance over a part of the set would pass for one over all of it.
                del self._distances[group]
                self._reasons |= dict.fromkeys(group, str(reason))

    def _values(self, name: str, prediction_BCHW: Tensor, truth: _Truth) -> list[float]:
        """One metric of some images of a method."""
        values = [math.nan] * len(prediction_BCHW)
        try:
            values = self._measure(name, prediction_BCHW, truth).tolist()
        except MetricUnavailableError as reason:
            self._reasons[name] = str(reason)
        if not all(math.isnan(value) for value in values):
            self._measured.add(name)
        elif name in ("psnr_hole", "l1_hole"):
            self._reasons[name] = _NO_HOLE
        return values

    def _measure(self, name: str, prediction_BCHW: Tensor, truth: _Truth) -> Tensor:
        if name == "lpips":
            if self._perceptual is None:
                raise MetricUnavailableError(self._reasons[name])
            if truth.features is None:
                truth.features = self._perceptual.features(truth.target_BCHW)
            return self._perceptual.distance(self._perceptual.features(prediction_BCHW), truth.features)
        if name in ("psnr_hole", "l1_hole"):
            hole = {"psnr_hole": image.hole_psnr, "l1_hole": image.hole_l1}[name]
            return hole(prediction_BCHW, truth.target_BCHW, truth.mask_B1HW)
        whole = {"psnr": image.psnr, "ssim": image.ssim, "ms_ssim": image.ms_ssim}[name]
        return whole(prediction_BCHW, truth.target_BCHW)


@dataclass
class _Truth:
    """Some targets, and what LPIPS sees in them, worked out once for all methods."""

    target_BCHW: Tensor
    mask_B1HW: Tensor
    features: list[Tensor] | None = None


def average(values: Sequence[float]) -> float:
    """Mean of per-image values for a table.

    NaN (could not be measured) is left out, and so is the infinite PSNR of an image that needed no
    filling, as one of them would hide all others. All infinite gives inf, nothing measured NaN.
    """
    measured = [value for value in values if not math.isnan(value)]
    finite = [value for value in measured if math.isfinite(value)]
    if finite:
        return math.fsum(finite) / len(finite)
    return measured[0] if measured else math.nan


def left_out(values: Sequence[float]) -> tuple[int, ...]:
    """Which of the values `average` leaves out for being infinite."""
    measured = [value for value in values if not math.isnan(value)]
    if not any(map(math.isfinite, measured)):
        return ()
    return tuple(place for place, value in enumerate(values) if math.isinf(value))


def standard_error(values: Sequence[float]) -> float:
    """Standard error of `average`, over its finite values; NaN for fewer than two."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return math.nan
    return statistics.stdev(finite) / math.sqrt(len(finite))
