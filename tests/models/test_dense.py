"""The generator against its dense form: same weights, every pair of tokens, the whole frame, float64."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models import winograd
from igll.models.dense import DenseFeatureSimilarity, DenseGlobalAttention, dense_form
from igll.models.generator import Generator
from igll.models.winograd import convolve

HEIGHT, WIDTH = 72, 100


def generator(**settings: Any) -> Generator:
    """Weights away from where training starts, so that attention and positions count."""
    torch.manual_seed(0)
    net = Generator(width=8, position_grid=8, **settings)
    for name, parameter in net.named_parameters():
        if ".attention." in name and "decoder" not in name:
            nn.init.normal_(parameter, std=0.2)
        if name.endswith("decoder.8.weight"):
            nn.init.normal_(parameter, std=0.05)
    return net.eval()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """In turn: a square; blots; all but a strip; a corner; no hole; everything."""
    draw = torch.Generator().manual_seed(1)
    image = torch.rand(6, 3, HEIGHT, WIDTH, generator=draw) * 2 - 1
    mask = torch.zeros(6, 1, HEIGHT, WIDTH)
    mask[0, :, 20:45, 30:60] = 1
    for row, column in torch.randint(0, 65, (12, 2), generator=draw).tolist():
        mask[1, :, row : row + 6, column : column + 9] = 1
    mask[2, :, :, 16:] = 1
    mask[3, :, 60:, 90:] = 1
    mask[5] = 1
    return image, mask, torch.rand(6, 1, HEIGHT, WIDTH, generator=draw)


SETTINGS = [
    {},
    {"heads": 3, "position": False},
    {"select": "best", "score_scale": 10.0},
    {"structure_prior": "learned", "prefill": "harmonic", "residual": True, "score_scale": 10.0},
    {"structure_prior": "none", "prefill": "harmonic", "residual": True, "skips": True},
    {"structure_prior": "none", "prefill": "harmonic", "residual": True, "skips": True, "exemplar": True},
    {"gam": "vanilla"},
    {"ffsm": "vanilla"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("samples", [[0], [3], [0, 1, 2, 3, 4, 5], [4], [0, 3]], ids=str)
def test_the_hole_alone_is_filled_as_by_the_dense_form(settings: dict[str, Any], samples: list[int]) -> None:
    net = generator(**settings)
    dense = dense_form(net).double()
    image, mask, edge = (tensor[samples] for tensor in batch())
    given = (edge,) if net.structure_prior == "oracle" else ()
    with torch.no_grad():
        found = net(image, mask, *given)
        expected = dense(image.double(), mask.double(), *(tensor.double() for tensor in given))
    for stage, (out, wanted) in enumerate(zip(found, expected, strict=True)):
        assert torch.allclose(out.double(), wanted, rtol=0, atol=1e-5), (stage, (out - wanted).abs().max())


def test_at_the_published_size_the_short_ways_are_taken_and_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken, multiplied, convolution = [], [], F.conv2d

    def noting(image: Tensor, kernel: Tensor, *rest: Any, **others: Any) -> Tensor:
        if kernel.shape[2:] == (1, 1):
            multiplied.append((image.shape[2], len(kernel)))
        return convolution(image, kernel, *rest, **others)

    monkeypatch.setattr(F, "conv2d", noting)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(winograd, "convolve", lambda *given: taken.append(given[3]) or convolve(*given))
    torch.manual_seed(0)
    net = Generator().eval()
    image, edge = (torch.rand(1, channels, 256, 256) * 2 - 1 for channels in (3, 1))
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., 60:200, 40:220] = 1
    with torch.no_grad():
        found = net(image, mask, edge)
        assert Counter(taken) == {1: 14, 2: 2, 4: 2, 8: 2}
        # 35 × 45 of 4,096 tokens ask all tokens, in two parts, then the 2,521 known ones. FFSM multiplies
        # strips around the hole's tokens and beside them with those around the patches' centres.
        assert multiplied[:6] == [(800, 4096), (800, 128)] * 2 + [(1584, 2521), (1584, 128)]
        assert len(multiplied) == 8 and multiplied[6][0] > 35 * 45 < multiplied[7][0]
        expected = dense_form(net).double()(image.double(), mask.double(), edge.double())
    for out, wanted in zip(found, expected, strict=True):
        assert torch.allclose(out.double(), wanted, rtol=0, atol=1e-5)


def test_the_whole_frame_and_its_gradients_are_those_of_the_dense_form() -> None:
    net = generator()
    dense = dense_form(net).double()
    image, mask, edge = batch()
    output, wanted = net.fill(image, mask, edge), dense.fill(image.double(), mask.double(), edge.double())
    for painted, expected in zip(output.predictions, wanted.predictions, strict=True):
        assert painted.shape == image.shape
        assert torch.allclose(painted.double(), expected, rtol=0, atol=1e-5)
    for result in (output, wanted):
        result.perception_BCHW.square().mean().backward()
    # The dense form keeps the parameters in the same order.
    exact = [parameter.grad for parameter in dense.parameters()]
    for (name, parameter), expected in zip(net.named_parameters(), exact, strict=True):
        assert parameter.grad is not None and expected is not None, name
        scale = expected.abs().max()
        assert scale > 0 and (parameter.grad - expected).abs().max() <= 1e-4 * scale, name


def test_the_gradients_of_the_hole_alone_are_those_of_the_whole_frame() -> None:
    net = generator()
    image, mask, edge = (tensor[[0, 3]] for tensor in batch())
    gradients = []
    for whole_frame in (True, False):
        net.zero_grad()
        output = net.fill(image, mask, edge, net.layout(mask, whole_frame))
        assert len(output.predictions) == (2 if whole_frame else 0)
        (output.pixel_BCHW + output.perception_BCHW).square().mean().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for whole, part in zip(*gradients, strict=True):
        assert whole is not None and part is not None
        assert (whole - part).abs().max() <= 1e-5 * whole.abs().max()


def test_the_dense_form_computes_every_pair_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = dense_form(generator())
    assert isinstance(dense.pirn.attention_branch.attention, DenseGlobalAttention)
    assert isinstance(dense.pern.attention_branch.attention, DenseFeatureSimilarity)
    sizes: list[int] = []
    softmax = Tensor.softmax

    def listening(scores: Tensor, dim: int) -> Tensor:
        sizes.append(scores.numel())
        return softmax(scores, dim)

    monkeypatch.setattr(Tensor, "softmax", listening)
    image, mask, edge = (tensor[:1] for tensor in batch())
    with torch.no_grad():
        dense(image, mask, edge)
    tokens = HEIGHT // 4 * WIDTH // 4
    assert sizes == [tokens**2] * 3
