from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import igll
from igll import cli
from igll.config import build_config
from igll.engine import infer as module
from igll.engine.checkpoint import save_checkpoint
from igll.engine.infer import InferRequest, infer
from igll.engine.infer_plan import Inputs
from igll.engine.scene import SceneOptions
from igll.errors import InputError, OutputError
from igll.geo.holes import HoleSources
from igll.registry import build_generator

RNG = np.random.default_rng(3)
SIZE = (19, 26)
HOLE = np.zeros(SIZE, dtype=bool)
HOLE[:7, 15:] = True
COLOUR = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREY = COLOUR[:, :, 0]


def checkpoint(path: Path, prior: str, **data) -> Path:
    model = {"width": 4, "structure_prior": prior}
    config = build_config({"model": model, "data": data, "edges": {"detector": "sobel"}, "device": "cpu"})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        generator = build_generator(config.model)
    state = generator.state_dict()
    save_checkpoint(path, {"generator": state, "ema": state, "config": config.model_dump(), "step": 1})
    return path


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("blind") / "best.pt", "learned")


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("oracle") / "best.pt", "oracle")


def save(path: Path, image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def request(checkpoint: Path, root: Path, **changes) -> InferRequest:
    inputs = {"images": root / "images", "masks": root / "masks", "out": root / "out"}
    inputs |= {name: changes.pop(name) for name in [*inputs, "edges", "reference"] if name in changes}
    return InferRequest(Inputs(**inputs | {"images": [inputs["images"]]}), checkpoint, **changes)


def mixture(root: Path) -> dict[str, str]:
    """Pictures of every mode below root, with their masks; returns result → input, by relative path."""
    images = {
        "one.png": (GREY > 128, {}),
        "sub/grey.png": (GREY, {}),
        "sub/grey-alpha.png": (COLOUR[:, :, :2], {}),
        "palette.png": (Image.fromarray(COLOUR).quantize(30), {}),
        "colour.png": (COLOUR, {}),
        "alpha.png": (np.dstack([COLOUR, GREY]), {}),
        "deep.png": (GREY.astype(np.uint16) * 257, {}),
        "palette.TIFF": (Image.fromarray(COLOUR[::-1]).quantize(20), {"format": "TIFF"}),
        "one-bit.tif": (GREY > 100, {}),
        "photo.v2.jpg": (COLOUR, {"quality": 70}),
        "grey.jpeg": (GREY, {}),
        "web.webp": (COLOUR, {}),
        "bitmap.bmp": (COLOUR, {}),
    }
    results = {}
    for name, (image, options) in images.items():
        save(root / "images" / name, image, **options)
        save((root / "masks" / name).with_suffix(".png"), HOLE.astype(np.uint8) * 255)
        suffix = ".tif" if "tif" in name.lower() else ".png"
        results[Path(name).with_suffix(suffix).as_posix()] = name
    return results


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_every_mode_and_format(blind, tmp_path, capsys):
    results = mixture(tmp_path)
    assert infer(request(blind, tmp_path)) == 0
    assert files(tmp_path / "out") == sorted(results)
    model = igll.load(blind, "cpu")
    for result, name in results.items():
        with Image.open(tmp_path / "images" / name) as before, Image.open(tmp_path / "out" / result) as after:
            assert (after.mode, after.size) == (before.mode, before.size), name
            old, new = np.asarray(before), np.asarray(after)
            assert new[~HOLE].tobytes() == old[~HOLE].tobytes(), name
            assert not np.array_equal(new[HOLE], old[HOLE]), name
            assert np.array_equal(new, np.asarray(model.inpaint(before, HOLE))), name
    captured = capsys.readouterr()
    assert captured.out == f"done: 13 images in {tmp_path / 'out'}/\n"
    assert "failed" not in captured.err


def test_a_second_run_replaces_the_first_ones_results(blind, tmp_path):
    save(tmp_path / "images/a.jpg", COLOUR)
    save(tmp_path / "masks/a.png", HOLE)
    assert infer(request(blind, tmp_path)) == 0
    first = (tmp_path / "out/a.png").read_bytes()
    (tmp_path / "out/a.png").write_bytes(b"old")
    assert infer(request(blind, tmp_path)) == 0
    assert (tmp_path / "out/a.png").read_bytes() == first


@pytest.mark.parametrize(
    ("hole", "mask"), [("white", HOLE * 255), ("black", ~HOLE * 255), ("nonzero", HOLE * 2)]
)
def test_mask_colours_and_one_mask_for_all(blind, tmp_path, hole, mask):
    for name in ("a", "b"):
        save(tmp_path / f"images/{name}.png", COLOUR)
    path = save(tmp_path / "images/mask.png", mask.astype(np.uint8))  # not taken for an image
    assert infer(request(blind, tmp_path, masks=path, hole=hole)) == 0
    assert files(tmp_path / "out") == ["a.png", "b.png"]
    for name in ("a", "b"):
        new = np.asarray(Image.open(tmp_path / f"out/{name}.png"))
        assert np.array_equal((new != COLOUR).any(2) & ~HOLE, np.zeros(SIZE, bool))
        assert (new != COLOUR).any(2)[HOLE].mean() > 0.9


def test_folders_inside_the_images_folder_are_not_searched(blind, tmp_path):
    save(tmp_path / "a.png", COLOUR)
    save(tmp_path / "masks/a.png", HOLE)
    for _ in range(2):
        assert infer(request(blind, tmp_path, images=tmp_path)) == 0
        assert files(tmp_path / "out") == ["a.png"]


def test_an_empty_mask_gives_the_image_itself(blind, tmp_path, capsys):
    save(tmp_path / "images/a.png", COLOUR)
    save(tmp_path / "masks/a.png", np.zeros(SIZE, np.uint8))
    assert infer(request(blind, tmp_path)) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), COLOUR)
    assert f"a.png: nothing to fill, as {tmp_path / 'masks/a.png'} marks nothing" in capsys.readouterr().out


