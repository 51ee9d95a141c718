"""The metrics by name: which exist, which way is better, what they need of an image."""

from __future__ import annotations

from typing import Final

IMAGE_METRICS: Final = ("psnr", "psnr_hole", "l1_hole", "ssim", "ms_ssim", "lpips")
"""Metrics with one value per image."""

SET_METRICS: Final = ("fid", "kid", "fd_effnet_lite0")
"""Metrics with one value for a whole set of images."""

METRIC_NAMES: Final = IMAGE_METRICS + SET_METRICS
"""Every metric that can be asked for, in the order of the tables."""

HIGHER_IS_BETTER: Final[dict[str, bool]] = {
    "psnr": True,
    "psnr_hole": True,
    "l1_hole": False,
    "ssim": True,
    "ms_ssim": True,
    "lpips": False,
    "fid": False,
    "kid": False,
    "fd_effnet_lite0": False,
}

# SSIM: one 11-pixel window. MS-SSIM: the same window at five scales, (11 - 1) * 2**4 < side, in whole
# sixteenths. LPIPS: what AlexNet's strides leave a pixel of; the same bound for the other trunks.
# EfficientNet-Lite0: its total stride.
SMALLEST_SIDE: Final[dict[str, int]] = {"ssim": 11, "ms_ssim": 176, "lpips": 32, "fd_effnet_lite0": 32}
"""Shortest side in pixels that a metric can be computed on; metrics not listed take any size."""


class MetricUnavailableError(Exception):
    """A metric cannot be computed here: its weights, its package or enough pixels are missing.

    The message is the reason as it stands in a table's footnote.
    """
