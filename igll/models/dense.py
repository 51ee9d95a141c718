"""The generator as the paper writes it, layer by layer and over all pairs of tokens: slow and plain.

It has the weights and gives the result of :class:`~igll.models.generator.Generator`, which computes only what
the hole's pixels depend on. Tests hold one against the other, and the benchmark times both.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.attention import GlobalAttention
from igll.models.generator import Generator
from igll.models.hole_layout import HoleLayout, valid_patches
from igll.models.layers import EnlargingConv2d
from igll.models.similarity import FlexibleFeatureSimilarity
from igll.models.tokens import to_feature, to_tokens
from igll.models.winograd import Conv2d


class DenseGlobalAttention(nn.Module):
    """GAM with every token as a query; the hole is put together afterwards (section 3.4)."""

    def __init__(self, attention: GlobalAttention) -> None:
        super().__init__()
        self.inner = attention

    def forward(self, feature_BCHW: Tensor, hole_B1HW: Tensor, layout: HoleLayout | None = None) -> Tensor:
        """Return the feature map with its hole attended."""
        inner, (height, width) = self.inner, feature_BCHW.shape[-2:]
        tokens_BNC, hole_BN = to_tokens(feature_BCHW), hole_B1HW.flatten(1)
        key_BNC = inner.key(tokens_BNC)
        position_NC = inner.position_NC(height, width)
        if position_NC is not None:
            key_BNC = key_BNC + position_NC
        query, key, value = (
            tokens.unflatten(2, (inner.heads, inner.head_channels)).transpose(1, 2)
            for tokens in (inner.query(tokens_BNC), key_BNC, inner.value(tokens_BNC))
        )
        score_BGNN = query @ key.transpose(2, 3) / inner.head_channels**0.5
        usable_B1 = torch.ones_like(hole_BN[:, :1])
        if inner.keys == "background":
            usable_B1 = ~hole_BN.all(1, keepdim=True)
            score_BGNN = score_BGNN.masked_fill((hole_BN & usable_B1)[:, None, None], float("-inf"))
        attended_BNC = inner.join((score_BGNN.softmax(3) @ value).transpose(1, 2).flatten(2))
        attended_BCHW = to_feature(attended_BNC, height, width)
        return torch.where(hole_B1HW & usable_B1[..., None, None], attended_BCHW, feature_BCHW)


class DenseFeatureSimilarity(nn.Module):
    """FFSM by convolution with every patch as a kernel, every token as a place (section 3.5)."""

    def __init__(self, similarity: FlexibleFeatureSimilarity) -> None:
        super().__init__()
        self.inner = similarity
        self.attention = DenseGlobalAttention(similarity.attention)

    def forward(self, feature_BCHW: Tensor, hole_B1HW: Tensor, layout: HoleLayout | None = None) -> Tensor:
        """Return the feature map with its hole filled, image by image."""
        foreground_BCHW = self.attention(feature_BCHW, hole_B1HW)
        gated_BNC = self.inner.channel_gate(to_tokens(feature_BCHW), hole_B1HW.flatten(1))
        gated_BCHW = to_feature(gated_BNC, *feature_BCHW.shape[-2:])
        valid_B1HW = valid_patches(hole_B1HW)
        filled = [
            self._fill(*image)
            for image in zip(foreground_BCHW, gated_BCHW, hole_B1HW, valid_B1HW, strict=True)
        ]
        usable_B111 = valid_B1HW.any(3).any(2)[..., None, None]
        return torch.where(hole_B1HW & usable_B111, torch.stack(filled), feature_BCHW)

    def _fill(self, foreground_CHW: Tensor, gated_CHW: Tensor, hole_1HW: Tensor, valid_1HW: Tensor) -> Tensor:
        """Steps 2 to 5 for one image; what comes out means something in the hole alone."""
        channels = len(foreground_CHW)
        kernel_NC33 = F.unfold(gated_CHW[None], 3, padding=1)[0].T.unflatten(1, (channels, 3, 3))
        length_N111 = kernel_NC33.flatten(1).norm(dim=1)[:, None, None, None]
        score_NHW = F.conv2d(foreground_CHW[None], kernel_NC33 / length_N111.clamp_min(1e-6), padding=1)[0]
        patch_1HW = F.unfold(foreground_CHW[None], 3, padding=1)[0].norm(dim=0).view_as(hole_1HW)
        score_NHW = score_NHW / patch_1HW.clamp_min(1e-6) * hole_1HW
        score_NHW = 9 * F.avg_pool2d(score_NHW[None], 3, stride=1, padding=1)[0]
        barred_N11 = ~valid_1HW.view(-1, 1, 1) & valid_1HW.any()
        score_NHW = (self.inner.score_scale * score_NHW).masked_fill(barred_N11, float("-inf"))
        if self.inner.select == "best":
            share_NHW = torch.zeros_like(score_NHW).scatter(0, score_NHW.argmax(0, keepdim=True), 1.0)
        else:
            share_NHW = score_NHW.softmax(0)
        pasted_1CHW = F.conv_transpose2d((share_NHW * hole_1HW)[None], kernel_NC33, padding=1)
        covered_11HW = 9 * F.avg_pool2d(hole_1HW[None].to(score_NHW.dtype), 3, stride=1, padding=1)
        return (pasted_1CHW / covered_11HW.clamp_min(1.0))[0]


class _EnlargeThenConvolve(nn.Module):
    """The enlargement and the convolution as two layers."""

    def __init__(self, convolution: EnlargingConv2d) -> None:
        super().__init__()
        self.inner = convolution

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        enlarged_BCHW = F.interpolate(feature_BCHW, scale_factor=2, mode="nearest")
        return F.conv2d(enlarged_BCHW, self.inner.weight, self.inner.bias, padding=1)


class _WholeFrame(Generator):
    """A generator that never asks for the hole alone."""

    def layout(self, mask_B1HW: Tensor, whole_frame: bool = True) -> HoleLayout:
        return super().layout(mask_B1HW)


def plain_layers(generator: Generator) -> Generator:
    """A copy of a generator that paints the whole frame, its convolutions those of the paper's table.

    Attention is computed as in the original.
    """
    plain = copy.deepcopy(generator)
    plain.__class__ = _WholeFrame
    for module in plain.modules():
        if isinstance(module, Conv2d):
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    for net in (plain.pirn, plain.pern):
        for layer in net.decoder:
            if isinstance(layer, nn.Sequential) and isinstance(layer[0], EnlargingConv2d):
                layer[0] = _EnlargeThenConvolve(layer[0])
    return plain


def dense_form(generator: Generator) -> Generator:
    """A copy of a generator with the same weights that computes everything, in plain layers.

    Args:
        generator: With GAM and FFSM, or with vanilla attention, which is dense as it is.

    Returns:
        The copy; its weights have other names.
    """
    dense = plain_layers(generator)
    for net in (dense.pirn, dense.pern):
        branch = net.attention_branch
        if isinstance(branch.attention, FlexibleFeatureSimilarity):
            branch.attention = DenseFeatureSimilarity(branch.attention)
        elif type(branch.attention) is GlobalAttention:
            branch.attention = DenseGlobalAttention(branch.attention)
    return dense.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
