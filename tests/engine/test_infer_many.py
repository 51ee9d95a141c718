"""Many scenes at once: folders, lists, and parts of them in several processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
import pytest

pytest.importorskip("rasterio", reason="scenes need rasterio")

from tests.engine.scene_files import HARMONIC, MAIN, call, gapped, hole_of, names, read, values
from tests.geo.grounds import write_raster

HOLE = hole_of()
STEMS = ("a", "b", "c", "d", "e")


@pytest.fixture
def folder(tmp_path):
    for number, stem in enumerate(STEMS):
        gapped(tmp_path / f"in/{stem}.tif", values("uint8") + np.uint8(number % 3), HOLE)
    return tmp_path / "in"


def results(out: Path) -> list[str]:
    return [name for name in names(out) if not name.endswith("_synthetic.tif")]


def test_a_folder_with_subfolders_masks_and_qualities(folder, tmp_path, capsys):
    (folder / "sub").mkdir()
    (folder / "a.tif").rename(folder / "sub/a.tif")
    for stem in ("sub/a", "b", "c", "d", "e"):
        write_raster(tmp_path / f"masks/{stem}.tif", HOLE.astype(np.uint8)[None])
    out = tmp_path / "out"
    assert call(folder, *HARMONIC, "--out", out, "--masks", tmp_path / "masks") == 0
    assert results(out / "sub") == ["a.tif"] and results(out)[:4] == ["b.tif", "c.tif", "d.tif", "e.tif"]
    assert capsys.readouterr().out.endswith(f"done: 5 images in {out}/\n")
    assert (
        call(folder, *HARMONIC, "--out", tmp_path / "q", "--qa", tmp_path / "masks", "--qa-flags", "values:1")
        == 0
    )
    assert np.array_equal(read(tmp_path / "q/b.tif"), read(out / "b.tif"))


def test_results_below_the_images_are_no_images(folder):
    for _ in range(2):
        assert call(folder, *HARMONIC, "--out", folder / "out") == 0
        assert results(folder / "out") == [f"{stem}.tif" for stem in STEMS]


def test_a_list(folder, tmp_path, capsys):
    listed = tmp_path / "lists/some.txt"
    listed.parent.mkdir()
    text = f"# these\n\n../in/b.tif\n{folder / 'd.tif'}\n"
    for number, start in enumerate((b"", b"\xef\xbb\xbf")):  # as some editors begin UTF-8
        listed.write_bytes(start + text.removeprefix("# these\n\n" if start else "").encode())
        out = tmp_path / f"out{number}"
        assert call(listed, *HARMONIC, "--out", out) == 0
        assert results(out) == ["b.tif", "d.tif"]
    capsys.readouterr()
    for text, reason in (
        ("# none\n", "lists no image"),
        ("absent.tif\n", "which is no file"),
        ("../in/b.tif\n../in/b.tif\n", "would both be written to"),
        ("some.txt\n", "its name has the ending of no image"),
    ):
        listed.write_text(text)
        assert call(listed, *HARMONIC, "--out", tmp_path / "out2") == 2
        assert reason in capsys.readouterr().err
    listed.write_bytes(b"\xff\xfe\x00")
    assert call(listed, *HARMONIC, "--out", tmp_path / "out2") == 2
    assert "cannot be read as a list of images" in capsys.readouterr().err


def test_shards_fill_every_scene_once(folder, tmp_path, capsys):
    out, seen = tmp_path / "out", []
    for number in (1, 2, 3):
        assert call(folder, *HARMONIC, "--out", out, "--shard", f"{number}/3") == 0
        told = [line for line in capsys.readouterr().out.splitlines() if "pixels filled" in line]
        seen += [Path(line.split(":")[0]).stem for line in told]
    assert sorted(seen) == list(STEMS)
    assert results(out) == [f"{stem}.tif" for stem in STEMS]
    assert call(folder, *HARMONIC, "--out", out, "--shard", "6/9") == 0
    assert "done: nothing to do for part 6 of 9" in capsys.readouterr().out


def test_processes_of_torchrun_share_the_scenes(folder, tmp_path):
    out, running = tmp_path / "out", []
    for rank in ("0", "1"):
        command = [sys.executable, "-c", MAIN, str(folder), *HARMONIC, "--out", str(out)]
        environment = os.environ | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        running.append(Popen(command, env=environment, stdout=PIPE, stderr=PIPE, text=True))
    told = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    for (output, _), stems in zip(told, ("ace", "bd"), strict=True):
        filled = [Path(line.split(":")[0]).stem for line in output.splitlines() if "pixels filled" in line]
        assert filled == list(stems)
        assert output.endswith(f"done: {len(stems)} images in {out}/\n")
    assert results(out) == [f"{stem}.tif" for stem in STEMS]


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("0", "0"), ("x", "2"), ("-1", "2")])
def test_environments_that_make_no_sense(folder, tmp_path, capsys, monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert call(folder, *HARMONIC, "--out", tmp_path / "out") == 2
    assert f"RANK={rank} and WORLD_SIZE={world} in the environment" in capsys.readouterr().err
    assert call(folder, *HARMONIC, "--out", tmp_path / "out", "--shard", "1/5") == 0
