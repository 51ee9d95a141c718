"""Precisions, as far as a machine without CUDA can show them."""

from __future__ import annotations

import os
from unittest.mock import Mock

import pytest
import torch

from igll.config import TrainConfig
from igll.engine.devices import (
    computes_in_bfloat16,
    deterministic,
    fixed_workspace,
    full_float32,
    mixed_precision,
)


def test_convolutions_are_not_rounded_inside_and_as_before_outside():
    for before in (True, False):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=before):
            with full_float32():
                assert not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.allow_tf32 == before


def switches() -> tuple[bool, ...]:
    """All that chooses between kernels for CUDA."""
    cudnn, attention = torch.backends.cudnn, torch.backends.cuda
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.enabled,
        cudnn.benchmark,
        cudnn.deterministic,
        cudnn.allow_tf32,
        attention.flash_sdp_enabled(),
        attention.mem_efficient_sdp_enabled(),
        attention.cudnn_sdp_enabled(),
        attention.math_sdp_enabled(),
    )


@pytest.mark.parametrize("allow_tf32", [True, False])
def test_equal_bits_are_asked_for_on_cuda_alone_and_as_before_afterwards(allow_tf32: bool):
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=allow_tf32):
        before = switches()
        for wanted, device in ((False, "cuda"), (True, "cpu")):
            with deterministic(wanted, torch.device(device)):
                assert switches() == before
        with pytest.raises(ZeroDivisionError), deterministic(True, torch.device("cuda")):
            inside = (True, True, True, False, True, allow_tf32, False, False, False, True)
            assert switches() == inside
            # Nested, as for edge maps of a training.
            with full_float32():
                assert switches() == (*inside[:5], False, *inside[6:])
            assert switches() == inside
            raise ZeroDivisionError
        assert switches() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch has the older way alone")
def test_a_precision_chosen_in_the_newer_way_is_given_back():
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    try:
        for chosen in ("ieee", "tf32"):
            convolutions.fp32_precision = chosen
            with full_float32():
                assert convolutions.fp32_precision in ("ieee", "none")
            assert convolutions.fp32_precision == chosen
    finally:
        convolutions.fp32_precision = before


@pytest.mark.parametrize("able", [True, False])
def test_a_gpu_that_only_imitates_bfloat16_computes_in_float32(monkeypatch, able: bool):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    autocast = Mock()
    monkeypatch.setattr(torch, "autocast", autocast)
    computes_in_bfloat16.cache_clear()
    try:
        mixed_precision(TrainConfig(amp=True), torch.device("cuda"))
        mixed_precision(TrainConfig(amp=False), torch.device("cuda"))
    finally:
        computes_in_bfloat16.cache_clear()
    assert [call.kwargs["enabled"] for call in autocast.call_args_list] == [able, False]


def test_a_workspace_that_somebody_chose_stays(monkeypatch):
    for before, wanted, after in (
        ({}, False, None),
        ({}, True, ":4096:8"),
        ({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, True, ":16:8"),
    ):
        monkeypatch.setattr(os, "environ", before)
        fixed_workspace(wanted)
        assert before.get("CUBLAS_WORKSPACE_CONFIG") == after
