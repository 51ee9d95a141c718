"""The score that chooses best.pt."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from igll.data.datasets import build_dataset
from igll.engine.validate import Validation

CPU = torch.device("cpu")


class OffBy(nn.Module):
    """Fills images of one colour with that colour and an error, one for dark and one for bright images."""

    structure_prior = "none"

    def __init__(self, dark: float, bright: float) -> None:
        super().__init__()
        self.dark, self.bright = dark, bright

    def forward(self, image_BCHW: Tensor, mask_B1HW: Tensor, edge: None) -> tuple[Tensor, Tensor]:
        colour_B111 = image_BCHW.amax((1, 2, 3), keepdim=True)
        colour_B111 = torch.where(mask_B1HW.amin((1, 2, 3), keepdim=True) > 0, 0.0, colour_B111)
        error_B111 = torch.where(colour_B111 > 0.3, self.bright, self.dark)
        filled_BCHW = torch.where(mask_B1HW > 0.5, colour_B111 - error_B111, image_BCHW)
        return filled_BCHW, filled_BCHW


@pytest.fixture
def validation(small, tmp_path: Path) -> Validation:
    """Two images, dark and bright."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, grey in (("dark", 140), ("bright", 250)):
        Image.new("RGB", (32, 32), (grey,) * 3).save(folder / f"{name}.png")
    config = small(
        data={"name": "folder", "root": str(tmp_path), "val_root": str(folder)},
        mask={"kind": "square", "ratio": 0.25},
        model={"structure_prior": "none"},
    )
    return Validation(build_dataset(config, "test"), config, CPU)


def test_a_network_that_is_better_everywhere_scores_higher(validation: Validation) -> None:
    worse, better = (validation.scores(OffBy(*errors)) for errors in ((0.04, 0.2), (0.0, 0.18)))
    assert all(better[name] > worse[name] for name in ("psnr", "psnr_hole"))


def test_what_is_exact_counts_as_one_value_off_by_one(validation: Validation) -> None:
    scores = validation.scores(OffBy(0.0, 0.0))
    least = 20 * math.log10(255)
    assert scores["psnr"] == pytest.approx(least + 10 * math.log10(3 * 32 * 32))
    assert scores["psnr_hole"] == pytest.approx(least + 10 * math.log10(3 * 16 * 16))
