"""Which files belong together, what is a scene, and which results are refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igll.engine.infer_plan import Inputs, Share, is_scene, plan_jobs, synthetic_path
from igll.errors import InputError
from igll.geo.mask_files import VECTOR_SUFFIXES
from tests.geo.grounds import write_raster

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 255, (9, 8, 3), dtype=np.uint8)


def picture(path: Path, image: Image.Image | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.fromarray(COLOUR)).save(path)
    return path


def test_what_is_filled_as_a_scene(tmp_path, monkeypatch):
    pytest.importorskip("rasterio")
    scenes = {
        "colour.tif": None,
        "grey.TIFF": Image.fromarray(COLOUR[..., 0]),
        "float.tif": Image.fromarray(COLOUR[..., 0].astype(np.float32)),
        "palette.tif": Image.fromarray(COLOUR).quantize(9),
        "bits.tif": Image.fromarray(COLOUR[..., 0] > 90),
        "colour.png": None,
        "grey.jpg": Image.fromarray(COLOUR[..., 0]),
    }
    told = {name: is_scene(picture(tmp_path / name, image)) for name, image in scenes.items()}
    assert [name for name, scene in told.items() if scene] == ["colour.tif", "grey.TIFF", "float.tif"]
    for name in ("a.jp2", "a.VRT", "a.img", "absent.tif"):
        assert is_scene(tmp_path / name)
    torn = tmp_path / "torn.tif"
    torn.write_bytes(b"no image")
    assert is_scene(torn)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not is_scene(tmp_path / "colour.tif") and is_scene(tmp_path / "a.jp2")


@pytest.mark.parametrize("most", [40, 10])
def test_large_scenes_are_no_cause_for_a_warning(tmp_path, monkeypatch, most):
    pytest.importorskip("rasterio")
    path = picture(tmp_path / "large.tif")  # 72 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)  # beyond twice as many Pillow refuses
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_scene(path)


def test_many_bands_are_no_cause_for_a_message(tmp_path, caplog):
    pytest.importorskip("rasterio")
    scene = write_raster(tmp_path / "bands.tif", np.zeros((7, 64, 64), np.uint8), interleave="pixel")
    assert is_scene(scene)
    assert not caplog.records


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_vector_masks_of_a_folder_are_found_by_name(tmp_path, suffix):
    image, mask = tmp_path / "scenes" / "a.jp2", tmp_path / "masks" / f"a{suffix}"
    for path in (image, mask):
        path.parent.mkdir()
        path.touch()
    (job,) = plan_jobs(Inputs([image.parent], tmp_path / "out", masks=mask.parent))
    assert job.mask == mask


def test_partners_by_name_and_one_for_all(tmp_path):
    for name in ("a.jp2", "sub/b.jp2"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    for name in ("a.geojson", "sub/b.gpkg", "other.shp"):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "masks" / name).touch()
    picture(tmp_path / "ref.tif")
    jobs = plan_jobs(
        Inputs([tmp_path / "in"], tmp_path / "out", tmp_path / "masks", "band:2", None, tmp_path / "ref.tif")
    )
    assert [job.image.name for job in jobs] == ["a.jp2", "b.jp2"]
    assert [job.mask.relative_to(tmp_path).as_posix() for job in jobs] == [
        "masks/a.geojson", "masks/sub/b.gpkg",
    ]  # fmt: skip
    assert [job.out.relative_to(tmp_path).as_posix() for job in jobs] == ["out/a.tif", "out/sub/b.tif"]
    assert all(job.scene and job.quality == "band:2" and job.reference.name == "ref.tif" for job in jobs)
    with pytest.raises(InputError, match="no mask named sub/b"):
        (tmp_path / "masks/sub/b.gpkg").unlink()
        plan_jobs(Inputs([tmp_path / "in"], tmp_path / "out", tmp_path / "masks"))


def test_results_that_would_replace_something(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jp2", "a.vrt", "b_synthetic.jp2", "b.jp2"):
        (folder / name).touch()
    cases = [
        ([folder / "a.jp2", folder / "a.vrt"], tmp_path / "out", "would both be written to"),
        ([folder / "b.jp2", folder / "b_synthetic.jp2"], tmp_path / "out", "would both be written to"),
        ([folder / "a.jp2", folder / "b.jp2"], tmp_path / "out.tif", "named like one image, but there are 2"),
        ([folder / "a.jp2"], tmp_path / "out.png", "is written as .tif; name it so"),
        ([folder / "a.jp2"], tmp_path / "out.webp", "is written as .tif; name it so"),
        ([folder], folder, "images need a folder of their own"),
    ]
    for images, out, reason in cases:
        with pytest.raises(InputError, match=reason):
            plan_jobs(Inputs(images, out))
    (job,) = plan_jobs(Inputs([folder / "a.jp2"], tmp_path / "filled.tiff"))
    assert job.out == tmp_path / "filled.tiff"
    assert synthetic_path(job.out) == tmp_path / "filled_synthetic.tif"
    mask = tmp_path / "out/a.tif"
    picture(mask)
    with pytest.raises(InputError, match="is an input and would be overwritten"):
        plan_jobs(Inputs([folder / "a.jp2"], tmp_path / "out", mask))


def test_a_link_to_an_input_is_that_input(tmp_path):
    scene = picture(tmp_path / "in/scene.tif")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/scene.tif").symlink_to(scene)
    with pytest.raises(InputError, match="is an input and would be overwritten"):
        plan_jobs(Inputs([scene], tmp_path / "out", scene))


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_shares_cover_all_once(count):
    shares = [Share.of(f"{number}/{count}") for number in range(1, count + 1)]
    items = [item for share in shares for item in range(7)[share.number - 1 :: share.count]]
    assert sorted(items) == list(range(7))


def test_shares_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Share.of(None) == Share(1, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Share.of(None) == Share(3, 4)
    assert Share.of("1/2") == Share(1, 2)


def test_of_a_folder_of_results_the_rasters_that_mark_what_was_made_up_are_no_images(tmp_path):
    folder = tmp_path / "filled"
    folder.mkdir()
    for name in ("a.tif", "a_synthetic.tif", "b_synthetic.tif"):
        write_raster(folder / name, np.zeros((1, 8, 8), np.uint8))
    jobs = plan_jobs(Inputs([folder], tmp_path / "out"))
    assert [job.image.name for job in jobs] == ["a.tif", "b_synthetic.tif"]
