from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.feature import canny
from skimage.filters import sobel

from igll.data.landcover import Boxes, build, split_rectangles
from igll.data.synthetic import SCENE_KINDS, render_scene
from igll.data.terrain import Canvas, Sun, photograph, random_frame, rgb
from igll.errors import InputError

SEEDS = range(6)


@pytest.fixture(scope="module")
def scenes() -> dict[str, np.ndarray]:
    """Six pictures of every kind, (6, 256, 256, 3) uint8."""
    return {kind: np.stack([render_scene(seed, 256, kind) for seed in SEEDS]) for kind in SCENE_KINDS}


def grey(pictures: np.ndarray) -> np.ndarray:
    return pictures.astype(np.float64).mean(axis=-1) / 255


def bands(picture_HW: np.ndarray) -> np.ndarray:
    """Standard deviation within octave-like bands, from one pixel to more than eight."""
    blurred = [picture_HW] + [ndimage.gaussian_filter(picture_HW, sigma) for sigma in (1, 3, 8)]
    layers = [fine - coarse for fine, coarse in pairwise(blurred)] + [blurred[-1]]
    return np.array([layer.std() for layer in layers])


def flat_canvas(size: int = 96) -> Canvas:
    canvas = Canvas(np.random.default_rng(0), size, 1.0)
    canvas.colour_HWC[:] = 0.5
    return canvas


def one_box(
    x: float, y: float, angle: float, length: float, width: float, eave: float, pitch: float = 0
) -> Boxes:
    x_1, y_1, angle_1, length_1, width_1, eave_1, pitch_1 = (
        np.array([value], dtype=np.float32) for value in (x, y, angle, length, width, eave, pitch)
    )
    return Boxes(x_1, y_1, angle_1, length_1, width_1, rgb(200, 60, 60)[None], eave_1, pitch_1, 0 * x_1)


@pytest.mark.parametrize("kind", [*SCENE_KINDS, None])
@pytest.mark.parametrize("size", [16, 97, 256])
def test_shape_type_and_determinism(kind: str | None, size: int) -> None:
    picture = render_scene(5, size, kind)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, render_scene(5, size, kind))


def test_the_same_in_another_process_whatever_the_global_generator() -> None:
    code = (
        "import hashlib, numpy as np; np.random.seed(1); from igll.data.synthetic import *;"
        "print(hashlib.sha256(b''.join(render_scene(3, 64, k).tobytes() for k in SCENE_KINDS)).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    here = hashlib.sha256(b"".join(render_scene(3, 64, kind).tobytes() for kind in SCENE_KINDS)).hexdigest()
    assert run.stdout.strip() == here


def test_the_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()
    render_scene(0, 64)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_pictures_of_other_seeds_and_kinds_differ(scenes: dict[str, np.ndarray]) -> None:
    every = np.concatenate([grey(pictures) for pictures in scenes.values()])
    flat = every.reshape(len(every), -1)
    apart = np.abs(flat[:, None, ::7] - flat[None, :, ::7]).mean(axis=-1)
    # Sensor noise alone would part two pictures by 0.01 or so.
    assert apart[~np.eye(len(every), dtype=bool)].min() > 0.03


def test_without_a_kind_the_seed_chooses_among_all() -> None:
    # The kind is drawn before anything else, so the picture equals the one with that kind asked for.
    chosen = set()
    for seed in range(60):
        picture = render_scene(seed, 32)
        chosen |= {kind for kind in SCENE_KINDS if np.array_equal(picture, render_scene(seed, 32, kind))}
    assert chosen == set(SCENE_KINDS)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((-1, 64, None), "seed"),
        ((0, 15, None), "size"),
        ((0, 4097, None), "size"),
        ((0, 64, "moon"), "farmland"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[int, int, str | None], word: str) -> None:
    with pytest.raises(InputError, match=word):
        render_scene(*arguments)


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_exposure_and_muted_colours(scenes: dict[str, np.ndarray], kind: str) -> None:
    pictures = scenes[kind].astype(np.float64)
    mean_N3 = pictures.mean(axis=(1, 2))
    assert mean_N3.min() > 20
    assert mean_N3.max() < 200
    assert (pictures >= 254).mean() < 0.02
    assert (pictures <= 1).mean() < 0.02
    colourfulness_N = (pictures.max(axis=-1) - pictures.min(axis=-1)).mean(axis=(1, 2))
    assert colourfulness_N.min() > 4
    assert colourfulness_N.max() < 75
    assert grey(scenes[kind]).std(axis=(1, 2)).min() > 0.025


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_structure_at_every_scale(scenes: dict[str, np.ndarray], kind: str) -> None:
    energy_4 = np.mean([bands(picture) for picture in grey(scenes[kind])], axis=0)
    assert energy_4.min() > 0.008
    # No scale stands alone, as it would in white noise or in a smooth gradient.
    assert energy_4.max() / energy_4.sum() < 0.75


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_power_falls_with_frequency_as_in_natural_images(scenes: dict[str, np.ndarray], kind: str) -> None:
    window = np.hanning(256)[:, None] * np.hanning(256)[None, :]
    pictures = grey(scenes[kind])
    centred = (pictures - pictures.mean(axis=(1, 2), keepdims=True)) * window
    power_HW = (np.abs(np.fft.fft2(centred)) ** 2).mean(axis=0)
    frequency_HW = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None, :])
    edges = np.geomspace(0.01, 0.35, 12)
    bins = [(frequency_HW >= low) & (frequency_HW < high) for low, high in pairwise(edges)]
    spectrum = np.array([power_HW[chosen].mean() for chosen in bins])
    middle = np.sqrt(edges[1:] * edges[:-1])
    slope = np.polyfit(np.log(middle), np.log(spectrum), 1)[0]
    # Photographs: about -2; textures such as canopy are flatter, water and soil steeper.
    assert -3.5 < slope < -0.7


