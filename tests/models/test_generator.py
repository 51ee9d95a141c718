"""The generator's contract: what it keeps, what it must not see, what it learns, how large it is."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from igll.config import ModelConfig
from igll.models.attention import GlobalAttention
from igll.models.generator import Generator, Prefill, StructurePrior
from igll.models.prefill import prefill_mean, prefill_pyramid
from igll.models.similarity import FlexibleFeatureSimilarity
from igll.registry import build_generator

WIDTH = 4
PRIORS = get_args(StructurePrior)
NEEDS_EDGE = ("oracle", "reference")


def generator(prior: StructurePrior = "oracle", seed: int = 0, **settings: Any) -> Generator:
    torch.manual_seed(seed)
    return Generator(width=WIDTH, structure_prior=prior, position_grid=8, **settings)


def images(batch: int = 2, height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def masks(batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
    """In turn: a rectangle inside; all but a strip of 14 columns; nothing; everything; a blob at a corner."""
    mask_B1HW = torch.zeros(5, 1, height, width)
    mask_B1HW[0, :, height // 3 : height // 2 + 2, width // 3 : width // 2 + 3] = 1
    mask_B1HW[1, :, :, 14:] = 1
    mask_B1HW[3] = 1
    mask_B1HW[4, :, -height // 4 :, -width // 3 :] = 1
    return mask_B1HW[:batch]


def edges(batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(2))


def edge_for(prior: StructurePrior, *size: int) -> Tensor | None:
    return edges(*size) if prior in NEEDS_EDGE else None


def squared_error(net: Generator, image: Tensor, mask: Tensor, edge: Tensor | None) -> Tensor:
    """A loss on every output that training uses."""
    output = net.fill(image, mask, edge)
    target = images(image.shape[0], *image.shape[2:]).flip(3)
    loss = (output.pixel_BCHW - target).square().mean() + (output.perception_BCHW - target).square().mean()
    return loss if output.edge_logits_B1HW is None else loss + output.edge_logits_B1HW.square().mean()


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("height, width", [(32, 32), (61, 50), (19, 70)])
def test_known_pixels_stay_bit_for_bit_at_any_size(prior: StructurePrior, height: int, width: int) -> None:
    net = generator(prior).eval()
    image, mask, edge = images(3, height, width), masks(3, height, width), edge_for(prior, 3, height, width)
    with torch.no_grad():
        outputs = net(image, mask, edge)
    assert isinstance(outputs, tuple) and len(outputs) == 2
    known = (mask == 0).expand_as(image)
    for output in outputs:
        assert output.shape == image.shape and output.dtype == image.dtype
        assert output.isfinite().all() and output.abs().max() <= 1
        assert torch.equal(output[known], image[known])
        assert torch.equal(output[2], image[2]), "an image without a hole"
        assert (output != image)[:2].any()


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("prior", ["oracle", "learned"])
def test_any_number_of_channels(prior: StructurePrior, channels: int) -> None:
    net = generator(prior, image_channels=channels)
    image, mask, edge = images(1, 18, 26, channels), masks(1, 18, 26), edge_for(prior, 1, 18, 26)
    with torch.no_grad():
        for output in net(image, mask, edge):
            known = (mask == 0).expand_as(image)
            assert output.shape == image.shape and torch.equal(output[known], image[known])


@pytest.mark.parametrize("height, width", [(1, 1), (3, 5), (4, 4), (9, 2)])
@pytest.mark.parametrize("prefill", get_args(Prefill))
def test_the_smallest_images(height: int, width: int, prefill: str) -> None:
    image, mask = images(2, height, width), torch.zeros(2, 1, height, width)
    mask[:, :, -1, -1] = 1
    with torch.no_grad():
        pixel, perception = generator("learned", prefill=prefill)(image, mask)
    for output in (pixel, perception):
        assert output.isfinite().all() and output.shape == image.shape
        assert torch.equal(output[(mask == 0).expand_as(image)], image[(mask == 0).expand_as(image)])


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("prefill, residual", [("none", False), ("mean", True), ("pyramid", True)])
def test_what_stands_in_the_hole_is_never_seen(prior: StructurePrior, prefill: str, residual: bool) -> None:
    """With ``learned``, this is also the proof that the completed edges do not leak the truth."""
    net = generator(prior, prefill=prefill, residual=residual)
    with torch.no_grad():
        for net_ in (net.pirn, net.pern):  # away from the zeros at which a residual starts
            nn.init.normal_(net_.decoder.get_submodule("8").get_parameter("weight"), std=0.1)
    size = (5, 29, 34)
    image, mask, edge = images(*size), masks(*size), edge_for(prior, *size)
    with torch.no_grad():
        expected = net.fill(image, mask, edge)
        for content in (0.0, -5.0, 1e30, float("nan"), float("inf")):
            other = net.fill(image.masked_fill(mask == 1, content), mask, edge)
            assert torch.equal(other.pixel_BCHW, expected.pixel_BCHW)
            assert torch.equal(other.perception_BCHW, expected.perception_BCHW)
            if expected.edge_logits_B1HW is not None:
                assert other.edge_logits_B1HW is not None
                assert torch.equal(other.edge_logits_B1HW, expected.edge_logits_B1HW)
    assert (expected.edge_logits_B1HW is None) == (prior != "learned")


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("select", ["softmax", "best"])
def test_every_parameter_gets_a_finite_gradient(prior: StructurePrior, select: str) -> None:
    net = generator(prior, select=select, prefill="pyramid")
    size = (5, 40, 40)  # on smaller grids the widest dilations of the learned edges see padding alone
    image = images(*size).masked_fill(masks(*size) == 1, float("nan"))
    squared_error(net, image, masks(*size), edge_for(prior, *size)).backward()
    idle = []
    for name, parameter in net.named_parameters():
        if parameter.grad is None:
            idle.append(name)
            continue
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    # Picking the best patch cuts the foreground's attention off.
    attention = "pern.attention_branch.attention.attention."
    assert all(name.startswith(attention) for name in idle)
    assert bool(idle) == (select == "best")


def test_learned_edges_learn_from_the_image_too() -> None:
    net = generator("learned")
    assert net.edges is not None
    net(images(), masks())[1].square().sum().backward()
    gradient = net.edges.to_logit.weight.grad
    assert gradient is not None and gradient.any()


def test_a_residual_starts_exactly_at_the_prefill_and_learns_from_there() -> None:
    image, mask, edge = images(5), masks(5), edges(5)
    for prefill, expected in (
        ("none", torch.where(mask == 1, 0.0, image)),
        ("mean", prefill_mean(image, mask)),
        ("pyramid", prefill_pyramid(image, mask)),
    ):
        net = generator(prefill=prefill, residual=True)
        for output in net(image, mask, edge):
            assert torch.equal(output, expected), prefill
        first = squared_error(net, image, mask, edge)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
        first.backward()
        optimiser.step()
        assert squared_error(net, image, mask, edge) < first
        assert not torch.equal(net(image, mask, edge)[1], expected)


def test_prefill_is_what_the_nets_see() -> None:
    image, mask, edge = images(5), masks(5), edges(5)
    seen: list[Tensor] = []
    for prefill, expected in (
        ("none", torch.where(mask == 1, 0.0, image)),
        ("mean", prefill_mean(image, mask)),
        ("pyramid", prefill_pyramid(image, mask)),
    ):
        net = generator(prefill=prefill)
        with torch.no_grad():
            for inner in (net.pirn, net.pern):
                inner.feature_branch.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
            pixel, perception = net(image, mask, edge)
        pirn_input, pern_input = seen[-2:]
        assert torch.equal(pirn_input, torch.cat([expected, edge, mask], 1))
        assert torch.equal(pern_input, torch.cat([pixel, edge, mask], 1))
        assert not torch.equal(pixel, perception)


@pytest.mark.parametrize("prior", PRIORS)
def test_each_image_is_treated_as_if_alone(prior: StructurePrior) -> None:
    net = generator(prior, prefill="pyramid", heads=3).eval()
    image, mask, edge = images(5, 33, 46), masks(5, 33, 46), edge_for(prior, 5, 33, 46)
    with torch.no_grad():
        together = net(image, mask, edge)
        for sample in range(5):
            one = slice(sample, sample + 1)
            alone = net(image[one], mask[one], None if edge is None else edge[one])
            for whole, single in zip(together, alone, strict=True):
                assert torch.allclose(whole[one], single, rtol=0, atol=1e-5)


def test_the_same_seed_and_input_give_the_same_bits() -> None:
    nets = generator("learned", seed=3), generator("learned", seed=3), generator("learned", seed=4)
    with torch.no_grad():
        first, again, other = (net(images(), masks())[1] for net in nets)
        assert torch.equal(first, nets[0](images(), masks())[1])
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_predictions_are_held_between_minus_one_and_one() -> None:
    for residual in (False, True):
        net = generator(residual=residual)
        with torch.no_grad():
            for inner in (net.pirn, net.pern):
                nn.init.normal_(inner.decoder.get_submodule("8").get_parameter("weight"), std=100.0)
            for output in net(images(), masks(), edges()):
                assert output.min() == -1 and output.max() == 1


@pytest.mark.parametrize("prior", PRIORS)
def test_each_prior_takes_the_edges_it_may_see_and_no_other(prior: StructurePrior) -> None:
    net, given = generator(prior), edges()
    wrong = None if prior in NEEDS_EDGE else given
    with pytest.raises(ValueError, match=f"'{prior}'.*edge map"):
        net(images(), masks(), wrong)
    with torch.no_grad():
        one = net(images(), masks(), edge_for(prior, 2))[1]
        if prior in NEEDS_EDGE:
            assert not torch.equal(one, net(images(), masks(), 1 - given)[1]), "the edges must matter"


def test_inputs_that_do_not_fit_are_refused() -> None:
    net = generator()
    with pytest.raises(ValueError, match=r"4 channels.*takes 3"):
        net(images(channels=4), masks(), edges())
    for mask in (masks(1), masks(2, 32, 28), masks().expand(-1, 3, -1, -1), masks()[:, 0]):
        with pytest.raises(ValueError, match=r"mask .* does not fit image \(2, 3, 32, 32\)"):
            net(images(), mask, edges())


@pytest.mark.parametrize("shape", [(2, 1, 30, 32), (2, 3, 32, 32), (1, 1, 32, 32), (2, 1, 16, 16)])
def test_edges_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    """(30, 32) is padded to (32, 32): accepted, it would shift or stretch what it says."""
    with pytest.raises(ValueError, match=r"edge map .* does not fit image \(2, 3, 32, 32\)"):
        generator()(images(), masks(), torch.zeros(shape))


def test_masks_may_be_bool_or_integer() -> None:
    net = generator()
    with torch.no_grad():
        expected = net(images(), masks(), edges())[1]
        for dtype in (torch.bool, torch.uint8, torch.float64):
            assert torch.equal(net(images(), masks().to(dtype), edges())[1], expected)


def table_size(in_channels: int, out_channels: int, c: int) -> int:
    """Parameters of one net's convolutions, from the paper's layer table."""
    feature = [(5, in_channels, c), (3, c, c), (3, c, 2 * c), (3, 2 * c, 2 * c), (3, 2 * c, 4 * c)]
    feature += [(3, 4 * c, 4 * c)] * 5
    attention = [(5, in_channels, c), (3, c, c), (3, c, 2 * c), (3, 2 * c, 4 * c)] + [(3, 4 * c, 4 * c)] * 4
    decoder = [(3, 8 * c, 4 * c), (3, 4 * c, 4 * c), (3, 4 * c, 2 * c), (3, 2 * c, 2 * c), (3, 2 * c, c)]
    decoder += [(3, c, c // 2), (3, c // 2, out_channels)]
    return sum(k * k * i * o + o for k, i, o in feature + attention + decoder)


def test_the_papers_size() -> None:
    """4.458 M in the paper."""
    with torch.device("meta"):
        net = build_generator(ModelConfig())
    projections, positions = 3 * (128 * 128 + 128) - 128, 2 * 128 * 64
    gate = 128 * 16 + 16 + 16 * 128 + 128
    expected = 2 * (table_size(3 + 1 + 1, 3, 32) + projections + positions) + gate
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == expected == 4_442_454
    assert abs(count / 4.458e6 - 1) < 0.01
    assert not list(net.buffers())


@pytest.mark.parametrize("prior, extra", [("oracle", 2), ("reference", 2), ("learned", 2), ("none", 1)])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_input_channels_are_image_edge_and_mask(prior: StructurePrior, extra: int, channels: int) -> None:
    with torch.device("meta"):
        config = ModelConfig(width=8, structure_prior=prior, image_channels=channels, position=False)
        net = build_generator(config)
    for inner in (net.pirn, net.pern):
        branches = sum(p.numel() for name, p in inner.named_parameters() if ".attention." not in name)
        assert branches == table_size(channels + extra, channels, 8)
    assert (net.edges is not None) == (prior == "learned")


def test_the_configuration_reaches_the_modules() -> None:
    config = ModelConfig(
        width=8, image_channels=2, structure_prior="none", prefill="mean", residual=True, heads=3,
        position=True, position_grid=10, select="best",
    )  # fmt: skip
    net = build_generator(config)
    gam, ffsm = net.pirn.attention_branch.attention, net.pern.attention_branch.attention
    assert isinstance(gam, GlobalAttention) and isinstance(ffsm, FlexibleFeatureSimilarity)
    assert (gam.heads, gam.keys) == (3, "all")
    assert (ffsm.select, ffsm.attention.heads, ffsm.attention.keys) == ("best", 3, "background")
    assert gam.position_row is not None and ffsm.attention.position_column is not None
    assert gam.position_row.shape == ffsm.attention.position_column.shape == (33, 10)
    assert (net.prefill, net.structure_prior, net.image_channels) == ("mean", "none", 2)
    assert net.pirn.residual and net.pern.residual
    state = net.state_dict()
    clone = build_generator(config)
    clone.load_state_dict(state, strict=True)
    with torch.no_grad():
        image = images(channels=2)
        assert torch.equal(clone(image, masks())[1], net(image, masks())[1])


def test_mixed_precision_keeps_the_contract() -> None:
    net = generator("learned", prefill="pyramid", residual=True)
    image, mask = images(5), masks(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net.fill(image, mask)
    for result in output[:2]:
        assert result is not None and result.dtype == torch.float32 and result.isfinite().all()
        assert torch.equal(result[(mask == 0).expand_as(image)], image[(mask == 0).expand_as(image)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = squared_error(net, image, mask, None)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def spread_of_layers(model: Generator, net: str) -> list[float]:
    """Standard deviation of every convolution's output, in the order in which they run."""
    spread: list[float] = []
    for layer in getattr(model, net).modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda *call: spread.append(call[2].std((0, 2, 3)).mean().item()))
    mask_B1HW = torch.zeros(2, 1, 64, 64)
    mask_B1HW[:, :, 16:48, 16:48] = 1
    with torch.no_grad():
        model(torch.rand(2, 3, 64, 64) * 2 - 1, mask_B1HW, torch.rand(2, 1, 64, 64))
    return spread


