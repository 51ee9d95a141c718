"""Results as igll-eval leaves them, with values chosen by the test."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from igll.engine.protocol import Protocol, names_sha256
from igll.metrics import average, standard_error
from igll.report.files import write_csv, write_json

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
        protocol = Protocol("name", **{key: {**part, **parts.get(key, {})} for key, part in content.items()})
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
