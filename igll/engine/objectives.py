"""What the generator and the discriminator minimise: the weighted losses of section 3.6."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from igll.config import Config, LossConfig
from igll.data.stand_ins import Replacement
from igll.errors import InputError
from igll.losses import (
    AdversarialLoss,
    EdgeCompletionLoss,
    FeatureMatchingLoss,
    GeometricAlignmentLoss,
    LeastSquaresLoss,
    LocalL1Loss,
    LogErrorLoss,
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
from igll.losses.adversarial import relative_accuracy
from igll.losses.released import ALIGNED_LAYER, GUIDED_LAYERS
from igll.models.critics import AnyDiscriminator
from igll.models.discriminator import Judgement, Rectangle
from igll.models.hole_layout import HoleLayout
from igll.models.interface import GeneratorOutput

Terms = dict[str, Tensor]
_ADVERSARIAL: dict[str, Callable[[], AdversarialLoss]] = {
    "relativistic": RelativisticAverageLoss,
    "non_saturating": NonSaturatingLoss,
    "least_squares": LeastSquaresLoss,
    "wasserstein": WassersteinGradientPenaltyLoss,
}
_OF_FEATURES = ("perceptual", "style", "self_guided", "alignment")  # terms that need VGG


@dataclass
class Batch:
    """One batch on the training device.

    Attributes:
        image_BCHW: Input in [-1, 1].
        target_BCHW: Ground truth in [-1, 1].
        mask_B1HW: 1 = missing.
        edge_B1HW: Edge map of the ground truth, if edges are in use.
        rectangles: The holes, if they and those of the other processes are equal rectangles.
        indices: Positions in the dataset of all processes' samples, for error messages.
        layout: What the generator worked out from the mask; without it, its pass does.
        replaced: The samples that another image stands in for.
    """

    image_BCHW: Tensor
    target_BCHW: Tensor
    mask_B1HW: Tensor
    edge_B1HW: Tensor | None
    rectangles: list[Rectangle] | None
    indices: list[int]
    layout: HoleLayout | None = None
    replaced: list[Replacement] = field(default_factory=list)


class DiscriminatorTerms(NamedTuple):
    """What a pass through the discriminator gives.

    Attributes:
        total: Its loss: scalar, float32, with gradient.
        accuracy: Share of right judgements, see :func:`igll.losses.adversarial.relative_accuracy`; scalar.
    """

    total: Tensor
    accuracy: Tensor


class Objectives(nn.Module):
    """Computes every loss term that has a weight, raw, and their weighted sum.

    Args:
        config: Weights and settings.
        learned_edges: Whether the generator completes its own edges.
        crop_size: Side of the training crops; the singular values asked for must exist.
        allow_download: Fetch missing VGG weights.

    Raises:
        InputError: If no term has a weight, VGG weights are needed and missing, or a setting does not fit
            the crop.
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
        if not any(weight for name, weight in self.weights.items() if name != "edge" or learned_edges):
            but = " but losses.edge, which goes with prior learned" if config.edge else ""
            raise InputError(
                f"losses: every weight is 0{but}, so nothing would be learnt; set one, such as losses.local=1"
            )
        self.local = LocalL1Loss()
        self.log_error = LogErrorLoss(config.log_error_addend)
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
        seeing = [name for name in _OF_FEATURES if getattr(config, name)]
        self.features = (
            VGGFeatures(
                config.backbone,
                config.vgg_weights,
                allow_download,
                config.vgg_normalisation,
                config.vgg_amp,
                seeing,
            )
            if seeing
            else None
        )
        if self.features is not None:
            for key in ("perceptual", "style"):
                if getattr(config, key):
                    self.features.check_layers(f"{key}_layers", getattr(config, f"{key}_layers"))

    @property
    def whole_frame(self) -> bool:
        """Whether any loss looks at what was painted outside the hole."""
        return bool(self.config.staged) or self.config.judged != "composite"

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
            "local", "pixel", "log_error", "staged", "whole", "perceptual", "style", "adversarial", "svd",
            "edge", "self_guided", "alignment", "feature_matching",
        )  # fmt: skip
        return {name: getattr(self.config, name) for name in names}

    def judged(self, output: GeneratorOutput) -> Tensor:
        """What the discriminator and VGG see of a network's output: image_BCHW in [-1, 1]."""
        return output.perception_BCHW if self.config.judged == "composite" else output.predictions[-1]

    @property
    def judges_truth(self) -> bool:
        """Whether the generator's loss asks for the discriminator's judgement of the ground truth."""
        relative = bool(self.config.adversarial) and self.config.adversarial_form == "relativistic"
        return relative or bool(self.config.feature_matching)

    def differences(self, output: GeneratorOutput, batch: Batch) -> Tensor | None:
        """Differences of singular values: once for generator and discriminator, None if neither asks.

        Returns:
            differences_BN as :meth:`igll.losses.SingularValueLoss.differences`, with gradient.
        """
        if not self.config.svd:
            return None
        return self.singular_values.differences(output.perception_BCHW, batch.target_BCHW)

    def generator(
        self,
        output: GeneratorOutput,
        batch: Batch,
        real: Judgement | None,
        fake: Judgement | None,
        differences: Tensor | None = None,
    ) -> tuple[Tensor, Terms]:
        """The generator's loss (L_overall of section 3.6).

        Args:
            output: The generator's output for the batch.
            batch: The batch.
            real: The discriminator's judgement of the ground truth; None if no term asks for it.
            fake: Its judgement of the network's output, with gradient; None without adversarial terms.
            differences: What :meth:`differences` returned, if it was called.

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
        if weights["log_error"]:
            stages = (output.pixel_BCHW, result)
            terms["log_error"] = sum(self.log_error(stage, target, mask) for stage in stages) / len(stages)
        if weights["staged"]:
            terms["staged"] = self.staged(output.predictions, target, mask)
        if weights["whole"]:
            terms["whole"] = self.whole(self.judged(output), target, mask)
        if weights["svd"]:
            found = self.differences(output, batch) if differences is None else differences
            if found is not None:
                terms["svd"] = found.mean()
        if weights["edge"] and output.edge_logits_B1HW is not None and batch.edge_B1HW is not None:
            terms["edge"] = self.edge(output.edge_logits_B1HW, batch.edge_B1HW, mask)
        if self.features is not None:
            terms |= self._feature_terms(self.judged(output).float(), target, mask)
        if fake is not None and weights["adversarial"]:
            # Losses that are not relative do not look at the truth's score.
            truth = fake.logits.detach() if real is None else real.logits
            terms["adversarial"] = self.adversarial.generator(truth, fake.logits)
        if fake is not None and real is not None and weights["feature_matching"]:
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
        differences: Tensor | None = None,
    ) -> DiscriminatorTerms:
        """The discriminator's loss (L_dis of section 3.6), and how often it is right.

        Args:
            discriminator: The network.
            batch: The batch, whose ground truth is real.
            result_BCHW: What :meth:`judged` returned, detached.
            conditional: Whether the discriminator sees edges.
            differences: What :meth:`differences` returned, if it was called.
        """
        edge = batch.edge_B1HW if conditional else None
        gap = None
        if self._shifts_fakes:
            if differences is not None and self.config.judged == "composite":
                gap = differences.detach().mean(1)
            else:
                gap = self.singular_values.gap_per_sample(result_BCHW.float(), batch.target_BCHW)
        real_logits, fake_logits = _score_pair(discriminator, batch, result_BCHW, edge)
        loss = self.adversarial.discriminator(real_logits, fake_logits, gap)
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
        return DiscriminatorTerms(loss, relative_accuracy(real_logits, fake_logits))


def build_objectives(config: Config) -> Objectives:
    """The losses of a run, on the CPU.

    Raises:
        InputError: As :class:`Objectives`.
    """
    learned = config.model.structure_prior == "learned"
    return Objectives(config.losses, learned, config.data.crop_size, config.allow_download)


def _score_pair(
    discriminator: AnyDiscriminator, batch: Batch, result_BCHW: Tensor, edge_B1HW: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores of real images and of results: in one pass, where images do not influence each other."""
    target_BCHW, rectangles = batch.target_BCHW, batch.rectangles
    if getattr(discriminator, "mixes", True):  # of a network that does not say, the careful answer
        real = discriminator(target_BCHW, edge_B1HW, rectangles)
        return real.logits, discriminator(result_BCHW, edge_B1HW, rectangles).logits
    both_BCHW = torch.cat([target_BCHW, result_BCHW.to(target_BCHW.dtype)])
    edges_B1HW = None if edge_B1HW is None else edge_B1HW.repeat(2, 1, 1, 1)
    doubled = None if rectangles is None else [*rectangles, *rectangles]
    real_logits, fake_logits = discriminator(both_BCHW, edges_B1HW, doubled).logits.chunk(2)
    return real_logits, fake_logits