@pytest.mark.parametrize("kind", ["farmland", "town", "industrial", "river", "lake", "coast"])
def test_both_edges_and_smooth_areas(scenes: dict[str, np.ndarray], kind: str) -> None:
    for picture_HW in grey(scenes[kind]):
        strength_HW = sobel(ndimage.gaussian_filter(picture_HW, 1.0))
        assert np.quantile(strength_HW, 0.99) > 3 * np.quantile(strength_HW, 0.3)
        assert np.quantile(strength_HW, 0.2) < 0.02
        share = canny(picture_HW, sigma=2.0, low_threshold=0.03, high_threshold=0.08).mean()
        assert 0.001 < share < 0.25


def test_kinds_tell_water_from_town_and_canopy(scenes: dict[str, np.ndarray]) -> None:
    def calmest_fifth(kind: str) -> float:
        light = grey(scenes[kind])
        varied = [ndimage.generic_gradient_magnitude(picture, ndimage.sobel) for picture in light]
        return float(np.mean([np.quantile(ndimage.uniform_filter(slope, 9), 0.2) for slope in varied]))

    calm = {kind: calmest_fifth(kind) for kind in SCENE_KINDS}
    assert max(calm["lake"], calm["coast"]) < 0.6 * min(calm["forest"], calm["town"])
    green = {
        kind: (scenes[kind][..., 1] - scenes[kind].astype(float).mean(axis=-1)).mean() for kind in SCENE_KINDS
    }
    assert min(green["forest"], green["meadow"]) > green["industrial"]
    assert scenes["forest"].mean() < scenes["industrial"].mean()


def test_statistics_lie_within_those_of_real_scenes(scenes: dict[str, np.ndarray], shared: object) -> None:
    files = sorted((shared / "data" / "rsscn7" / "val").glob("*/*.webp"))  # type: ignore[operator]
    if not files:
        pytest.skip("no real scenes in the shared folder")
    real = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files[::3]])
    ours = np.concatenate(list(scenes.values()))

    def measures(pictures: np.ndarray) -> np.ndarray:
        light = grey(pictures)
        spread = (pictures.max(axis=-1) - pictures.min(axis=-1)).mean(axis=(1, 2)) / 255
        return np.column_stack([light.mean(axis=(1, 2)), spread, [bands(picture) for picture in light]])

    low, high = np.quantile(measures(real), [0.1, 0.9], axis=0)
    middle = np.median(measures(ours), axis=0)
    assert np.all((middle > low) & (middle < high)), (low, middle, high)


@pytest.mark.parametrize("scale", [1.0, 1.5, 3.0, 15.9, 16.0, 24.0])
def test_noise_has_zero_mean_and_unit_variance_along_every_direction(scale: float) -> None:
    surfaces = np.stack([Canvas(np.random.default_rng(seed), 384, 1.0).noise(scale, 3) for seed in range(12)])
    assert abs(surfaces.mean()) < 0.05
    assert surfaces.std() == pytest.approx(1, abs=0.05)
    down, right = (np.abs(np.diff(surfaces, axis=axis)).mean() for axis in (1, 2))
    assert down == pytest.approx(right, rel=0.04)


def test_noise_is_as_smooth_as_its_scale_says() -> None:
    coarse, fine = (Canvas(np.random.default_rng(1), 384, 1.0).noise(scale) for scale in (40.0, 5.0))
    steps = [np.abs(np.diff(surface_HW, axis=0)).mean() for surface_HW in (coarse, fine)]
    assert steps[1] / steps[0] == pytest.approx(8, rel=0.25)


