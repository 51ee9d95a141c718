"""Every network by the name that ``model.name`` gives it."""

from __future__ import annotations

from typing import Any

from igll.baselines.dmfn import DMFN
from igll.baselines.han import HAN
from igll.baselines.hifill import HiFill
from igll.baselines.hint import HINT
from igll.config import DiscriminatorConfig, ModelConfig
from igll.models.critics import AnyDiscriminator, Critic, PatchDiscriminator
from igll.models.discriminator import Discriminator
from igll.models.generator import Generator
from igll.models.interface import InpaintingNetwork

TITLES = {
    "igll": "IGLL",
    "dmfn": "DMFN",
    "dmfn24": "DMFN-24",
    "hifill": "HiFill",
    "han": "HAN",
    "hint": "HINT",
}
"""What tables call a network."""


def build_generator(config: ModelConfig) -> InpaintingNetwork:
    """Build the network that a configuration describes, with fresh weights from torch's generator."""
    if config.name == "igll":
        return Generator(**config.model_dump(exclude={"name", "blocks"}))
    settings: dict[str, Any] = {"image_channels": config.image_channels, "width": config.width}
    if config.blocks is not None:
        settings["blocks"] = config.blocks
    match config.name:
        case "dmfn":
            return DMFN(**settings)
        case "dmfn24":
            return DMFN(**settings, variant="unofficial")
        case "hifill":
            return HiFill(**settings)
        case "han":
            return HAN(**settings)
        case "hint":
            return HINT(**settings)


def build_discriminator(config: DiscriminatorConfig, image_channels: int) -> AnyDiscriminator:
    """Build the discriminator for images of so many channels."""
    match config.name:
        case "strided":
            return Discriminator(image_channels, config.width, config.norm, config.edge)
        case "patch":
            return PatchDiscriminator(image_channels, config.width, config.norm, config.edge)
        case "critic":
            return Critic(image_channels, config.width, config.edge)
