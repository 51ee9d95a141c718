"""Scores fillings of real scenes: holes are made where the truth is known.

Usage: python scripts/scene_scores.py SCENE.tif … --out runs/scenes [--checkpoint NAME=WEIGHTS …]
       [--method NAME …] [--reference OTHER.tif] [--kinds cloud slc_off] [--ratio 0.1] [--seed 0] [--tile 512]
       [--context 64] [--unknown PICTURES]

Every model fills the same holes through the same steps as igll-infer; a reference is also pasted as it is.
Writes scores.json, scores.md and scores.png, and keeps the filled scenes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from igll.cli import exit_with


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("scene_scores.py", description="Score fillings of real scenes.")
    add = parser.add_argument
    add("scenes", nargs="+", type=Path, help="rasters whose valid pixels are the truth")
    add("--out", type=Path, default=Path("runs/scenes"), help="folder for the results (runs/scenes)")
    add(
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME=WEIGHTS",
        help="a title, and whatever igll.load takes",
    )
    add("--method", action="append", default=[], help="a method without training")
    add("--reference", type=Path, help="another image of the place, for the networks that take one")
    add(
        "--unknown",
        type=Path,
        help="a picture, or a folder of pictures by name, white where nothing is known",
    )
    add("--kinds", nargs="+", default=["cloud", "slc_off"], help="kinds of holes (cloud slc_off)")
    add("--ratio", type=float, default=0.1, help="share of the scene that a hole takes (0.1)")
    add("--seed", type=int, default=0, help="of the holes (0)")
    add("--tile", type=int, default=512, help="as in igll-infer (512)")
    add("--context", type=int, default=64, help="as in igll-infer (64)")
    return parser.parse_args(arguments)


def _by_name(scenes: Sequence[Path], pictures: Path | None) -> dict[Path, Path]:
    """The picture of each scene."""
    from igll.data.files import match_by_stem

    if pictures is None:
        return {}
    return {scene: match_by_stem([scene], scene.parent, pictures)[0] for scene in scenes}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and run."""
    options = read_arguments(arguments)

    def work() -> int:
        from igll.baselines import CLASSICAL, CLASSICAL_TITLES
        from igll.engine.fillers import Filler, MethodFiller, NetworkFiller
        from igll.engine.pasted import PastedReference
        from igll.engine.scene import SceneOptions
        from igll.engine.scene_scores import ScoreRequest, score_scenes
        from igll.engine.weights_source import find_weights
        from igll.errors import InputError
        from igll.geo.holes import HoleSources
        from igll.infer_arguments import tile_sizes
        from igll.inpainter import Inpainter

        fillers: dict[str, Filler] = {}
        for text in options.checkpoint:
            name, _, file = text.partition("=")
            if not file:
                raise InputError(f"--checkpoint {text}: give it a title, NAME=WEIGHTS")
            source = find_weights(file)
            inpainter = Inpainter.from_checkpoint(source.path)
            filler = NetworkFiller(inpainter, source)
            inpainter.check_guide(edges=False, reference=bool(options.reference) and filler.uses_reference)
            fillers[name] = filler
        for name in options.method:
            if name not in CLASSICAL:
                raise InputError(f"--method {name}: choose one of {', '.join(CLASSICAL)}")
            fillers[CLASSICAL_TITLES[name]] = MethodFiller(name)
        if options.reference:
            fillers["reference pasted"] = PastedReference()
        if not fillers:
            raise InputError("nothing to measure; name a --checkpoint or a --method")
        request = ScoreRequest(
            scenes=options.scenes,
            kinds=options.kinds,
            ratio=options.ratio,
            seed=options.seed,
            options=SceneOptions(HoleSources(), tile_sizes(options.tile, options.context)),
            unknown=_by_name(options.scenes, options.unknown),
            references={scene: options.reference for scene in options.scenes if options.reference},
        )
        score_scenes(request, fillers, options.out)
        print((options.out / "scores.md").read_text())
        return 0

    exit_with(work)


if __name__ == "__main__":
    main()
