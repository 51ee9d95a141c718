"""Remote-sensing image inpainting with the IGLL network.

    import igll

    model = igll.load("runs/quickstart/checkpoints/best.pt")
    filled = model.inpaint(image, mask)  # NumPy, Pillow or torch; mask 1 = missing

Importing the package is cheap: torch is imported by the first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igll.errors import InputError

if TYPE_CHECKING:
    from igll.inpainter import Inpainter

__all__ = ["Inpainter", "InputError", "load"]


def load(name_or_path: str | Path, device: str = "auto", *, overrides: Sequence[str] = ()) -> Inpainter:
    """Load a trained model, ready to fill.

    Args:
        name_or_path: A checkpoint written by igll-train; no weights are shipped by name.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        overrides: ``eval.weights=raw`` or ``edges.*=value``, such as ``edges.weights=table5_pidinet.pth``
            where the detector's weights lie elsewhere than at training.

    Raises:
        InputError: There is no such checkpoint, it cannot be read, or a setting is wrong.
    """
    from igll.inpainter import Inpainter

    return Inpainter.from_checkpoint(name_or_path, [*overrides, f"device={device}"])


def __getattr__(name: str) -> Any:
    if name == "Inpainter":
        from igll.inpainter import Inpainter

        return Inpainter
    if name == "__version__":
        from importlib.metadata import version

        return version("igll")
    raise AttributeError(f"module 'igll' has no attribute {name!r}")
