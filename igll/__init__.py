"""Remote-sensing image inpainting with the IGLL network.

    import igll

    model = igll.load()  # weights that ship with igll; or igll.load("runs/quickstart/checkpoints/best.pt")
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


def load(
    name_or_path: str | Path | None = None,
    device: str = "auto",
    *,
    revision: str | None = None,
    sha256: str | None = None,
    overrides: Sequence[str] = (),
) -> Inpainter:
    """Load a trained model, ready to fill.

    Args:
        name_or_path: None for the best weights that ship with igll, which takes no network; their name, such
            as ``igll-small``; a checkpoint written by igll-train; a file or folder of shared weights; or a
            Hugging Face repo, ``OWNER/NAME`` or ``OWNER/NAME@REVISION`` (with the extra ``hub``), of which
            ``model.safetensors`` is read and nothing else. An existing path wins over a name.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        revision: Of a repo: branch, tag or full commit.
        sha256: SHA-256 that the file of weights has to have, wherever it comes from; it is refused otherwise.
        overrides: ``eval.weights=raw``, ``eval.amp=true`` (bfloat16) or ``edges.*=value``, such as
            ``edges.weights=table5_pidinet.pth`` where the detector's weights lie elsewhere than at training.

    Raises:
        InputError: There are no such weights, they cannot be fetched or read, are not those that ``sha256``
            names, or a setting is wrong.
    """
    from igll.inpainter import Inpainter

    if isinstance(overrides, str):
        raise InputError(f"overrides: '{overrides}'; give a list of them, such as ['eval.amp=true']")
    given = [*overrides, f"device={device}"]
    return Inpainter.from_checkpoint(name_or_path, given, revision=revision, sha256=sha256)


def __getattr__(name: str) -> Any:
    if name == "Inpainter":
        from igll.inpainter import Inpainter

        return Inpainter
    if name == "__version__":
        from importlib.metadata import version

        return version("igll")
    raise AttributeError(f"module 'igll' has no attribute {name!r}")
