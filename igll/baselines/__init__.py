"""Methods to compare with."""

from igll.baselines.classical import CLASSICAL, fill_nodata, mean_of_known

__all__ = ["CLASSICAL", "fill_nodata", "mean_of_known"]
