"""Images of four and six bands through the entry points: train, evaluate, load, fill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import igll
from igll import cli
from igll.config import load_config
from igll.data.bands import read_bands
from igll.engine.batches import open_data
from igll.engine.edge_maps import prepare_edge_maps

rasterio = pytest.importorskip("rasterio")
QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
TINY = [
    "device=cpu", "model.width=4", "train.max_steps=2", "train.batch_size=2", "train.eval_images=2",
    "data.crop_size=32", "model.position_grid=8", "losses.svd_leading=4", "losses.adversarial=0.01",
    "discriminator.width=4", "eval.metrics=[psnr, psnr_hole, l1_hole, ssim, lpips]", "eval.pictures=2",
]  # fmt: skip


def series(root: Path, dtype: str, count: int, top: float, files: int = 5) -> Path:
    """Smooth scenes, georeferenced, the first of which lacks a few pixels."""
    root.mkdir()
    for number in range(files):
        rows, columns = np.mgrid[:48, :56] / 8
        waves = [np.sin(rows + band) * np.cos(columns - number * band) for band in range(count)]
        values = (0.25 + 0.2 * np.stack(waves)) * top
        if number == 0:
            values[:, 3, 4] = 0
        with rasterio.open(
            root / f"{number}.tif", "w", driver="GTiff", width=56, height=48, count=count, dtype=dtype,
            photometric="MINISBLACK", alpha="NO", nodata=0, crs="EPSG:32633",
            transform=rasterio.transform.from_origin(5e5, 5e6, 10, 10),
        ) as raster:  # fmt: skip
            raster.write(values.astype(dtype))
    return root


def call(entry, *arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        entry([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def folder_of(root: Path, count: int, *more: str) -> list[str]:
    return [*TINY, "data.name=folder", f"data.root={root}", f"model.image_channels={count}", *more]


def run(tmp_path: Path, monkeypatch, overrides: list[str]) -> dict:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out, result = tmp_path / "run", tmp_path / "evaluation"
    assert call(cli.train, "--config", QUICKSTART, "--out", out, *overrides) == 0
    checkpoint = out / "checkpoints" / "best.pt"
    assert (
        call(cli.evaluate, "--config", out / "config.yaml", "--checkpoint", checkpoint, "--out", result) == 0
    )
    return json.loads((result / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("dtype", "count", "top", "stretch"),
    [
        ("uint8", 4, 255, None),
        ("uint16", 4, 10_000, [0, 10_000]),
        ("float32", 6, 1, None),
        ("uint16", 2, 65_535, None),
    ],
)
def test_train_evaluate_load_and_fill(tmp_path, monkeypatch, dtype, count, top, stretch):
    root = series(tmp_path / "scenes", dtype, count, top)
    more = [] if stretch is None else [f"data.stretch={stretch}"]
    found = run(tmp_path, monkeypatch, folder_of(root, count, *more))
    scores = found["methods"]["IGLL"]
    assert all(np.isfinite(scores[name]) for name in ("psnr", "psnr_hole", "l1_hole", "ssim"))
    assert found["unavailable"]["lpips"]  # no RGB, or no weights
    assert Image.open(tmp_path / "evaluation" / "pictures.png").width > 300

    model = igll.load(tmp_path / "run" / "checkpoints" / "best.pt", device="cpu")
    with rasterio.open(root / "1.tif") as raster:
        image = raster.read().transpose(1, 2, 0)
    hole = np.zeros(image.shape[:2], bool)
    hole[10:30, 20:44] = True
    filled = model.inpaint(image, hole)
    assert filled.dtype == image.dtype and filled.shape == (48, 56, count)
    assert np.array_equal(filled[~hole], image[~hole])
    # The same, from what training saw: raw values are scaled and brought back as in training.
    unit = model.inpaint(read_bands(root / "1.tif", count, stretch), hole)
    step = 1e-6 if dtype == "float32" else 0.5
    assert np.abs(filled.astype(float) - unit * float(top))[hole].max() <= step * (1 + 1e-3)


def test_embedded_scenes_train_any_number_of_bands(tmp_path, monkeypatch):
    overrides = [*TINY, "data.synthetic_images=5", "model.image_channels=4"]
    found = run(tmp_path, monkeypatch, overrides)
    assert np.isfinite(found["methods"]["IGLL"]["psnr_hole"]) and found["images"] == 1


def test_the_task_depends_on_the_stretch_and_on_the_bands(tmp_path):
    hashes = {}
    for count in (4, 6):
        root = series(tmp_path / f"of{count}", "uint8", count, 255)
        for name, more in (
            ("plain", []),
            ("full", ["data.stretch=[0,255]"]),
            ("half", ["data.stretch=[0,128]"]),
        ):
            out = tmp_path / f"{name}{count}"
            given = ["--config", QUICKSTART, "--out", out, "--method", "nearest"]
            assert call(cli.evaluate, *given, *folder_of(root, count, *more)) == 0
            found = json.loads((out / "metrics.json").read_text())
            hashes[name, count] = found["protocol"]["task_sha256"]
            assert found["methods"]["nearest pixel"]["psnr"] > 10
    # Full scale said in full is the same task; any other stretch, and any other bands, are another.
    assert hashes["plain", 4] == hashes["full", 4] and hashes["plain", 6] == hashes["full", 6]
    assert len(set(hashes.values())) == 4


def test_a_folder_of_other_files_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = series(tmp_path / "scenes", "uint16", 6, 10_000)
    arguments = ["--config", QUICKSTART, "--out", tmp_path / "run", *folder_of(root, 4)]
    assert call(cli.train, *arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "0.tif: has 6 band(s), not 4; set model.image_channels" in said
    arguments[-1] = "data.stretch=[5, 5]"
    assert call(cli.train, *arguments) == 2
    assert "data.stretch: a stretch is the two raw values" in capsys.readouterr().err


def test_real_scenes_of_four_bands(tmp_path, monkeypatch, shared):
    root = tmp_path / "scenes"
    root.mkdir()
    names = ["landsat_series_2010.tif", "landsat_series_2015.tif", "landsat_series_2020.tif"]
    for name in names:
        (root / name).symlink_to(shared / "data" / "geotiff" / name)
    found = run(tmp_path, monkeypatch, folder_of(root, 4, "data.test_fraction=0.4"))
    assert found["images"] == 1 and np.isfinite(found["methods"]["IGLL"]["psnr_hole"])
    # Every sample of the scenes that lack pixels is complete, and of the file's own values.
    training, testing, detector = open_data(load_config(tmp_path / "run" / "config.yaml"))
    for dataset in (training, testing):
        assert detector is not None and dataset.edges is not None
        assert prepare_edge_maps(dataset, dataset.edges, detector, "cpu") == 0  # all made by the run
        for index in range(len(dataset)):
            assert dataset[index]["image"].isfinite().all() and dataset[index]["edge"].isfinite().all()
    with rasterio.open(root / names[0]) as raster:
        assert (raster.read() == raster.nodata).any()
    source = training.source
    assert np.isnan(source.load(source.names.index(names[0])).target_HWC).any()
