"""The numbers that the paper prints, to stand beside measured ones (Remote Sens. 2025, 17(13), 2132).

IGLL's were measured with edges of the ground truth, as far as the paper and the code released with it
tell, but for the row "w/o structure prior" of Table 4. The paper does not name the network of its LPIPS.
"""

from __future__ import annotations

from typing import NamedTuple

METRICS = ("ms_ssim", "psnr", "fid", "lpips")


class Size(NamedTuple):
    """A row of Table 3.

    Attributes:
        parameters: In millions.
        multiply_adds: "GFLOPs" in units of 10⁹; the paper does not name its counter.
    """

    parameters: float
    multiply_adds: float


METHODS = ("DMFN", "HiFill", "HAN", "HINT", "IGLL")
DATASETS = ("AID", "RICE", "Clear-View")
MASK_PERCENTS = (10, 25, 77)

# Metric, missing pixels in percent and dataset, to one value per method of METHODS.
_TABLE2: dict[tuple[str, int, str], tuple[float, float, float, float, float]] = {
    ("ms_ssim", 10, "AID"): (0.916, 0.928, 0.937, 0.304, 0.948),
    ("ms_ssim", 10, "RICE"): (0.922, 0.931, 0.951, 0.310, 0.952),
    ("ms_ssim", 10, "Clear-View"): (0.900, 0.905, 0.912, 0.300, 0.933),
    ("ms_ssim", 25, "AID"): (0.811, 0.830, 0.839, 0.311, 0.865),
    ("ms_ssim", 25, "RICE"): (0.821, 0.832, 0.850, 0.312, 0.875),
    ("ms_ssim", 25, "Clear-View"): (0.772, 0.805, 0.779, 0.301, 0.814),
    ("ms_ssim", 77, "AID"): (0.711, 0.734, 0.750, 0.324, 0.757),
    ("ms_ssim", 77, "RICE"): (0.736, 0.758, 0.760, 0.330, 0.764),
    ("ms_ssim", 77, "Clear-View"): (0.654, 0.664, 0.722, 0.322, 0.710),
    ("psnr", 10, "AID"): (27.253, 28.330, 29.190, 16.276, 31.621),
    ("psnr", 10, "RICE"): (27.359, 28.456, 29.890, 16.290, 31.892),
    ("psnr", 10, "Clear-View"): (25.890, 26.573, 27.518, 16.001, 30.875),
    ("psnr", 25, "AID"): (23.003, 23.835, 24.224, 16.409, 27.282),
    ("psnr", 25, "RICE"): (23.362, 23.973, 24.633, 17.103, 31.621),
    ("psnr", 25, "Clear-View"): (21.971, 22.361, 22.258, 16.074, 27.282),
    ("psnr", 77, "AID"): (20.241, 21.552, 22.031, 16.591, 21.848),
    ("psnr", 77, "RICE"): (21.004, 22.217, 22.307, 16.701, 22.925),
    ("psnr", 77, "Clear-View"): (20.050, 20.383, 21.812, 16.286, 21.578),
    ("fid", 10, "AID"): (17.078, 18.906, 11.911, 16.045, 6.573),
    ("fid", 10, "RICE"): (16.630, 16.758, 10.395, 16.008, 5.298),
    ("fid", 10, "Clear-View"): (18.354, 20.083, 12.257, 16.232, 8.252),
    ("fid", 25, "AID"): (58.343, 59.951, 43.333, 28.600, 19.554),
    ("fid", 25, "RICE"): (56.247, 58.231, 42.58, 27.560, 18.603),
    ("fid", 25, "Clear-View"): (60.000, 60.058, 45.087, 28.973, 21.257),
    ("fid", 77, "AID"): (79.092, 77.502, 77.502, 39.343, 30.118),
    ("fid", 77, "RICE"): (78.352, 77.255, 76.281, 39.060, 29.222),
    ("fid", 77, "Clear-View"): (80.257, 79.271, 79.354, 38.640, 33.581),
    ("lpips", 10, "AID"): (0.088, 0.084, 0.066, 0.445, 0.035),
    ("lpips", 10, "RICE"): (0.076, 0.077, 0.051, 0.438, 0.024),
    ("lpips", 10, "Clear-View"): (0.099, 0.092, 0.089, 0.450, 0.039),
    ("lpips", 25, "AID"): (0.231, 0.228, 0.178, 0.456, 0.134),
    ("lpips", 25, "RICE"): (0.217, 0.199, 0.155, 0.446, 0.126),
    ("lpips", 25, "Clear-View"): (0.359, 0.282, 0.194, 0.483, 0.136),
    ("lpips", 77, "AID"): (0.327, 0.323, 0.286, 0.470, 0.177),
    ("lpips", 77, "RICE"): (0.259, 0.258, 0.251, 0.379, 0.169),
    ("lpips", 77, "Clear-View"): (0.389, 0.381, 0.354, 0.493, 0.179),
}

