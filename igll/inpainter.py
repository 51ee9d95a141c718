"""A trained model with one method: fill the holes of an image of any family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from igll.config import Config
from igll.engine.devices import choose_device
from igll.engine.picture_io import INTEGER_FULL, colour_of, with_colour
from igll.engine.pretrained import write_pretrained
from igll.engine.trained import Training, load_generator, training_of, with_overrides
from igll.engine.weights_source import find_weights
from igll.errors import InputError
from igll.models import InpaintingNetwork
from igll.models.edges import EdgeDetector, build_edge_detector

ImageLike: TypeAlias = NDArray[Any] | Image.Image | Tensor
ImageT = TypeVar("ImageT", NDArray[Any], Image.Image, Tensor)

_FULL_SCALE = {"uint8": 255, "uint16": 65535, "int16": 32767}


class Inpainter:
    """Fills holes with a trained generator.

    Args:
        generator: In evaluation mode, on the device to compute on.
        config: The configuration it was trained with; ``edges.*`` names the detector for references.
        training: What else is known of its training, for :meth:`save_pretrained`.
    """

    def __init__(
        self, generator: InpaintingNetwork, config: Config, training: Training | None = None
    ) -> None:
        self.generator = generator
        self.config = config
        self.training = training or Training()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | None = None,
        overrides: Sequence[str] = (),
        *,
        revision: str | None = None,
        sha256: str | None = None,
    ) -> Inpainter:
        """Load trained weights.

        Args:
            path: Checkpoint written by igll-train, or whatever else :func:`igll.load` takes.
            revision: Of a Hugging Face repo.
            sha256: What the file of weights has to have.
            overrides: ``device=…`` (default ``auto``, wherever it was trained), ``eval.weights=…`` and
                ``edges.*=…``; everything else is fixed by the checkpoint.

        Raises:
            InputError: As :func:`igll.load`.
        """
        source = find_weights(path, revision, sha256)
        generator, trained, step = load_generator(source.path)
        config = with_overrides(trained, overrides, source.named)
        weights = config.eval.weights
        if weights != "ema":
            generator, _, _ = load_generator(source.path, weights)
        training = training_of(source.path, weights, trained, step)
        return cls(generator.to(choose_device(config.device)), config, training)

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | Path,
        revision: str | None = None,
        sha256: str | None = None,
        device: str = "auto",
    ) -> Inpainter:
        """Load what :meth:`save_pretrained` wrote, from a folder or from a Hugging Face repo.

        Arguments and errors are those of :func:`igll.load`.
        """
        return cls.from_checkpoint(repo_or_folder, [f"device={device}"], revision=revision, sha256=sha256)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model as a Hugging Face repo holds one; ``from_pretrained`` reads it back bit for bit.

        ``model.safetensors`` has weights and configuration, ``config.json`` the configuration for people,
        ``README.md`` a model card to complete; a card that is there is left as it is. Paths of this machine
        are left out.

        Args:
            folder: Made if missing. ``hf upload OWNER/NAME FOLDER`` publishes it.

        Raises:
            OutputError: A file cannot be written.
        """
        write_pretrained(Path(folder), self.generator, self.config, self.training)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.generator.parameters()).device

    @cached_property
    def detector(self) -> EdgeDetector:
        """The detector that makes edge maps of reference images.

        Raises:
            InputError: Its weights cannot be read.
        """
        return build_edge_detector(self.config.edges.detector, self.config.edges.weights).to(self.device)

    def check_guide(self, edges: bool, reference: bool) -> None:
        """Refuse a guide that the model cannot use, or the lack of one that it needs.

        Args:
            edges: Whether an edge map is given.
            reference: Whether a reference image is given.

        Raises:
            InputError: Says what the model was trained with and what to give.
        """
        prior = self.generator.structure_prior
        if edges and reference:
            raise InputError("edges and reference are both given; give one of them")
        if prior in ("learned", "none"):
            if edges or reference:
                given = "edges" if edges else "reference"
                raise InputError(
                    f"{given}: the model was trained with structure prior '{prior}' and looks at no edge map "
                    f"from outside; leave {given} out"
                )
        elif not (edges or reference):
            with_what = "oracle edges (the edge map of the complete ground truth)"
            if prior == "reference":
                with_what = "edges of another image of the same place"
            raise InputError(
                f"the model was trained with {with_what}, so it cannot fill a real hole; give an edge map "
                "(--edges, edges=) or another image of the place (--reference, reference=), "
                "or train with model.structure_prior=learned"
            )

    def inpaint(
        self,
        image: ImageT,
        mask: ImageLike,
        *,
        edges: ImageLike | None = None,
        reference: ImageLike | None = None,
    ) -> ImageT:
        """Fill the hole of an image; the input is not changed.

        Args:
            image: NumPy array of shape (H, W) or (H, W, C), uint8, uint16, int16 or float in [0, 1]; Pillow
                image of mode 1, L, LA, P, RGB, RGBA, I;16, I (0 … 65,535) or F ([0, 1]); or torch tensor of
                shape (C, H, W) or (B, C, H, W), uint8 or float in [0, 1], on any device. C is the model's
                number of channels; grey is also taken by a model of three. Integers are raw values, read as
                in training: by full scale, or by the model's ``data.stretch``. The hole may hold anything,
                NaN included.
            mask: True or nonzero = missing. Shape (H, W), with singleton channel and batch axes if you
                like, or one mask per image of a batch: (B, H, W) or (B, 1, H, W). Any of the three families.
            edges: For models with structure prior ``oracle`` or ``reference``: edge map of the complete
                scene, of the mask's shapes; bool, integers of full range, or float in [0, 1].
            reference: Instead of ``edges``: another image of the place, complete and of the same size, whose
                edges are detected; one, or one per image.

        Returns:
            A new image of the same family, type, shape and device. Known pixels are bit-identical. The hole
            of a Pillow image with alpha becomes opaque; that of a palette image takes the nearest palette
            colours. Arrays and tensors have no alpha: every channel is an image channel.

        Raises:
            InputError: Sizes, channels, types or ranges do not fit, an image is missing entirely, or the
                guide is not what the model needs.
        """
        self.check_guide(edges is not None, reference is not None)
        stretch = self.config.data.stretch
        unit_BCHW = _unit(image, "image", stretch)
        hole_B1HW = _plane(_nonzero(mask), unit_BCHW, "mask")
        if not hole_B1HW.any():
            return image.detach().clone() if isinstance(image, Tensor) else image.copy()
        self._check(unit_BCHW, hole_B1HW)
        edge_B1HW = self._edges(unit_BCHW, edges, reference)
        filled_BCHW = self._fill(unit_BCHW, hole_B1HW, edge_B1HW)
        return _with_hole(image, filled_BCHW, hole_B1HW, stretch)

    def _check(self, unit_BCHW: Tensor, hole_B1HW: Tensor) -> None:
        """Refuse images that cannot be filled."""
        self._check_channels(unit_BCHW.shape[1])
        if bool(hole_B1HW.flatten(1).all(1).any()):
            raise InputError(
                "mask: every pixel of the image is missing, so nothing is known to fill from; "
                "check which colour marks the hole"
            )
        known_BCHW = unit_BCHW.masked_fill(hole_B1HW, 0.5)
        # Written so that a NaN fails too.
        if not bool(((known_BCHW >= 0) & (known_BCHW <= 1)).all()):
            span = f"{float(known_BCHW.min()):g} to {float(known_BCHW.max()):g}"
            raise InputError(
                f"image: known values span {span} of full scale and must be within 0 to 1; "
                "rescale it, and mark no-data pixels as missing in the mask"
            )

    def _check_channels(self, channels: int) -> None:
        """Refuse images of a number of channels that the model does not take."""
        wanted = self.generator.image_channels
        if channels != wanted and (channels, wanted) != (1, 3):
            raise InputError(
                f"image: {channels} channel(s), but the model fills images of {wanted}; give {wanted} at a "
                "time, or fill a raster of any number of bands with igll-infer"
            )

    @torch.inference_mode()
    def _edges(
        self, unit_BCHW: Tensor, edges: ImageLike | None, reference: ImageLike | None
    ) -> Tensor | None:
        """The edge_B1HW of a guide, in [0, 1] on the model's device; None without one."""
        if edges is not None:
            edge_B1HW = _plane(_grey(edges), unit_BCHW, "edges")
            _check_complete(edge_B1HW, "edges")
            return edge_B1HW.to(self.device)
        if reference is None:
            return None
        other_BCHW = _unit(reference, "reference", self.config.data.stretch)
        batch, size = len(unit_BCHW), unit_BCHW.shape[-2:]
        if other_BCHW.shape[-2:] != size or len(other_BCHW) not in (1, batch):
            raise InputError(
                f"reference: {_size(other_BCHW)} does not fit the image's {_size(unit_BCHW)}; "
                "give an image of the same place and grid"
            )
        _check_complete(other_BCHW, "reference")
        detected_B1HW: Tensor = self.detector(other_BCHW.to(self.device) * 2 - 1)
        return detected_B1HW.expand(batch, -1, -1, -1)

    @torch.inference_mode()
    def _fill(self, unit_BCHW: Tensor, hole_B1HW: Tensor, edge_B1HW: Tensor | None) -> Tensor:
        """Run the model: from and to [0, 1], result on the model's device."""
        image_BCHW = unit_BCHW.to(self.device).expand(-1, self.generator.image_channels, -1, -1) * 2 - 1
        mask_B1HW = hole_B1HW.to(self.device, torch.float32)
        output_BCHW = self.generator(image_BCHW, mask_B1HW, edge_B1HW)[1]
        if unit_BCHW.shape[1] == 1:
            output_BCHW = output_BCHW.mean(1, keepdim=True)
        if not bool(output_BCHW.isfinite().all()):
            raise InputError("the model gives values that are not finite; use another checkpoint")
        return ((output_BCHW.float() + 1) / 2).clamp(0, 1)


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


