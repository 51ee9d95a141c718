"""Images with holes that every test of a filling uses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def holes(seed: int = 0, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Three images in [-1, 1] with a block, scattered pixels, and no hole at all."""
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.uniform(-1, 1, (3, channels, 30, 41))).float()
    mask = torch.zeros(3, 1, 30, 41)
    mask[0, :, 4:22, 10:41] = 1  # reaches the border
    mask[1] = torch.from_numpy(rng.random((1, 30, 41)) < 0.4)
    return image, mask
