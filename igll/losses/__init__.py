"""The losses of section 3.6: one class, one equation."""

from igll.losses.adversarial import RelativisticAverageLoss
from igll.losses.edges import EdgeCompletionLoss
from igll.losses.features import VGGFeatures
from igll.losses.perceptual import PerceptualLoss, StyleLoss
from igll.losses.pixel import LocalL1Loss
from igll.losses.released import FeatureMatchingLoss, GeometricAlignmentLoss, SelfGuidedRegressionLoss
from igll.losses.singular_values import SingularValueLoss, leading_singular_values

__all__ = [
    "EdgeCompletionLoss",
    "FeatureMatchingLoss",
    "GeometricAlignmentLoss",
    "LocalL1Loss",
    "PerceptualLoss",
    "RelativisticAverageLoss",
    "SelfGuidedRegressionLoss",
    "SingularValueLoss",
    "StyleLoss",
    "VGGFeatures",
    "leading_singular_values",
]
