"""Edge maps on disk, keyed by the image's content and the detector that made them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from igll.errors import InputError


class EdgeCache:
    """8-bit edge maps as PNG files below a folder.

    Args:
        folder: Where maps are kept; None for ``~/.cache/igll/edges`` (``XDG_CACHE_HOME`` is respected).
        fingerprint: Name of the detector and its weights.
    """

    def __init__(self, folder: str | None, fingerprint: str) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "igll" / "edges"
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
                f"{name}: its edge map {path} cannot be read; the image changed or the cache was cleared, "
                "start again to make it"
            ) from None

    def save(self, image_HWC: NDArray[np.float32], edge_HW: NDArray[np.float32]) -> None:
        """Write an image's edge_HW in [0, 1], so that a reader sees the whole file or none."""
        path = self.path(image_HWC)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = PillowImage.fromarray(np.rint(edge_HW.clip(0, 1) * 255).astype(np.uint8))
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                picture.save(file, format="PNG")
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
