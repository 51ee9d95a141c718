"""Networks: generator, discriminator, attention modules, edge detectors."""

from __future__ import annotations

from igll.models.discriminator import Discriminator
from igll.models.generator import Generator
from igll.models.interface import InpaintingNetwork

__all__ = ["Discriminator", "Generator", "InpaintingNetwork"]
