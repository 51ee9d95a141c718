"""Which kernels attention may take; what it computes is tested with the modules that attend."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from igll.models.fused_attention import fused_attention


@pytest.mark.parametrize(("device", "allowed"), [("cuda", False), ("cpu", True)])
@pytest.mark.parametrize("before", [True, False])
def test_cudnn_is_passed_over_on_cuda_and_asked_as_before_afterwards(
    monkeypatch, device: str, allowed: bool, before: bool
) -> None:
    seen = []

    def attend(*tokens: object, **options: object) -> None:
        seen.append((torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()))
        raise RuntimeError("no memory")

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    tokens = SimpleNamespace(device=torch.device(device), shape=(1, 1, 4, 8))
    initial = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(before)
        with pytest.raises(RuntimeError, match="no memory"):
            fused_attention(tokens, tokens, tokens)
        assert torch.backends.cuda.cudnn_sdp_enabled() == before
    finally:
        torch.backends.cuda.enable_cudnn_sdp(initial)
    assert seen == [(before and allowed, True)]


class OnCuda(torch.Tensor):
    """A tensor that says it is on CUDA."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


@pytest.mark.parametrize("channels", [43, 48])
@pytest.mark.parametrize("masked", [True, False])
def test_heads_on_cuda_have_as_many_channels_as_its_kernels_take(
    monkeypatch, channels: int, masked: bool
) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, tokens, channels) for tokens in (5, 7, 7))
    mask = torch.rand(5, 7) < 0.7 if masked else None
    expected = ((query @ key.transpose(2, 3)) / channels**0.5).double()
    if mask is not None:
        expected = expected.masked_fill(~mask, float("-inf"))
    expected = expected.softmax(3) @ value.double()
    attend, seen = F.scaled_dot_product_attention, []

    def watched(*tokens: torch.Tensor, **options: object) -> torch.Tensor:
        seen.extend(some.shape[3] for some in tokens)
        return attend(*tokens, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    attended = fused_attention(*(some.as_subclass(OnCuda) for some in (query, key, value)), mask)
    assert seen == [48] * 3
    torch.testing.assert_close(attended.as_subclass(torch.Tensor).double(), expected, rtol=0, atol=1e-6)
