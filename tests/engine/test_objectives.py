"""What the terms are computed of, which form they take, and what the optimisers do with them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.config import LossConfig
from igll.engine import objectives as module
from igll.engine.checkpoint import load_checkpoint
from igll.engine.objectives import Batch, Objectives
from igll.engine.state import build_state
from igll.engine.step import train_step
from igll.engine.train import train
from igll.errors import InputError
from igll.models.discriminator import Judgement
from igll.models.interface import GeneratorOutput
from tests.engine.test_train import differing, lines

SIDE = 32
# What every other network has to be told to do without.
PLAIN = {"structure_prior": "none", "prefill": "none", "residual": False, "position_grid": 64}
OFF = dict.fromkeys(("local", "pixel", "perceptual", "style", "adversarial", "svd", "edge"), 0)


class Glass(nn.Module):
    """Stands in for VGG: a layer's activations are the image (masked), scaled; notes what it is shown."""

    def __init__(self, *_: object) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, list[str], Tensor | None]] = []

    def check_layers(self, key: str, layers: Iterable[str]) -> None:
        pass

    def forward(self, image: Tensor, layers: Iterable[str], mask: Tensor | None = None) -> dict[str, Tensor]:
        names = list(layers)
        self.seen.append((image, names, mask))
        shown = (image + 1) * (1 if mask is None else mask)
        return {name: shown * int(name[4]) for name in names}


@pytest.fixture
def glass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VGGFeatures", Glass)


def objectives(**losses) -> Objectives:
    return Objectives(LossConfig(**{**OFF, **losses}), False, SIDE)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def batch() -> Batch:
    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[0, :, 4:20, 8:24] = 1
    mask[1, :, 10:] = 1
    target = noise(2, 3, SIDE, SIDE, seed=0)
    return Batch(target, target, mask, None, None, [0, 1])


def output(given: Batch) -> GeneratorOutput:
    """Two stages that paint other things outside the hole too."""
    first, last = (noise(2, 3, SIDE, SIDE, seed=seed) for seed in (1, 2))
    pixel, perception = (
        torch.where(given.mask_B1HW > 0.5, stage, given.image_BCHW) for stage in (first, last)
    )
    return GeneratorOutput(pixel, perception, (first, last))


