"""A run small enough for tests: 8 px features, 32 px crops, embedded scenes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from igll.config import Config, build_config
from igll.engine.protocol import Protocol, names_sha256
from igll.metrics import average, standard_error
from igll.report.files import write_csv, write_json

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


Values = dict[str, dict[str, list[float]]]  # method → metric → value per image


@pytest.fixture
def write_results(tmp_path: Path):
    def write(folder: str, values: Values, oracle: bool = False, **parts: dict) -> Path:
        """Write results of some methods; the last is the network. Keywords replace parts of the protocol."""
        out = tmp_path / folder
        count = len(next(iter(next(iter(values.values())).values())))
        images = [f"scene_{number}.png" for number in range(count)]
        metrics = list(next(iter(values.values())))
        content = {
            "images": {"count": count, "names_sha256": names_sha256(images), "pixels_sha256": "p"},
            "crop": {"size": 32, "rule": "paper"},
            "masks": {"sha256": "m"},
            "metrics": {"names": metrics, "lpips_net": None, "version": 1},
            "structure": {"prior": "oracle", "edges_of": "ground truth" if oracle else "nothing"},
        }
        content = {key: {**part, **parts.get(key, {})} for key, part in content.items()}
        protocol = Protocol("aid-square25-paper32-none", **content)
        marks = {method: oracle and method == list(values)[-1] for method in values}
        lines = [
            {
                "image": image,
                "method": method,
                "oracle_edges": marks[method],
                **{name: series[index] for name, series in metrics.items()},
            }
            for method, metrics in values.items()
            for index, image in enumerate(images)
        ]
        write_csv(out / "per_image.csv", lines)
        digest = hashlib.sha256((out / "per_image.csv").read_bytes()).hexdigest()
        methods = {
            method: {
                **{name: average(series) for name, series in metrics.items()},
                "standard_error": {name: standard_error(series) for name, series in metrics.items()},
                "oracle_edges": marks[method],
            }
            for method, metrics in values.items()
        }
        write_json(
            out / "metrics.json",
            {
                "label": "oracle edges" if oracle else "",
                "protocol": protocol.to_json(),
                "methods": methods,
                "per_image": {"file": "per_image.csv", "sha256": digest},
            },
        )
        return out

    return write
