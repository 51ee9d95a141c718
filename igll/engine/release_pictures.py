"""Pictures of what shipped weights do: before and after, beside other methods, and where they fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from igll.config import load_config
from igll.data.masks import make_mask
from igll.data.synthetic import render_scene
from igll.engine.comparison_sheet import SheetRequest, comparison_rows
from igll.engine.release_scores import FAMILIES, network_folder
from igll.engine.results import Results, load_results
from igll.engine.weights_source import WeightsSource, column_title
from igll.errors import InputError
from igll.inpainter import Inpainter
from igll.metrics import HIGHER_IS_BETTER
from igll.report.figures import paint_hole, picture_sheet
from igll.storage import replacing

_BEFORE_AFTER = (("town", "cloud"), ("coast", "slc_off"), ("farmland", "cloud"), ("river", "gaps"))
_SIDE, _SHARE, _SEED = 160, 0.2, 1
_CELL = 192  # of the other sheets


class Evaluations(NamedTuple):
    """A network's evaluations on one dataset, as scripts/release_scores.py leaves them.

    Attributes:
        out: That script's folder.
        name: What it calls the network.
        checkpoint: The weights.
        dataset: What it calls the dataset.
    """

    out: Path
    name: str
    checkpoint: WeightsSource
    dataset: str

    def folders(self) -> dict[str, Path]:
        """Family → folder, of those that are measured.

        Raises:
            InputError: There is none.
        """
        place = network_folder(self.out, self.name, self.checkpoint) / self.dataset
        found = {family: place / family for family in FAMILIES if (place / family / "config.yaml").exists()}
        if not found:
            raise InputError(f"{place}: holds no evaluation; run scripts/release_scores.py first")
        return found


def before_after(checkpoint: WeightsSource, out: Path) -> Image.Image:
    """Embedded scenes with holes of cloud and gap shapes: what came in, and what the weights made of it.

    Raises:
        InputError: The weights cannot be used.
        OutputError: The picture cannot be written.
    """
    model = Inpainter.from_checkpoint(checkpoint.path)
    masked, filled = [], []
    for number, (scene, kind) in enumerate(_BEFORE_AFTER):
        image_HWC = render_scene(_SEED, _SIDE, scene)
        rng = np.random.default_rng(number)
        mask_HW = make_mask(kind, _SIDE, _SIDE, _SHARE, rng)
        masked.append(paint_hole(image_HWC, mask_HW))
        filled.append(np.asarray(model.inpaint(image_HWC, mask_HW)))
    titles = ["what came in", f"filled by {checkpoint.title.removesuffix(checkpoint.path.suffix)}"]
    heads = [f"{scene}, {_WORDS[kind]}" for scene, kind in _BEFORE_AFTER]
    caption = f"Scenes drawn by igll itself; {100 * _SHARE:.0f} % of the pixels are missing (pink)."
    return save_sheet(picture_sheet([masked, filled], heads, titles, None, _SIDE, caption), out)


_WORDS = {"cloud": "cloud", "slc_off": "scan gaps", "gaps": "seams"}


def overview(
    evaluations: Evaluations, methods: Sequence[str], out: Path, others: Sequence[str] = ()
) -> Image.Image:
    """One image for each family of holes, evenly spread over the dataset, filled by methods and networks.

    Args:
        evaluations: The network's.
        methods: Methods without training.
        out: ``*.png`` or ``*.jpg``.
        others: Further weights, whatever :func:`igll.load` takes; their columns follow the network's.

    Raises:
        InputError: Nothing is measured, or a method's package is not installed.
        OutputError: The picture cannot be written.
    """
    folders = evaluations.folders()
    cases = []
    for number, (family, folder) in enumerate(folders.items()):
        images = load_results(folder).images
        image = images[(2 * number + 1) * len(images) // (2 * len(folders))]
        cases.append((folder, image, f"{FAMILIES[family].title}: {image}"))
    caption = "One image for each family of holes, evenly spread over the list of images."
    return _sheet(evaluations, methods, cases, caption, out, others)


def failures(evaluations: Evaluations, methods: Sequence[str], out: Path) -> Image.Image:
    """Of each family of holes the images that the network fills worst, by LPIPS and by PSNR in the hole.

    Raises:
        InputError: Nothing is measured, neither of these metrics has a value, or a method's package is not
            installed.
        OutputError: The picture cannot be written.
    """
    cases = []
    used: set[str] = set()
    for family, folder in evaluations.folders().items():
        results = load_results(folder)
        worst = {metric: _worst(results, metric) for metric in _EXTREMES if _has_values(results, metric)}
        used |= worst.keys()
        for image in dict.fromkeys(worst.values()):
            cases.append((folder, image, f"{FAMILIES[family].title}: {image}, {_numbers(results, image)}"))
    if not cases:
        raise InputError(
            f"{evaluations.out}: the evaluations have neither LPIPS nor PSNR in the hole; "
            "measure one of them (eval.metrics)"
        )
    extremes = " and with ".join(words for metric, words in _EXTREMES.items() if metric in used)
    caption = f"The images with {extremes}, of each family of holes."
    return _sheet(evaluations, methods, cases, caption, out)


def save_sheet(sheet: Image.Image, path: Path) -> Image.Image:
    """Save a sheet as PNG, or as JPEG where its name says so.

    Raises:
        InputError: The name ends in something else.
        OutputError: It cannot be written.
    """
    kinds = {".png": "PNG", ".jpg": "JPEG"}
    if path.suffix not in kinds:
        raise InputError(f"{path}: a sheet is written as .png or .jpg")
    with replacing(path) as temporary:
        sheet.save(temporary, kinds[path.suffix], quality=80, optimize=True)  # PNG has no quality to set
    return sheet


def _sheet(
    evaluations: Evaluations,
    methods: Sequence[str],
    cases: Sequence[tuple[Path, str, str]],
    caption: str,
    out: Path,
    others: Sequence[str] = (),
) -> Image.Image:
    """Fill each case (evaluation, image, title) anew, as it was measured, and lay them below each other."""
    heads: list[str] = []
    pictures = []
    for folder, image, _ in cases:
        networks = [evaluations.checkpoint.named, *others]
        columns = [evaluations.name, *map(column_title, others)]
        request = SheetRequest(networks, columns, methods, images=[image])
        rows = comparison_rows(load_config(folder / "config.yaml"), request)
        heads = rows.heads
        pictures += rows.pictures
    return save_sheet(
        picture_sheet(pictures, heads, [title for *_, title in cases], None, _CELL, caption), out
    )


_EXTREMES = {"lpips": "the largest LPIPS", "psnr_hole": "the lowest PSNR in the hole"}
_NUMBERS = {"lpips": ("LPIPS {:.3f}", "{:.3f}"), "psnr_hole": ("PSNR in the hole {:.1f} dB", "{:.1f}")}


def _has_values(results: Results, metric: str) -> bool:
    """Whether a metric was measured on some image; without its weights, LPIPS is asked for and has none."""
    (method,) = results.methods.values()
    return metric in method.values and not np.isnan(method.values[metric]).all()


def _worst(results: Results, metric: str) -> str:
    """The image of an evaluation with the worst value of a metric; the first of equal ones."""
    (method,) = results.methods.values()
    values = method.values[metric] * (-1 if HIGHER_IS_BETTER[metric] else 1)
    return results.images[int(np.nanargmax(values))]


def _numbers(results: Results, image: str) -> str:
    """An image's LPIPS and PSNR in the hole, those that there are, beside the means."""
    (method,) = results.methods.values()
    place = results.images.index(image)
    return ", ".join(
        f"{one.format(method.values[metric][place])} (mean {mean.format(method.means[metric])})"
        for metric, (one, mean) in _NUMBERS.items()
        if _has_values(results, metric)
    )
