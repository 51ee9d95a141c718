"""From the command line of igll-infer to a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from igll.engine.infer import InferRequest
from igll.engine.infer_plan import Inputs, Share
from igll.engine.scene import SceneOptions
from igll.errors import InputError
from igll.geo.holes import HoleSources
from igll.geo.tiling import TileSizes
from igll.infer_arguments import infer_parser, infer_request, tile_sizes


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def request(text: str) -> InferRequest:
    return infer_request(infer_parser().parse_intermixed_args(text.split()))


def test_the_shortest_command():
    assert request("scene.tif --out filled.tif --method nearest") == InferRequest(
        Inputs([Path("scene.tif")], Path("filled.tif")), method="nearest", overrides=[]
    )


def test_every_argument():
    made = request(
        "--images a --checkpoint c.pt b.tif --masks m --hole black --qa q.tif --qa-flags bits:3 --clouds "
        "--nodata --collar fill --dilate 4 --cog --stretch 2 --tile 256 --context 32 --reference r "
        "--shard 2/5 --out o device=cpu eval.weights=raw edges.detector=sobel d.tif"
    )
    sources = HoleSources(
        quality="q.tif", quality_flags="bits:3", clouds=True, nodata=True, collar="fill", dilate=4
    )
    assert made == InferRequest(
        Inputs([Path("a"), Path("b.tif"), Path("d.tif")], Path("o"), Path("m"), "q.tif", None, Path("r")),
        checkpoint="c.pt",
        hole="black",
        scenes=SceneOptions(sources, TileSizes(256, 32), 2.0, True),
        share=Share(2, 5),
        overrides=["device=cpu", "eval.weights=raw", "edges.detector=sobel"],
    )


@pytest.mark.parametrize(("text", "stretch"), [("auto", "auto"), ("full", "full"), ("0", 0), ("49.9", 49.9)])
def test_stretches(text, stretch):
    assert request(f"a.tif --out o --stretch {text}").scenes.stretch == stretch


@pytest.mark.parametrize(
    ("words", "name"),
    [("vrt://a.tif?bands=1", "vrt://a.tif?bands=1"), ("/vsizip/b.zip/a.tif", "/vsizip/b.zip/a.tif"),
     ("a.tif --masks vrt://m.tif?bands=1", "vrt://m.tif?bands=1"),
     ("a.tif --reference zip+file://r.zip!a.tif", "zip+file://r.zip!a.tif")],
)  # fmt: skip
def test_names_that_only_gdal_knows_are_refused_as_they_were_given(words, name):
    with pytest.raises(InputError) as error:
        request(f"{words} --out o")
    assert str(error.value).startswith(f"{name}: is a name for GDAL and no file; name a file")


def test_a_folder_may_be_named_like_what_gdal_knows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("vrt:").mkdir()
    made = request("vrt://a.tif --masks vrt://m.tif --out vrt://o.tif")
    assert made.inputs.images == [Path("vrt:/a.tif")] and made.inputs.out == Path("vrt:/o.tif")


def test_images_and_settings_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("device=cpu").touch()
    made = request("device=cpu edges.weights=w x=y.tif --out o --edges e")
    assert made.inputs.images == [Path("device=cpu"), Path("x=y.tif")]
    assert made.overrides == ["edges.weights=w"]
    assert made.inputs.edges == Path("e")
    # Refused by name later on, with what can be set: a misspelt setting is no missing image.
    assert request("a.tif evl.weights=raw train.lr=3 --out o").overrides == ["evl.weights=raw", "train.lr=3"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("--out o", "no image named"),
        ("--out o device=cpu", "no image named"),
        ("a --out o --tile 100", "--tile 100: give a multiple of 16"),
        ("a --out o --tile 128", "at least four times the context of 64"),
        ("a --out o --context 0", "--context 0: give a multiple of 16, at least 16"),
        ("a --out o --context 24", "--context 24"),
        ("a --out o --stretch 50", "--stretch 50"),
        ("a --out o --stretch -1", "--stretch -1"),
        ("a --out o --dilate -3", "--dilate -3: give at least 0"),
        ("a --out o --hole white", "--hole white: says how to read a mask"),
        ("a --out=", "--out '': is empty; name a file or a folder"),
    ],
)
def test_what_is_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        request(text)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a --out o --checkpoint c --method nearest",
        "a --out o --edges e --reference r",
        "a --out o --method best",
        "a --out o --collar cut",
        "a --out o --hole grey",
        "a --out o --dilate much",
    ],
)
def test_what_argparse_refuses(text, capsys):
    with pytest.raises(SystemExit) as left:
        request(text)
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.endswith("; see igll-infer --help\n") and told.count("\n") == 1


def test_tile_sizes():
    assert tile_sizes(64, 16) == TileSizes(64, 16)
    for tile, context in ((63, 16), (48, 16), (64, 8), (0, 0), (64, -16)):
        with pytest.raises(InputError):
            tile_sizes(tile, context)
