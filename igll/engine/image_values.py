"""Images, masks and edge maps of any family (NumPy, Pillow, torch) as tensors, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from igll.engine.picture_io import colour_of, with_colour
from igll.errors import InputError

ImageLike: TypeAlias = NDArray[Any] | Image.Image | Tensor
ImageT = TypeVar("ImageT", NDArray[Any], Image.Image, Tensor)

_FULL_SCALE = {"uint8": 255, "uint16": 65535, "int16": 32767}
_WIDE = "int32"  # of pictures alone; has no full scale


class Stretch(NamedTuple):
    """Raw values that the model sees as 0 and 1.

    Attributes:
        low: The value of 0.
        high: The value of 1, above ``low``.
        floats: Whether floats are raw values as well, and not in [0, 1] already.
    """

    low: float
    high: float
    floats: bool = False

    @classmethod
    def chosen(cls, given: Sequence[float] | None, trained: Sequence[float] | None) -> Stretch | None:
        """What a caller gives, else what a model was trained with; None for full scale.

        Raises:
            InputError: What is given is no pair of a lower and a higher number.
        """
        if given is None:
            return None if trained is None else cls(trained[0], trained[1])
        try:
            low, high = (float(value) for value in given)
        except (TypeError, ValueError, OverflowError):
            low = high = math.nan
        # The model counts in 32 bits.
        with np.errstate(over="ignore", under="ignore"):
            ends_and_span = np.array([low, high, high - low]).astype(np.float32)
        if not (np.isfinite(ends_and_span).all() and ends_and_span[2] > 0):
            raise InputError(
                f"stretch: {given!r}; give the values that become 0 and 1, the lower one first, such as "
                "(0, 10000) for reflectance"
            )
        return cls(low, high, floats=True)


class _Span(NamedTuple):
    """What stored values mean.

    Attributes:
        low: Stored value of 0.
        high: Stored value of 1.
        clips: Whether values outside are taken for the nearer end, as in training; else they are a mistake.
    """

    low: float
    high: float
    clips: bool = False


def _span(dtype: str, stretch: Stretch | None) -> _Span:
    """The span of stored values: what the stretch says, or full scale of integers and [0, 1] of floats."""
    if stretch is not None and (stretch.floats or dtype == _WIDE or dtype in _FULL_SCALE):
        return _Span(stretch.low, stretch.high, clips=True)
    return _Span(0, _FULL_SCALE.get(dtype, 1))


def _precision(dtype: np.dtype[Any]) -> type[np.floating]:
    """What to count stored values in."""
    return np.float64 if dtype.name in ("float64", _WIDE) else np.float32


class Unit(NamedTuple):
    """An image as the model counts.

    Attributes:
        unit_BCHW: Float32; what ``_span`` says is 0 and 1, values beyond them included.
        clips: Whether those are taken for the nearer end.
    """

    unit_BCHW: Tensor
    clips: bool

    def clipped(self) -> Tensor:
        """Unit_BCHW as the model sees it."""
        return self.unit_BCHW.clamp(0, 1) if self.clips else self.unit_BCHW

    def check_seen(self, hole_B1HW: Tensor, stretch: Stretch | None) -> None:
        """Refuse an image whose known values are all beyond the same end of the stretch.

        Raises:
            InputError: They are, so that it would look like one colour.
        """
        if stretch is None or not self.clips:
            return
        least = self.unit_BCHW.masked_fill(hole_B1HW, math.inf).amin()
        most = self.unit_BCHW.masked_fill(hole_B1HW, -math.inf).amax()
        if bool((least > 1) | (most < 0)):
            beyond = "above" if bool(least > 1) else "below"
            raise InputError(
                f"image: all known values lie {beyond} the stretch, {stretch.low:g} to {stretch.high:g}, and "
                "would look alike to the model; give stretch=(low, high), about the least and largest of them"
            )


def unit_of(image: ImageLike, name: str, stretch: Stretch | None) -> Unit:
    """An image of any family as the model counts.

    Raises:
        InputError: Family, shape or type is another; says which are taken.
    """
    if isinstance(image, Tensor):
        if image.ndim not in (3, 4) or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise InputError(
                f"{name}: tensor of shape {tuple(image.shape)} and {image.dtype}; "
                "give (C, H, W) or (B, C, H, W), uint8 or float in [0, 1]"
            )
        span = _span("uint8" if image.dtype == torch.uint8 else "", stretch)
        unit_BCHW = (image.detach().to(torch.float32) - span.low) / (span.high - span.low)
        unit_BCHW = unit_BCHW if image.ndim == 4 else unit_BCHW[None]
    else:
        values = _picture_values(image, name, stretch) if isinstance(image, Image.Image) else image
        if not isinstance(values, np.ndarray):
            raise InputError(
                f"{name}: {type(image).__name__}; give a NumPy array, Pillow image or torch tensor"
            )
        known = values.dtype.name in _FULL_SCALE or values.dtype.kind == "f" or values is not image
        if values.ndim not in (2, 3) or not known:
            raise InputError(
                f"{name}: array of shape {values.shape} and {values.dtype}; "
                "give (H, W) or (H, W, C), uint8, uint16, int16 or float in [0, 1], or floats with a stretch"
            )
        span, precise = _span(values.dtype.name, stretch), _precision(values.dtype)
        with np.errstate(over="ignore"):  # by what means no data, in the hole
            values_HWC = np.atleast_3d(np.asarray(values)).astype(precise) - precise(span.low)
            unit_CHW = (values_HWC / precise(span.high - span.low)).transpose(2, 0, 1).astype(np.float32)
        unit_BCHW = torch.from_numpy(np.ascontiguousarray(unit_CHW))[None]
    if unit_BCHW.numel() == 0:
        raise InputError(f"{name}: has no pixel (shape {tuple(unit_BCHW.shape[1:])})")
    if span.clips:
        # What is infinite is a mistake, and no brightest or darkest value.
        unit_BCHW = unit_BCHW.masked_fill(unit_BCHW.isinf(), math.nan)
    return Unit(unit_BCHW, span.clips)


def _picture_values(picture: Image.Image, name: str, stretch: Stretch | None) -> NDArray[Any]:
    """As ``colour_of``; 32-bit integers, which may be any 16-bit ones, only with a stretch."""
    values = colour_of(picture)
    if values.dtype.name == _WIDE and stretch is None:
        raise InputError(
            f"{name}: 32-bit integers (mode I), of which full scale says nothing; give stretch=(low, high), "
            "or 16 bits: a file, or an array of uint16 or int16 (with igll[geo] installed, igll-infer fills "
            "TIFFs of 32 bits)"
        )
    return values


def hole_of(mask: ImageLike) -> Tensor:
    """A mask of any family as bool tensor of its own shape.

    Raises:
        InputError: It is of no family, or holds NaN, which says neither.
    """
    if isinstance(mask, Image.Image) and mask.mode not in ("1", "L", "F") and not mask.mode.startswith("I"):
        return torch.from_numpy((np.asarray(mask.convert("RGB")) != 0).any(axis=2))
    if isinstance(mask, np.ma.MaskedArray):
        mask = mask.filled(1)  # what is masked is missing
    try:
        values = mask if isinstance(mask, Tensor) else np.asarray(mask)
    except ValueError:  # of lists of unequal length
        raise InputError(f"mask: {type(mask).__name__}; give a NumPy array of shape (H, W)") from None
    numbers = not values.is_complex() if isinstance(values, Tensor) else values.dtype.kind in "biuf"
    if values.ndim == 0 or not numbers:
        what = f"{type(mask).__name__} of shape {tuple(values.shape)} and {values.dtype}"
        raise InputError(f"mask: {what}; give a NumPy array, Pillow image or torch tensor of (H, W) numbers")
    unclear = values.isnan() if isinstance(values, Tensor) else np.isnan(values)
    if unclear.any():
        raise InputError(
            "mask: holds NaN, which is neither missing nor known; give 1 = missing and 0 = known"
        )
    missing = values != 0
    return missing if isinstance(missing, Tensor) else torch.from_numpy(missing)


def check_channels_last(image: ImageLike, hole: Tensor) -> None:
    """Refuse an array with its channels first, as rasterio reads it, by the mask that it comes with.

    Raises:
        InputError: That is how it looks.
    """
    if isinstance(image, np.ndarray) and image.ndim == 3 and hole.shape[:-2].numel() == 1:
        size = tuple(hole.shape[-2:])
        if image.shape[1:] == size != image.shape[:2]:
            raise InputError(
                f"image: array of shape {image.shape} has its channels first; give (H, W, C), as by "
                "np.moveaxis(image, 0, -1)"
            )


def check_masked(values: ImageLike | None, name: str, hole_B1HW: Tensor | None = None) -> None:
    """Refuse a masked array with a masked pixel outside the hole: it would be taken for known.

    Raises:
        InputError: It has any.
    """
    if not isinstance(values, np.ma.MaskedArray):
        return
    masked_HW = np.ma.getmaskarray(values)
    if hole_B1HW is not None:
        masked_HW = masked_HW.reshape(*values.shape[:2], -1).any(2) & ~hole_B1HW[0, 0].cpu().numpy()
    if outside := int(masked_HW.sum()):
        why = "needed; fill them" if hole_B1HW is None else "known by the mask; mark them as missing too"
        raise InputError(f"{name}: {outside:,} pixel(s) of the masked array are masked, but {why}")


def edges_of(edges: ImageLike) -> Tensor:
    """An edge map of any family as float32 tensor of its own shape; integers divided by their full scale."""
    if isinstance(edges, Image.Image):
        colour = colour_of(edges)
        edges = colour if colour.ndim == 2 else np.asarray(edges.convert("RGB").convert("L"))
    if isinstance(edges, Tensor):
        full = 255 if edges.dtype == torch.uint8 else 1
        return edges.detach().to(torch.float32) / full
    values = np.asarray(edges)
    if values.dtype.name not in (*_FULL_SCALE, "bool") and values.dtype.kind != "f":
        raise InputError(f"edges: array of {values.dtype}; give bool, uint8, uint16 or float in [0, 1]")
    return torch.from_numpy(values.astype(np.float32) / np.float32(_FULL_SCALE.get(values.dtype.name, 1)))


def plane_of(values: Tensor, unit_BCHW: Tensor, name: str) -> Tensor:
    """A mask or edge map as (B, 1, H, W) for a batch of images, on its device.

    Raises:
        InputError: Its shape is another.
    """
    batch, _, height, width = unit_BCHW.shape
    accepted = {(height, width), (height, width, 1)}
    for count in (1, batch):
        accepted |= {(count, height, width), (count, 1, height, width)}
    if tuple(values.shape) not in accepted:
        number = f"{batch} images of " if batch > 1 else ""
        raise InputError(
            f"{name}: shape {'×'.join(map(str, values.shape))} does not fit {number}{size_of(unit_BCHW)} "
            "(height × width)"
        )
    return values.to(unit_BCHW.device).reshape(-1, 1, height, width).expand(batch, -1, -1, -1)


def check_complete(values_BCHW: Tensor, name: str) -> None:
    """Refuse a guide with values outside [0, 1], NaN among them.

    Raises:
        InputError: It has any.
    """
    if not bool(((values_BCHW >= 0) & (values_BCHW <= 1)).all()):
        raise InputError(f"{name}: values must be complete and within 0 to 1 (or full-range integers)")


def size_of(image_BCHW: Tensor) -> str:
    """Height × width, for people."""
    return f"{image_BCHW.shape[-2]}×{image_BCHW.shape[-1]}"


def with_hole(image: ImageT, filled_BCHW: Tensor, hole_B1HW: Tensor, stretch: Stretch | None) -> ImageT:
    """A copy of an image with the hole taken from a result in [0, 1]."""
    if isinstance(image, Tensor):
        whole = image.dtype == torch.uint8
        span = _span("uint8" if whole else "", stretch)
        new_BCHW = filled_BCHW.to(image.device) * (span.high - span.low) + span.low
        new_BCHW = (new_BCHW.round().clamp(0, 255) if whole else new_BCHW).to(image.dtype)
        old_BCHW = image.detach()
        old_BCHW = old_BCHW if image.ndim == 4 else old_BCHW[None]
        result_BCHW = torch.where(hole_B1HW.to(image.device), new_BCHW, old_BCHW)
        return result_BCHW if image.ndim == 4 else result_BCHW[0]
    hole_HW = hole_B1HW[0, 0].cpu().numpy()
    new_HWC = filled_BCHW[0].permute(1, 2, 0).cpu().numpy()
    if isinstance(image, Image.Image):
        colour = colour_of(image)
        span = _span(colour.dtype.name, stretch)
        return with_colour(image, _array_with_hole(colour, new_HWC, hole_HW, span), hole_HW)
    return _array_with_hole(image, new_HWC, hole_HW, _span(image.dtype.name, stretch))


def _array_with_hole(
    image: NDArray[Any], new_HWC: NDArray[np.floating], hole_HW: NDArray[np.bool_], span: _Span
) -> NDArray[Any]:
    """As :func:`with_hole` for one array of shape (H, W) or (H, W, C)."""
    precise = _precision(image.dtype)
    new_HWC = new_HWC.astype(precise) * precise(span.high - span.low) + precise(span.low)
    if image.dtype.kind in "iu":
        limits = np.iinfo(image.dtype)
        new_HWC = np.rint(new_HWC).clip(limits.min, limits.max)
    result = image.copy()
    if isinstance(result, np.ma.MaskedArray):
        result.soften_mask()  # what is filled is masked no more
    result[hole_HW] = new_HWC[hole_HW] if image.ndim == 3 else new_HWC[hole_HW][:, 0]
    return result