def test_frames_place_what_they_locate() -> None:
    canvas = Canvas(np.random.default_rng(4), 64, 1.0)
    frame = random_frame(canvas, bend=30.0, wavelength=90.0)
    u_HW, v_HW = frame.locate(canvas.x_HW, canvas.y_HW)
    x_HW, y_HW, angle_HW = frame.place(u_HW, v_HW)
    np.testing.assert_allclose(x_HW, canvas.x_HW, atol=1e-3)
    np.testing.assert_allclose(y_HW, canvas.y_HW, atol=1e-3)
    ahead_x, ahead_y, _ = frame.place(u_HW + 0.1, v_HW)
    turn_HW = np.arctan2(ahead_y - y_HW, ahead_x - x_HW) - angle_HW
    np.testing.assert_allclose(np.abs(np.angle(np.exp(1j * turn_HW))), 0, atol=0.01)


def test_rectangles_tile_the_plane() -> None:
    parts = split_rectangles(np.random.default_rng(1), (-10, 200, 5, 305), 40)
    assert len(parts) > 4
    hits = np.zeros((300, 210), dtype=int)
    for u0, u1, v0, v1 in parts:
        rows, columns = np.mgrid[5.5:305.5, -9.5:200.5]
        hits += (columns >= u0) & (columns < u1) & (rows >= v0) & (rows < v1)
    np.testing.assert_array_equal(hits, 1)


@pytest.mark.parametrize("angle", [0.0, 0.6, 2.2])
def test_a_box_covers_its_area_and_carries_its_roof(angle: float) -> None:
    canvas = flat_canvas()
    build(canvas, one_box(47.3, 50.8, angle, length=31.0, width=14.0, eave=4.0, pitch=0.5))
    assert canvas.built_HW.sum() == pytest.approx(31 * 14, rel=0.03)
    rows, columns = np.nonzero(canvas.built_HW > 0.5)
    assert columns.mean() == pytest.approx(47.3, abs=0.3)
    assert rows.mean() == pytest.approx(50.8, abs=0.3)
    assert canvas.height_HW.max() == pytest.approx(4 + 0.5 * 7, abs=0.5)
    untouched = canvas.built_HW == 0
    assert np.all(canvas.colour_HWC[untouched] == 0.5)
    assert np.all(canvas.height_HW[untouched] == 0)


@pytest.mark.parametrize(("azimuth", "dark"), [(0.0, (48, 30)), (np.pi, (48, 65)), (np.pi / 2, (30, 48))])
def test_shadows_fall_away_from_the_sun(azimuth: float, dark: tuple[int, int]) -> None:
    height_HW = np.zeros((96, 96), dtype=np.float32)
    height_HW[40:56, 40:56] = 14.0
    shadow_HW = Sun(azimuth, tangent=1.0).shadow(height_HW, reach=40)
    assert shadow_HW[dark] == 1
    # Sixteen pixels wide and as long as the block is high (the last two are the soft rim), nowhere else.
    assert shadow_HW.sum() == pytest.approx(16 * 13, rel=0.08)
    assert not shadow_HW[40:56, 40:56].any()


@pytest.mark.parametrize("azimuth", [0.0, 0.9, 4.0])
def test_slopes_are_lit_by_lamberts_law(azimuth: float) -> None:
    canvas = flat_canvas(32)
    rise_x, rise_y, tangent = 0.3, -0.2, 1.2
    plane_HW = rise_x * canvas.x_HW + rise_y * canvas.y_HW
    normal = np.array([-rise_x, -rise_y, 1.0]) / np.sqrt(rise_x**2 + rise_y**2 + 1)
    towards_sun = np.array([np.cos(azimuth), np.sin(azimuth), tangent])
    expected = normal @ towards_sun / tangent
    np.testing.assert_allclose(Sun(azimuth, tangent).facing(plane_HW), expected, rtol=1e-4)


def test_the_camera_sees_a_dark_side_by_a_tower() -> None:
    canvas = flat_canvas()
    build(canvas, one_box(48, 48, 0.0, 16, 16, eave=14))
    picture_HW = grey(photograph(canvas))
    ground_HW = canvas.built_HW == 0
    level = np.median(picture_HW[ground_HW])
    shaded_HW = ground_HW & (picture_HW < 0.75 * level)
    assert 60 < shaded_HW.sum() < 600
    assert (picture_HW[ground_HW & ~shaded_HW] > 0.85 * level).mean() > 0.97
