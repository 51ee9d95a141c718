"""What the generator and the discriminator minimise: the weighted losses of section 3.6."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igll.config import LossConfig
from igll.errors import InputError
from igll.losses import (
    AdversarialLoss,
    EdgeCompletionLoss,
    FeatureMatchingLoss,
    GeometricAlignmentLoss,
    LeastSquaresLoss,
    LocalL1Loss,
    NonSaturatingLoss,
    PerceptualLoss,
    RelativisticAverageLoss,
    SelfGuidedRegressionLoss,
    SingularValueLoss,
    StagedL1Loss,
    StyleLoss,
    VGGFeatures,
    WassersteinGradientPenaltyLoss,
    WholeL1Loss,
)
from igll.losses.released import ALIGNED_LAYER, GUIDED_LAYERS
from igll.models.critics import AnyDiscriminator
from igll.models.discriminator import Judgement, Rectangle
from igll.models.interface import GeneratorOutput

Terms = dict[str, Tensor]
_ADVERSARIAL: dict[str, Callable[[], AdversarialLoss]] = {
    "relativistic": RelativisticAverageLoss,
    "non_saturating": NonSaturatingLoss,
    "least_squares": LeastSquaresLoss,
    "wasserstein": WassersteinGradientPenaltyLoss,
}


@dataclass
class Batch:
    """One batch on the training device.

    Attributes:
        image_BCHW: Input in [-1, 1].
        target_BCHW: Ground truth in [-1, 1].
        mask_B1HW: 1 = missing.
        edge_B1HW: Edge map of the ground truth, if edges are in use.
        rectangles: The holes, if they are equal rectangles.
        indices: Positions in the dataset, for error messages.
    """

    image_BCHW: Tensor
    target_BCHW: Tensor
    mask_B1HW: Tensor
    edge_B1HW: Tensor | None
    rectangles: list[Rectangle] | None
    indices: list[int]


class Objectives(nn.Module):
    """Computes every loss term that has a weight, raw, and their weighted sum.

    Args:
        config: Weights and settings.
        learned_edges: Whether the generator completes its own edges.
        crop_size: Side of the training crops; the singular values asked for must exist.
        allow_download: Fetch missing VGG weights.

    Raises:
        InputError: If VGG weights are needed and missing, or a setting does not fit the crop.
    """

    def __init__(
        self, config: LossConfig, learned_edges: bool, crop_size: int, allow_download: bool = False
    ) -> None:
        super().__init__()
        side = config.svd_patch or crop_size
        if config.svd_leading > side:
            raise InputError(
                f"losses.svd_leading: {config.svd_leading} singular values of a matrix of side {side} "
                "do not exist; lower it or enlarge losses.svd_patch or data.crop_size"
            )
        self.config = config
        self.learned_edges = learned_edges
        self.local = LocalL1Loss()
        self.singular_values = SingularValueLoss(config.svd_leading, config.svd_patch, config.svd_normalise)
        self.edge = EdgeCompletionLoss()
        self.staged = StagedL1Loss()
        self.whole = WholeL1Loss(config.whole_per_hole)
        self.adversarial: AdversarialLoss = _ADVERSARIAL[config.adversarial_form]()
        self.perceptual = PerceptualLoss(
            config.feature_scale, config.perceptual_layers, config.perceptual_by_channels
        )
        self.style = StyleLoss(config.feature_scale, config.style_layers)
        self.self_guided = SelfGuidedRegressionLoss(config.feature_scale)
        self.alignment = GeometricAlignmentLoss()
        self.feature_matching = FeatureMatchingLoss(by_channels=config.feature_matching_of == "local")
        needs_features = config.perceptual or config.style or config.self_guided or config.alignment
        self.features = (
            VGGFeatures(config.backbone, config.vgg_weights, allow_download, config.vgg_normalisation)
            if needs_features
            else None
        )
        if self.features is not None:
            for key in ("perceptual", "style"):
                if getattr(config, key):
                    self.features.check_layers(f"{key}_layers", getattr(config, f"{key}_layers"))

    @property
    def _layers(self) -> list[str]:
        """The VGG activations that the terms look at."""
        config = self.config
        style = self.style.layers if config.style and config.style_of == "frame" else ()
        guided = GUIDED_LAYERS if config.self_guided else ()
        perceptual = self.perceptual.layers if config.perceptual else ()
        return [*perceptual, *style, *guided, *((ALIGNED_LAYER,) if config.alignment else ())]

    @property
    def _shifts_fakes(self) -> bool:
        """Whether the singular-value gap enters the discriminator's loss; peers have no place for it."""
        config = self.config
        return bool(config.svd) and config.svd_discriminator and config.adversarial_form == "relativistic"

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each generator term."""
        names = (
            "local", "pixel", "staged", "whole", "perceptual", "style", "adversarial", "svd", "edge",
            "self_guided", "alignment", "feature_matching",
        )  # fmt: skip
        return {name: getattr(self.config, name) for name in names}

    def judged(self, output: GeneratorOutput) -> Tensor:
        """What the discriminator and VGG see of a network's output: image_BCHW in [-1, 1]."""
        return output.perception_BCHW if self.config.judged == "composite" else output.predictions[-1]

    def generator(
        self, output: GeneratorOutput, batch: Batch, real: Judgement | None, fake: Judgement | None
    ) -> tuple[Tensor, Terms]:
        """The generator's loss (L_overall of section 3.6).

        Args:
            output: The generator's output for the batch.
            batch: The batch.
            real: The discriminator's judgement of the ground truth; None without adversarial terms.
            fake: Its judgement of the network's output, with gradient.

        Returns:
            Weighted sum, and every term before weighting.
        """
        weights, target, mask = self.weights, batch.target_BCHW, batch.mask_B1HW
        result = output.perception_BCHW.float()
        terms: Terms = {}
        if weights["local"]:
            terms["local"] = self.local(result, target, mask)
        if weights["pixel"]:
            terms["pixel"] = self.local(output.pixel_BCHW.float(), target, mask)
        if weights["staged"]:
            terms["staged"] = self.staged(output.predictions, target, mask)
        if weights["whole"]:
            terms["whole"] = self.whole(self.judged(output), target, mask)
        if weights["svd"]:
            terms["svd"] = self.singular_values(result, target)
        if weights["edge"] and output.edge_logits_B1HW is not None and batch.edge_B1HW is not None:
            terms["edge"] = self.edge(output.edge_logits_B1HW, batch.edge_B1HW, mask)
        if self.features is not None:
            terms |= self._feature_terms(self.judged(output).float(), target, mask)
        if real is not None and fake is not None:
            if weights["adversarial"]:
                terms["adversarial"] = self.adversarial.generator(real.logits, fake.logits)
            if weights["feature_matching"]:
                local = self.config.feature_matching_of == "local"
                terms["feature_matching"] = self.feature_matching(
                    *(judgement.local_features if local else judgement.features for judgement in (fake, real))
                )
        total = sum((weights[name] * term for name, term in terms.items()), start=result.new_zeros(()))
        return total, terms

    def _feature_terms(self, result_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor) -> Terms:
        """Terms on VGG features: one pass over the result, one without gradient over the target."""
        assert self.features is not None  # noqa: S101  (narrows for the type checker)
        found = self.features(result_BCHW, self._layers)
        with torch.no_grad():
            wanted = self.features(target_BCHW, self._layers)
        terms: Terms = {}
        if self.config.perceptual:
            terms["perceptual"] = self.perceptual(found, wanted)
        if self.config.style and self.config.style_of == "frame":
            terms["style"] = self.style(found, wanted)
        if self.config.style and self.config.style_of == "hole":
            found_inside = self.features(result_BCHW, self.style.layers, mask_B1HW)
            with torch.no_grad():
                wanted_inside = self.features(target_BCHW, self.style.layers, mask_B1HW)
            terms["style"] = self.style(found_inside, wanted_inside)
        if self.config.self_guided:
            terms["self_guided"] = self.self_guided(result_BCHW, target_BCHW, found, wanted)
        if self.config.alignment:
            terms["alignment"] = self.alignment(found, wanted)
        return terms

    def discriminator(
        self,
        discriminator: AnyDiscriminator,
        batch: Batch,
        result_BCHW: Tensor,
        conditional: bool,
    ) -> Tensor:
        """The discriminator's loss (L_dis of section 3.6) on real images and detached results."""
        edge = batch.edge_B1HW if conditional else None
        real = discriminator(batch.target_BCHW, edge, batch.rectangles)
        fake = discriminator(result_BCHW, edge, batch.rectangles)
        gap = None
        if self._shifts_fakes:
            gap = self.singular_values.gap_per_sample(result_BCHW.float(), batch.target_BCHW)
        loss = self.adversarial.discriminator(real.logits, fake.logits, gap)
        if isinstance(self.adversarial, WassersteinGradientPenaltyLoss) and self.config.gradient_penalty:
            penalty = self.adversarial.gradient_penalty(
                lambda between: discriminator(between, edge, batch.rectangles).logits,
                batch.target_BCHW,
                result_BCHW,
                None,
                # Torch's own generator, which a checkpoint brings back.
                torch.default_generator,
            )
            loss = loss + self.config.gradient_penalty * penalty
        return loss