def _span(dtype: str, stretch: Sequence[float] | None, deep: bool = False) -> _Span:
    """The span of stored values: of integers as the model was trained, or full scale; floats are in [0, 1].

    Pillow's 32-bit integers (``deep``) come as floats in units of 65,535.
    """
    if stretch is not None and (deep or dtype in _FULL_SCALE):
        unit = INTEGER_FULL if deep else 1
        return _Span(stretch[0] / unit, stretch[1] / unit, clips=True)
    return _Span(0, _FULL_SCALE.get(dtype, 1))


def _is_deep(image: ImageLike) -> bool:
    return isinstance(image, Image.Image) and image.mode == "I"


def _unit(image: ImageLike, name: str, stretch: Sequence[float] | None) -> Tensor:
    """An image of any family as float32 tensor (B, C, H, W); of integers, what ``_span`` says is 0 and 1."""
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
        values = colour_of(image) if isinstance(image, Image.Image) else image
        if not isinstance(values, np.ndarray):
            raise InputError(
                f"{name}: {type(image).__name__}; give a NumPy array, Pillow image or torch tensor"
            )
        if values.ndim not in (2, 3) or not (values.dtype.name in _FULL_SCALE or values.dtype.kind == "f"):
            raise InputError(
                f"{name}: array of shape {values.shape} and {values.dtype}; "
                "give (H, W) or (H, W, C), uint8, uint16, int16 or float in [0, 1]"
            )
        span = _span(values.dtype.name, stretch, _is_deep(image))
        values_HWC = (np.atleast_3d(values).astype(np.float32) - np.float32(span.low)) / np.float32(
            span.high - span.low
        )
        unit_BCHW = torch.from_numpy(np.ascontiguousarray(values_HWC.transpose(2, 0, 1)))[None]
    if unit_BCHW.numel() == 0:
        raise InputError(f"{name}: has no pixel (shape {tuple(unit_BCHW.shape[1:])})")
    return unit_BCHW.clamp(0, 1) if span.clips else unit_BCHW


