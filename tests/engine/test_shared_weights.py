"""Weights to share come back as they were, carry their settings and no path, and cannot carry code."""

from __future__ import annotations

import json
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from igll.engine.shared_weights import load_shared_weights, read_notes, save_shared_weights
from igll.engine.state import build_state
from igll.engine.trained import load_generator, weights_used
from igll.errors import InputError
from igll.registry import build_generator

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export_weights.py"


@pytest.fixture
def shared_file(small, tmp_path: Path):
    def write(name: str = "w.safetensors", **options) -> tuple[Path, torch.nn.Module]:
        torch.manual_seed(0)
        config = small(data={"root": "/home/someone/images"})
        generator = build_generator(config.model)
        save_shared_weights(tmp_path / name, generator, config, 12, **options)
        return tmp_path / name, generator

    return write


@pytest.mark.parametrize(
    ("precision", "relative"), [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8)]
)
def test_weights_come_back_to_the_precision_they_are_kept_in(shared_file, precision: str, relative: float):
    path, generator = shared_file(precision=precision, notes={"licence": "MIT"})
    again, config, step = load_shared_weights(path)
    assert step == 12 and config.model.width == 4 and not again.training
    for name, value in generator.state_dict().items():
        found = again.state_dict()[name]
        assert found.dtype == torch.float32
        assert torch.all((found - value).abs() <= relative * value.abs() + 2**-25)
    assert read_notes(path) == {"licence": "MIT", "format": "igll-weights 1", "step": "12", "weights": "ema"}


def test_every_reader_of_checkpoints_reads_them(shared_file):
    path, generator = shared_file(precision="float32")
    again, _, step = load_generator(path)
    assert step == 12
    assert all(torch.equal(again.state_dict()[name], value) for name, value in generator.state_dict().items())


def test_no_path_of_the_machine_goes_along(shared_file):
    path, _ = shared_file()
    assert b"someone" not in path.read_bytes()
    assert load_shared_weights(path)[1].data.root is None


def test_what_is_no_file_of_ours_is_refused(shared_file, tmp_path: Path):
    path, _ = shared_file()
    content = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content[: len(content) // 2])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(2)}, foreign, {"format": "pt"})
    for broken, told in [
        (cut, "not a safetensors file that can be read"),
        (foreign, "but not of igll"),
        (tmp_path / "none.safetensors", "no such file"),
        (tmp_path, "not a safetensors file"),
    ]:
        with pytest.raises(InputError, match=told) as raised:
            load_shared_weights(broken)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "metadata", [{"config": "{"}, {"config": "[]"}, {"step": "x"}, {"config": '{"a": 1}'}]
)
def test_damaged_metadata_is_told(shared_file, tmp_path: Path, metadata: dict[str, str]):
    path, _ = shared_file()
    with safe_open(str(path), framework="pt") as file:
        whole = file.metadata()
    other = tmp_path / "other.safetensors"
    save_file(load_file(path), other, {**whole, **metadata})
    with pytest.raises(InputError, match=r"other\.safetensors"):
        load_shared_weights(other)


def test_weights_of_another_network_are_refused(shared_file, tmp_path: Path):
    path, _ = shared_file()
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    config["model"]["width"] = 8
    other = tmp_path / "other.safetensors"
    save_file(load_file(path), other, {**metadata, "config": json.dumps(config)})
    with pytest.raises(InputError, match="do not fit this model"):
        load_shared_weights(other)


def test_a_pickle_in_disguise_runs_nothing(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    disguised = tmp_path / "trap.safetensors"
    disguised.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="not a safetensors file"):
        load_shared_weights(disguised)
    assert not (tmp_path / "ran").exists()


def test_a_value_beyond_the_precision_is_refused(small, tmp_path: Path):
    config = small()
    generator = build_generator(config.model)
    with torch.no_grad():
        next(generator.parameters())[0] = 1e6
    with pytest.raises(InputError, match="holds values that float16 cannot"):
        save_shared_weights(tmp_path / "w.safetensors", generator, config, 1)
    with pytest.raises(InputError, match="safetensors; name it"):
        save_shared_weights(tmp_path / "w.pt", generator, config, 1)


def test_the_script_exports_the_average(small, tmp_path: Path):
    config = small()
    state = build_state(config, torch.device("cpu"))
    with torch.no_grad():
        next(state.generator.parameters()).zero_()
    state.save(tmp_path / "last.pt", config)
    out = tmp_path / "w.safetensors"
    command = [
        sys.executable,
        str(SCRIPT),
        str(tmp_path / "last.pt"),
        "--out",
        str(out),
        "--note",
        "data=noise",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sha256 " in done.stdout and read_notes(out)["data"] == "noise"
    assert (
        weights_used(out, "raw", config) == "ema"
        and weights_used(tmp_path / "last.pt", "raw", config) == "raw"
    )
    assert next(load_shared_weights(out)[0].parameters()).abs().sum() > 0


def test_the_script_labels_raw_shared_weights_as_raw_and_takes_folders(
    shared_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, _ = shared_file(averaged=False)
    (tmp_path / "mine").mkdir()
    path.rename(tmp_path / "mine" / "model.safetensors")
    out = tmp_path / "again.safetensors"
    monkeypatch.setattr(sys, "argv", ["export_weights", str(tmp_path / "mine"), "--out", str(out)])
    assert runpy.run_path(str(SCRIPT))["main"]() == 0
    assert read_notes(out)["weights"] == "raw"
