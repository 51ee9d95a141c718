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
        "igll-small.safetensors", "45cede3c0c00a57ac1cebcae8d0464d4a92fd9ed594804653d2dcebde327f776"
    ),
}
BEST = "igll-small"
"""What fills where no weights are named."""

ACCEPTED = (
    "a checkpoint of igll-train, a file or folder of shared weights, weights that ship with igll "
    f"({', '.join(SHIPPED)}) or a Hugging Face repo, OWNER/NAME or OWNER/NAME@REVISION"
)
"""What may stand where weights are named."""
