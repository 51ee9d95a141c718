"""Writes the averaged weights of a checkpoint, with settings and notes, as a safetensors file to share.

Usage: python scripts/export_weights.py runs/aid_77/checkpoints/best.pt --out aid_77.safetensors

With --blend OTHER SHARE the weights lie between the checkpoint's (0) and those of a relative, OTHER (1). With
--exemplar the network also takes detail from the image filled by example, which it was not trained with.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from torch import nn

from igll.cli import exit_with
from igll.config import Config
from igll.engine.blending import blend
from igll.engine.initial import with_exemplar
from igll.engine.shared_weights import OWN_METADATA, save_shared_weights
from igll.engine.trained import load_generator, weights_used
from igll.engine.weights_source import find_weights
from igll.errors import InputError
from igll.weights import ACCEPTED


def main() -> int:
    """Read the checkpoint, write the file, say how large it is and its sha256."""
    parser = argparse.ArgumentParser("export_weights", description="Write weights to share.")
    parser.add_argument("checkpoint", help=ACCEPTED)
    parser.add_argument("--out", type=Path, required=True, help="*.safetensors")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema")
    parser.add_argument("--precision", choices=("float32", "float16", "bfloat16"), default="float16")
    parser.add_argument(
        "--blend",
        nargs=2,
        metavar=("OTHER", "SHARE"),
        help="go this share of the way, 0 to 1, to other weights",
    )
    parser.add_argument("--exemplar", action="store_true", help="set model.exemplar, without training for it")
    parser.add_argument("--note", action="append", default=[], metavar="NAME=TEXT", help="further metadata")
    options = parser.parse_args()
    notes = {}
    for note in options.note:
        name, equals, text = note.partition("=")
        if not equals or name in (*OWN_METADATA, "blend", "exemplar"):
            raise InputError(f"--note '{note}': write NAME=TEXT, with a name of your own")
        notes[name] = text
    source = find_weights(options.checkpoint)
    generator, config, step = load_generator(source.path, options.weights)
    averaged = weights_used(source.path, options.weights, config) == "ema"
    if options.blend:
        other, share = options.blend
        notes["blend"] = _blend(generator, config, other, share, options.weights)
    if options.exemplar:
        generator, config = with_exemplar(generator, config, options.checkpoint)
        notes["exemplar"] = f"added without training to weights of step {step}, sha256 {source.sha256}"
    save_shared_weights(options.out, generator, config, step, options.precision, averaged, notes)
    content = options.out.read_bytes()
    print(f"{options.out}: step {step}, {len(content) / 1e6:.2f} MB, {options.precision}")
    print(f"sha256 {hashlib.sha256(content).hexdigest()}")
    return 0


def _blend(generator: nn.Module, config: Config, name: str, share: str, weights: str) -> str:
    """Go towards other weights; what the file's metadata say about it."""
    source = find_weights(name)
    other, other_config, step = load_generator(source.path, weights)
    try:
        part = float(share)
    except ValueError:
        raise InputError(f"--blend {name} {share}: the share is a number from 0 to 1") from None
    blend(generator, config, other, other_config, part, name)
    return f"{part:g} of the way to weights of step {step}, sha256 {source.sha256}"


if __name__ == "__main__":
    exit_with(main)
