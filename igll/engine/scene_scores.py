"""How good fillings of real scenes are: holes are made where the truth is known, and filled as usual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from igll.data.files import read_mask
from igll.data.masks import grow_hole, make_mask
from igll.engine.fillers import Filler
from igll.engine.scene import SceneOptions, fill_scene
from igll.errors import InputError
from igll.geo.holes import HoleSources
from igll.geo.missing_values import data_bands
from igll.geo.raster import open_quietly, open_raster, reading
from igll.report.figures import paint_hole, picture_sheet
from igll.report.files import write_json, write_text
from igll.report.tables import Column, markdown_table

# Per cent of the pixels cut at either end when a band is drawn.
_CUT = 1.0
_SOFT_RIM = 3
_COLUMNS = [
    Column("scene", "Scene"), Column("hole", "Hole"), Column("method", "Method"),
    Column("psnr_hole", "PSNR hole ↑", 2, "highest"), Column("nrmse", "RMSE / std ↓", 3, "lowest"),
    Column("rim", "Step at rim", 2),
]  # fmt: skip


@dataclass(frozen=True)
class ScoreRequest:
    """What to measure.

    Attributes:
        scenes: Rasters; their valid pixels are the truth.
        kinds: Kinds of holes, as in ``igll.data.masks``.
        ratio: Share of the scene that each takes.
        seed: Of the holes.
        options: How scenes are filled; what is missing is not looked at.
        unknown: For a scene, a picture of what is not the truth, white, such as its own cloud: neither scored
            nor learned from, whatever stands there.
        references: For a scene, another image of the place, for the models that use one.
    """

    scenes: Sequence[Path]
    kinds: Sequence[str] = ("cloud", "slc_off")
    ratio: float = 0.1
    seed: int = 0
    options: SceneOptions = field(default_factory=lambda: SceneOptions(HoleSources()))
    unknown: dict[Path, Path] = field(default_factory=dict)
    references: dict[Path, Path] = field(default_factory=dict)


class Truth(NamedTuple):
    """A scene as it is.

    Attributes:
        values_CHW: Its data bands, float64.
        valid_HW: Where all of them have a value.
    """

    values_CHW: NDArray[np.float64]
    valid_HW: NDArray[np.bool_]


def score_scenes(request: ScoreRequest, fillers: dict[str, Filler], out: Path) -> list[dict[str, Any]]:
    """Fill made holes with every model, and compare with what was there.

    Writes ``scores.json``, ``scores.md`` and ``scores.png``, and keeps the filled scenes beside them.

    Args:
        request: What to measure.
        fillers: Models by the names that the table gives them.
        out: Folder for all of it.

    Returns:
        One row per scene, hole and model: ``psnr_hole`` (peak: the range of the band's valid values; mean
        over the bands), ``nrmse`` (root mean square error by the band's standard deviation) and ``rim`` (see
        :func:`rim_step`).

    Raises:
        InputError: A scene cannot be read, or is too small for the hole.
    """
    rows, pictures, titles = [], [], []
    for scene in request.scenes:
        truth = _read(scene)
        unknown_HW = _unknown(request.unknown.get(scene), truth.valid_HW.shape)
        truth = truth._replace(valid_HW=truth.valid_HW & ~unknown_HW)
        for kind in request.kinds:
            mask = out / f"{scene.stem}_{kind}_mask.tif"
            hole_HW = _make_hole(request, scene, truth, unknown_HW, kind, mask)
            shown = [paint_hole(_picture(truth, truth), hole_HW)]
            for name, filler in fillers.items():
                reference = request.references.get(scene) if filler.uses_reference else None
                target = out / f"{scene.stem}_{kind}_{name.replace(' ', '-')}.tif"
                sources = HoleSources(masks=mask)
                options = SceneOptions(sources, request.options.sizes, request.options.stretch)
                fill_scene(scene, target, options, filler, reference)
                filled = _read(target)
                row = {"scene": scene.stem, "hole": kind, "method": name}
                rows.append(row | _scores(truth, filled, hole_HW))
                shown.append(_picture(filled, truth))
            pictures.append([*shown, _picture(truth, truth)])
            titles.append(f"{scene.name}, {kind}, {hole_HW.mean():.0%} of the scene")
    write_json(out / "scores.json", rows)
    write_text(out / "scores.md", _markdown(rows, list(fillers)))
    picture_sheet(pictures, ["with hole", *fillers, "truth"], titles, out / "scores.png", cell=320)
    return rows


def rim_step(
    values_CHW: NDArray[np.float64], hole_HW: NDArray[np.bool_], valid_HW: NDArray[np.bool_]
) -> float:
    """Mean step across the hole's rim, by the mean step between neighbours in the rest of the scene.

    1 is what a seamless filling of ground like the rest has; above it, the rim shows.
    """
    across, around = [], []
    for near, far in ((np.s_[..., :-1, :], np.s_[..., 1:, :]), (np.s_[..., :-1], np.s_[..., 1:])):
        step_CHW = np.abs(values_CHW[far] - values_CHW[near])
        valid = valid_HW[near] & valid_HW[far]
        rim = valid & (hole_HW[near] != hole_HW[far])
        ground = valid & ~hole_HW[near] & ~hole_HW[far]
        across.append(step_CHW[:, rim])
        around.append(step_CHW[:, ground])
    ground_C = np.concatenate(around, 1).mean(1)
    return float((np.concatenate(across, 1).mean(1)[ground_C > 0] / ground_C[ground_C > 0]).mean())


def _read(scene: Path) -> Truth:
    with open_raster(scene) as dataset, reading(scene):
        bands = data_bands(dataset)
        values_CHW = dataset.read(bands)
        valid_HW = (dataset.read_masks(bands) > 0).all(0) & np.isfinite(values_CHW).all(0)
    return Truth(values_CHW.astype(np.float64), valid_HW)


def _unknown(path: Path | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A picture's white pixels and those around them, as rims of clouds and gaps are soft."""
    if path is None:
        return np.zeros(shape, bool)
    mask_HW = read_mask(path)
    if mask_HW.shape != shape:
        raise InputError(f"{path}: {mask_HW.shape} pixels do not fit the scene's {shape}; give its own mask")
    return grow_hole(mask_HW, _SOFT_RIM)


