"""What another date is worth by itself: pasted into the hole, in the scene's colours."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from igll.engine.rim import match_rim

PASTED: Final = "pasted_reference"
"""Its name on the command line."""


class PastedReference:
    """Fills with the reference itself.

    Each band gets mean and standard deviation of the scene's known pixels, as the reference has them in the
    same place, and is then shifted to meet the hole's rim.
    """

    name = "reference pasted"
    fingerprint = "reference pasted"
    uses_reference = True
    limits: tuple[float, float] | None = None

    def fill(
        self,
        unit_CHW: NDArray[np.float32],
        missing_HW: NDArray[np.bool_],
        reference_CHW: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Fill one image; see :class:`igll.engine.fillers.Filler`.

        Raises:
            ValueError: Without a reference.
        """
        if reference_CHW is None:
            raise ValueError("a reference is pasted, and none is given")
        known_CN, other_CN = unit_CHW[:, ~missing_HW], reference_CHW[:, ~missing_HW]
        gain_C = known_CN.std(1) / np.maximum(other_CN.std(1), 1e-6)
        offset_C = known_CN.mean(1) - gain_C * other_CN.mean(1)
        pasted_CHW = reference_CHW * gain_C[:, None, None] + offset_C[:, None, None]
        return match_rim(np.where(missing_HW, pasted_CHW, unit_CHW).astype(np.float32), missing_HW)
