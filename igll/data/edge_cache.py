"""Edge maps on disk, keyed by the image's content and the detector that made them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from igll.errors import InputError
from igll.storage import replacing


class EdgeCache:
    """8-bit edge maps as PNG files below a folder.

    Args:
        folder: Where maps are kept; None for ``~/.cache/igll/edges`` (``XDG_CACHE_HOME`` is respected).
        fingerprint: Name of the detector and its weights.
    """

    def __init__(self, folder: str | None, fingerprint: str) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "igll" / "edges"
        self.fingerprint = fingerprint
        self.folder = (Path(folder).expanduser() if folder else base) / fingerprint

    def path(self, image_HWC: NDArray[np.float32]) -> Path:
        """File of an image's edge map, whether it exists or not."""
        digest = hashlib.blake2b(np.ascontiguousarray(image_HWC).data, digest_size=20)
        digest.update(repr(image_HWC.shape).encode())
        key = digest.hexdigest()
        return self.folder / key[:2] / f"{key[2:]}.png"

    def load(self, image_HWC: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """Read an image's edge_HW in [0, 1].

        Args:
            image_HWC: The complete image that the map was made of.
            name: What an error calls the image.

        Raises:
            InputError: If the map is missing, as when the image changed after the maps were made.
        """
        path = self.path(image_HWC)
        try:
            with PillowImage.open(path) as picture:
                return np.asarray(picture, dtype=np.float32) / np.float32(255)
        except (OSError, SyntaxError):
            raise InputError(
                f"{name}: its edge map {path} cannot be read; delete that file if it is there and start again"
            ) from None

    def save(self, image_HWC: NDArray[np.float32], edge_HW: NDArray[np.float32]) -> None:
        """Write an image's edge_HW in [0, 1], so that a reader sees the whole file or none.

        Raises:
            OutputError: It cannot be written; ``edges.cache`` names another folder.
        """
        picture = PillowImage.fromarray(np.rint(edge_HW.clip(0, 1) * 255).astype(np.uint8))
        with replacing(self.path(image_HWC)) as temporary:
            picture.save(temporary, format="PNG")
