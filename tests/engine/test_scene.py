"""Scenes that are interrupted, filled again, filled by two at once, or written to a full disk."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rasterio", reason="scenes need rasterio")

from igll.engine import scene as module
from igll.errors import OutputError
from tests.engine.scene_files import (
    HARMONIC,
    Nursery,
    call,
    digest,
    gapped,
    hole_of,
    names,
    only_line,
    read,
    tiny,
    values,
)  # fmt: skip
from tests.geo.grounds import write_raster

HOLE = hole_of()
PLAIN = {"tiled": None, "blockxsize": None, "blockysize": None}

# Kills the process (SIGKILL) before or after the n-th call of a function.
KILLING = """
import importlib, os, signal, sys
target, when, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
del sys.argv[1:4]
module, _, name = target.partition(":")
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
real, calls = getattr(owner, last), 0
def dying(*arguments, **options):
    global calls
    calls += 1
    if calls == count and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*arguments, **options)
    if calls == count and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, last, dying)
from igll.cli import infer
infer()
"""

# Takes a while for every tile.
SLOW = """
import time
from igll.engine.tiles import TileStore
real = TileStore.put
def put(self, tile, filling):
    real(self, tile, filling)
    time.sleep(0.05)
TileStore.put = put
from igll.cli import infer
infer()
"""


# Writes no file larger than its first argument says.
LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from igll.cli import infer
infer()
"""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture
def scene(tmp_path):
    return gapped(tmp_path / "in/scene.tif", values("uint16", 2), HOLE)


@pytest.fixture
def whole(scene, tmp_path):
    """The result of a run that nothing interrupted."""
    assert call(scene, *HARMONIC, "--out", tmp_path / "whole/out.tif") == 0
    return read(tmp_path / "whole/out.tif")


