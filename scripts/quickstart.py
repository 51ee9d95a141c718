"""The steps behind quickstart.sh: train, evaluate, fill and draw, through the users' entry points.

Usage: python scripts/quickstart.py [FOLDER_OF_IMAGES [key.sub=value ...]]
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from igll.cli import OVERRIDES, exit_with
from igll.config import Config, load_config, save_config
from igll.data.datasets import InpaintingDataset, build_dataset, spread
from igll.data.masks import make_mask
from igll.errors import InputError
from igll.report.figures import loss_curves, paint_hole, picture_sheet

ROOT = Path("runs/quickstart")
KINDS = ("cloud", "slc_off", "irregular", "gaps")
SIDE = 256  # of the filled parts; larger ones would take long on a CPU


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(
        "quickstart.py", description="Train a small IGLL, measure it, fill some images and draw the results."
    )
    parser.add_argument(
        "folder", nargs="?", default="", help="folder of images; '' (default): embedded scenes"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=OVERRIDES)
    options = parser.parse_args(arguments)
    exit_with(lambda: take_steps(options.folder, options.overrides))


def take_steps(folder: str, overrides: list[str]) -> int:
    """Run every step; each is skipped or resumed where an earlier call left its result."""
    if folder:
        overrides = ["data.name=folder", f"data.root={json.dumps(folder)}", *overrides]
    config = load_config("configs/quickstart.yaml", overrides)
    if config.model.image_channels != 3:
        raise InputError(
            f"model.image_channels={config.model.image_channels}: the quickstart fills RGB pictures; "
            "for other bands call igll-train --config configs/quickstart.yaml"
        )
    run = _open_run(config)
    settings = run / "settings.yaml"

    print("1/4  training", flush=True)
    _call("train", "--config", settings, "--out", run, "--resume")
    checkpoint = run / "checkpoints" / "last.pt"
    print("2/4  evaluating", flush=True)
    _call("evaluate", "--config", settings, "--checkpoint", checkpoint, "--out", run / "evaluation")
    print("3/4  filling images with holes of real shapes", flush=True)
    images, masks, filled = run / "fill" / "images", run / "fill" / "masks", run / "fill" / "filled"
    dataset = build_dataset(config, "test")
    _make_holes(dataset, images, masks)
    _call("infer", "--checkpoint", checkpoint, "--images", images, "--masks", masks, "--out", filled)
    print("4/4  drawing", flush=True)
    _draw(images, masks, filled, run)
    loss_curves(run / "metrics.jsonl", run / "loss_curves.png")
    shutil.copyfile(run / "evaluation" / "table.md", run / "table.md")

    print(f"\n{(run / 'table.md').read_text(encoding='utf-8')}")
    print(f"Look at\n  {run}/before_after.png   images, holes and fillings side by side")
    print(f"  {run}/evaluation/pictures.png   the same test images filled by every method in the table")
    print(f"  {run}/loss_curves.png   how training went\n  {run}/table.md   the results table above")
    print(f"  {run}/fill/filled/   the filled images")
    return 0


def _open_run(config: Config) -> Path:
    """The run's folder; an earlier run with other settings is moved aside, not overwritten."""
    settings = ROOT / "settings.yaml"
    if settings.exists() and load_config(settings) != config:
        number = next(number for number in range(1, 10_000) if not Path(f"{ROOT}-{number}").exists())
        ROOT.rename(f"{ROOT}-{number}")
        print(f"the earlier run had other settings; it is kept as {ROOT}-{number}")
    ROOT.mkdir(parents=True, exist_ok=True)
    save_config(config, settings)
    return ROOT


def _call(entry: str, *arguments: object) -> None:
    """Run an entry point in a process of its own; leave with its exit code if it fails.

    Ctrl-C reaches that process too, and SIGTERM is handed on: either way it is waited for, so that a
    training can save what it has learnt.
    """
    command = [sys.executable, "-c", f"from igll.cli import {entry}; {entry}()", *map(str, arguments)]
    process = subprocess.Popen(command)  # noqa: S603  (our own entry points)
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            continue
    signal.signal(signal.SIGTERM, previous)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def _make_holes(dataset: InpaintingDataset, images: Path, masks: Path) -> None:
    """Save a part of a few test images, and a mask of another kind for each."""
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for number, position in enumerate(spread(len(dataset), len(KINDS))):
        kind = KINDS[number]
        scene_HWC = dataset.source.load(dataset.indices[position]).target_HWC[:SIDE, :SIDE]
        picture = np.rint(scene_HWC * 255).astype(np.uint8)
        height, width = picture.shape[:2]
        mask_HW = make_mask(kind, height, width, 0.2, np.random.default_rng(number))
        Image.fromarray(picture).save(images / f"{number}_{kind}.png")
        Image.fromarray(mask_HW.astype(np.uint8) * 255).save(masks / f"{number}_{kind}.png")


def _draw(images: Path, masks: Path, filled: Path, run: Path) -> None:
    """Before/after sheet: the image with its hole, the filling, the truth."""
    rows, titles = [], []
    for path in sorted(images.glob("*.png")):
        truth, mask, result = (np.asarray(Image.open(place / path.name)) for place in (images, masks, filled))
        rows.append([paint_hole(truth, mask), result, truth])
        titles.append(path.stem.split("_", 1)[1].replace("_", " "))
    caption = "Test images with holes of real shapes covering 20 %, filled by the network just trained."
    picture_sheet(rows, ["before", "after", "truth"], titles, run / "before_after.png", 256, caption)


if __name__ == "__main__":
    main()
