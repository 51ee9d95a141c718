"""Networks: generator, discriminator, attention modules, edge detectors."""

from __future__ import annotations

from igll.config import DiscriminatorConfig, ModelConfig
from igll.models.discriminator import Discriminator
from igll.models.generator import Generator

__all__ = ["Discriminator", "Generator", "build_discriminator", "build_generator"]


def build_generator(config: ModelConfig) -> Generator:
    """Build the generator that a configuration describes, with fresh weights from torch's generator."""
    return Generator(**config.model_dump(exclude={"name"}))


def build_discriminator(config: DiscriminatorConfig, image_channels: int) -> Discriminator:
    """Build the discriminator for images of so many channels."""
    return Discriminator(image_channels, config.width, config.norm, config.edge)
