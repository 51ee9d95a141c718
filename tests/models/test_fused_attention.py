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

    def attend(*tokens: object, attn_mask: object) -> None:
        seen.append((torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()))
        raise RuntimeError("no memory")

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    tokens = SimpleNamespace(device=torch.device(device))
    initial = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(before)
        with pytest.raises(RuntimeError, match="no memory"):
            fused_attention(tokens, tokens, tokens)
        assert torch.backends.cuda.cudnn_sdp_enabled() == before
    finally:
        torch.backends.cuda.enable_cudnn_sdp(initial)
    assert seen == [(before and allowed, True)]
