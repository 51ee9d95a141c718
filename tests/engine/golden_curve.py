"""The losses of a fixed short training on the CPU; run as a module it writes them down anew.

python -m tests.engine.golden_curve
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from igll.config import Config, load_config
from igll.engine.train import train

FILE = Path(__file__).with_suffix(".json")
STEPS = 20
# A gradient through spectral normalisation differs by a hundredth between processors, a count by an image.
LEFT_OUT = ("step", "time", "split", "gradient/discriminator", "discriminator/accuracy")
QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml"
SETTINGS = (
    "device=cpu", "model.width=4", "model.position_grid=8", "discriminator.width=8", "data.crop_size=32",
    "data.synthetic_images=20", "mask.kind=mixed", "mask.ratio=[0.1,0.5]", "mask.placement=random",
    "model.prefill=none", "model.residual=false", "model.skips=false", "losses.log_error=0", "losses.local=1",
    "losses.pixel=1", "train.clip_gradient=0", "train.lr=1e-3", "train.discriminator_lr=1e-4",
    "train.ema_decay=0.5", "losses.adversarial=0.1", "losses.svd_leading=4", "train.batch_size=4",
    "train.threads=1", f"train.max_steps={STEPS}", "train.log_every=1", "train.eval_every=20",
    "train.eval_images=2",
)  # fmt: skip


def golden_config(*more: str) -> Config:
    """The shipped quickstart, shrunk, with a discriminator, from an empty hole: so that every step shows."""
    return load_config(QUICKSTART, [*SETTINGS, *more])


def curve(config: Config, out: Path) -> dict[str, list[float]]:
    """The recorded values of every step, by name."""
    train(config, out)
    lines = [json.loads(text) for text in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    values: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in LEFT_OUT:
                values.setdefault(f"{line['split']}/{name}", []).append(value)
    return values


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = curve(golden_config(f"edges.cache={folder}/maps"), Path(folder) / "run")
    rounded = {name: [float(f"{value:.7g}") for value in values] for name, values in found.items()}
    FILE.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