def wait_for(path: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(path.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("target", "when", "count"),
    [
        ("igll.geo.holes:_finish", "before", 1),
        ("igll.engine.tiles:TileStore.put", "after", 1),
        ("igll.engine.tiles:TileStore.put", "after", 9),
        ("numpy:savez", "after", 5),
        ("igll.geo.output:FilledCopy.write", "after", 1),
        ("igll.geo.output:find_fault", "before", 1),
        ("igll.geo.temporaries:rename_side_files", "before", 1),
        ("igll.geo.fill_mask:publish", "before", 1),
        ("shutil:rmtree", "before", 1),
    ],
)
def test_a_killed_run_goes_on_to_the_same_result(
    nursery, scene, whole, tmp_path, capsys, target, when, count
):
    out = tmp_path / "out/out.tif"
    nursery.start(target, when, count, scene, *HARMONIC, "--out", out, program=KILLING)
    assert nursery.end()[0] == -signal.SIGKILL
    done = out.exists() and (tmp_path / "out/out_synthetic.tif").exists()
    assert [name for name in names(tmp_path / "out") if name.startswith(".")]
    assert call(scene, *HARMONIC, "--out", out) == 0
    assert np.array_equal(read(out), whole)
    assert names(tmp_path / "out") == ["out.tif", "out_synthetic.tif"]
    assert ("is there already" in capsys.readouterr().out) == done


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_tells_how_to_go_on(nursery, scene, whole, tmp_path, number, code):
    out = tmp_path / "out/out.tif"
    process = nursery.start(scene, *HARMONIC, "--out", out, program=SLOW)
    wait_for(tmp_path / "out/.out.igll-work", "tiles*/*.npz")
    os.kill(process, number)
    ended, errors = nursery.end()
    assert ended == code, errors
    assert only_line(errors) == "error: interrupted; run the same command again to go on"
    assert names(tmp_path / "out") == [".out.igll-work"]
    assert call(scene, *HARMONIC, "--out", out) == 0
    assert np.array_equal(read(out), whole)
    assert names(tmp_path / "out") == ["out.tif", "out_synthetic.tif"]


def test_a_tile_is_kept_whole_when_the_signal_falls_into_its_writing(
    scene, whole, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out/out.tif"
    real = np.savez

    def interrupted(*arguments, **arrays):
        signal.raise_signal(signal.SIGTERM)
        real(*arguments, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted)
        assert call(scene, *HARMONIC, "--out", out) == 143
    assert only_line(capsys.readouterr().err) == "error: interrupted; run the same command again to go on"
    assert len(list((tmp_path / "out/.out.igll-work").glob("tiles*/*.npz"))) == 1
    assert call(scene, *HARMONIC, "--out", out) == 0
    assert np.array_equal(read(out), whole)


def test_an_older_result_stays_until_the_new_one_is_whole(scene, whole, tmp_path, monkeypatch):
    out = tmp_path / "out/out.tif"
    assert call(scene, *HARMONIC, "--out", out) == 0
    before = digest(out)
    monkeypatch.setattr("igll.geo.output.find_fault", lambda *_: "a fault")
    assert call(scene, *HARMONIC, "--out", out, "--dilate", 1) == 1
    assert digest(out) == before
    assert names(tmp_path / "out") == [".out.igll-work", "out.tif", "out_synthetic.tif"]


def test_two_at_once_are_refused(nursery, scene, whole, tmp_path, capsys):
    out = tmp_path / "out/out.tif"
    first = nursery.start(scene, *HARMONIC, "--out", out, program=SLOW)
    wait_for(tmp_path / "out/.out.igll-work", "tiles*/*.npz")
    capsys.readouterr()
    for more in ((), ("--dilate", 1)):
        assert call(scene, *HARMONIC, "--out", out, *more) == 1
        line = only_line(capsys.readouterr().err)
        assert line.startswith(f"error: {out}: another process ({first}) is working on it")
    ended, errors = nursery.end()
    assert ended == 0, errors
    assert np.array_equal(read(out), whole)
    assert names(tmp_path / "out") == ["out.tif", "out_synthetic.tif"]


def test_a_result_is_left_as_it_is_until_the_request_changes(scene, tmp_path, capsys):
    out = tmp_path / "out/out.tif"
    mask_1HW = np.zeros((1, *HOLE.shape), np.uint8)
    mask_1HW[:, 3:5, 3:9] = 1
    mask = write_raster(tmp_path / "in/mask.tif", mask_1HW)
    model = tiny(tmp_path / "in/model.pt")
    requests = [
        HARMONIC,
        (*HARMONIC, "--masks", mask),
        (*HARMONIC, "--masks", mask, "--dilate", 2),
        (*HARMONIC[:-1], "32", "--tile", "128"),
        (*HARMONIC, "--stretch", "5"),
        (*HARMONIC, "--cog"),
        ("--checkpoint", model, *HARMONIC[2:]),
        ("--checkpoint", model, *HARMONIC[2:], "eval.weights=raw"),
    ]
    seen = set()
    for request in requests:
        assert call(scene, *request, "--out", out) == 0
        assert "pixels filled" in capsys.readouterr().out, request
        state = digest(out), out.stat().st_mtime_ns
        assert call(scene, *request, "--out", out) == 0
        assert f"{out}: is there already, of the same request; left as it is" in capsys.readouterr().out
        assert (digest(out), out.stat().st_mtime_ns) == state
        seen.add(digest(out))
    assert len(seen) == len(requests)  # the request is among the tags

    def filled_anew(*request: object) -> bool:
        assert call(scene, *request, "--out", out) == 0
        return "pixels filled" in capsys.readouterr().out

    masked = (*HARMONIC, "--masks", mask)
    assert filled_anew(*masked)
    os.utime(mask)
    assert filled_anew(*masked) and not filled_anew(*masked)
    os.utime(scene)
    assert filled_anew(*masked) and not filled_anew(*masked)
    (tmp_path / "out/out_synthetic.tif").unlink()
    assert filled_anew(*masked) and not filled_anew(*masked)


def test_a_mask_beside_the_scene_and_names_of_files_count_as_they_should(tmp_path, capsys, monkeypatch):
    import rasterio

    scene = write_raster(tmp_path / "in/scene.tif", values("uint16"))
    out = tmp_path / "out.tif"
    counts = []
    for column in (20, 40, 40):
        valid_HW = np.full(HOLE.shape, 255, np.uint8)
        valid_HW[50:60, 20:column] = 0
        if column != 20 and not counts[1:]:
            time.sleep(0.01)
            state = scene.stat()
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as target:
                target.write_mask(valid_HW)
            os.utime(scene, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert call(scene, *HARMONIC, "--out", out) == 0
        text = capsys.readouterr().out
        counts.append("nothing" if "nothing to fill" in text else "filled" if "filled" in text else "left")
    assert counts == ["nothing", "filled", "left"]
    monkeypatch.chdir(tmp_path / "in")
    assert call("scene.tif", *HARMONIC, "--out", "../out.tif") == 0
    assert "is there already" in capsys.readouterr().out


def test_what_a_side_file_adds_counts_but_statistics_do_not(tmp_path, capsys):
    scene = write_raster(tmp_path / "in/scene.img", values("uint16"), driver="HFA", **PLAIN)
    mask = write_raster(tmp_path / "in/mask.tif", HOLE[None].astype(np.uint8))
    side_file = scene.with_name("scene.img.aux.xml")
    item = "<PAMDataset><Metadata><MDI key='{}'>{}</MDI></Metadata></PAMDataset>"
    told = []
    for text in (
        None,
        item.format("STATISTICS_MEAN", 7),
        item.format("SENSOR", "A"),
        item.format("SENSOR", "B"),
    ):
        if text:
            side_file.write_text(text)
        assert call(scene, *HARMONIC, "--masks", mask, "--out", tmp_path / "out.tif") == 0
        told.append("is there already" in capsys.readouterr().out)
    assert told == [False, True, False, False]


def test_a_result_that_the_scene_is_read_from_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    from rasterio.shutil import copy

    monkeypatch.setattr(module, "_fill_level", lambda *_: pytest.fail("filled"))
    for name in ("part.tif", "scene_synthetic.tif"):
        part = gapped(tmp_path / name, values("uint16"), HOLE)
        scene, before = tmp_path / "scene.vrt", digest(part)
        copy(part, scene, driver="VRT")
        out = part if name == "part.tif" else tmp_path / "scene.tif"
        assert call(scene, *HARMONIC, "--out", out) == 2
        assert f"{part}: is a file that is read from" in only_line(capsys.readouterr().err)
        assert digest(part) == before


@pytest.mark.parametrize("name", ["out.tif", "out_synthetic.tif"])
def test_a_raster_that_is_somebodys_own_is_not_replaced(scene, tmp_path, capsys, name):
    own = gapped(tmp_path / "out" / name, values("uint16"), HOLE)
    before = digest(own)
    assert call(scene, *HARMONIC, "--out", tmp_path / "out/out.tif") == 2
    assert f"{own}: is there and no result of a scene (it has no tag IGLL_REQUEST); move it" in only_line(
        capsys.readouterr().err
    )
    assert digest(own) == before and names(tmp_path / "out") == [name]
    own.write_bytes(b"notes")
    assert call(scene, *HARMONIC, "--out", tmp_path / "out/out.tif") == 2
    assert own.read_bytes() == b"notes"


def stop_before_writing(monkeypatch, *arguments: object) -> None:
    """Run until all tiles are there."""

    def fail(*_, **__):
        raise OutputError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(module, "filled_copy", fail)
        assert call(*arguments) == 1


def test_work_of_another_request_is_thrown_away(scene, tmp_path, monkeypatch):
    out = tmp_path / "out/out.tif"
    other = (*HARMONIC, "--dilate", 3)
    assert call(scene, *other, "--out", tmp_path / "whole/other.tif") == 0
    stop_before_writing(monkeypatch, scene, *HARMONIC, "--out", out)
    assert names(tmp_path / "out") == [".out.igll-work"]
    assert call(scene, *other, "--out", out) == 0
    assert np.array_equal(read(out), read(tmp_path / "whole/other.tif"))
    assert names(tmp_path / "out") == ["out.tif", "out_synthetic.tif"]


def test_finished_tiles_are_not_filled_again_but_damaged_ones_are(scene, whole, tmp_path, monkeypatch):
    out = tmp_path / "out/out.tif"
    arguments = (scene, *HARMONIC, "--out", out)
    stop_before_writing(monkeypatch, *arguments)
    work = tmp_path / "out/.out.igll-work"
    tiles = sorted((work / "tiles0").glob("*.npz"), key=lambda path: int(path.stem))
    assert len(tiles) > 8
    real, filled = module.TileStore.put, []

    def put(self, tile, filling):
        filled.append((self._folder.name, tile.number))
        real(self, tile, filling)

    monkeypatch.setattr(module.TileStore, "put", put)
    stop_before_writing(monkeypatch, *arguments)
    assert filled == []

    data = tiles[1].read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    damages = {0: b"", 1: data[: len(data) // 2], 2: b"text", 3: data[:-1], 4: bytes(flipped)}
    for number, damage in damages.items():
        (work / f"tiles0/{number}.npz").write_bytes(damage)
    tiles[5].unlink()
    (work / "scaling.json").write_bytes(b"")
    (work / "counts.json").write_bytes(b'{"known": 3, "ho')
    assert call(*arguments) == 0
    assert filled == [("tiles0", number) for number in range(6)]
    assert np.array_equal(read(out), whole)


def test_any_damage_of_a_tile_is_noticed(tmp_path):
    """Whatever byte is changed, the tile is whole with its old content, or is filled again."""
    from igll.geo.box import Box
    from igll.geo.tiling import Tile

    store = module.TileStore(tmp_path / "tiles")
    tile = Tile(0, Box(0, 0, 9, 9), Box(0, 0, 4, 4), None, False)
    rng = np.random.default_rng(0)
    filling = rng.random((2, 9), np.float32), np.arange(16).reshape(4, 4) < 9
    assert not store.holds(tile)
    store.put(tile, filling)
    path = tmp_path / "tiles/0.npz"
    data = path.read_bytes()
    assert store.holds(tile)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= rng.integers(1, 256)
        path.write_bytes(changed)
        if store.holds(tile):
            with np.load(path, allow_pickle=False) as arrays:
                assert np.array_equal(arrays["values_CN"], filling[0]), place
                assert np.array_equal(arrays["filled_HW"], filling[1]), place
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert not store.holds(tile), length


@pytest.mark.parametrize("limit", [1_000, 9_000, 40_000, 300_000])
def test_a_full_disk(nursery, tmp_path, limit):
    """The limit is met while holes are noted, tiles or coarser levels kept, or the copy made."""
    scene = gapped(tmp_path / "in/scene.tif", values("uint16", 7, (300, 300)), hole_of((300, 300)))
    before, out = digest(scene), tmp_path / "out/out.tif"
    nursery.start(limit, scene, *HARMONIC, "--out", out, program=LIMITED)
    ended, errors = nursery.end()
    assert ended == 1, errors
    line = only_line(errors)
    assert "cannot be written" in line, line
    assert names(tmp_path / "out") == [".out.igll-work"]
    assert digest(scene) == before
    assert call(scene, *HARMONIC, "--out", out) == 0
    assert names(tmp_path / "out") == ["out.tif", "out_synthetic.tif"]
