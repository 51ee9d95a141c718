"""Spectral normalisation of convolutions, with few passes over their weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

_FIRST_ITERATIONS = 15
_SMALLEST = 1e-12


def spectral_norm(convolution: nn.Conv2d) -> None:
    """Let a convolution divide its weight by the largest singular value that the weight has as a matrix.

    It is what :func:`torch.nn.utils.parametrizations.spectral_norm` does, with the same state and the same
    random numbers, but reads and writes the weight about half as often.

    Source: Miyato et al. 2018, algorithm 1.
    """
    parametrize.register_parametrization(convolution, "weight", SpectralNorm(convolution.weight))


class SpectralNorm(nn.Module):
    """Divides a weight by its largest singular value; in training every call goes one power iteration on.

    Args:
        weight: (O, I, H, W), from which the iteration starts.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows_OK = weight.detach().flatten(1)
        u_O, v_K = (rows_OK.new_empty(length).normal_() for length in rows_OK.shape)
        self.register_buffer("_u", F.normalize(u_O, dim=0, eps=_SMALLEST))
        self.register_buffer("_v", F.normalize(v_K, dim=0, eps=_SMALLEST))
        for _ in range(_FIRST_ITERATIONS):
            self._iterate(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised weight, (O, I, H, W)."""
        u_O, v_K, sigma = self._iterate(weight) if self.training else self._remembered(weight)
        normalised: Tensor = _Division.apply(weight, u_O, v_K, sigma)
        return normalised

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What a weight that is assigned is kept as: itself, to be normalised."""
        return weight

    @torch.no_grad()
    def _iterate(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Singular vectors, v_K in the order of the weight's memory, and value after one more iteration."""
        rows_OK, v_IHW = _rows(weight, weight), _in_memory_order(self._v, weight)
        u_O = F.normalize(rows_OK.mv(v_IHW.flatten()), dim=0, eps=_SMALLEST)
        product_K = rows_OK.t().mv(u_O)
        sigma = torch.linalg.vector_norm(product_K)  # u'Wv, as v is what points along u'W
        v_K = product_K / sigma.clamp_min(_SMALLEST)
        self._u.copy_(u_O)
        v_IHW.copy_(v_K.view(v_IHW.shape))
        return u_O, v_K, sigma

    @torch.no_grad()
    def _remembered(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same without an iteration."""
        # Copies, as an iteration may come before the gradient is asked for.
        u_O = self._u.clone()
        v_K = _in_memory_order(self._v, weight).clone(memory_format=torch.contiguous_format).flatten()
        return u_O, v_K, torch.vdot(u_O, _rows(weight, weight).mv(v_K))


class _Division(torch.autograd.Function):
    """The weight over its largest singular value, which depends on it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, u_O: Tensor, v_K: Tensor, sigma: Tensor) -> Tensor:
        """Divide."""
        normalised = weight / sigma
        ctx.save_for_backward(normalised, u_O, v_K, sigma)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """(g - <g, W / s> u v') / s, as the largest singular value's own gradient is u v'."""
        normalised, u_O, v_K, sigma = ctx.saved_tensors
        gradient_OK = _rows(gradient, normalised)
        along = torch.vdot(gradient_OK.flatten(), _rows(normalised, normalised).flatten())
        across_OK = torch.addcmul(gradient_OK, (along * u_O)[:, None], v_K[None], value=-1).div_(sigma)
        return _from_rows(across_OK, normalised), None, None, None


def _is_channels_last(weight: Tensor) -> bool:
    return not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def _rows(tensor: Tensor, weight: Tensor) -> Tensor:
    """A tensor of the weight's shape as a matrix, its columns in the order of the weight's memory."""
    return (tensor.permute(0, 2, 3, 1) if _is_channels_last(weight) else tensor).flatten(1)


def _from_rows(rows_OK: Tensor, weight: Tensor) -> Tensor:
    """The other way."""
    outputs, inputs, height, width = weight.shape
    if _is_channels_last(weight):
        return rows_OK.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
    return rows_OK.view(weight.shape)


def _in_memory_order(v_K: Tensor, weight: Tensor) -> Tensor:
    """A view of a vector over (I, H, W) with its axes in the order of the weight's memory."""
    v_IHW = v_K.view(weight.shape[1:])
    return v_IHW.permute(1, 2, 0) if _is_channels_last(weight) else v_IHW
