"""Pictures of shipped weights: the right images, filled as the weights fill them, on small sheets."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from igll.data.synthetic import render_scene
from igll.engine import release_pictures as module
from igll.engine.comparison_sheet import SheetRequest, comparison_rows
from igll.engine.release_pictures import Evaluations, before_after, failures, overview
from igll.engine.release_scores import network_folder
from igll.engine.results import load_results
from igll.engine.reuse import measure
from igll.engine.shared_weights import save_shared_weights
from igll.engine.weights_source import find_weights
from igll.errors import InputError
from igll.inpainter import Inpainter
from igll.registry import build_generator

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "release_pictures.py"


@pytest.fixture
def weights(small, tmp_path: Path) -> Path:
    config = small()
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_shared_weights(path, build_generator(config.model), config, 1)
    return path


@pytest.fixture
def evaluations(small, weights: Path, tmp_path: Path) -> Evaluations:
    """Of two families of holes; LPIPS takes weights, MS-SSIM larger crops, so PSNR stands for both."""
    for number in range(5):
        path = tmp_path / "scenes" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(render_scene(number, 32)).save(path)
    found = Evaluations(tmp_path / "scores", "IGLL", find_weights(weights), "drawn")
    place = network_folder(found.out, found.name, found.checkpoint) / found.dataset
    data = {"name": "folder", "root": None, "val_root": str(tmp_path / "scenes")}
    for family, mask in (("irregular25", {"kind": "irregular"}), ("square25", {"placement": "center"})):
        config = small(data=data, mask=mask, eval={"metrics": ["psnr_hole"], "floors": [], "pictures": 0})
        measure(config, weights, place / family)
    return found


@pytest.fixture
def laid(monkeypatch) -> dict:
    """What is handed to be laid out."""
    told: dict = {}

    def spy(rows, columns, titles, path, cell, caption):
        told.update(rows=rows, columns=columns, titles=titles, caption=caption)
        return original(rows, columns, titles, path, cell, caption)

    original = module.picture_sheet
    monkeypatch.setattr(module, "picture_sheet", spy)
    return told


def test_before_and_after_are_what_a_user_gets(weights: Path, laid: dict, tmp_path: Path):
    before_after(find_weights(weights), tmp_path / "before_after.png")
    masked, filled = laid["rows"]
    assert laid["titles"] == ["what came in", "filled by tiny"] and len(laid["columns"]) == len(masked)
    model = Inpainter.from_checkpoint(weights)
    for (scene, _), came_in, came_out in zip(module._BEFORE_AFTER, masked, filled, strict=True):
        image_HWC = render_scene(module._SEED, module._SIDE, scene)
        hole_HW = (came_in == (235, 64, 140)).all(2)
        assert hole_HW.mean() == pytest.approx(module._SHARE, abs=0.001)
        assert np.array_equal(came_in[~hole_HW], image_HWC[~hole_HW])
        assert np.array_equal(came_out, model.inpaint(image_HWC, hole_HW))
    assert (tmp_path / "before_after.png").stat().st_size < 400_000  # for the front page


def test_one_image_of_each_family(evaluations: Evaluations, laid: dict, tmp_path: Path):
    overview(evaluations, ["nearest"], tmp_path / "o.jpg")
    assert laid["titles"] == ["square 25 %: 1.png", "irregular 25 %: 3.png"]  # in the order of the tables
    assert laid["columns"] == ["masked", "nearest pixel", "IGLL", "truth"]
    for row, (_, folder), number in zip(laid["rows"], evaluations.folders().items(), (1, 3), strict=True):
        config = module.load_config(folder / "config.yaml")
        request = SheetRequest([evaluations.checkpoint.named], ["x"], ["nearest"], images=[f"{number}.png"])
        (expected,) = comparison_rows(config, request).pictures
        assert all(np.array_equal(one, other) for one, other in zip(row, expected, strict=True))
        assert np.array_equal(row[-1], render_scene(number, 32))


def test_further_weights_have_columns_of_their_own(
    evaluations: Evaluations, laid: dict, tmp_path: Path, small
):
    config = small()
    torch.manual_seed(1)
    generator = build_generator(config.model)
    with torch.no_grad():
        for value in generator.parameters():
            value.add_(0.1)  # untrained networks are too much alike for eight bits
    path = tmp_path / "other" / "checkpoints" / "best.safetensors"
    path.parent.mkdir(parents=True)
    save_shared_weights(path, generator, config, 1)
    overview(evaluations, [], tmp_path / "o.jpg", [str(path)])
    assert laid["columns"] == ["masked", "IGLL", "other", "truth"]
    assert not any(np.array_equal(row[1], row[2]) for row in laid["rows"])


def test_failures_are_the_worst_images(evaluations: Evaluations, laid: dict, tmp_path: Path, monkeypatch):
    results = {folder: load_results(folder) for folder in evaluations.folders().values()}
    worst = []
    for found in results.values():
        method = found.methods["IGLL"]
        psnr = method.values["psnr_hole"]
        method.values["lpips"] = np.array([0.1, 0.2, np.nan, 0.5, 0.3])
        method.means["lpips"] = 0.25
        worst.append(["3.png", found.images[int(psnr.argmin())]])
    monkeypatch.setattr(module, "load_results", results.__getitem__)
    failures(evaluations, [], tmp_path / "f.jpg")
    expected = [image for pair in worst for image in dict.fromkeys(pair)]
    assert [title.split(": ")[1].split(",")[0] for title in laid["titles"]] == expected
    assert "3.png, LPIPS 0.500 (mean 0.250), PSNR in the hole" in laid["titles"][0]
    assert np.array_equal(laid["rows"][0][-1], render_scene(3, 32))


def test_what_is_wrong_is_said(weights: Path, tmp_path: Path, capsys):
    with pytest.raises(InputError, match=r"holds no evaluation; run scripts/release_scores\.py first"):
        overview(Evaluations(tmp_path, "IGLL", find_weights(weights), "none"), [], tmp_path / "o.jpg")
    with pytest.raises(InputError, match=r"o\.gif: a sheet is written as \.png or \.jpg"):
        module.save_sheet(Image.new("RGB", (8, 8)), tmp_path / "o.gif")
    main = runpy.run_path(str(SCRIPT))["main"]
    for arguments, said in (
        (["--checkpoint", str(tmp_path / "no.safetensors")], "no.safetensors: no such"),
        (["--checkpoint", str(weights), "--scores", "x"], "--scores and --dataset go together"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["--out", str(tmp_path / "out"), *arguments])
        assert end.value.code == 2 and said in capsys.readouterr().err


def test_failures_without_one_metric_or_both(
    evaluations: Evaluations, laid: dict, tmp_path: Path, monkeypatch
):
    """LPIPS is not among the metrics measured here; without its weights it is there, and NaN throughout."""
    failures(evaluations, [], tmp_path / "f.jpg")
    titles, caption = laid["titles"], laid["caption"]
    assert len(titles) == 2 and all("png, PSNR in the hole" in title for title in titles)
    assert "LPIPS" not in caption + "".join(titles)
    assert caption == "The images with the lowest PSNR in the hole, of each family of holes."
    results = {folder: load_results(folder) for folder in evaluations.folders().values()}
    for found in results.values():
        found.methods["IGLL"].values["lpips"] = np.full(5, np.nan)
    monkeypatch.setattr(module, "load_results", results.__getitem__)
    failures(evaluations, [], tmp_path / "f.jpg")
    assert (laid["titles"], laid["caption"]) == (titles, caption)
    for found in results.values():
        del found.methods["IGLL"].values["psnr_hole"]
    with pytest.raises(InputError, match="neither LPIPS nor PSNR in the hole; measure one of them"):
        failures(evaluations, [], tmp_path / "f.jpg")
