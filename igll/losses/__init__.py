"""The losses of section 3.6: one class, one equation."""

from igll.losses.adversarial import (
    AdversarialLoss,
    LeastSquaresLoss,
    NonSaturatingLoss,
    RelativisticAverageLoss,
)
from igll.losses.edges import EdgeCompletionLoss
from igll.losses.features import VGGFeatures
from igll.losses.perceptual import PerceptualLoss, StyleLoss
from igll.losses.pixel import LocalL1Loss, LogErrorLoss, StagedL1Loss, WholeL1Loss
from igll.losses.released import FeatureMatchingLoss, GeometricAlignmentLoss, SelfGuidedRegressionLoss
from igll.losses.singular_values import SingularValueLoss, leading_singular_values
from igll.losses.wasserstein import WassersteinGradientPenaltyLoss

__all__ = [
    "AdversarialLoss",
    "EdgeCompletionLoss",
    "FeatureMatchingLoss",
    "GeometricAlignmentLoss",
    "LeastSquaresLoss",
    "LocalL1Loss",
    "LogErrorLoss",
    "NonSaturatingLoss",
    "PerceptualLoss",
    "RelativisticAverageLoss",
    "SelfGuidedRegressionLoss",
    "SingularValueLoss",
    "StagedL1Loss",
    "StyleLoss",
    "VGGFeatures",
    "WassersteinGradientPenaltyLoss",
    "WholeL1Loss",
    "leading_singular_values",
]