def test_bad_images_do_not_stop_the_others(blind, tmp_path, capsys):
    for name in ("good", "small", "torn", "zfull"):
        save(tmp_path / f"images/{name}.png", COLOUR)
        save(tmp_path / f"masks/{name}.png", HOLE)
    save(tmp_path / "images/late.jpg", COLOUR)
    save(tmp_path / "masks/late.png", HOLE)
    save(tmp_path / "masks/small.png", HOLE[:5])
    save(tmp_path / "masks/zfull.png", np.ones(SIZE, bool))
    torn = tmp_path / "images/torn.png"
    torn.write_bytes(torn.read_bytes()[:400])
    assert infer(request(blind, tmp_path)) == 1
    assert files(tmp_path / "out") == ["good.png", "late.png"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("failed", "error"))]
    images, masks = tmp_path / "images", tmp_path / "masks"
    assert lines[0] == (
        f"failed: {masks}/small.png: 5×26 pixels (height × width), but {images}/small.png has 19×26; "
        "give a mask of the image's size"
    )
    assert lines[1].startswith(f"failed: {images}/torn.png: damaged image")
    assert lines[2].startswith(f"failed: {masks}/zfull.png: marks every pixel as missing")
    assert lines[3:] == [f"error: 3 of 5 failed; 2 in {tmp_path / 'out'}/"]


def test_a_single_image_that_fails_is_raised(blind, tmp_path, monkeypatch):
    image, mask = save(tmp_path / "images/a.png", COLOUR), save(tmp_path / "mask.png", HOLE[:5])
    with pytest.raises(InputError, match=r"mask\.png: 5×26 .* give a mask of the image's size"):
        infer(request(blind, tmp_path, images=image, masks=mask))
    save(mask, HOLE)
    wide = SceneOptions(HoleSources(dilate=30))
    with pytest.raises(InputError, match=r"mask\.png: --dilate 30 grows its holes over the whole image"):
        infer(request(blind, tmp_path, images=image, masks=mask, scenes=wide))

    def read(path):
        raise MemoryError

    monkeypatch.setattr(module, "read_picture", read)
    with pytest.raises(OutputError, match=r"a\.png: not enough memory to fill it; choose a smaller"):
        infer(request(blind, tmp_path, images=image, masks=mask))
    assert files(tmp_path / "out") == []


def test_memory_running_out_is_one_images_failure(blind, tmp_path, capsys, monkeypatch):
    for name in ("a", "b"):
        save(tmp_path / f"images/{name}.png", COLOUR)
    mask = save(tmp_path / "mask.png", HOLE)
    real = module.read_picture
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    def read(path):
        if path.stem == "a":
            raise error
        return real(path)

    monkeypatch.setattr(module, "read_picture", read)
    assert infer(request(blind, tmp_path, masks=mask)) == 1
    assert files(tmp_path / "out") == ["b.png"]
    assert "a.png: not enough memory" in capsys.readouterr().err
    error = RuntimeError("a defect of the program")
    with pytest.raises(RuntimeError, match="a defect"):
        infer(request(blind, tmp_path, masks=mask))