@pytest.mark.parametrize("net", ["pirn", "pern"])
def test_the_signal_keeps_its_size_through_all_layers(net: str) -> None:
    """With torch's own initialisation hardly anything of it is left, and training stands still."""
    torch.manual_seed(0)
    model = build_generator(ModelConfig(width=16, position_grid=16))
    *hidden, last = spread_of_layers(model, net)
    assert len(hidden) == 24 and min(hidden) > 0.1 * hidden[0] and max(hidden) < 10 * hidden[0]
    assert last < 0.5

    faded = build_generator(ModelConfig(width=16, position_grid=16))
    for layer in faded.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    *hidden, last = spread_of_layers(faded, net)
    assert hidden[-1] < 0.02 * hidden[0]


def test_torch_compile_gets_a_pass_as_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any look at a value would cut it; and on CUDA the compiler fails where memory is pinned."""

    def followed(tensor: Tensor, device: torch.device) -> Tensor:
        assert not torch.compiler.is_compiling()
        return tensor.to(device)

    monkeypatch.setattr("igll.models.hole_layout.to_device", followed)
    torch.manual_seed(0)
    net = Generator(
        width=4, position_grid=8, structure_prior="learned", prefill="harmonic", residual=True, skips=True
    )
    image, mask = torch.rand(1, 3, 64, 64) * 2 - 1, torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 10:50] = 1
    graphs = []

    def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    with torch.no_grad():
        layout = net.layout(mask, whole_frame=False)
        found = torch.compile(net.fill, backend=counted)(image, mask, layout=layout)
        wanted = net.fill(image, mask, layout=layout)
    assert len(graphs) == 1
    assert torch.allclose(found.perception_BCHW, wanted.perception_BCHW, rtol=0, atol=1e-5)
    with torch.no_grad():
        whole = torch.compile(net, backend=counted)(image, mask)[1]
    assert len(graphs) == 2  # another one, after the hole's lists were worked out outside of it
    assert torch.allclose(whole, wanted.perception_BCHW, rtol=0, atol=1e-5)


def test_the_compiler_is_not_imported_before_somebody_compiles() -> None:
    """It takes a second of every start."""
    code = "import sys, igll.models as m; m.Generator(width=4); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
