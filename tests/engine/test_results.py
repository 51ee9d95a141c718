"""Results that were changed after they were written are refused, with what was changed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from igll.engine.results import load_results, require_same_task
from igll.errors import InputError

VALUES = {
    "mean of known": {"psnr": [20.125, 21.0, 22.5], "lpips": [0.3, 0.2, 0.1]},
    "IGLL": {"psnr": [30.1, math.inf, 28.7], "lpips": [0.1, math.nan, 0.3]},
}


def change(path: Path, value: object, *keys: str) -> None:
    """Set one value of a JSON file."""
    content = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def test_everything_comes_back(write_results):
    results = load_results(write_results("run", VALUES, oracle=True))
    assert results.images == ["scene_0.png", "scene_1.png", "scene_2.png"]
    assert list(results.methods) == ["mean of known", "IGLL"]
    network = results.method("IGLL")
    assert network.oracle and not results.method("mean of known").oracle
    assert results.method("igll") is network
    assert results.method("mean_of_known") is results.method("mean of known")
    for metric, series in VALUES["IGLL"].items():
        np.testing.assert_array_equal(network.values[metric], series)
    assert network.means == {"psnr": pytest.approx(29.4), "lpips": pytest.approx(0.2)}
    with pytest.raises(InputError, match="has no method 'LaMa'; it has mean of known, IGLL"):
        results.method("LaMa")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("protocol", "sha256"), "f" * 64, r"metrics.json: protocol.sha256 is ffffffffffff, but its parts"),
        (("protocol", "parts", "masks", "sha256"), "x", r"metrics.json: protocol.task_sha256 .* changed"),
        (("methods", "IGLL", "psnr"), 31.0, r"methods.IGLL.psnr is 31, but the images' values give 29.4"),
        (("methods", "IGLL", "psnr"), None, r"methods.IGLL.psnr is nan"),
        (("methods", "IGLL", "standard_error", "psnr"), 0.1, r"IGLL.standard_error.psnr is 0.1, but"),
        (("methods", "IGLL", "oracle_edges"), False, r"methods.IGLL.oracle_edges is not what the table says"),
        (("label",), "", r"its label 'oracle edges' contradicts its protocol"),
        (("per_image", "sha256"), "0", r"per_image.csv: is not the file whose hash stands in"),
        (("methods", "LaMa"), {"oracle_edges": False}, r"not one line of 'LaMa' for every image"),
        (("methods",), {}, r"its methods are not those of"),
        (("methods", "IGLL", "ssim"), 0.9, r"methods.IGLL has other metrics than the table"),
        (("per_image",), None, r"is no complete result of igll-eval"),
        (("protocol",), None, r"has no complete protocol; evaluate again"),
    ],
)
def test_a_changed_summary_is_refused(write_results, keys, value, message):
    folder = write_results("run", VALUES, oracle=True)
    change(folder / "metrics.json", value, *keys)
    with pytest.raises(InputError, match=message):
        load_results(folder)


def test_a_changed_table_is_refused(write_results):
    folder = write_results("run", VALUES)
    table = folder / "per_image.csv"
    table.write_text(table.read_text().replace("28.7", "29.7"))
    with pytest.raises(InputError, match=r"per_image.csv: is not the file whose hash .* it was changed"):
        load_results(folder)


def test_images_that_the_protocol_does_not_know_are_refused(write_results):
    folder = write_results("run", VALUES, images={"names_sha256": "0" * 64})
    with pytest.raises(InputError, match="its images are not those of the protocol"):
        load_results(folder)


def test_a_folder_without_results_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"metrics.json: cannot be read \(No such file"):
        load_results(tmp_path)
    for content, message in (("{", "is not JSON"), ("[]", "is no result of igll-eval")):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(InputError, match=message):
            load_results(tmp_path)


def test_other_tasks_are_refused_unless_mixing_is_asked_for(write_results):
    first, same, masks = (
        load_results(write_results(name, VALUES, **parts))
        for name, parts in (
            ("a", {}),
            ("b", {"structure": {"prior": "none"}}),
            ("c", {"masks": {"sha256": "n"}}),
        )
    )
    assert require_same_task([first, same]) == []
    with pytest.raises(InputError, match=r"a and .*c differ in masks: not comparable; .* --mix"):
        require_same_task([first, same, masks])
    assert len(require_same_task([first, same, masks], mix=True)) == 1
