from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndimage
from PIL import Image

from igll.data.masks import MASK_KINDS, PLACEMENTS, SLC_PERIOD, SLC_TILT, _earliest, grow_hole, make_mask
from igll.errors import InputError

SIZES = ((16, 16), (17, 31), (64, 16), (100, 60), (256, 256))
RATIOS = (1e-5, 0.01, 0.1, 0.25, 0.5, 0.77, 0.95)


def draw(kind: str, ratio: float, seed: int, size: int = 256, placement: str = "random") -> np.ndarray:
    return make_mask(kind, size, size, ratio, np.random.default_rng(seed), placement)


def component_sizes(mask: np.ndarray) -> np.ndarray:
    return np.bincount(ndimage.label(mask)[0].ravel())[1:]


def perimeter(mask: np.ndarray) -> int:
    return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())


def stripe_period_and_tilt(mask: np.ndarray) -> tuple[float, float]:
    """Pitch in pixels and tilt in degrees (positive: down to the right) of the strongest plane wave."""
    window = np.hanning(mask.shape[0])[:, None] * np.hanning(mask.shape[1])
    size = 8 * max(mask.shape)
    spectrum = np.abs(np.fft.rfft2((mask - mask.mean()) * window, s=(size, size)))
    down, right = np.unravel_index(spectrum.argmax(), spectrum.shape)
    frequency_y, frequency_x = np.fft.fftfreq(size)[down], right / size
    return 1 / np.hypot(frequency_x, frequency_y), np.degrees(np.arctan(-frequency_x / frequency_y))


@pytest.mark.parametrize("kind", [kind for kind in MASK_KINDS if kind != "square"])
@pytest.mark.parametrize("size", SIZES)
def test_pixel_count_is_exact(kind, size):
    for ratio in RATIOS:
        for seed in range(4):
            mask = make_mask(kind, *size, ratio, np.random.default_rng(seed))
            assert mask.shape == size
            assert mask.dtype == np.bool_
            assert mask.sum() == max(round(ratio * mask.size), 1)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("size", SIZES)
def test_square_lies_inside_and_is_as_large_as_even_sides_allow(size, placement):
    for ratio in RATIOS:
        mask = make_mask("square", *size, ratio, np.random.default_rng(0), placement)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.sum() == len(rows) * len(columns)
        assert (np.ptp(rows), np.ptp(columns)) == (len(rows) - 1, len(columns) - 1)
        assert not mask.all()
        area, longest = ratio * mask.size, max(len(rows), len(columns))
        if area >= 4:
            assert mask.sum() <= area
            # Two more pixels on the long side (both sides, if it is a square) would be too much.
            grown = (longest + 2) ** 2 if len(rows) == len(columns) else (longest + 2) * min(size)
            assert grown > area


@pytest.mark.parametrize(("ratio", "side"), [(0.10, 80), (0.25, 128), (0.77, 224)])
def test_square_has_the_papers_sides(ratio, side):
    expected = np.zeros((256, 256), dtype=bool)
    expected[32 : 32 + side, 32 : 32 + side] = True
    assert np.array_equal(draw("square", ratio, 0, placement="paper_test"), expected)
    centred = draw("square", ratio, 0, placement="center")
    assert np.array_equal(centred, centred[::-1, ::-1])
    assert centred.sum() == side**2


def test_paper_test_square_is_moved_inside_a_small_image():
    mask = make_mask("square", 64, 96, 0.5, np.random.default_rng(0), "paper_test")
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 63, 32, 85)


@pytest.mark.parametrize(
    ("placement", "ratio", "first", "last"),
    [("paper_train", 0.25, 8, 120), ("random", 0.25, 0, 128), ("paper_train", 0.90, 7, 7)],
)
def test_square_positions_cover_their_range(placement, ratio, first, last):
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(1500):
        mask = make_mask("square", 256, 256, ratio, rng, placement)
        starts.update((int(mask.any(axis=1).argmax()), int(mask.any(axis=0).argmax())))
    assert starts == set(range(first, last + 1))


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_the_generator_alone_decides(kind):
    first, again, other = draw(kind, 0.25, 7), draw(kind, 0.25, 7), draw(kind, 0.25, 8)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_salt_and_pepper_pixels_are_independent():
    mask = draw("salt_pepper", 0.3, 0, size=512).astype(float)
    for shifted in (np.roll(mask, 1, axis=0), np.roll(mask, 1, axis=1)):
        # Standard error of a correlation over 512 x 512 samples: 0.002.
        assert abs(np.corrcoef(mask.ravel(), shifted.ravel())[0, 1]) < 0.01


