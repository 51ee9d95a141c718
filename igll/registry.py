"""Every network by the name that ``model.name`` gives it."""

from __future__ import annotations

from igll.config import DiscriminatorConfig, ModelConfig
from igll.models.discriminator import Discriminator
from igll.models.generator import Generator
from igll.models.interface import InpaintingNetwork


def build_generator(config: ModelConfig) -> InpaintingNetwork:
    """Build the network that a configuration describes, with fresh weights from torch's generator."""
    return Generator(**config.model_dump(exclude={"name", "blocks"}))


def build_discriminator(config: DiscriminatorConfig, image_channels: int) -> Discriminator:
    """Build the discriminator for images of so many channels."""
    return Discriminator(image_channels, config.width, config.norm, config.edge)
