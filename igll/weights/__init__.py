"""Trained weights that ship with the package: files of shared weights, and the table that lists them.

A file that is replaced needs its new SHA-256 in the table; a test holds both against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ShippedWeights:
    """One set of weights.

    Attributes:
        file: Its name in this folder.
        sha256: Of the file, in hexadecimal digits.
    """

    file: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(__file__).with_name(self.file)


SHIPPED = {
    "igll-small": ShippedWeights(
        "igll-small.safetensors", "7fcd224b2d2055879e2c65c07ee29c0bbfe44c8354debe11c49049bf77592737"
    ),
    "igll-small-smooth": ShippedWeights(
        "igll-small-smooth.safetensors", "4f65dc14c38918135c183f767b62cbebb378a004dede00f50feac219234d4a75"
    ),
    "igll-small-textured": ShippedWeights(
        "igll-small-textured.safetensors", "4b2068e7e3af12488b38e158c2874e4194bb1ec641e61ef4d2fad0e1a5dc3b6f"
    ),
}
BEST = "igll-small"
"""What fills where no weights are named."""

ACCEPTED = (
    "a checkpoint of igll-train, a file or folder of shared weights, weights that ship with igll "
    f"({', '.join(SHIPPED)}) or a Hugging Face repo, OWNER/NAME or OWNER/NAME@REVISION"
)
"""What may stand where weights are named."""