def _make_hole(
    request: ScoreRequest, scene: Path, truth: Truth, unknown_HW: NDArray[np.bool_], kind: str, path: Path
) -> NDArray[np.bool_]:
    """A hole on valid ground; written, with what is unknown, as a mask raster on the scene's grid."""
    height, width = truth.valid_HW.shape
    hole_HW = make_mask(kind, height, width, request.ratio, np.random.default_rng(request.seed))
    hole_HW &= truth.valid_HW
    if not hole_HW.any():
        raise InputError(
            f"{scene}: no valid pixel lies in a hole of kind {kind}; choose another kind or seed"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_raster(scene) as dataset:
        place = {"crs": dataset.crs, "transform": dataset.transform}
    with open_quietly(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", **place
    ) as target:
        target.write((hole_HW | unknown_HW).astype(np.uint8), 1)
    return hole_HW


def _scores(truth: Truth, filled: Truth, hole_HW: NDArray[np.bool_]) -> dict[str, float]:
    known_CN = truth.values_CHW[:, truth.valid_HW]
    error_CN = filled.values_CHW[:, hole_HW] - truth.values_CHW[:, hole_HW]
    rmse_C = np.sqrt((error_CN**2).mean(1))
    varied_C = known_CN.std(1) > 0
    peak_C = known_CN.max(1) - known_CN.min(1)
    return {
        "psnr_hole": float((20 * np.log10(peak_C[varied_C] / np.maximum(rmse_C[varied_C], 1e-12))).mean()),
        "nrmse": float((rmse_C[varied_C] / known_CN.std(1)[varied_C]).mean()),
        "rim": rim_step(filled.values_CHW, hole_HW, truth.valid_HW),
    }


def _picture(scene: Truth, scale: Truth) -> NDArray[np.uint8]:
    """The first three bands between percentiles of the truth; of fewer, the first as grey."""
    bands = [0, 1, 2] if len(scene.values_CHW) >= 3 else [0, 0, 0]
    low_C, high_C = np.percentile(scale.values_CHW[bands][:, scale.valid_HW], (_CUT, 100 - _CUT), axis=1)
    span_C = np.where(high_C > low_C, high_C - low_C, 1.0)
    unit_HWC = (scene.values_CHW[bands].transpose(1, 2, 0) - low_C) / span_C
    return (unit_HWC.clip(0, 1) * 255).round().astype(np.uint8)


def _markdown(rows: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    """Every hole by itself, and the mean of each model."""
    tables = []
    cases = dict.fromkeys((row["scene"], row["hole"]) for row in rows)
    for case in cases:
        tables.append(markdown_table([row for row in rows if (row["scene"], row["hole"]) == case], _COLUMNS))
    means = []
    for name in methods:
        own = [row for row in rows if row["method"] == name]
        mean = {key: float(np.mean([row[key] for row in own])) for key in ("psnr_hole", "nrmse", "rim")}
        means.append({"scene": f"mean of {len(cases)}", "hole": "", "method": name} | mean)
    return "\n".join([markdown_table(means, _COLUMNS), *tables])
