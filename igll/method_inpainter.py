"""A method without training behind the interface of a trained model."""

from __future__ import annotations

import torch
from torch import Tensor

from igll.baselines import CLASSICAL, CLASSICAL_TITLES, require_packages
from igll.config import Config
from igll.errors import InputError
from igll.inpainter import Inpainter
from igll.schema import ClassicalName


class MethodInpainter(Inpainter):
    """Fills holes with a method that needs no training; takes images of any number of channels.

    Args:
        method: Its name.

    Raises:
        InputError: The method needs a package that is not installed.
    """

    def __init__(self, method: ClassicalName) -> None:
        require_packages([method])
        self.config = Config()
        self.title = CLASSICAL_TITLES[method]
        self._method = CLASSICAL[method]

    @property
    def device(self) -> torch.device:
        """Where the method computes."""
        return torch.device("cpu")

    def check_guide(self, edges: bool, reference: bool) -> None:
        """Refuse any guide.

        Raises:
            InputError: One is given.
        """
        if edges or reference:
            given = "edges" if edges else "reference"
            raise InputError(f"{given}: {self.title} looks at the image alone; leave {given} out")

    def _check_channels(self, channels: int) -> None:
        """Any number will do."""

    def _fill(self, unit_BCHW: Tensor, hole_B1HW: Tensor, edge_B1HW: Tensor | None) -> Tensor:
        return self._method(unit_BCHW.cpu(), hole_B1HW.cpu().float()).float().clamp(0, 1)
