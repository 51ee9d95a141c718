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
        "igll-small.safetensors", "df63c56eae33e0aecffa28eeb9c45e932fcc74c710738babc8281bda2d862b9f"
    ),
    "igll-small-smooth": ShippedWeights(
        "igll-small-smooth.safetensors", "4f65dc14c38918135c183f767b62cbebb378a004dede00f50feac219234d4a75"
    ),
    "igll-small-exemplar": ShippedWeights(
        "igll-small-exemplar.safetensors", "915a7cc4c84ce841e93fdd5a4a7152a7072797c5b3f10043414c467d598033c0"
    ),
    "igll-small-textured": ShippedWeights(
        "igll-small-textured.safetensors", "5d7727543261b66c0dd6fc06eb389975fdbff42560650dfe65796d7b1b3aa49a"
    ),
}
BEST = "igll-small"
"""What fills where no weights are named."""

ACCEPTED = (
    "a checkpoint of igll-train, a file or folder of shared weights, weights that ship with igll "
    f"({', '.join(SHIPPED)}) or a Hugging Face repo, OWNER/NAME or OWNER/NAME@REVISION"
)
"""What may stand where weights are named."""
