"""The generator as one graph of tensor operations, for runtimes that know no Python.

The generator looks at the mask on the host and packs hole tokens image by image. Here everything follows from
the mask by tensor operations alone: which tokens ask and which answer is worked out for the whole batch at
once, and masks do the rest. Weights and results are those of the generator, whose own code runs all that is
not attention.
"""

from __future__ import annotations

import copy
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.models.attention import GlobalAttention
from igll.models.generator import Generator
from igll.models.hole_layout import OFFSETS, HoleLayout, valid_patches
from igll.models.layers import STRIDE_HALVINGS, hole_on_grid, pad_to_stride
from igll.models.similarity import FlexibleFeatureSimilarity
from igll.models.tokens import to_tokens
from igll.models.vanilla import VanillaAttention

# The pyramid's levels are written out, as many as an image of 4096 pixels has; of a smaller one, those beyond
# its last level are a single pixel that nothing changes any more.
HALVINGS = 12
LARGEST_SIDE = 2**HALVINGS


class GraphForm(nn.Module):
    """A trained generator from [0, 1] to [0, 1], ready to be traced for any batch, height and width.

    Args:
        generator: The network; it is copied.

    Raises:
        ValueError: It fills by example: a search that depends on what it finds.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        if generator.exemplar:
            raise ValueError("a generator that fills by example has no graph form")
        net = copy.deepcopy(generator).eval().requires_grad_(False)
        for stage in (net.pirn, net.pern):
            branch = stage.attention_branch
            if isinstance(branch.attention, FlexibleFeatureSimilarity):
                branch.attention = ListedSimilarity(branch.attention)
            else:
                branch.attention = ListedAttention(cast(GlobalAttention, branch.attention))
        self.net: Generator = net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, image_BCHW: Tensor, mask_B1HW: Tensor, edge_B1HW: Tensor | None = None) -> Tensor:
        """Fill the hole.

        Args:
            image_BCHW: Image in [0, 1]; what stands in the hole is ignored, NaN included.
            mask_B1HW: Above 0.5 = missing.
            edge_B1HW: Edge map in [0, 1], for the priors ``oracle`` and ``reference`` alone.

        Returns:
            filled_BCHW in [0, 1]; known pixels bit-identical.
        """
        hole_B1HW = hole_on_grid(pad_to_stride((mask_B1HW > 0.5).float()))
        layout = cast(HoleLayout, GridHole(hole_B1HW, HALVINGS - STRIDE_HALVINGS))
        output = self.net.fill(image_BCHW * 2 - 1, mask_B1HW, edge_B1HW, layout)
        filled_BCHW = ((output.perception_BCHW + 1) / 2).clamp(0, 1)
        return torch.where(mask_B1HW > 0.5, filled_BCHW, image_BCHW)


class GridHole(NamedTuple):
    """What of a :class:`HoleLayout` needs no look at the values; here nothing asks for more.

    Attributes:
        hole_B1HW: Bool, True where the token lies in the hole.
        halvings: Of the grid, as many as an image of the largest size can need.
        window: The whole frame is painted.
        canvas: The same.
        canvas_in_window: The same.
    """

    hole_B1HW: Tensor
    halvings: int
    window: None = None
    canvas: None = None
    canvas_in_window: None = None


class Listed(NamedTuple):
    """The tokens chosen in any image of a batch; the first token always is, so that no list is empty.

    Attributes:
        index_M: Their positions, ascending.
        slot_N: For each token of the grid, its place in the list, or that of the chosen one before it.
    """

    index_M: Tensor
    slot_N: Tensor

    @classmethod
    def of(cls, chosen_BN: Tensor) -> Listed:
        """List what is chosen in any image."""
        first_N = torch.arange(chosen_BN.shape[1], device=chosen_BN.device) == 0
        chosen_N = chosen_BN.any(0) | first_N
        return cls(chosen_N.nonzero()[:, 0], chosen_N.long().cumsum(0) - 1)


class ListedAttention(nn.Module):
    """GAM or vanilla attention, with one list of queries and one of keys for the whole batch."""

    def __init__(self, attention: GlobalAttention) -> None:
        super().__init__()
        self.inner = attention

    def forward(self, feature_BCHW: Tensor, hole_B1HW: Tensor, layout: HoleLayout | None = None) -> Tensor:
        """Return the feature map with its hole attended; all of it by vanilla attention."""
        inner, (height, width) = self.inner, feature_BCHW.shape[-2:]
        tokens_BNC, hole_BN = to_tokens(feature_BCHW), hole_B1HW.flatten(1)
        if isinstance(inner, VanillaAttention):
            hole_BN = torch.ones_like(hole_BN)
        asking = Listed.of(hole_BN)
        known_BN = torch.ones_like(hole_BN) if inner.keys == "all" else ~hole_BN
        answering = Listed.of(known_BN)
        source_BKC = tokens_BNC.index_select(1, answering.index_M)
        key_BKC = inner.key(source_BKC)
        position_NC = inner.position_NC(height, width)
        if position_NC is not None:
            key_BKC = key_BKC + position_NC.index_select(0, answering.index_M)
        query, key, value = (
            tokens.unflatten(2, (inner.heads, inner.head_channels)).transpose(1, 2)
            for tokens in (
                inner.query(tokens_BNC.index_select(1, asking.index_M)),
                key_BKC,
                inner.value(source_BKC),
            )
        )
        score_BGMK = (query / inner.head_channels**0.5) @ key.transpose(2, 3)
        usable_B1 = known_BN.any(1, keepdim=True)
        barred_BK = (~known_BN & usable_B1).index_select(1, answering.index_M)
        share_BGMK = score_BGMK.masked_fill(barred_BK[:, None, None], float("-inf")).softmax(3)
        attended_BMC = inner.join((share_BGMK @ value).transpose(1, 2).flatten(2))
        attended_BNC = attended_BMC.index_select(1, asking.slot_N)
        replaced_BN1 = (hole_BN & usable_B1)[..., None]
        return on_grid(torch.where(replaced_BN1, attended_BNC, tokens_BNC), height, width)


class ListedSimilarity(nn.Module):
    """FFSM with one list of queries and one of patches for the whole batch."""

    def __init__(self, similarity: FlexibleFeatureSimilarity) -> None:
        super().__init__()
        self.inner = similarity
        self.attention = ListedAttention(similarity.attention)

    def forward(self, feature_BCHW: Tensor, hole_B1HW: Tensor, layout: HoleLayout | None = None) -> Tensor:
        """Return the feature map with its hole filled from background patches."""
        height, width = feature_BCHW.shape[-2:]
        tokens_BNC, hole_BN = to_tokens(feature_BCHW), hole_B1HW.flatten(1)
        valid_BN = valid_patches(hole_B1HW).flatten(1)
        asking, answering = Listed.of(hole_BN), Listed.of(valid_BN)
        patch_BPHW = patches(self.attention(feature_BCHW, hole_B1HW))
        unit_BPHW = patch_BPHW * (hole_B1HW / patch_BPHW.norm(dim=1, keepdim=True).clamp_min(1e-6))
        # Scores of the neighbourhood add up (step 3), so their queries may be added up instead.
        query_BPHW = 9 * F.avg_pool2d(unit_BPHW, 3, stride=1, padding=1)
        query_BMP = to_tokens(query_BPHW).index_select(1, asking.index_M)
        gated_BCHW = on_grid(self.inner.channel_gate(tokens_BNC, hole_BN), height, width)
        kernel_BKP = to_tokens(patches(gated_BCHW)).index_select(1, answering.index_M)
        usable_B1 = valid_BN.any(1, keepdim=True)
        barred_BK = (~valid_BN & usable_B1).index_select(1, answering.index_M)
        mixed_BMP = self._mixed(query_BMP, kernel_BKP, barred_BK)
        mixed_BPHW = on_grid(mixed_BMP.index_select(1, asking.slot_N), height, width)
        filled_BCHW = paste(mixed_BPHW * hole_B1HW, hole_B1HW)
        replaced_B1HW = hole_B1HW & usable_B1[..., None, None]
        return torch.where(replaced_B1HW, filled_BCHW, feature_BCHW)

    def _mixed(self, query_BMP: Tensor, kernel_BKP: Tensor, barred_BK: Tensor) -> Tensor:
        """Mix (or pick) background patches for each query (step 4)."""
        scale_BK1 = self.inner.score_scale / kernel_BKP.norm(dim=2, keepdim=True).clamp_min(1e-6)
        score_BMK = query_BMP @ (kernel_BKP * scale_BK1).transpose(1, 2)
        score_BMK = score_BMK.masked_fill(barred_BK[:, None], float("-inf"))
        if self.inner.select == "best":
            best_BM1 = score_BMK.argmax(2, keepdim=True)
            return kernel_BKP.gather(1, best_BM1.expand(-1, -1, kernel_BKP.shape[2]))
        return score_BMK.softmax(2) @ kernel_BKP


def on_grid(tokens_BNC: Tensor, height: int, width: int) -> Tensor:
    """Feature map of row-major tokens. Of ``unflatten`` a trace would keep the sizes of its example."""
    batch, _, channels = tokens_BNC.shape
    return tokens_BNC.transpose(1, 2).reshape(batch, channels, height, width)


def patches(feature_BCHW: Tensor) -> Tensor:
    """The 3 × 3 patch around every token as (9 × C) channels, offset by offset; zero beyond the grid."""
    framed_BCHW = F.pad(feature_BCHW, (1, 1, 1, 1))
    return torch.cat([framed_BCHW[..., inner(row), inner(column)] for row, column in OFFSETS], 1)


def paste(patch_BPHW: Tensor, hole_B1HW: Tensor) -> Tensor:
    """Every patch that covers a hole token, averaged (step 5); patches stand at hole tokens alone.

    A patch centred at token + OFFSETS[o] covers the token with its element -OFFSETS[o], which is 8 - o.
    """
    framed_BPHW = F.pad(patch_BPHW, (1, 1, 1, 1))
    pieces = [
        element[..., inner(row), inner(column)]
        for element, (row, column) in zip(reversed(framed_BPHW.chunk(9, 1)), OFFSETS, strict=True)
    ]
    covering_B1HW = 9 * F.avg_pool2d(hole_B1HW.to(patch_BPHW.dtype), 3, stride=1, padding=1)
    return torch.stack(pieces).sum(0) / covering_B1HW.clamp_min(1.0)


def inner(step: int) -> slice:
    """What of a side framed by one cell stands ``step`` beyond each of the cells inside."""
    return slice(1 + step, step - 1 or None)
