from __future__ import annotations

from pathlib import Path

import pytest
from rasterio.enums import Resampling

from igll.geo.overviews import build_overviews, overview_factors, overview_sizes, sizes_made
from igll.geo.raster import open_quietly
from tests.geo.scenes import pixels, write_described


@pytest.mark.parametrize("size", [(377, 697), (16_385, 16_385), (36_001, 50_001), (1, 5), (246, 303)])
@pytest.mark.parametrize("factors", [[2, 4, 8, 16, 32, 64, 128], [3, 9, 27], [2, 5, 42]])
def test_factors_give_the_sizes_that_are_there(size: tuple[int, int], factors: list[int]):
    sizes = [(-(-size[0] // factor), -(-size[1] // factor)) for factor in factors]
    again = overview_factors(size, sizes)
    assert [(-(-size[0] // factor), -(-size[1] // factor)) for factor in again] == list(dict.fromkeys(sizes))


def test_sizes_that_were_rounded_down_get_the_stated_factor():
    assert overview_factors((1001, 1001), [(500, 500), (250, 250)]) == [2, 4]


def test_what_is_made_has_the_source_s_sizes(tmp_path: Path):
    """Of 170 columns the 64th part is 3, which rasterio states as 57."""
    deep = write_described(tmp_path / "deep.tif", pixels("uint8"), overviews=[2, 16, 64])
    copy = write_described(tmp_path / "copy.tif", pixels("uint8"))
    with open_quietly(deep) as source:
        assert source.overviews(1) != [2, 16, 64]
        build_overviews(copy, source, Resampling.average.name)
        with open_quietly(copy) as made:
            assert overview_sizes(made) == overview_sizes(source) == sizes_made(source) == [
                (75, 85), (10, 11), (3, 3)
            ]  # fmt: skip