class Linear(nn.Module):
    """A judge whose score is w·x; notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(noise(3 * SIDE * SIDE, seed=3) / 20)
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor, edge: Tensor | None = None, rectangles: object = None) -> Judgement:
        self.seen.append(image.detach().clone())
        return Judgement((image.flatten(1) @ self.weight)[:, None], [], [])


def scores(judge: Linear, image: Tensor) -> Tensor:
    return image.double().flatten(1) @ judge.weight.detach().double()


# What is looked at.


@pytest.mark.parametrize("judged", ["composite", "prediction"])
def test_vgg_and_the_whole_frame_look_at_what_is_judged(glass, judged: str):
    given = batch()
    made = output(given)
    looked_at, other = (made.perception_BCHW, made.predictions[-1])[:: 1 if judged == "composite" else -1]
    losses = objectives(judged=judged, perceptual=2, perceptual_layers=["relu3_1"], whole=3)
    total, terms = losses.generator(made, given, None, None)
    assert not torch.equal(looked_at, other)
    (found, *_), (wanted, *_) = losses.features.seen
    assert torch.equal(found, looked_at) and torch.equal(wanted, given.target_BCHW)
    distance = (looked_at.double() - given.target_BCHW.double()).abs().mean().item()
    assert terms["whole"].item() == pytest.approx(distance, rel=1e-5)
    assert terms["perceptual"].item() == pytest.approx(3 * distance, rel=1e-5)
    assert total.item() == pytest.approx(2 * 3 * distance + 3 * distance, rel=1e-5)
    assert terms.keys() == {"whole", "perceptual"}


@pytest.mark.parametrize("judged", ["composite", "prediction"])
def test_the_discriminator_looks_at_what_is_judged(small, judged: str):
    config = small(
        model={**PLAIN, "name": "han", "blocks": [1, 1, 1, 1]},
        discriminator={"name": "patch", "edge": False, "norm": "none", "steps": 2},
        losses={"judged": judged, "local": 0, "pixel": 0, "svd": 0, "whole": 1, "adversarial": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    state = build_state(config, torch.device("cpu"))
    made: list[GeneratorOutput] = []
    fill = state.generator.fill
    state.generator.fill = lambda *given: made.append(fill(*given)) or made[-1]
    seen: list[Tensor] = []
    state.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    given = batch()
    train_step(state, Objectives(config.losses, False, SIDE), config, given, [0] * 4)
    looked_at = made[0].perception_BCHW if judged == "composite" else made[0].predictions[-1]
    # Two steps of its own on real and fake together, then each by itself for the generator's sake.
    pair = [given.target_BCHW, looked_at.detach()]
    expected = [torch.cat(pair), torch.cat(pair), *pair]
    assert len(seen) == 4 and all(map(torch.equal, seen, expected))
    known = (given.mask_B1HW == 0).expand_as(looked_at)
    assert torch.equal(looked_at[known], given.image_BCHW[known]) == (judged == "composite")


def test_stages_are_those_of_the_output(glass):
    given = batch()
    made, losses = output(given), objectives(staged=1)
    _, terms = losses.generator(made, given, None, None)
    hole = given.mask_B1HW.double().numpy()
    expected = 0.0
    for frame, weight in zip(made.predictions, (1.2, 1.0), strict=True):
        distance = np.abs(frame.double().numpy() - given.target_BCHW.double().numpy())
        expected += weight * ((hole * distance).mean() + ((1 - hole) * distance).mean() / (1 - hole).mean())
    assert terms["staged"].item() == pytest.approx(expected, rel=1e-5)
    assert losses.features is None, "no VGG weights are asked for"


# Style of the frame or of the hole.


def gram(features: Tensor) -> Tensor:
    features = features.double()
    return torch.einsum("bihw,bjhw->bij", features, features) / features[0].numel()


@pytest.mark.parametrize("style_of", ["frame", "hole"])
@pytest.mark.parametrize("perceptual", [0, 1])
def test_style_is_of_the_frame_or_of_the_hole(glass, style_of: str, perceptual: int):
    given, layers = batch(), ["relu2_2", "relu4_3"]
    made = output(given)
    losses = objectives(
        style=1, style_of=style_of, style_layers=layers, perceptual=perceptual, perceptual_layers=["relu1_1"],
        judged="prediction",
    )  # fmt: skip
    _, terms = losses.generator(made, given, None, None)
    shown = 1 if style_of == "frame" else given.mask_B1HW
    sides = [(image + 1) * shown for image in (made.predictions[-1], given.target_BCHW)]
    expected = sum(
        (gram(int(name[4]) * sides[0]) - gram(int(name[4]) * sides[1])).abs().mean().item() for name in layers
    )
    assert terms["style"].item() == pytest.approx(expected, rel=1e-5)
    assert terms.keys() == {"style", *(["perceptual"] if perceptual else [])}
    masked = [names for _, names, mask in losses.features.seen if mask is not None]
    plain = {name for _, names, mask in losses.features.seen if mask is None for name in names}
    assert masked == ([layers, layers] if style_of == "hole" else [])
    assert plain == {*(["relu1_1"] if perceptual else []), *(layers if style_of == "frame" else [])}


def test_layers_that_the_backbone_lacks_are_refused_before_training(tmp_path, shared):
    weights = str(shared / "weights" / "vgg16_features_fp16.safetensors")
    chosen = {"backbone": "vgg16", "vgg_weights": weights}
    with pytest.raises(InputError, match=r"^losses\.style_layers: vgg16 has no relu3_4; "):
        objectives(**chosen, style=1, style_layers=["relu2_2", "relu3_4"])
    with pytest.raises(InputError, match=r"^losses\.perceptual_layers: vgg16 has no relu5_4; "):
        objectives(**chosen, perceptual=1, perceptual_layers=["relu5_4"])
    # A list that no term reads is nobody's mistake, and the style of the hole needs no other term.
    losses = objectives(**chosen, style=1, style_of="hole", perceptual_layers=["relu5_4"])
    _, terms = losses.generator(output(batch()), batch(), None, None)
    assert terms["style"].item() > 0


# Feature matching.


@pytest.mark.parametrize("matched", ["all", "local"])
def test_feature_matching_is_of_all_layers_or_of_the_local_ones(matched: str):
    def judgement(seed: int) -> Judgement:
        features = [
            noise(2, 4, 8, 8, seed=seed),
            noise(2, 8, 4, 4, seed=seed + 1),
            noise(2, 16, 2, 2, seed=seed + 2),
        ]
        return Judgement(torch.zeros(2, 1), features, features[1:])

    real, fake, given = judgement(10), judgement(20), batch()
    losses = objectives(feature_matching=5, feature_matching_of=matched)
    total, terms = losses.generator(output(given), given, real, fake)
    pairs = list(zip(fake.features, real.features, strict=True))[0 if matched == "all" else 1 :]
    expected = sum(
        (found.double() - wanted.double()).abs().mean().item()
        * (1 if matched == "all" else 1000 / found.shape[1] ** 2)
        for found, wanted in pairs
    )
    assert terms.keys() == {"feature_matching"}
    assert terms["feature_matching"].item() == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(5 * expected, rel=1e-5)


@pytest.mark.parametrize("name", ["patch", "critic"])
def test_local_features_of_a_judge_without_a_local_net_are_refused(small, tmp_path, name: str):
    config = small(
        discriminator={"name": name}, losses={"feature_matching": 1, "feature_matching_of": "local"}
    )
    with pytest.raises(
        InputError, match=rf"^losses\.feature_matching_of: discriminator\.name={name} has no local"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    build_state(small(discriminator={"name": name}, losses={"feature_matching": 1}), torch.device("cpu"))


# Adversarial forms.


def cross_entropy(score: Tensor, label: float) -> float:
    return F.binary_cross_entropy(score.sigmoid(), torch.full_like(score, label)).item()


def squares(score: Tensor, label: float) -> float:
    return (score.sigmoid() - label).square().mean().item()


def expected_losses(form: str, real: Tensor, fake: Tensor) -> tuple[float, float]:
    """The generator's and the discriminator's, of float64 scores."""
    if form == "relativistic":
        real, fake = real - fake.mean(), fake - real.mean()
        return (
            cross_entropy(fake, 1) + cross_entropy(real, 0),
            cross_entropy(real, 1) + cross_entropy(fake, 0),
        )
    if form == "wasserstein":
        return -fake.mean().item(), (fake.mean() - real.mean()).item()
    distance = cross_entropy if form == "non_saturating" else squares
    return distance(fake, 1), (distance(real, 1) + distance(fake, 0)) / 2


@pytest.mark.parametrize("form", ["relativistic", "non_saturating", "least_squares", "wasserstein"])
def test_adversarial_forms(form: str):
    given, judge = batch(), Linear()
    made = output(given)
    losses = objectives(adversarial=0.5, adversarial_form=form, gradient_penalty=0)
    for_generator, for_judge = expected_losses(
        form, scores(judge, given.target_BCHW), scores(judge, made.perception_BCHW)
    )
    found = losses.discriminator(judge, given, made.perception_BCHW, conditional=False).total
    assert found.item() == pytest.approx(for_judge, rel=1e-5)
    total, terms = losses.generator(made, given, judge(given.target_BCHW), judge(made.perception_BCHW))
    assert terms["adversarial"].item() == pytest.approx(for_generator, rel=1e-5)
    assert total.item() == pytest.approx(0.5 * for_generator, rel=1e-5)


# The gradient penalty.


def test_the_gradient_penalty_enters_the_critics_loss_with_its_weight():
    given, judge = batch(), Linear()
    result = output(given).perception_BCHW
    plain, weighed = (
        objectives(adversarial=1, adversarial_form="wasserstein", gradient_penalty=weight)
        .discriminator(judge, given, result, conditional=False)
        .total
        for weight in (0, 10)
    )
    # A linear critic's slope is its weight, wherever it is taken.
    slope = judge.weight.detach().double().norm().item()
    assert abs(slope - 1) > 0.1
    assert (weighed - plain).item() == pytest.approx(10 * (slope - 1) ** 2, rel=1e-4)
    (gradient,) = torch.autograd.grad(weighed - plain, judge.weight)
    expected = 20 * (slope - 1) / slope * judge.weight.detach()
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    # Its third look lies between the two others, at a share of its own for each image.
    real, fake, between = judge.seen[2:]
    shares = ((between - real) / (fake - real)).flatten(1).nanmedian(1).values
    assert ((shares > 0) & (shares < 1)).all() and abs(shares[0] - shares[1]) > 1e-3


@pytest.mark.parametrize("form", ["relativistic", "non_saturating", "least_squares"])
def test_other_forms_have_no_penalty(form: str):
    given = batch()
    result = output(given).perception_BCHW
    values = []
    for weight in (0, 10):
        judge = Linear()
        losses = objectives(adversarial=1, adversarial_form=form, gradient_penalty=weight)
        values.append(losses.discriminator(judge, given, result, conditional=False).total.item())
        assert len(judge.seen) == 2
    assert values[0] == values[1]


def test_a_penalty_of_a_judge_that_mixes_images_is_refused(small):
    def build(**settings) -> None:
        judge = {"name": settings.get("name", "strided"), "norm": settings.get("norm", "batch")}
        losses = {"adversarial_form": "wasserstein", "gradient_penalty": settings.get("penalty", 10)}
        build_state(small(discriminator=judge, losses=losses), torch.device("cpu"))

    for name in ("strided", "patch"):
        with pytest.raises(InputError, match=r"^discriminator\.norm: batch mixes images"):
            build(name=name)
    build(name="critic")  # which has no norm whatever is said
    build(norm="spectral")
    build(penalty=0)


def test_batch_norm_of_one_small_crop_is_refused_before_anything_is_written(small, tmp_path):
    def config(**changes: int):
        data, training = {"crop_size": changes.get("crop", 64)}, {"batch_size": changes.get("batch", 1)}
        judge = {"norm": "batch", "width": 4}
        return small(discriminator=judge, data=data, train={"max_steps": 1, "eval_images": 1, **training})

    with pytest.raises(InputError, match=r"^discriminator\.norm: batch .* one crop of 64 × 64 pixels; use "):
        train(config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert build_state(config(crop=65), torch.device("cpu")).discriminator is not None
    assert build_state(config(batch=2), torch.device("cpu")).discriminator is not None


@pytest.mark.parametrize(("name", "crop"), [("patch", 24), ("strided", 16), ("critic", 16)])
def test_the_smallest_crop_that_a_discriminator_sees(small, tmp_path, name: str, crop: int):
    def config(side: int):
        data = {"crop_size": side}
        return small(discriminator={"name": name}, data=data, train={"max_steps": 1, "eval_images": 1})

    assert train(config(crop), tmp_path / "run") == 0
    if name == "patch":
        with pytest.raises(InputError, match=r"^data\.crop_size: .*=patch judges crops of 24 .*, not 23;"):
            train(config(crop - 1), tmp_path / "smaller")
        assert not (tmp_path / "smaller").exists()


def test_a_critic_with_gradient_penalty_resumes_bit_for_bit(small, tmp_path):
    """Its points between real and filled images are drawn from the random state that a checkpoint keeps."""

    def config(steps: int):
        return small(
            model={**PLAIN, "name": "hifill"},
            discriminator={"name": "critic", "edge": False, "steps": 2},
            losses={
                "local": 0, "pixel": 0, "svd": 0, "staged": 1.2, "adversarial": 0.01,
                "adversarial_form": "wasserstein",
            },
            train={"max_steps": steps, "eval_every": 1, "schedule": "constant"},
        )  # fmt: skip

    train(config(4), tmp_path / "whole")
    train(config(2), tmp_path / "parts")
    torch.manual_seed(1234)  # a new process starts with other random numbers
    train(config(4), tmp_path / "parts", resume=True)
    whole, parts = (load_checkpoint(tmp_path / run / "checkpoints" / "last.pt") for run in ("whole", "parts"))
    assert differing(whole, parts) == []
    first, *_ = lines(tmp_path / "whole", "train")
    assert {"generator/staged", "generator/adversarial", "discriminator/total"} <= first.keys()
    assert math.isfinite(first["discriminator/total"])


# Optimisers.


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_weight_decay_is_decoupled_with_adamw(small, optimizer: str):
    config = small(train={"optimizer": optimizer, "weight_decay": 0.1, "lr": 0.01})
    state = build_state(config, torch.device("cpu"))
    expected = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
    for built, network in (
        (state.generator_optimizer, state.generator), (state.discriminator_optimizer, state.discriminator),
    ):  # fmt: skip
        assert type(built) is expected and built.defaults["weight_decay"] == 0.1
        assert built.defaults["betas"] == (0.5, 0.9)
        weight = next(parameter for parameter in network.parameters() if parameter.dim() == 4)
        before = weight.detach().clone()
        weight.grad = torch.zeros_like(weight)
        built.step()
        # AdamW shrinks; in Adam the decay is a gradient, whose first step has the length of the rate.
        pull = 0.1 * before
        after = before - 0.01 * (pull if optimizer == "adamw" else pull / (pull.abs() + 1e-8))
        torch.testing.assert_close(weight.detach(), after, rtol=1e-5, atol=1e-6)