# Dataset, missing pixels in percent and method, to its metrics.
TABLE2: dict[tuple[str, int, str], dict[str, float]] = {
    (dataset, percent, method): {
        metric: _TABLE2[metric, percent, dataset][METHODS.index(method)] for metric in METRICS
    }
    for dataset in DATASETS
    for percent in MASK_PERCENTS
    for method in METHODS
}

TABLE3: dict[str, Size] = {
    "DMFN": Size(13.036, 128.765),
    "HiFill": Size(9.853, 80.307),
    "HAN": Size(19.446, 114.737),
    "HINT": Size(21.167, 72.940),
    "IGLL": Size(4.458, 42.613),
}

# AID with a quarter of the pixels missing; each row is the model without one of its parts.
TABLE4: dict[str, dict[str, float]] = {
    "w/o GAM": {"ms_ssim": 0.8463, "psnr": 25.2109, "fid": 25.3540, "lpips": 0.1333},
    "w/o FFSM": {"ms_ssim": 0.8453, "psnr": 25.0450, "fid": 26.5767, "lpips": 0.1403},
    "w/o structure prior": {"ms_ssim": 0.8076, "psnr": 22.2340, "fid": 92.201, "lpips": 0.2564},
    "w/o position information": {"ms_ssim": 0.8453, "psnr": 24.9933, "fid": 28.8948, "lpips": 0.1435},
    "w/ multi-head attention": {"ms_ssim": 0.8241, "psnr": 23.4782, "fid": 67.3224, "lpips": 0.2190},
    "w/o SVD loss": {"ms_ssim": 0.8462, "psnr": 25.8886, "fid": 21.1133, "lpips": 0.1256},
    "IGLL": {"ms_ssim": 0.8653, "psnr": 27.2821, "fid": 19.5542, "lpips": 0.1305},
}

# What looks wrong in print, said beside the value.
_REPEATED = "Table 2's 25 % PSNR of RICE and Clear-View repeat AID's at 10 % and 25 %: probably misprints."
_SHARED_FID = "Table 2 prints the same FID for HiFill and HAN."
_FAILED = "HINT's values look like those of a failed run: 16 dB with a tenth of the pixels missing."
_TWO_LPIPS = "Table 4 prints an LPIPS of 0.1305 for the full model, Table 2 prints 0.134 for the same case."

TABLE2_NOTES: dict[tuple[tuple[str, int, str], str], str] = {
    (("RICE", 25, "IGLL"), "psnr"): _REPEATED,
    (("Clear-View", 25, "IGLL"), "psnr"): _REPEATED,
    (("AID", 25, "IGLL"), "lpips"): _TWO_LPIPS,
    (("AID", 77, "HiFill"), "fid"): _SHARED_FID,
    (("AID", 77, "HAN"), "fid"): _SHARED_FID,
    **{
        ((dataset, percent, "HINT"), metric): _FAILED
        for dataset in DATASETS
        for percent in MASK_PERCENTS
        for metric in METRICS
    },
}
TABLE4_NOTES: dict[tuple[str, str], str] = {("IGLL", "lpips"): _TWO_LPIPS}

# Our own counts of public code at 256 × 256, against the paper's second column of Table 3.
_NO_VARIANT = "Neither number is that of a public variant of the model."
TABLE3_NOTES: dict[str, str] = {
    "DMFN": "The paper's parameters are those of a variant with 24 blocks (9.037 M as published, with 8); "
    "its GFLOPs are twice that variant's multiply-adds, as a profiler of layers counts them.",
    "HiFill": _NO_VARIANT + " As published: 2.723 M, 9.0 G.",
    "HAN": "The paper's GFLOPs are the multiply-adds of convolutions alone; all together are 137.4 G.",
    "HINT": _NO_VARIANT + " As published: 72.265 M, 220.6 G.",
    "IGLL": "The paper's GFLOPs are a partial count: the released code takes 78.0 G, convolutions alone "
    "26.4 G. Ours is what a pass computes; its layers one by one over the whole frame are 30.1 G and 25.6 G.",
}
