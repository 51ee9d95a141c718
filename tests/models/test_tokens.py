"""Packing, gathering and scattering of chosen tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from igll.models.tokens import pack, to_feature, to_tokens

CHOSEN = torch.tensor(
    [
        [False, True, False, True, True, False],
        [False, False, False, False, False, False],
        [True, True, True, True, True, True],
        [False, False, False, False, False, True],
    ]
)


def tokens(channels: int = 3) -> Tensor:
    return torch.randn(*CHOSEN.shape, channels, generator=torch.Generator().manual_seed(0))


def test_pack_puts_the_chosen_positions_first_and_in_order() -> None:
    index_BM, valid_BM, ragged = pack(CHOSEN)
    assert ragged and not pack(CHOSEN[[0]]).ragged
    assert index_BM.shape == valid_BM.shape == (4, 6)
    for chosen_N, index_M, valid_M in zip(CHOSEN, index_BM, valid_BM, strict=True):
        assert index_M[valid_M].tolist() == chosen_N.nonzero()[:, 0].tolist()
        assert valid_M.tolist() == sorted(valid_M.tolist(), reverse=True)
        assert len(set(index_M.tolist())) == 6, "positions must be distinct"
        assert not chosen_N[index_M[~valid_M]].any(), "padding must be tokens that were not chosen"


def test_pack_is_as_long_as_the_longest_list() -> None:
    index_BM, valid_BM, _ = pack(CHOSEN[[0, 1, 3]])
    assert index_BM.tolist()[0] == [1, 3, 4]
    assert valid_BM.tolist() == [[True, True, True], [False, False, False], [True, False, False]]
    assert len(set(index_BM.tolist()[1])) == 3


@pytest.mark.parametrize(("multiple", "length"), [(1, 3), (2, 4), (3, 3), (4, 4), (5, 5), (16, 6)])
def test_pack_is_a_multiple_as_far_as_there_are_tokens(multiple: int, length: int) -> None:
    packed, longest = pack(CHOSEN[[0, 1, 3]], multiple), pack(CHOSEN[[0, 1, 3]])
    assert packed.index_BM.shape == packed.valid_BM.shape == (3, length)
    assert torch.equal(packed.index_BM[:, :3], longest.index_BM)
    assert torch.equal(packed.valid_BM[:, :3], longest.valid_BM) and not packed.valid_BM[:, 3:].any()
    assert all(len(set(index_M.tolist())) == length for index_M in packed.index_BM)
    assert pack(CHOSEN[[0]], multiple).ragged == (length > 3)


def test_pack_of_nothing_is_empty() -> None:
    packed = pack(CHOSEN[1:2], 16)
    assert packed.index_BM.shape == packed.valid_BM.shape == (1, 0)
    tokens_BNC = tokens()[1:2]
    assert packed.gather(tokens_BNC).shape == (1, 0, 3)
    assert torch.equal(packed.scatter(tokens_BNC, torch.empty(1, 0, 3)), tokens_BNC)


def test_gather_then_scatter_gives_the_tokens_back() -> None:
    packed, tokens_BNC = pack(CHOSEN), tokens()
    assert torch.equal(packed.scatter(tokens_BNC, packed.gather(tokens_BNC)), tokens_BNC)


def test_scatter_replaces_the_chosen_tokens_and_no_other() -> None:
    packed, tokens_BNC = pack(CHOSEN), tokens()
    before_BNC = tokens_BNC.clone()
    marks_BMC = torch.arange(72.0).reshape(4, 6, 3) + 100
    marked_BNC = packed.scatter(tokens_BNC, marks_BMC)
    assert torch.equal(tokens_BNC, before_BNC), "the input must not change"
    expected_BNC = tokens_BNC.clone()
    for sample in range(4):
        for place, position in enumerate(CHOSEN[sample].nonzero()[:, 0].tolist()):
            expected_BNC[sample, position] = marks_BMC[sample, place]
    assert torch.equal(marked_BNC, expected_BNC)


def test_padding_lets_no_value_and_no_gradient_through() -> None:
    packed = pack(CHOSEN)
    tokens_BNC = tokens().requires_grad_()
    new_BMC = torch.full((4, 6, 3), float("nan"))
    new_BMC[packed.valid_BM] = 1.0
    new_BMC.requires_grad_()
    out_BNC = packed.scatter(tokens_BNC, new_BMC)
    assert out_BNC.isfinite().all()
    out_BNC.sum().backward()
    assert tokens_BNC.grad is not None and new_BMC.grad is not None
    assert torch.equal(tokens_BNC.grad, (~CHOSEN)[..., None].float().expand_as(tokens_BNC))
    assert torch.equal(new_BMC.grad, packed.valid_BM[..., None].float().expand_as(new_BMC))


@pytest.mark.parametrize("height, width", [(2, 5), (5, 2), (1, 7), (1, 1)])
def test_tokens_are_row_major_and_turn_back(height: int, width: int) -> None:
    feature_BCHW = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    tokens_BNC = to_tokens(feature_BCHW)
    for row in range(height):
        for column in range(width):
            assert torch.equal(tokens_BNC[:, row * width + column], feature_BCHW[:, :, row, column])
    assert torch.equal(to_feature(tokens_BNC, height, width), feature_BCHW)
