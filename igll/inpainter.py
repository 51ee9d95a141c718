"""A trained model with one method: fill the holes of an image of any family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from igll.config import Config
from igll.engine.devices import choose_device, filling_precision
from igll.engine.image_values import (
    ImageLike,
    ImageT,
    Stretch,
    check_channels_last,
    check_complete,
    check_masked,
    edges_of,
    hole_of,
    plane_of,
    size_of,
    unit_of,
    with_hole,
)
from igll.engine.pretrained import write_pretrained
from igll.engine.trained import Training, load_generator, training_of, with_overrides
from igll.engine.weights_source import find_weights
from igll.errors import InputError
from igll.models import InpaintingNetwork
from igll.models.edges import EdgeDetector, build_edge_detector


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
            overrides: ``device=…`` (default ``auto``, wherever it was trained), ``eval.weights=…``,
                ``eval.amp=…`` and ``edges.*=…``; everything else is fixed by the checkpoint.

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
        stretch: tuple[float, float] | None = None,
    ) -> ImageT:
        """Fill the hole of an image; the input is not changed.

        The image goes through the network in one piece: beyond about 1,000 pixels along a side, cut out the
        hole with ground around it, or let igll-infer do so.

        Args:
            image: NumPy array of shape (H, W) or (H, W, C), uint8, uint16, int16 or float in [0, 1]; Pillow
                image of mode 1, L, LA, P, RGB, RGBA, I;16, I or F ([0, 1]); or torch tensor of shape
                (C, H, W) or (B, C, H, W), uint8 or float in [0, 1], on any device. C is the model's number
                of channels; grey is also taken by a model of three. Integers are raw values, read as in
                training: by full scale (255, 65,535, or 32,767 of int16), or by the model's
                ``data.stretch``, unless ``stretch`` is given. Mode I needs a stretch, unless it is an opened
                file of 16 bits; copies no longer tell. The hole may hold anything, NaN included.
            mask: True or nonzero = missing. Shape (H, W), with singleton channel and batch axes if you
                like, or one mask per image of a batch: (B, H, W) or (B, 1, H, W). Any of the three families.
            edges: For models with structure prior ``oracle`` or ``reference``: edge map of the complete
                scene, of the mask's shapes; bool, integers of full range, or float in [0, 1].
            reference: Instead of ``edges``: another image of the place, complete and of the same size, whose
                edges are detected; one, or one per image.
            stretch: Values of image and reference, integers or floats, that the model sees as 0 and 1, such
                as (0, 10000) for reflectance; known values beyond them look like the nearer one to it. Give
                it where values fill a small part of their type's range.

        Returns:
            A new image of the same family, type, shape and device. Known pixels are bit-identical. The hole
            of a Pillow image with alpha becomes opaque; that of a palette image takes the nearest palette
            colours. Arrays and tensors have no alpha: every channel is an image channel.

        Raises:
            InputError: Sizes, channels, types or ranges do not fit, an image is missing entirely, all of its
                known values lie above or all below the stretch, a pixel of a masked array is masked but
                needed, or the guide is not what the model needs.
        """
        self.check_guide(edges is not None, reference is not None)
        span = Stretch.chosen(stretch, self.config.data.stretch)
        unit = unit_of(image, "image", span)
        unit_BCHW, hole = unit.clipped(), hole_of(mask)
        check_channels_last(image, hole)
        hole_B1HW = plane_of(hole, unit_BCHW, "mask")
        check_masked(image, "image", hole_B1HW)
        check_masked(edges, "edges")
        check_masked(reference, "reference")
        if not hole_B1HW.any():
            return image.detach().clone() if isinstance(image, Tensor) else image.copy()
        self._check(unit_BCHW, hole_B1HW)
        unit.check_seen(hole_B1HW, span)
        edge_B1HW = self._edges(unit_BCHW, edges, reference, span)
        filled_BCHW = self._fill(unit_BCHW, hole_B1HW, edge_B1HW)
        return with_hole(image, filled_BCHW, hole_B1HW, span)

    def _check(self, unit_BCHW: Tensor, hole_B1HW: Tensor) -> None:
        """Refuse images that cannot be filled."""
        self._check_channels(unit_BCHW.shape[1])
        if bool(hole_B1HW.flatten(1).all(1).any()):
            raise InputError(
                "mask: every pixel of the image is missing, so nothing is known to fill from; "
                "check which colour marks the hole"
            )
        known_BCHW = unit_BCHW.masked_fill(hole_B1HW, 0.5)
        if not bool(known_BCHW.isfinite().all()):
            raise InputError(
                "image: holds NaN or infinity where the mask says known; mark such pixels as missing too"
            )
        if not bool(((known_BCHW >= 0) & (known_BCHW <= 1)).all()):
            known_N = unit_BCHW[~hole_B1HW.expand_as(unit_BCHW)]
            span = f"{float(known_N.min()):.8g} to {float(known_N.max()):.8g}"
            raise InputError(
                f"image: known values span {span} of full scale and must be within 0 to 1; "
                "give stretch=(low, high), and mark no-data pixels as missing in the mask"
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
        self,
        unit_BCHW: Tensor,
        edges: ImageLike | None,
        reference: ImageLike | None,
        stretch: Stretch | None,
    ) -> Tensor | None:
        """The edge_B1HW of a guide, in [0, 1] on the model's device; None without one."""
        if edges is not None:
            edge_B1HW = plane_of(edges_of(edges), unit_BCHW, "edges")
            check_complete(edge_B1HW, "edges")
            return edge_B1HW.to(self.device)
        if reference is None:
            return None
        other_BCHW = unit_of(reference, "reference", stretch).clipped()
        batch, size = len(unit_BCHW), unit_BCHW.shape[-2:]
        if other_BCHW.shape[-2:] != size or len(other_BCHW) not in (1, batch):
            raise InputError(
                f"reference: {size_of(other_BCHW)} does not fit the image's {size_of(unit_BCHW)}; "
                "give an image of the same place and grid"
            )
        check_complete(other_BCHW, "reference")
        detected_B1HW: Tensor = self.detector(other_BCHW.to(self.device) * 2 - 1)
        return detected_B1HW.expand(batch, -1, -1, -1)

    @torch.inference_mode()
    def _fill(self, unit_BCHW: Tensor, hole_B1HW: Tensor, edge_B1HW: Tensor | None) -> Tensor:
        """Run the model: from and to [0, 1], result on the model's device."""
        image_BCHW = unit_BCHW.to(self.device).expand(-1, self.generator.image_channels, -1, -1) * 2 - 1
        mask_B1HW = hole_B1HW.to(self.device, torch.float32)
        with filling_precision(self.config.eval, self.device):
            output_BCHW = self.generator(image_BCHW, mask_B1HW, edge_B1HW)[1]
        if unit_BCHW.shape[1] == 1:
            output_BCHW = output_BCHW.mean(1, keepdim=True)
        if not bool(output_BCHW.isfinite().all()):
            raise InputError("the model gives values that are not finite; use another checkpoint")
        return ((output_BCHW.float() + 1) / 2).clamp(0, 1)
