"""The ONNX file fills as PyTorch does, whatever is missing, and says what it is."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import igll.engine.export as export
from igll.cli import export as entry_point
from igll.config import build_config
from igll.engine import weights_source
from igll.engine.export import ExportRequest, export_onnx
from igll.engine.shared_weights import save_shared_weights
from igll.engine.trained import load_generator
from igll.engine.weights_source import find_weights
from igll.errors import InputError, OutputError
from igll.models.export import GraphForm
from igll.models.generator import Generator
from igll.models.layers import hole_on_grid
from igll.registry import build_generator
from igll.weights import BEST, SHIPPED

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

EXACT = 1e-5  # of values in [0, 1]; the largest difference seen is 3e-6
SETTINGS: list[dict[str, Any]] = [
    {},
    {"structure_prior": "learned", "prefill": "harmonic", "residual": True, "score_scale": 10.0},
    {"structure_prior": "none", "prefill": "pyramid", "heads": 3, "position": False, "select": "best"},
    {"structure_prior": "none", "prefill": "harmonic", "residual": True, "skips": True},
    {"structure_prior": "reference", "prefill": "mean", "gam": "vanilla", "residual": True},
    {"structure_prior": "none", "ffsm": "vanilla", "image_channels": 1},
]
# Both beside the size that is traced; the second is no multiple of the stride.
SIZES = [(48, 72), (41, 51)]


def lively(settings: dict[str, Any]) -> Generator:
    """Weights away from where training starts, so that attention, positions and the last layer count."""
    torch.manual_seed(0)
    net = Generator(**{"width": 4, "position_grid": 8, **settings})
    for name, parameter in net.named_parameters():
        if ".attention." in name and "decoder" not in name:
            nn.init.normal_(parameter, std=0.2)
        if name.endswith("decoder.8.weight"):
            nn.init.normal_(parameter, std=0.05)
    return net.eval()


def batch(channels: int, height: int, width: int) -> dict[str, Tensor]:
    """In turn: a square; blots; all but a strip; one pixel; no hole; everything."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.zeros(6, 1, height, width)
    mask[0, :, 12:28, 20:36] = 1
    for row, column in torch.randint(0, 36, (8, 2), generator=draw).tolist():
        mask[1, :, row : row + 4, column : column + 7] = 1
    mask[2, :, :, 14:] = 1
    mask[3, :, 17, 22] = 1
    mask[5] = 1
    image = torch.rand(6, channels, height, width, generator=draw)
    return {"image": image, "mask": mask, "edge": torch.rand(mask.shape, generator=draw)}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_onnx_runtime_fills_as_pytorch_does(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Enough for these sizes, and written sooner; all of them: below, without the file.
    monkeypatch.setattr("igll.models.export.HALVINGS", 7)
    monkeypatch.setattr("igll.models.prefill.ITERATIONS", 1)
    net = lively(settings)
    export.write_graph(net, tmp_path / "g.onnx")
    session = export.open_session(tmp_path / "g.onnx", threads=1)
    for size in SIZES:
        inputs = batch(net.image_channels, *size)
        wanted = export.filled_by_torch(net, inputs)
        painted = inputs["mask"].expand_as(wanted) > 0.5
        assert float((wanted - inputs["image"])[painted].abs().mean()) > 0.05
        for samples in ([0, 1, 2, 3, 4, 5], [1], [3], [4], [5]):
            part = {name: tensor[samples] for name, tensor in inputs.items()}
            found = torch.from_numpy(export.run(session, part))
            known = ~painted[samples]
            assert torch.equal(found[known], part["image"][known])
            assert float((found - wanted[samples]).abs().max()) < EXACT, (size, samples)


@pytest.mark.parametrize(
    ("prefill", "select"),
    [("none", "best"), ("mean", "softmax"), ("pyramid", "best"), ("harmonic", "softmax")],
)
@torch.no_grad()
def test_the_graph_is_that_of_the_generator(prefill: str, select: str):
    net = lively({"prefill": prefill, "select": select, "residual": True, "structure_prior": "none"})
    form = GraphForm(net)
    for size in ((41, 51), (1, 1), (3, 70)):
        inputs = batch(3, 48, 72)
        inputs = {name: tensor[..., : size[0], : size[1]] for name, tensor in inputs.items()}
        found = form(inputs["image"].masked_fill(inputs["mask"] > 0, torch.nan), inputs["mask"])
        assert float((found - export.filled_by_torch(net, inputs)).abs().max()) < EXACT, size


def test_the_generator_stays_as_it_was():
    net = lively({})
    before = {name: value.clone() for name, value in net.state_dict().items()}
    GraphForm(net)
    assert type(net) is Generator
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.fixture
def weights(small, tmp_path: Path):
    def write(**model: Any) -> Path:
        torch.manual_seed(0)
        config = small(model=model)
        path = tmp_path / "w.safetensors"
        save_shared_weights(path, build_generator(config.model), config, 12, "float32")
        return path

    return write


def test_the_file_says_what_it_is_and_what_it_takes(weights, tmp_path: Path, capsys):
    path, out = weights(structure_prior="oracle", prefill="none"), tmp_path / "new" / "m.onnx"
    with pytest.raises(SystemExit) as end:
        entry_point([str(path), "--out", str(out), "--size", "40", "36"])
    assert end.value.code == 0
    told = capsys.readouterr()
    assert "step 12, prior oracle, at most" in told.out and not told.err
    model = onnx.load(out)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (
        metadata["structure_prior"].startswith("oracle: ") and "no real hole" in metadata["structure_prior"]
    )
    assert {"igll_version", "input_image", "input_mask", "input_edge", "output_filled"} <= metadata.keys()
    assert (metadata["step"], metadata["weights"]) == ("12", "ema")
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    one = ["batch", 1, 40, 36]
    whole = ["batch", 3, 40, 36]
    assert shapes == {"image": whole, "mask": one, "edge": one, "filled": whole}


def test_what_differs_is_not_written(weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, out = weights(prefill="none", structure_prior="none"), tmp_path / "m.onnx"
    with monkeypatch.context() as patched:
        patched.setattr(export, "filled_by_torch", lambda _, inputs: inputs["image"] * 0.999)
        with pytest.raises(OutputError, match="differs from PyTorch's by"):
            export_onnx(ExportRequest(path, out, (32, 32)))
    assert not list(tmp_path.glob("*m*.onnx"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r'onnxruntime is not installed.*pip install "igll\[onnx\]"'):
        export_onnx(ExportRequest(path, out))
    done = export_onnx(ExportRequest(path, out, (32, 32), check=False))
    assert done.apart is None and "not checked" in done.line(out) and out.is_file()


def test_what_cannot_be_exported_is_refused_in_one_line(weights, tmp_path: Path):
    path, out = weights(), tmp_path / "m.onnx"
    (tmp_path / "folder.onnx").mkdir()
    for request, told in [
        (ExportRequest(path, tmp_path / "m.pt"), r"name it \*\.onnx"),
        (ExportRequest(path, out, (0, 64)), "from 1 to 4096"),
        (ExportRequest(tmp_path / "none.pt", out), "none.pt: no such"),
        (ExportRequest(path, path / "m.onnx"), "cannot be made .*; choose another --out"),
        (ExportRequest(path, tmp_path / "folder.onnx"), "is a folder; name a file"),
    ]:
        with pytest.raises(InputError, match=told):
            export_onnx(request)
    config = build_config({"model": {"name": "hifill", "width": 4}})
    peer = tmp_path / "peer.safetensors"
    save_shared_weights(peer, build_generator(config.model), config, 1)
    with pytest.raises(InputError, match=r"peer\.safetensors: a network of model\.name=hifill"):
        export_onnx(ExportRequest(peer, out))
    assert not out.exists()


def test_the_file_is_timed_against_pytorch(weights, capsys):
    from scripts.onnx_speed import main

    threads = torch.get_num_threads()
    try:
        assert (
            main([str(weights(structure_prior="none", prefill="mean")), "--size", "64", "--rounds", "1"]) == 0
        )
    finally:
        torch.set_num_threads(threads)
    rows = [[float(number) for number in line.split()] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == [10, 25, 77]
    for _, runtime, pytorch, ratio, apart in rows:
        assert min(runtime, pytorch, ratio) > 0 and apart < EXACT


def test_a_large_fixed_size_is_checked_one_by_one_with_holes_of_few_tokens():
    draw = torch.Generator().manual_seed(0)
    for size in ((512, 512), (1024, 768), (4096, 4096)):
        masks = list(export._checked_masks(size, draw))
        assert [mask.shape for mask in masks] == [(1, 1, *size)] * 3
        for mask in masks:
            missing = float(hole_on_grid(mask).sum())
            assert missing * (size[0] // 4) * (size[1] // 4) <= max(
                export._SCORES, 12 * size[0] * size[1] / 16
            )
        assert [bool(mask.any()) for mask in masks] == [True, True, False]
    shares = [float(mask.mean()) for mask in export._checked_masks((128, 128), draw)]
    assert len(shares) == 4 and shares[2:] == [0, 1] and min(shares[:2]) > 0
    assert [len(masks) for masks in export._checked_masks(None, draw)] == [4, 4, 4]


def test_what_is_no_graph_is_told(tmp_path: Path):
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(OutputError, match="ONNX Runtime cannot load the graph"):
        export.open_session(tmp_path / "bad.onnx")


class _Session:
    """ONNX Runtime that fails as it does, with an exception of no kind, or that spoils known pixels."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="image")]

    def run(self, _: None, given: dict[str, Any]) -> list[Any]:
        if self.error is not None:
            raise self.error
        return [given["image"] + 1]


def test_a_check_that_fails_is_told_in_one_line_that_names_the_target(
    weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    path, out = weights(prefill="none", structure_prior="none"), tmp_path / "m.onnx"
    net = lively({"prefill": "none", "structure_prior": "none"})
    memory = "RuntimeError: DefaultCPUAllocator: can't allocate memory"

    def torch_fails(*_: object) -> Tensor:
        raise RuntimeError(memory)

    def session(*_: object) -> _Session:
        return _Session(Exception("bad\nallocation"))

    monkeypatch.setattr(export, "open_session", lambda *_: _Session())
    for name, stand_in, told in (
        (
            "open_session",
            session,
            "as ONNX Runtime cannot run the graph (bad allocation); if memory ran out, --no",
        ),
        ("open_session", lambda *_: _Session(), "as ONNX Runtime changes known pixels; --no-check writes it"),
        ("filled_by_torch", torch_fails, f"as PyTorch cannot fill an image to compare with ({memory}); if"),
    ):
        with monkeypatch.context() as patched, pytest.raises(OutputError) as failure:
            patched.setattr(export, name, stand_in)
            export._checked(tmp_path / ".m.1.onnx", net, ExportRequest(path, out, (32, 32)))
        (line,) = str(failure.value).splitlines()
        assert line.startswith(f"{out}: not written, {told}") and "--no-check" in line
    monkeypatch.setattr(export, "open_session", session)
    with pytest.raises(SystemExit) as end:
        entry_point([str(path), "--out", str(out), "--size", "32", "32"])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and f"{out}: not written, as ONNX Runtime cannot run" in line
    assert not list(tmp_path.glob("*.onnx")) and not list(tmp_path.glob(".*.onnx"))


def test_whatever_names_weights_can_be_exported(weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = weights(prefill="none", structure_prior="none")
    folder = tmp_path / "mine"
    folder.mkdir()
    small.rename(folder / "model.safetensors")
    monkeypatch.setattr(
        weights_source, "download_weights", lambda *_: (folder / "model.safetensors", "c" * 40)
    )
    for given, title in ((str(folder), "mine"), ("owner/name", f"owner/name@{'c' * 40}")):
        metadata = export_onnx(ExportRequest(given, tmp_path / "m.onnx", (16, 16), check=False)).metadata
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert (metadata["weights_file"], metadata["weights_sha256"]) == (title, digest)
    generator, config, step = load_generator(find_weights(BEST).path)
    assert isinstance(generator, Generator)
    metadata = export.describe(find_weights(BEST), generator, config, step)
    assert (metadata["weights_file"], metadata["weights_sha256"]) == (BEST, SHIPPED[BEST].sha256)


def test_weights_that_fill_by_example_are_refused(weights, tmp_path: Path, capsys):
    with pytest.raises(ValueError, match="no graph form"):
        GraphForm(lively({"structure_prior": "none", "exemplar": True}))
    path, out = weights(structure_prior="none", skips=True, exemplar=True), tmp_path / "m.onnx"
    with pytest.raises(SystemExit) as end:
        entry_point([str(path), "--out", str(out)])
    assert end.value.code == 2 and not out.exists()
    told = capsys.readouterr().err
    assert told.startswith(f"error: {path}: fills by example, a search that has no ONNX form; export ")
    assert BEST in told and told.count("\n") == 1