def test_clouds_are_blobs_of_the_real_raggedness(shared: Path):
    cropped = []
    for path in sorted((shared / "data/cloudmask").glob("*_cloudmask.png")):
        real = np.asarray(Image.open(path)) > 127
        cropped += [real[top : top + 256, left : left + 256] for top in (0, 256) for left in (0, 256)]
    assert len(cropped) == 12
    made = [draw("cloud", real.mean(), seed) for seed, real in enumerate(cropped)]
    rims = [np.median([perimeter(mask) for mask in masks]) for masks in (made, cropped)]
    counts = [np.median([len(component_sizes(mask)) for mask in masks]) for masks in (made, cropped)]
    assert 0.5 < rims[0] / rims[1] < 1.5
    assert counts[0] <= counts[1]


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.77])
def test_clouds_are_not_confetti(ratio):
    for seed in range(10):
        sizes = component_sizes(draw("cloud", ratio, seed))
        assert sizes[sizes < 20].sum() < 0.04 * sizes.sum()


def test_real_scan_gaps_have_the_pitch_and_tilt_drawn_from(shared: Path):
    paths = sorted((shared / "data/slc_off").glob("*_gapmask.png"))
    assert len(paths) == 5
    for path in paths:
        period, tilt = stripe_period_and_tilt(np.asarray(Image.open(path)) > 127)
        assert SLC_PERIOD[0] < period < SLC_PERIOD[1]
        assert SLC_TILT[0] < tilt < SLC_TILT[1]


def test_scan_gaps_are_parallel_stripes_that_widen_from_one_line():
    for seed in range(20):
        mask = draw("slc_off", 0.15, seed)
        period, tilt = stripe_period_and_tilt(mask)
        assert SLC_PERIOD[0] - 0.5 < period < SLC_PERIOD[1] + 0.5
        assert SLC_TILT[0] - 0.7 < tilt < SLC_TILT[1] + 0.7
        share = np.array([part.mean() for part in np.array_split(mask, 8, axis=1)])
        assert share.max() > 1.5 * share.min()
        thinnest = share.argmin()
        # Rising on both sides, up to the stripes that a strip happens to cut.
        assert (np.diff(share[thinnest:]) > -0.02).all()
        assert (np.diff(share[: thinnest + 1]) < 0.02).all()


def test_seams_are_thin_and_cross_the_image():
    for seed in range(20):
        mask = draw("gaps", 0.1, seed)
        spans = ndimage.find_objects(ndimage.label(mask, np.ones((3, 3)))[0])
        assert max(side.stop - side.start for span in spans for side in span) == 256
        assert len(spans) <= 5
        half_width = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge")).max()
        assert half_width < 256 / 12


def test_strokes_are_few_and_as_thick_as_a_brush():
    for seed in range(20):
        mask = draw("irregular", 0.1, seed)
        assert len(component_sizes(mask)) <= 8
        eroded = ndimage.binary_erosion(mask, iterations=3)
        assert eroded.any()  # not hairlines
        assert ndimage.distance_transform_edt(mask).max() < 256 / 8  # not a filled area


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_a_mask_takes_less_than_fifteen_milliseconds(kind):
    seconds = []
    for seed in range(8):
        start = time.process_time()
        draw(kind, 0.77, seed)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.015


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("circle", 64, 64, 0.1), "mask kind 'circle' is unknown; choose one of square, irregular"),
        (("square", 64, 64, 0.1, "left"), "mask placement 'left' is unknown; choose one of random"),
        (("square", 64, 64, 0.0), r"mask ratio 0.0 is outside \(0, 0.95\]"),
        (("cloud", 64, 64, 0.96), "mask ratio 0.96 is outside"),
        (("cloud", 64, 64, float("nan")), "mask ratio nan is outside"),
        (("cloud", 64, 15, 0.1), "mask size 64x15 is too small"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        make_mask(*arguments[:4], np.random.default_rng(0), *arguments[4:])


def test_of_equal_values_the_first_are_taken():
    field = np.array([[2.0, 1.0, 2.0], [2.0, 0.0, np.inf]])
    np.testing.assert_array_equal(_earliest(field, 3).ravel(), [True, True, False, False, True, False])
    np.testing.assert_array_equal(_earliest(np.zeros((2, 3)), 4).ravel(), [True] * 4 + [False] * 2)


@pytest.mark.parametrize("radius", [0, 1, 3, 20])
def test_growth_is_a_dilation_by_a_disc(radius):
    hole = draw("irregular", 0.05, 0, size=64)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    assert np.array_equal(grow_hole(hole, radius), ndimage.binary_dilation(hole, x**2 + y**2 <= radius**2))


def test_growth_of_nothing_is_nothing():
    assert not grow_hole(np.zeros((20, 30), dtype=bool), 5).any()
