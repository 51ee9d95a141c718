"""What fills the tiles of a scene: a trained network, or a method that needs no training."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from igll.baselines import CLASSICAL, require_packages
from igll.engine.rim import match_rim
from igll.engine.weights_source import WeightsSource
from igll.geo.band_groups import group_bands, join_groups
from igll.inpainter import Inpainter
from igll.schema import ClassicalName

# Groups of bands in one pass: a GPU gains from several, a CPU only pays for them in memory.
_GROUPS_AT_ONCE = {"cuda": 4, "cpu": 1}


class Filler(Protocol):
    """Fills the holes of images in [0, 1] with any number of bands.

    Attributes:
        name: For people.
        fingerprint: Changes whenever its results may.
        uses_reference: Whether it looks at a reference image.
        limits: Raw values that it was trained to see as 0 and 1; None if any scale will do.
    """

    name: str
    fingerprint: str
    uses_reference: bool
    limits: tuple[float, float] | None

    def fill(
        self,
        unit_CHW: NDArray[np.float32],
        missing_HW: NDArray[np.bool_],
        reference_CHW: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Fill one image.

        Args:
            unit_CHW: In [0, 1]; holds anything finite where something is missing.
            missing_HW: True = missing.
            reference_CHW: Another image of the place in [0, 1], complete.

        Returns:
            filled_CHW; known pixels as they were.
        """
        ...


class NetworkFiller:
    """A trained network; bands go through it in groups of as many as it takes.

    Args:
        inpainter: The network.
        source: Where its weights came from.
    """

    def __init__(self, inpainter: Inpainter, source: WeightsSource) -> None:
        self.inpainter = inpainter
        prior = inpainter.generator.structure_prior
        precision = ", bf16" if inpainter.config.eval.amp else ""
        self.name = f"{inpainter.config.model.name}, structure prior {prior}, {source.title}{precision}"
        settings = inpainter.config.model_dump(mode="json", include={"eval": {"weights"}, "edges": True})
        self.fingerprint = f"{source.sha256} {settings}{precision}"
        self.uses_reference = prior in ("oracle", "reference")
        stretch = inpainter.config.data.stretch
        self.limits = None if stretch is None else (stretch[0], stretch[1])

    def fill(
        self,
        unit_CHW: NDArray[np.float32],
        missing_HW: NDArray[np.bool_],
        reference_CHW: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Fill one image; see :class:`Filler`."""
        count, channels = len(unit_CHW), self.inpainter.generator.image_channels
        index_GC = group_bands(count, channels)
        missing = torch.from_numpy(missing_HW)
        filled = []
        step = _GROUPS_AT_ONCE.get(self.inpainter.device.type, 1)
        for first in range(0, len(index_GC), step):
            some_GC = index_GC[first : first + step]
            reference = None if reference_CHW is None else torch.from_numpy(reference_CHW[some_GC])
            image = torch.from_numpy(unit_CHW[some_GC])
            filled.append(self.inpainter.inpaint(image, missing, reference=reference).numpy())
        # where, as the mean of a band's repetitions may be beside it by rounding
        filled_CHW = np.where(missing_HW, join_groups(np.concatenate(filled), count), unit_CHW)
        return match_rim(filled_CHW, missing_HW)


class MethodFiller:
    """A method without training, band by band.

    Args:
        method: Its name.

    Raises:
        InputError: Its package is not installed.
    """

    uses_reference = False
    limits: tuple[float, float] | None = None

    def __init__(self, method: ClassicalName) -> None:
        require_packages([method])
        self.name: str = method
        self.fingerprint: str = method
        self._fill = CLASSICAL[method]

    def fill(
        self,
        unit_CHW: NDArray[np.float32],
        missing_HW: NDArray[np.bool_],
        reference_CHW: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Fill one image; see :class:`Filler`. It has no use for a reference."""
        mask_11HW = torch.from_numpy(missing_HW).float()[None, None]
        filled_CHW: NDArray[np.float32] = self._fill(torch.from_numpy(unit_CHW)[None], mask_11HW)[0].numpy()
        return filled_CHW
