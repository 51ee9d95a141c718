from __future__ import annotations

import numpy as np
import pytest

from igll.errors import InputError
from igll.geo.quality import parse_quality_flags


@pytest.mark.parametrize(
    ("value", "marks"),
    [
        # QA_PIXEL values with the meaning that USGS gives them: fill, clear, clear water, cloud of high
        # confidence (with dilated cloud), cloud shadow, snow, cirrus.
        (1, False),
        (21824, False),
        (21952, False),
        (22280, True),
        (23888, True),
        (30048, False),
        (54596, True),
        (0b10, True),
    ],
)
def test_landsat_default(value: int, marks: bool) -> None:
    flags = parse_quality_flags("landsat-c2")
    assert flags.marked(np.array([value], dtype=np.uint16)).tolist() == [marks]


def test_landsat_narrowed() -> None:
    quality = np.array([1 << bit for bit in range(8)], dtype=np.uint16)
    assert np.flatnonzero(parse_quality_flags("landsat-c2:cloud, snow").marked(quality)).tolist() == [3, 5]
    assert np.flatnonzero(parse_quality_flags("landsat-c2:fill").marked(quality)).tolist() == [0]


def test_sentinel() -> None:
    quality = np.arange(12, dtype=np.uint8)
    assert np.flatnonzero(parse_quality_flags("sentinel2-scl").marked(quality)).tolist() == [3, 8, 9, 10]
    named = parse_quality_flags("sentinel2-scl:cloud-high,snow,nodata")
    assert np.flatnonzero(named.marked(quality)).tolist() == [0, 9, 11]


def test_bits_and_values_agree_with_arithmetic() -> None:
    quality = np.arange(-300, 300, dtype=np.int16)
    expected = [(int(value) >> 3) % 2 == 1 or (int(value) >> 4) % 2 == 1 for value in quality]
    assert parse_quality_flags("bits:3,4").marked(quality).tolist() == expected
    expected = [int(value) in (3, 8, 10) for value in quality]
    assert parse_quality_flags("values:3,8,10").marked(quality).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("landsat", "sentinel2-scl"),
        ("bits:", "bits:3,4"),
        ("bits:32", "0 to 31"),
        ("bits:-1", "0 to 31"),
        ("values", "values:3,8,9,10"),
        ("values:3,x", "values:3,8,9,10"),
        ("values:²", "values:3,8,9,10"),
        ("landsat-c2:clouds", "'clouds'; choose from fill, dilated-cloud, cirrus, cloud, shadow, snow"),
        ("sentinel2-scl:", "no flag is named ''"),
    ],
)
def test_mistakes_name_what_is_valid(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_quality_flags(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
