"""Networks and discriminators by name."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from igll.baselines import CLASSICAL_TITLES
from igll.baselines.dmfn import DMFN, MultiScaleFusionBlock
from igll.baselines.han import HAN, LaplaceAttention
from igll.baselines.hifill import HiFill
from igll.baselines.hint import HINT, SandwichBlock
from igll.config import DiscriminatorConfig, ModelConfig
from igll.models.critics import Critic, PatchDiscriminator
from igll.models.discriminator import Discriminator
from igll.models.generator import Generator
from igll.models.similarity import FlexibleFeatureSimilarity
from igll.registry import TITLES, build_discriminator, build_generator
from igll.schema import PUBLISHED

# Trainable weights of the published networks; the tests of each derive its number layer by layer.
PUBLISHED_SIZES = {
    "igll": (Generator, 4_442_454),
    "dmfn": (DMFN, 9_037_443),
    "dmfn24": (DMFN, 13_036_483),
    "hifill": (HiFill, 2_722_791),
    "han": (HAN, 19_446_475),
    "hint": (HINT, 72_265_248),
}


def weights(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def built(**settings) -> nn.Module:
    with torch.device("meta"):
        return build_generator(ModelConfig(**settings))


def count(net: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in net.modules())


def test_every_name_has_a_class_a_size_and_a_title():
    names = set(get_args(ModelConfig.model_fields["name"].annotation))
    assert names == set(PUBLISHED_SIZES) == set(PUBLISHED) == set(TITLES)
    rows = [*TITLES.values(), *CLASSICAL_TITLES.values()]
    assert len(set(rows)) == len(rows), "rows of a table must be told apart"


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_a_name_alone_builds_the_published_network(name: str):
    kind, size = PUBLISHED_SIZES[name]
    net = built(name=name)
    assert type(net) is kind and weights(net) == size
    assert net.structure_prior == ("oracle" if name == "igll" else "none") and net.image_channels == 3


def test_both_dmfns_are_told_apart():
    published, unofficial = built(name="dmfn", blocks=[3]), built(name="dmfn24", blocks=[3])
    assert count(published, MultiScaleFusionBlock) == 3 and count(unofficial, MultiScaleFusionBlock) == 0
    assert weights(published) != weights(unofficial)


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_width_and_channels_are_passed_on(name: str):
    convolutions = [
        layer
        for layer in built(name=name, width=8, image_channels=5).modules()
        if isinstance(layer, nn.Conv2d)
    ]
    prior = 1 if name == "igll" else 0  # the edge map
    assert convolutions[0].out_channels in (8, 16), "HINT's embedding paints its gates beside its values"
    assert convolutions[0].in_channels == 5 + 1 + prior
    assert weights(built(name=name, width=8)) < weights(built(name=name, width=16)) < PUBLISHED_SIZES[name][1]


def test_blocks_are_passed_on():
    han = built(name="han", width=8, blocks=[1, 2, 2, 4])
    patches = [layer.patch for layer in han.modules() if isinstance(layer, LaplaceAttention)]
    assert patches == [1, 2, 2, 4, 4, 2, 2, 1]
    hint = built(name="hint", width=8, blocks=[1, 2, 1, 3])
    assert count(hint, SandwichBlock) == 2 * (1 + 2 + 1) + 3
    assert count(built(name="dmfn", blocks=[2]), MultiScaleFusionBlock) == 2


def test_igll_gets_every_choice():
    net = built(
        structure_prior="none", prefill="harmonic", residual=True, gam="vanilla", select="best",
        score_scale=7, width=8, heads=2, position=False,
    )  # fmt: skip
    assert isinstance(net, Generator) and net.prefill == "harmonic" and net.pirn.residual
    ffsm = next(module for module in net.modules() if isinstance(module, FlexibleFeatureSimilarity))
    assert (ffsm.score_scale, ffsm.select) == (7, "best")


@pytest.mark.parametrize(
    ("name", "kind"), [("strided", Discriminator), ("patch", PatchDiscriminator), ("critic", Critic)]
)
@pytest.mark.parametrize("edge", [True, False])
def test_discriminators(name: str, kind: type[nn.Module], edge: bool):
    with torch.device("meta"):
        net = build_discriminator(DiscriminatorConfig(name=name, width=8, edge=edge, norm="none"), 5)
    first = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
    assert type(net) is kind and net.edge is edge
    assert (first.in_channels, first.out_channels) == (5 + edge, 8)


@pytest.mark.parametrize("name", ["strided", "patch"])
@pytest.mark.parametrize("norm", ["none", "batch", "spectral"])
def test_norms_are_passed_on(name: str, norm: str):
    net = build_discriminator(DiscriminatorConfig(name=name, width=4, norm=norm), 3)
    assert (count(net, nn.BatchNorm2d) > 0) == (norm == "batch")
    assert any("parametrizations" in key for key in net.state_dict()) == (norm == "spectral")