def test_a_full_disk_ends_the_run(blind, tmp_path, capsys, monkeypatch):
    for name in ("a", "b", "c"):
        save(tmp_path / f"images/{name}.png", COLOUR)
    mask = save(tmp_path / "mask.png", HOLE)
    real = Path.write_bytes

    def write(self, data):
        if "b" in self.stem:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    assert infer(request(blind, tmp_path, masks=mask)) == 1
    assert files(tmp_path / "out") == ["a.png"]
    lines = capsys.readouterr().err.splitlines()[-2:]
    assert lines[0] == f"failed: {tmp_path}/out/b.png: cannot be written (No space left on device)"
    assert lines[1] == f"error: 1 of 3 failed, 1 not tried; 1 in {tmp_path / 'out'}/"


# --- guides


@pytest.mark.parametrize("guide", ["edges", "reference"])
def test_an_oracle_model_with_a_guide(oracle, tmp_path, guide):
    other = COLOUR[::-1].copy()
    save(tmp_path / "images/a.png", COLOUR)
    save(tmp_path / "masks/a.png", HOLE)
    save(tmp_path / f"{guide}/a.png", other[:, :, 0] if guide == "edges" else other)
    assert infer(request(oracle, tmp_path, **{guide: tmp_path / guide})) == 0
    given = other[:, :, 0] if guide == "edges" else other
    wanted = igll.load(oracle, "cpu").inpaint(COLOUR, HOLE, **{guide: given})
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), wanted)


def test_a_reference_is_stretched_as_the_image_is(tmp_path):
    model = checkpoint(tmp_path / "stretched.pt", "reference", stretch=[0, 3000])
    deep = GREY.astype(np.uint16) * 10
    save(tmp_path / "images/a.png", deep)
    save(tmp_path / "masks/a.png", HOLE)
    save(tmp_path / "reference/a.png", deep[::-1].copy())
    assert infer(request(model, tmp_path, reference=tmp_path / "reference")) == 0
    wanted = igll.load(model, "cpu").inpaint(deep, HOLE, reference=deep[::-1].copy())
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), wanted)


def test_what_cannot_start(blind, oracle, tmp_path):
    save(tmp_path / "images/a.png", COLOUR)
    save(tmp_path / "masks/a.png", HOLE)
    save(tmp_path / "images2/a.png", COLOUR)
    save(tmp_path / "images2/a.jpg", COLOUR)
    save(tmp_path / "other/b.png", HOLE)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    masks = tmp_path / "masks"
    cases = [
        (request(tmp_path / "absent.pt", tmp_path), "absent.pt: no such checkpoint"),
        (request(blind, tmp_path, images=tmp_path / "absent"), "absent: no such file or folder"),
        (request(blind, tmp_path, images=tmp_path / "empty"), "empty: holds no image"),
        (request(blind, tmp_path, masks=tmp_path / "other"), "no mask named a"),
        (request(blind, tmp_path, images=tmp_path / "images2"), "would both be written to .*out/a.png"),
        (request(blind, tmp_path, out=tmp_path / "images"), "images need a folder of their own"),
        (request(blind, tmp_path, masks=tmp_path / "images"), "images need a folder of their own"),
        (request(blind, tmp_path, out=masks), "masks/a.png: is an input and would be overwritten"),
        (request(blind, tmp_path, images=tmp_path / "images/a.png", out=tmp_path / "images"), "is an input"),
        (request(blind, tmp_path, out=tmp_path / "file"), "file: cannot be made"),
        (request(blind, tmp_path, overrides=["model.width=8"]), "fixed by the checkpoint"),
        (request(blind, tmp_path, edges=masks), "looks at no edge map"),
        (request(oracle, tmp_path), "oracle edges .* cannot fill a real hole"),
        (request(oracle, tmp_path, edges=tmp_path / "other"), "no edge map named"),
        (
            request(
                oracle, tmp_path, reference=masks, overrides=["edges.detector=pidinet", "edges.weights=x"]
            ),
            "edges.weights: x cannot be read",
        ),
    ]
    before = files(tmp_path)
    for bad, reason in cases:
        with pytest.raises(InputError, match=reason) as error:
            infer(bad)
        assert "\n" not in str(error.value)
    assert files(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_folder_without_permission(blind, tmp_path, monkeypatch):
    save(tmp_path / "images/a.png", COLOUR)
    save(tmp_path / "masks/a.png", HOLE)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match="out: no permission to write there"):
        infer(request(blind, tmp_path))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_deep_integers_without_rasterio(blind, tmp_path, monkeypatch):
    """What would be a scene is a picture then, seen as arrays of its type are; with rasterio to check."""
    rasterio = pytest.importorskip("rasterio")
    values = GREY.astype(np.int16) * 128
    for name, dtype in {"a": "int16", "wide": "int32"}.items():
        keys = {"width": SIZE[1], "height": SIZE[0], "count": 1, "dtype": dtype, "driver": "GTiff"}
        with rasterio.open(tmp_path / f"{name}.tif", "w", **keys) as file:
            file.write(values.astype(dtype), 1)
    mask = save(tmp_path / "mask.png", HOLE)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert infer(request(blind, tmp_path, images=tmp_path / "a.tif", masks=mask)) == 0
    with rasterio.open(tmp_path / "out/a.tif") as file:
        assert np.array_equal(file.read(1), igll.load(blind, "cpu").inpaint(values, HOLE))
        assert file.dtypes == ("int16",)
    with pytest.raises(InputError, match=r"wide\.tif: image: 32-bit integers .* 16 bits: a file"):
        infer(request(blind, tmp_path, images=tmp_path / "wide.tif", masks=mask))


