"""Where the generator looks when it fills a pixel: attention heat maps (the paper's Figure 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igll.engine.edge_maps import sees_ground_truth_edges
from igll.errors import InputError
from igll.inpainter import Inpainter
from igll.models import Generator
from igll.models.attention import GlobalAttention
from igll.models.layers import STRIDE
from igll.models.similarity import FlexibleFeatureSimilarity
from igll.report.canvas import check_ending, new_figure, save_figure
from igll.report.figures import paint_hole

_INK, _MARK, _SHADE = "#222222", "#00e5ff", 0.8
_SIDE = 2.5  # of a panel, in inches

Slot = tuple[str, int]
"""Module and head: panels of one slot stand in one column."""


@dataclass(frozen=True)
class HeatMap:
    """Where one module, or one of its heads, looks.

    Attributes:
        slot: Its column in the figure.
        title: What a person calls it.
        unit: What the numbers are.
        values_HW: One number per token of the grid; NaN where there is none.
    """

    slot: Slot
    title: str
    unit: str
    values_HW: NDArray[np.float32]


@dataclass(frozen=True)
class AttentionMaps:
    """Everything that is drawn of one generator and one pixel.

    Attributes:
        image_HWC: The input, uint8 RGB.
        mask_HW: True = missing.
        pixel: Row and column of the hole pixel in the image.
        result_HWC: The filled image, uint8 RGB.
        maps: From the first module to the last.
        oracle: Whether the generator saw edges of the ground truth.
    """

    image_HWC: NDArray[np.uint8]
    mask_HW: NDArray[np.bool_]
    pixel: tuple[int, int]
    result_HWC: NDArray[np.uint8]
    maps: list[HeatMap]
    oracle: bool


def attention_maps(
    inpainter: Inpainter,
    image_HWC: NDArray[np.uint8],
    mask_HW: NDArray[np.bool_],
    pixel: tuple[int, int],
    edges: NDArray[Any] | None = None,
    reference: NDArray[Any] | None = None,
) -> AttentionMaps:
    """Fill an image and see where GAM and FFSM look for one pixel of its hole.

    Args:
        inpainter: A trained generator.
        image_HWC: uint8 RGB.
        mask_HW: True = missing.
        pixel: Row and column in the image; its token, a square of 4 × 4 pixels, is what is looked at.
        edges: As for :meth:`Inpainter.inpaint`.
        reference: As for :meth:`Inpainter.inpaint`.

    Raises:
        InputError: The pixel is not missing, or the image cannot be filled.
    """
    height, width = mask_HW.shape
    row, column = pixel
    if not (0 <= row < height and 0 <= column < width):
        raise InputError(f"pixel {row} {column}: outside the image of {height}×{width} (height × width)")
    if not mask_HW[row, column]:
        raise InputError(f"pixel {row} {column}: is known; choose one that is missing in the mask")
    generator = inpainter.generator
    if not isinstance(generator, Generator):
        raise InputError("attention maps: the checkpoint is of another network than IGLL's own")
    gam, ffsm = generator.pirn.attention_branch.attention, generator.pern.attention_branch.attention
    if not (isinstance(gam, GlobalAttention) and isinstance(ffsm, FlexibleFeatureSimilarity)):
        raise InputError("attention maps: the checkpoint's attention modules are not GAM and FFSM")
    with _Listening(gam) as heard_gam, _Listening(ffsm) as heard_ffsm:
        result_HWC = inpainter.inpaint(image_HWC, mask_HW, edges=edges, reference=reference)
    place = (row // STRIDE, column // STRIDE)
    with torch.inference_mode():
        maps = [
            *_by_head("GAM", "PIRN: GAM", gam.weights(*heard_gam.inputs, *place)),
            *_by_head("FFSM GAM", "PERN: FFSM's GAM", ffsm.attention.weights(*heard_ffsm.inputs, *place)),
            _heat(
                "FFSM scores", "FFSM: patch scores", "sum of cosines", ffsm.scores(*heard_ffsm.inputs, *place)
            ),
            _heat("FFSM", "FFSM: copied from", "weight", ffsm.weights(*heard_ffsm.inputs, *place)),
        ]
    return AttentionMaps(
        image_HWC, mask_HW, pixel, result_HWC, maps, sees_ground_truth_edges(inpainter.config)
    )


class _Listening:
    """Keeps features and hole of a module's last call while the block runs."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inputs: tuple[Tensor, Tensor]

    def __enter__(self) -> _Listening:
        self.hook = self.module.register_forward_pre_hook(self._keep)
        return self

    def __exit__(self, *error: object) -> None:
        self.hook.remove()

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        feature_BCHW, hole_B1HW, *_ = inputs
        self.inputs = feature_BCHW.float(), hole_B1HW  # of 16 bits after mixed precision