def _nonzero(mask: ImageLike) -> Tensor:
    """A mask of any family as bool tensor of its own shape."""
    if isinstance(mask, Tensor):
        return mask != 0
    if isinstance(mask, Image.Image):
        if mask.mode in ("1", "L", "F") or mask.mode.startswith("I"):
            return torch.from_numpy(np.asarray(mask) != 0)
        return torch.from_numpy((np.asarray(mask.convert("RGB")) != 0).any(axis=2))
    return torch.from_numpy(np.asarray(mask) != 0)


def _grey(edges: ImageLike) -> Tensor:
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


def _plane(values: Tensor, unit_BCHW: Tensor, name: str) -> Tensor:
    """A mask or edge map as (B, 1, H, W) for a batch of images, on its device."""
    batch, _, height, width = unit_BCHW.shape
    accepted = {(height, width), (height, width, 1)}
    for count in (1, batch):
        accepted |= {(count, height, width), (count, 1, height, width)}
    if tuple(values.shape) not in accepted:
        number = f"{batch} images of " if batch > 1 else ""
        raise InputError(
            f"{name}: shape {'×'.join(map(str, values.shape))} does not fit {number}{_size(unit_BCHW)} "
            "(height × width)"
        )
    return values.to(unit_BCHW.device).reshape(-1, 1, height, width).expand(batch, -1, -1, -1)


def _check_complete(values_BCHW: Tensor, name: str) -> None:
    """Refuse a guide with values outside [0, 1], NaN among them."""
    if not bool(((values_BCHW >= 0) & (values_BCHW <= 1)).all()):
        raise InputError(f"{name}: values must be complete and within 0 to 1 (or full-range integers)")


def _size(image_BCHW: Tensor) -> str:
    return f"{image_BCHW.shape[-2]}×{image_BCHW.shape[-1]}"


def _with_hole(
    image: ImageT, filled_BCHW: Tensor, hole_B1HW: Tensor, stretch: Sequence[float] | None
) -> ImageT:
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
        span = _span(colour.dtype.name, stretch, _is_deep(image))
        return with_colour(image, _array_with_hole(colour, new_HWC, hole_HW, span), hole_HW)
    return _array_with_hole(image, new_HWC, hole_HW, _span(image.dtype.name, stretch))


def _array_with_hole(
    image: NDArray[Any], new_HWC: NDArray[np.float32], hole_HW: NDArray[np.bool_], span: _Span
) -> NDArray[Any]:
    """As ``_with_hole`` for one array of shape (H, W) or (H, W, C)."""
    new_HWC = new_HWC * np.float32(span.high - span.low) + np.float32(span.low)
    if image.dtype.kind in "iu":
        limits = np.iinfo(image.dtype)
        new_HWC = np.rint(new_HWC).clip(limits.min, limits.max)
    result = image.copy()
    result[hole_HW] = new_HWC[hole_HW] if image.ndim == 3 else new_HWC[hole_HW][:, 0]
    return result