# --- the command


# A shell that starts the tests in the background may have SIGINT ignored, which a child inherits.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from igll.cli import infer
infer()
"""


def options(checkpoint: Path, root: Path, *more: str) -> list[str]:
    files = ["--checkpoint", checkpoint, "--images", root / "images", "--masks", root / "mask.png"]
    return [*map(str, files), "--out", str(root / "out"), *more]


def test_the_command_when_all_is_well(blind, tmp_path):
    save(tmp_path / "images/a.png", COLOUR)
    save(tmp_path / "mask.png", ~HOLE)
    arguments = options(blind, tmp_path, "--hole", "black", "device=cpu", "eval.weights=raw")
    run = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"done: 1 image in {tmp_path / 'out'}/\n"
    assert "1/1" in run.stderr  # the progress bar
    new = np.asarray(Image.open(tmp_path / "out/a.png"))
    assert np.array_equal(new[~HOLE], COLOUR[~HOLE])


def test_exit_codes_of_trouble(blind, oracle, tmp_path, capsys):
    save(tmp_path / "images/a.png", COLOUR)
    save(tmp_path / "images/b.png", COLOUR[:9])
    save(tmp_path / "mask.png", HOLE)
    with pytest.raises(SystemExit) as leaving:
        cli.infer(options(oracle, tmp_path))
    assert leaving.value.code == 2
    errors = capsys.readouterr().err
    assert "igll, structure prior oracle, best.pt: the model was trained with oracle edges" in errors
    assert errors.count("\n") == 1
    for filler, told in (
        (["--checkpoint", str(blind)], "fixed by the checkpoint; device, eval.weights"),
        (["--method", "harmonic"], "--method harmonic has no settings; leave it out"),
        (["--method", "pasted_reference"], "--method pasted_reference has no settings; leave it out"),
    ):
        with pytest.raises(SystemExit) as leaving:
            cli.infer([*options(blind, tmp_path)[2:], *filler, "train.lr=0.1"])
        assert leaving.value.code == 2
        assert f"'train.lr=0.1': {told}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as leaving:
        cli.infer(options(blind, tmp_path))
    assert leaving.value.code == 1
    assert files(tmp_path / "out") == ["a.png"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_leaves_only_whole_files(blind, tmp_path, number, code):
    for index in range(400):
        save(tmp_path / f"images/{index:03}.png", COLOUR)
    save(tmp_path / "mask.png", HOLE)
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *options(blind, tmp_path)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/002.png").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors and errors.endswith("error: interrupted\n")
    results = files(tmp_path / "out")
    assert 3 <= len(results) < 400
    assert all(not name.startswith(".") for name in results)
    for name in results:
        Image.open(tmp_path / "out" / name).load()


def test_a_real_scene(blind, tmp_path, shared):
    folder = shared / "data/cloudmask"
    box = (150, 60, 340, 247)
    with (
        Image.open(folder / "landsat7_rgb.png") as image,
        Image.open(folder / "landsat7_cloudmask.png") as mask,
    ):
        before, hole = image.crop(box), mask.crop(box)
    save(tmp_path / "images/scene.png", before)
    save(tmp_path / "masks/scene.png", hole)
    missing = np.asarray(hole.convert("L")) > 127
    assert 0.02 < missing.mean() < 0.9
    assert infer(request(blind, tmp_path)) == 0
    with Image.open(tmp_path / "out/scene.png") as after:
        assert (after.mode, after.size) == (before.mode, before.size)
        assert np.array_equal(np.asarray(after)[~missing], np.asarray(before)[~missing])
        assert not np.array_equal(np.asarray(after)[missing], np.asarray(before)[missing])
