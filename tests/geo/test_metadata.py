from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rasterio", reason="scenes need rasterio")

from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as gdal_copy
from rasterio.windows import Window

from igll.geo.output import filled_copy
from igll.geo.raster import open_quietly
from tests.geo.grounds import write_classes
from tests.geo.scenes import HEIGHT, WIDTH, pixels, square_hole, write_described

PHOTOMETRIC, MINISBLACK = 262, 1
DOCUMENT = '<Metadata domain="xml:PLAN" format="xml"><a b="1">c</a></Metadata>'


def filled(scene: Path) -> Path:
    classes, out = write_classes(scene.with_name("classes.tif"), square_hole()), scene.with_name("out.tif")
    with filled_copy(scene, classes, out, {}, progress=False) as copy:
        copy.write(Window(0, 0, WIDTH, HEIGHT), np.full((3, HEIGHT, WIDTH), 7.0))
    return out


def domains(path: Path) -> list[dict[str, Any]]:
    with open_quietly(path) as raster:
        return [
            {ns: raster.tags(band, ns=ns) for ns in ("MY_DOMAIN", "xml:PLAN")}
            for band in (0, *raster.indexes)
        ]


def test_documents_among_the_tags_survive_a_copy_laid_out_anew(tmp_path: Path):
    plain = write_described(tmp_path / "plain.tif", pixels("uint8"))
    gdal_copy(plain, tmp_path / "scene.vrt", driver="VRT")
    text = (tmp_path / "scene.vrt").read_text().replace("</VRTDataset>", f"{DOCUMENT}</VRTDataset>")
    (tmp_path / "scene.vrt").write_text(text.replace("<ColorInterp>", f"{DOCUMENT}<ColorInterp>", 1))
    scene = tmp_path / "scene.tif"
    gdal_copy(tmp_path / "scene.vrt", scene, driver="GTiff", COPY_SRC_MDD="YES")
    with open_quietly(scene, "r+") as raster:
        raster.build_overviews([2])
        raster.update_tags(2, wavelength="200")
    out = filled(scene)
    assert domains(out) == domains(scene) and domains(out)[0]["xml:PLAN"]
    with open_quietly(out) as raster:
        assert raster.tags(2)["wavelength"] == "200"


def test_three_bands_of_bytes_that_are_no_colours_become_none(tmp_path: Path):
    kinds = (ColorInterp.gray, ColorInterp.undefined, ColorInterp.undefined)
    scene = write_described(
        tmp_path / "scene.tif", pixels("uint8"), overviews=[2], photometric="minisblack", colorinterp=kinds
    )
    assert _photometric(scene) == _photometric(filled(scene)) == MINISBLACK


def _photometric(path: Path) -> int:
    with path.open("rb") as file:
        page = ImageFileDirectory_v2(file.read(8))
        file.seek(page.next)
        page.load(file)
    return int(page[PHOTOMETRIC])
