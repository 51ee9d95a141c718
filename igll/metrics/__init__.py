"""Image quality: per image (PSNR, SSIM, MS-SSIM, LPIPS, L1 in the hole), per set (FID, KID, FD-effnet)."""

from igll.metrics.names import (
    HIGHER_IS_BETTER,
    IMAGE_METRICS,
    METRIC_NAMES,
    SET_METRICS,
    MetricUnavailableError,
)
from igll.metrics.suite import MetricSuite, average, left_out, standard_error

__all__ = [
    "HIGHER_IS_BETTER",
    "IMAGE_METRICS",
    "METRIC_NAMES",
    "SET_METRICS",
    "MetricSuite",
    "MetricUnavailableError",
    "average",
    "left_out",
    "standard_error",
]
