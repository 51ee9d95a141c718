"""Published dataset layouts, on generated files and on real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from igll.data.sources import AID, RICE, ClearView, ImageFolder, Synthetic, cloud_from_difference
from igll.errors import InputError

RNG = np.random.default_rng(1)


def picture(path: Path, values: np.ndarray | None = None, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = RNG.integers(0, 256, (*size, 3), dtype=np.uint8) if values is None else values
    Image.fromarray(values).save(path)
    return values


def disc(height: int, width: int, radius: float = 0.25) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) * radius) ** 2


def test_folder_reads_any_mix_recursively(tmp_path: Path):
    values = picture(tmp_path / "b" / "one.png")
    picture(tmp_path / "two.jpg")
    picture(tmp_path / "c" / "d" / "three.tif")
    picture(tmp_path / "four.WEBP")
    folder = ImageFolder(tmp_path)
    assert folder.names == ["b/one.png", "c/d/three.tif", "four.WEBP", "two.jpg"]
    scene = folder.load(0)
    np.testing.assert_allclose(scene.target_HWC, values / 255, atol=1e-7)
    assert scene.mask_HW is None and scene.input_HWC is scene.target_HWC


def test_folder_with_masks_and_references(tmp_path: Path):
    hole = disc(40, 48)
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "masks" / "a.png", np.repeat(hole[..., None] * np.uint8(255), 3, 2))
    other = picture(tmp_path / "other_date" / "a.png")
    folder = ImageFolder(tmp_path / "images", masks=tmp_path / "masks", references=tmp_path / "other_date")
    scene = folder.load(0)
    np.testing.assert_array_equal(scene.mask_HW, hole)
    np.testing.assert_allclose(scene.edge_source_HWC, other / 255, atol=1e-7)


def test_folder_names_the_first_unmatched_image_and_a_mask_of_another_size(tmp_path: Path):
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png")
    picture(tmp_path / "masks" / "a.png", size=(40, 50))
    with pytest.raises(InputError, match=r"b\.png"):
        ImageFolder(tmp_path / "images", masks=tmp_path / "masks")
    picture(tmp_path / "masks" / "b.png")
    with pytest.raises(InputError, match=r"masks/a\.png: is 50×40 pixels, but .*images/a\.png is 48×40"):
        ImageFolder(tmp_path / "images", masks=tmp_path / "masks").load(0)


def test_aid_layout_on_real_files(shared: Path):
    aid = AID(shared / "data" / "aid_150")
    assert len(aid) == 300
    assert len({name.split("/")[0] for name in aid.names}) == 30
    assert aid.load(7).target_HWC.shape == (150, 150, 3)


def test_aid_refuses_a_flat_folder(tmp_path: Path):
    picture(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"'a\.jpg' is not in a class folder"):
        AID(tmp_path)


def test_rice1_pairs_on_real_files(shared: Path):
    root = shared / "data" / "rice1"
    labels, pairs = RICE(root, 1), RICE(root, 1, pairs=True)
    assert len(labels) == len(pairs) == 100 and labels.names == pairs.names
    assert labels.load(0).mask_HW is None
    shares = []
    for index in range(0, 100, 2):
        scene = pairs.load(index)
        assert scene.mask_HW is not None and scene.mask_HW.shape == scene.target_HWC.shape[:2]
        np.testing.assert_array_equal(scene.target_HWC, labels.load(index).target_HWC)
        shares.append(scene.mask_HW.mean())
    # RICE1 is mostly even haze, which hides nothing; some pairs have clouds, and none is all cloud.
    assert min(shares) < 0.05 < max(shares) < 0.9


def test_rice2_layout_uses_its_own_masks(tmp_path: Path):
    hole = disc(40, 48)
    clear = picture(tmp_path / "label" / "7.png")
    cloudy = picture(tmp_path / "cloud" / "7.png")
    picture(tmp_path / "mask" / "7.png", np.repeat(hole[..., None] * np.uint8(255), 3, 2))
    scene = RICE(tmp_path, 2, pairs=True).load(0)
    np.testing.assert_allclose(scene.target_HWC, clear / 255, atol=1e-7)
    np.testing.assert_allclose(scene.input_HWC, cloudy / 255, atol=1e-7)
    np.testing.assert_array_equal(scene.mask_HW, hole)
    assert RICE(tmp_path, 2).load(0).mask_HW is None


def test_rice_names_the_missing_folder(tmp_path: Path):
    picture(tmp_path / "label" / "7.png")
    assert len(RICE(tmp_path, 1)) == 1
    with pytest.raises(InputError, match=r"has no folder 'cloud', which data\.name=rice1 needs"):
        RICE(tmp_path, 1, pairs=True)


@pytest.mark.parametrize("noise", ["salt_pepper", "slc_off", "cloud"])
def test_clearview_pairs_find_the_damage(tmp_path: Path, noise: str):
    clear = np.full((60, 60, 3), 90, np.uint8)
    hole = disc(60, 60)
    picture(tmp_path / "clear" / "s1.png", clear)
    picture(tmp_path / noise / "s1.png", np.where(hole[..., None], 250, clear).astype(np.uint8))
    scene = ClearView(tmp_path, noise).load(0)
    assert scene.mask_HW is not None and scene.mask_HW[hole].all()
    if noise != "cloud":  # a cloud's rim is widened, exact damage is not
        np.testing.assert_array_equal(scene.mask_HW, hole)
    assert ClearView(tmp_path).load(0).mask_HW is None


def test_cloud_is_found_and_even_haze_is_not():
    rows, columns = np.mgrid[:80, :80] / 80
    clear = np.stack([rows, columns, 1 - rows], 2) * 0.5 + RNG.normal(0, 0.02, (80, 80, 3))
    clear = clear.clip(0, 1).astype(np.float32)
    haze = (0.7 * clear + 0.3 * 0.8).astype(np.float32)
    assert not cloud_from_difference(clear, clear).any()
    assert not cloud_from_difference(clear, haze).any()
    for radius in (0.1, 0.25, 0.45):  # 3, 20 and 64 % of the scene
        cloud = disc(80, 80, radius)
        for behind in (clear, haze):
            found = cloud_from_difference(clear, np.where(cloud[..., None], np.float32(0.95), behind))
            assert found[cloud].all() and not found[~ndimage.binary_dilation(cloud, iterations=12)].any()


def test_synthetic_scenes_are_seeded_and_kept():
    source = Synthetic(3, 64, seed=5)
    again = Synthetic(3, 64, seed=6)
    assert source.names == ["synthetic-00005", "synthetic-00006", "synthetic-00007"]
    np.testing.assert_array_equal(source.load(1).target_HWC, again.load(0).target_HWC)
    assert source.load(2).target_HWC is source.load(2).target_HWC
    assert Synthetic(1, 64, channels=1).load(0).target_HWC.shape == (64, 64, 1)


@pytest.mark.parametrize("channels", [2, 4, 64])
def test_synthetic_bands_are_colours_and_then_mixtures_of_them(channels: int):
    colour = Synthetic(1, 64).load(0).target_HWC.astype(np.float64)
    bands = Synthetic(1, 64, channels).load(0).target_HWC
    assert bands.shape == (64, 64, channels) and bands.dtype == np.float32
    np.testing.assert_array_equal(bands[..., :3], colour[..., :channels])
    # Whole levels of 8 bits, as a scene in memory is kept.
    np.testing.assert_allclose(bands * 255, np.rint(bands * 255), atol=1e-4)
    assert len({band.tobytes() for band in np.moveaxis(bands, 2, 0)}) == channels
    for band in np.moveaxis(bands[..., 3:], 2, 0):
        shares, *_ = np.linalg.lstsq(colour.reshape(-1, 3), band.ravel(), rcond=None)
        assert shares.min() > -0.02 and shares.sum() == pytest.approx(1, abs=0.01)
        assert np.abs(colour @ shares - band).max() < 1 / 255


def test_pixels_that_a_reference_lacks_are_missing_too(tmp_path: Path):
    rasterio = pytest.importorskip("rasterio")
    for folder, torn in (("images", (1, 2)), ("other_date", (3, 4))):
        (tmp_path / folder).mkdir()
        values = RNG.integers(1, 9000, (4, 9, 8), dtype=np.uint16)
        values[2, torn[0], torn[1]] = 0
        shape = {"count": 4, "height": 9, "width": 8, "dtype": "uint16", "nodata": 0, "crs": "EPSG:32633"}
        place = rasterio.transform.from_origin(5e5, 5e6, 10, 10)
        with rasterio.open(
            tmp_path / folder / "a.tif", "w", driver="GTiff", transform=place, **shape
        ) as raster:
            raster.write(values)
    references = tmp_path / "other_date"
    scene = ImageFolder(tmp_path / "images", 4, references=references, stretch=[0, 9000]).load(0)
    assert np.argwhere(np.isnan(scene.target_HWC).all(2)).tolist() == [[1, 2], [3, 4]]
    assert np.argwhere(np.isnan(scene.edge_source_HWC).any(2)).tolist() == [[3, 4]]
