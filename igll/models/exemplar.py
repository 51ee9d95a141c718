"""Filling by example: patches of known ground are copied into the hole, matched from coarse to fine.

The paper's FFSM takes features from patches that look alike and mixes them; mixing blurs. Here pixels are
copied.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from igll.models.patch_search import Level, PatchSearch
from igll.models.uncompiled import uncompiled

# The finest one lays patches over a pixel of their neighbours alone: more would blur what they show.
_LEVELS = (
    Level(8, 1, 7, 6, 2, 1.2),
    Level(4, 1, 7, 4, 2, 1.2),
    Level(2, 1, 7, 3, 2, 1.2),
    Level(1, 2, 8, 1, 1, 0.7),
)
# The search begins at the first level where this share of known pixels lies amid wholly known patches.
_ENOUGH = 0.35
# Standard deviations in pixels of the blur above which structure is no detail: beside known ground, whose
# colours a net carries on better, and from so many pixels away.
_BLURS, _FAR = (3.0, 16.0), 32
_NEAR = 5  # pixels from known ground within which a net knows better what goes on


@uncompiled
@torch.no_grad()
def fill_by_example(filled_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Fill the hole with patches of known ground.

    At the coarsest of four resolutions at which there is enough to choose from, the hole is filled from its
    rim inwards, each place by the patch that fits what stands around it (Criminisi et al. 2004, *Region
    Filling and Object Removal by Exemplar-Based Image Inpainting*). Then every patch in the hole looks for a
    more similar one, as PatchMatch does (Barnes et al. 2009), one used often counting less; all are laid over
    each other, the nearer its centre the more a patch counts, and the search starts anew (Wexler et al. 2007,
    *Space-Time Completion of Video*, sections 3 and 4); so on to the full resolution.

    The search looks at the mask and at what it finds: on CUDA it waits for the device, image by image.

    Args:
        filled_BCHW: Image. What its hole holds, finite, comes back where nothing can be copied.
        mask_B1HW: 1 = missing.

    Returns:
        Image of the same shape and dtype; known pixels are as they were. An image that has no hole, shows no
        whole patch of known ground, or has a side below 8 pixels comes back as it is.
    """
    if filled_BCHW.is_meta:  # shapes alone are asked for
        return filled_BCHW
    height, width = filled_BCHW.shape[-2:]
    largest = _LEVELS[0].scale
    beyond = (0, -width % largest, 0, -height % largest)
    image_BCHW = F.pad(filled_BCHW.float(), beyond, mode="replicate")
    # Nothing is known beyond the image's border.
    hole_B1HW = F.pad((mask_B1HW > 0.5).float(), beyond, value=1.0)
    # Distances are differences of large numbers: in 16 bits the nearest patch is anybody's guess.
    with torch.autocast(filled_BCHW.device.type, enabled=False):
        results = [
            _fill_one(image, hole) if (mask > 0.5).any() else image
            for image, hole, mask in zip(image_BCHW, hole_B1HW, mask_B1HW, strict=True)
        ]
    example_BCHW = torch.stack(results)[..., :height, :width].to(filled_BCHW.dtype)
    return torch.where(mask_B1HW > 0.5, example_BCHW, filled_BCHW)


def detail_of(image_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """What an image shows beyond its Gaussian blur, whose width grows with the distance from known ground.

    Less of it is taken within five pixels of known ground: of the first missing pixel a fifth.

    Args:
        image_BCHW: Image.
        mask_B1HW: 1 = missing.

    Returns:
        Detail of the same shape and dtype; 0 where the image is known.
    """
    if image_BCHW.is_meta:
        return image_BCHW
    exact_BCHW = image_BCHW if image_BCHW.dtype == torch.float64 else image_BCHW.float()
    mask_B1HW = mask_B1HW.to(exact_BCHW.dtype)
    with torch.autocast(image_BCHW.device.type, enabled=False):
        fine_BCHW, coarse_BCHW = (_blurred(exact_BCHW, deviation) for deviation in _BLURS)
    blurred_BCHW = torch.lerp(fine_BCHW, coarse_BCHW, away_from_ground(mask_B1HW, _FAR))
    detail_BCHW = (exact_BCHW - blurred_BCHW) * away_from_ground(mask_B1HW, _NEAR)
    return detail_BCHW.to(image_BCHW.dtype)


def away_from_ground(mask_B1HW: Tensor, pixels: int) -> Tensor:
    """How far from known ground pixels are: 0 there, rising to 1 at this distance (chessboard)."""
    known_B1HW = 1 - mask_B1HW
    steps_B1HW = torch.zeros_like(mask_B1HW)
    for _ in range(pixels):
        steps_B1HW = steps_B1HW + 1 - known_B1HW
        known_B1HW = F.max_pool2d(known_B1HW, 3, stride=1, padding=1)
    return steps_B1HW / pixels


def _blurred(image_BCHW: Tensor, deviation: float) -> Tensor:
    channels, radius = image_BCHW.shape[1], int(2 * deviation)
    offset = torch.arange(-radius, radius + 1, device=image_BCHW.device)
    kernel = torch.exp(-0.5 * (offset / deviation) ** 2).to(image_BCHW.dtype)
    kernel = (kernel / kernel.sum()).repeat(channels, 1, 1, 1)
    wide_BCHW = F.pad(image_BCHW, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(wide_BCHW, kernel, groups=channels), kernel.mT, groups=channels)


def _fill_one(image_CHW: Tensor, hole_1HW: Tensor) -> Tensor:
    """Fill one image whose sides the largest scale divides."""
    found_CHW = image_CHW
    choice: tuple[PatchSearch, Tensor] | None = None
    for level in _LEVELS:
        small_CHW, small_1HW = F.avg_pool2d(image_CHW, level.scale), F.max_pool2d(hole_1HW, level.scale)
        if min(small_CHW.shape[-2:]) < level.side:
            continue
        search = PatchSearch(small_CHW, small_1HW, level)
        # What is whole at one level is whole at all finer ones.
        wanted = 1.0 if choice or level is _LEVELS[-1] else _ENOUGH * float((1 - small_1HW).sum())
        if len(search.source_S) < max(wanted, 1.0):
            continue
        source_T = search.carried(*choice) if choice else search.grown()
        found_CHW = search.laid(source_T)
        for _ in range(level.rounds):
            search.note(source_T)
            source_T = search.improved(found_CHW, source_T)
            found_CHW = search.laid(source_T)
        choice = search, source_T
    return found_CHW
