"""A run small enough for tests: 8 px features, 32 px crops, embedded scenes."""

from __future__ import annotations

from pathlib import Path

import pytest

from igll.config import Config, build_config

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml"

SMALL = {
    "device": "cpu",
    "model": {
        "width": 4,
        "structure_prior": "learned",
        "prefill": "pyramid",
        "residual": True,
        "position_grid": 8,
    },
    "discriminator": {"width": 4},
    "edges": {"detector": "sobel"},
    "data": {"name": "synthetic", "synthetic_images": 10, "crop_size": 32, "workers": 0},
    "losses": {"perceptual": 0, "style": 0, "svd_leading": 4},
    "train": {
        "batch_size": 2,
        "max_steps": 6,
        "lr": 1e-3,
        "log_every": 1,
        "eval_every": 3,
        "eval_images": 2,
        "sheet_every": 6,
        "checkpoint_every": 2,
    },
    "eval": {"metrics": ["psnr", "psnr_hole", "ssim"], "pictures": 2, "batch_size": 2},
}


@pytest.fixture
def small(tmp_path: Path):
    """Builds the small configuration; keyword arguments are sections that replace some of its keys."""

    def build(**sections) -> Config:
        values = {key: dict(value) if isinstance(value, dict) else value for key, value in SMALL.items()}
        values["edges"]["cache"] = str(tmp_path / "edge_maps")
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
        return build_config(values)

    return build