def _by_head(name: str, title: str, weights_1GHW: Tensor) -> list[HeatMap]:
    heads = weights_1GHW.shape[1]
    return [
        HeatMap(
            (name, head),
            title + (f", head {head + 1} of {heads}" if heads > 1 else ""),
            "weight",
            weights_1GHW[0, head].float().cpu().numpy(),
        )
        for head in range(heads)
    ]


def _heat(name: str, title: str, unit: str, values_11HW: Tensor) -> HeatMap:
    return HeatMap((name, 0), title, unit, values_11HW[0, 0].float().cpu().numpy())


def draw_attention(rows: Sequence[tuple[str, AttentionMaps]], path: Path) -> None:
    """Draw heat maps over the images, a row per generator, image or pixel and a column per module and head.

    Every panel has a colour bar of its own: the numbers of a softmax over thousands of tokens and those
    of a few patches have no scale in common.

    Args:
        rows: Title and maps of each row.
        path: A PNG or PDF file; both are written, with the same name.

    Raises:
        InputError: matplotlib is not installed, there is no row, or the path ends in neither.
        OutputError: A file cannot be written.
    """
    check_ending(path)
    if not rows:
        raise InputError("attention maps: nothing to draw")
    slots = _columns([maps for _, maps in rows])
    figure = new_figure(_SIDE * (len(slots) + 2), 1.12 * _SIDE * len(rows))
    axes = figure.subplots(len(rows), len(slots) + 2, squeeze=False)
    for line, (title, maps) in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        label = f"{title}, oracle edges" if maps.oracle else title
        _show(line[0], paint_hole(maps.image_HWC, maps.mask_HW), label, maps.pixel)
        for heat in maps.maps:
            _draw_heat(figure, line[1 + slots.index(heat.slot)], heat, maps)
        _show(line[-1], maps.result_HWC, "result", None)
    save_figure(figure, path.with_suffix(".pdf"))


def _columns(rows: Sequence[AttentionMaps]) -> list[Slot]:
    """Every slot that any row uses, module by module and head by head."""
    used = [heat.slot for maps in rows for heat in maps.maps]
    modules = list(dict.fromkeys(module for module, _ in used))
    return sorted(set(used), key=lambda slot: (modules.index(slot[0]), slot[1]))


def _show(axis: Any, picture: NDArray[np.uint8], title: str, pixel: tuple[int, int] | None) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(title, fontsize=8, color=_INK)
    if pixel is not None:
        _mark(axis, pixel)


def _mark(axis: Any, pixel: tuple[int, int]) -> None:
    """A ring around the chosen pixel, with a dark edge so that it shows on any ground."""
    for colour, width in (("black", 2.6), (_MARK, 1.4)):
        axis.plot(
            pixel[1], pixel[0], "o", markersize=8, fillstyle="none", color=colour, markeredgewidth=width
        )


def _draw_heat(figure: Any, axis: Any, heat: HeatMap, maps: AttentionMaps) -> None:
    """One heat map over the greyed image, the hole's outline and the pixel."""
    height, width = maps.mask_HW.shape
    grey_HW = maps.image_HWC.mean(2)
    grey_HW[maps.mask_HW] = 255
    axis.imshow(grey_HW, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    rows, columns = heat.values_HW.shape
    # The grid covers the image padded to whole tokens: what hangs over is cut off.
    extent = (-0.5, columns * STRIDE - 0.5, rows * STRIDE - 0.5, -0.5)
    nothing = not np.nan_to_num(heat.values_HW).any()
    axis.set_title(heat.title + (" (nothing to see)" if nothing else ""), fontsize=8, color=_INK)
    if not nothing:
        shade = axis.imshow(
            heat.values_HW, cmap="magma", alpha=_SHADE, extent=extent, interpolation="nearest"
        )
        bar = figure.colorbar(shade, ax=axis, orientation="horizontal", fraction=0.05, pad=0.02)
        bar.set_alpha(1)  # over the dark ground the colours look as they are
        bar.set_label(heat.unit, fontsize=7, color=_INK, labelpad=1)
        bar.ax.tick_params(labelsize=6)
        bar.ax.locator_params(nbins=4)
        bar.ax.xaxis.get_offset_text().set_fontsize(6)
    if not maps.mask_HW.all():
        axis.contour(maps.mask_HW, levels=[0.5], colors="white", linewidths=0.8)
    _mark(axis, maps.pixel)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
