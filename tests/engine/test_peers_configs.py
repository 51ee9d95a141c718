"""Every peer's configuration through the entry points: trained, measured, filled with, resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from igll import cli
from igll.engine.checkpoint import load_checkpoint
from tests.conftest import SHARED
from tests.engine.conftest import QUICKSTART
from tests.engine.test_train import differing, lines

PEERS = QUICKSTART.parent / "peers"
VGG = SHARED / "weights" / "vgg16_features_fp16.safetensors"

# Title in tables, size, and what of VGG's layers stands in for those that VGG16 lacks.
NETWORKS = {
    "dmfn": ("DMFN", ["model.blocks=[1]"], []),
    "equal_budget": ("IGLL", [], []),
    "han": ("HAN", ["model.blocks=[1, 2, 1, 2]"], ["losses.style_layers=[relu2_2, relu3_3]"]),
    "hifill": ("HiFill", [], []),
    "hint": ("HINT", ["model.blocks=[1, 1, 1, 1]"], ["losses.style_layers=[relu2_2, relu3_3]"]),
}
# The generator's terms as the file weighs them.
TERMS = {
    "dmfn": {"whole", "perceptual", "self_guided", "alignment", "adversarial", "feature_matching"},
    "equal_budget": {"local", "pixel", "edge"},
    "han": {"whole", "perceptual", "style", "adversarial"},
    "hifill": {"staged", "adversarial"},
    "hint": {"whole", "perceptual", "style", "adversarial"},
}
OF_VGG = {"perceptual", "style", "self_guided", "alignment"}
SMALL = [
    "device=cpu", "data.name=synthetic", "data.synthetic_images=5", "data.val_root=null", "data.crop_size=64",
    "data.workers=0", "model.width=4", "discriminator.width=4", "train.batch_size=2", "train.eval_images=1",
    "train.eval_every=1", "train.log_every=1", "train.threads=0", "eval.metrics=[psnr_hole]",
    "eval.floors=[]", "eval.batch_size=1", "eval.pictures=0",
]  # fmt: skip


def call(entry: str, *arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        getattr(cli, entry)([str(argument) for argument in arguments])
    assert ended.value.code == 0


def overrides(name: str) -> list[str]:
    """Small, and with VGG16 where its weights are at hand; else without the terms that need VGG."""
    _, size, layers = NETWORKS[name]
    if VGG.is_file():
        vgg = ["losses.backbone=vgg16", f"losses.vgg_weights={VGG}", "losses.feature_scale=unit", *layers]
    else:
        vgg = [f"losses.{term}=0" for term in sorted(OF_VGG)]
    blind = ["model.structure_prior=learned", "edges.detector=sobel"] if name == "equal_budget" else []
    return [*SMALL, *size, *vgg, *blind]


class Run(NamedTuple):
    name: str
    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.pt"


@pytest.fixture(scope="module", params=NETWORKS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps by each configuration."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param) / "run"
    given = [*overrides(name), "train.max_steps=2", f"edges.cache={folder.with_name('maps')}"]
    call("train", "--config", PEERS / f"{name}.yaml", "--out", folder, *given)
    return Run(name, folder)


def test_every_term_of_the_configuration_trains(run: Run):
    logged = lines(run.folder, "train")
    assert [line["step"] for line in logged] == [1, 2]
    found = {key.removeprefix("generator/") for key in logged[-1] if key.startswith("generator/")} - {"total"}
    assert found == (TERMS[run.name] if VGG.is_file() else TERMS[run.name] - OF_VGG)
    assert all(np.isfinite(value) for line in logged for value in line.values() if isinstance(value, float))
    assert ("discriminator/total" in logged[-1]) == ("adversarial" in TERMS[run.name])
    saved = load_checkpoint(run.checkpoint)
    resolved = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert saved["config"] == resolved and saved["step"] == 2
    assert all(value.isfinite().all() for value in saved["generator"].values())


def test_results_are_listed_by_the_networks_title(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    title = NETWORKS[run.name][0]
    call(
        "evaluate", "--config", run.folder / "config.yaml", "--checkpoint", run.checkpoint, "--out", tmp_path
    )
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert list(result["methods"]) == [title] and result["label"] == ""
    assert np.isfinite(result["methods"][title]["psnr_hole"])
    assert title in capsys.readouterr().out and f"| {title} " in (tmp_path / "table.md").read_text()
    assert (tmp_path / "per_image.csv").read_text().splitlines()[1].split(",")[1] == title


def test_filling_keeps_known_pixels_bit_for_bit(run: Run, tmp_path: Path):
    rng = np.random.default_rng(3)
    image, hole = rng.integers(0, 256, (61, 50, 3), dtype=np.uint8), np.zeros((61, 50), dtype=bool)
    hole[10:35, 20:] = True
    for folder, picture in (("images", image), ("masks", hole.astype(np.uint8) * 255)):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "a.png")
    call(
        "infer", "--checkpoint", run.checkpoint, "--images", tmp_path / "images",
        "--masks", tmp_path / "masks", "--out", tmp_path / "out", "device=cpu",
    )  # fmt: skip
    filled = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert filled.shape == image.shape and np.array_equal(filled[~hole], image[~hole])
    assert (filled[hole] != image[hole]).mean() > 0.9


@pytest.mark.parametrize("name", ["han", "dmfn"])
def test_a_resumed_peer_equals_the_uninterrupted_one(name: str, tmp_path: Path):
    """HAN draws noise while it trains; DMFN's discriminator has batch statistics. Neither needs VGG here."""
    given = [*overrides(name), *(f"losses.{term}=0" for term in sorted(OF_VGG))]

    def trained(folder: str, steps: int, *more: str) -> None:
        call(
            "train", "--config", PEERS / f"{name}.yaml", "--out", tmp_path / folder, *more, *given,
            f"train.max_steps={steps}",
        )  # fmt: skip

    trained("whole", 4)
    trained("parts", 2)
    torch.manual_seed(1234)  # a new process starts with other random numbers
    trained("parts", 4, "--resume")
    whole, parts = (
        load_checkpoint(tmp_path / folder / "checkpoints" / "last.pt") for folder in ("whole", "parts")
    )
    assert whole["step"] == 4 and differing(whole, parts) == []
