"""Everything that a training run has to bring back when it resumes."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from igll.config import Config, TrainConfig, build_config
from igll.distributed import is_writer
from igll.engine.checkpoint import load_checkpoint, save_checkpoint
from igll.engine.finite import FiniteWatch
from igll.engine.restoring import check_moments, check_progress, check_weights, load_moments, load_weights
from igll.engine.trained import differing_settings
from igll.errors import InputError, NumericsError
from igll.models import InpaintingNetwork
from igll.models.critics import AnyDiscriminator, PatchDiscriminator
from igll.models.discriminator import Discriminator
from igll.registry import build_discriminator, build_generator

_OF_TRAINING_DATA_ALONE = {
    f"data.{key}" for key in ("augment", "limit", "workers", "cache_mb", "scan", "on_error")
}


@dataclass
class TrainState:
    """Everything that a checkpoint has to bring back.

    Attributes:
        generator: The network being trained.
        ema: Its running average, or None if ``train.ema_decay`` is 0.
        discriminator: None if no adversarial term has a weight.
        generator_optimizer: Adam or AdamW over the generator.
        discriminator_optimizer: The same over the discriminator.
        step: Finished training steps.
        best: Best hole PSNR on the validation images so far, in dB.
        watch: Notices losses and gradients that are not finite; the optimisers ask it before an update.
    """

    generator: InpaintingNetwork
    ema: InpaintingNetwork | None
    discriminator: AnyDiscriminator | None
    generator_optimizer: torch.optim.Adam
    discriminator_optimizer: torch.optim.Adam | None
    step: int = 0
    best: float = -math.inf
    watch: FiniteWatch = field(init=False)

    def __post_init__(self) -> None:
        """Let both optimisers stand still once something is not finite."""
        self.watch = FiniteWatch(self._device)
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            if optimizer is not None:
                vars(optimizer)["found_inf"] = self.watch.broken

    @property
    def _device(self) -> torch.device:
        return next(self.generator.parameters()).device

    @property
    def evaluated(self) -> InpaintingNetwork:
        """The weights that evaluation uses."""
        return self.ema or self.generator

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "ema": self.ema,
            "discriminator": self.discriminator,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    def settle(self) -> None:
        """Look at the numbers of all steps so far; waits for the device.

        Raises:
            NumericsError: If one was not finite; ``step`` is then the last step before it, and so are the
                networks, but for a discriminator that was updated in that step before.
        """
        failure = self.watch.failure()
        if failure is not None:
            self.step = failure.step
            raise NumericsError(failure.message)

    def save(self, path: Path, config: Config, previous: Path | None = None) -> None:
        """Write a checkpoint; the one at ``path`` is called ``previous`` from then on, if that is given.

        Raises:
            NumericsError: Instead, if a step since the last look was not finite.
            OutputError: If it cannot be written; what was there is untouched.
        """
        self.settle()
        parts = {name: part.state_dict() for name, part in self._parts().items() if part is not None}
        rest = {"config": config.model_dump(), "step": self.step, "best": self.best}
        if self._device.type == "cuda":
            rest["cuda_random_state"] = torch.cuda.get_rng_state(self._device)
        save_checkpoint(path, {**parts, **rest, "random_state": torch.get_rng_state()}, previous)

    def load(self, path: Path, config: Config, device: torch.device) -> None:
        """Continue from a checkpoint of the same model; the best score only on the same validation images.

        Raises:
            DamagedCheckpointError: If it is not as it was written; nothing is changed then.
            InputError: If it cannot be read or belongs to another model.
        """
        saved = load_checkpoint(path, device)
        earlier = build_config(saved["config"], source=str(path))
        if "generator_optimizer" not in saved:
            raise InputError(f"{path}: holds weights alone, which cannot be resumed")
        if differing := differing_settings(earlier.model, config.model):
            raise InputError(
                f"{path}: was trained with other model settings ({differing}); use the run's own config.yaml"
            )
        changed = _changed_settings(earlier, config)
        other_images = any(map(_decides_validation, changed))
        _announce(changed, other_images)
        # All of it is looked at first, so that there is no half resumed run.
        check_progress(saved, str(path))
        for name, part in self._parts().items():
            if (part is None) != (name not in saved):
                raise InputError(f"{path}: was trained with other losses or train.ema_decay ({name} differs)")
            if isinstance(part, nn.Module):
                check_weights(part, saved[name], str(path))
            elif part is not None:
                check_moments(part, saved[name], str(path))
        for name, part in self._parts().items():
            if isinstance(part, nn.Module):
                load_weights(part, saved[name], str(path))
            elif part is not None:
                load_moments(part, saved[name], str(path))
        self.step, self.best = saved["step"], -math.inf if other_images else saved["best"]
        torch.set_rng_state(saved["random_state"].cpu())
        if device.type == "cuda" and "cuda_random_state" in saved:
            torch.cuda.set_rng_state(saved["cuda_random_state"].cpu(), device)


def build_state(config: Config, device: torch.device, initial: dict[str, Tensor] | None = None) -> TrainState:
    """Fresh networks and optimisers, initialised from torch's global generator.

    Args:
        config: What is being trained.
        device: Where.
        initial: Weights of the generator and of its average, instead of random ones.

    Raises:
        InputError: If the losses ask for what the discriminator does not have, the crops are too small for
            it, or the weights do not fit.
    """
    generator = build_generator(config.model).to(device)
    if initial is not None:
        load_weights(generator, initial, f"train.init: {config.train.init}")
    ema = None
    if config.train.ema_decay:
        ema = build_generator(config.model).to(device).eval().requires_grad_(False)
        ema.load_state_dict(generator.state_dict())
    discriminator = discriminator_optimizer = None
    if config.losses.adversarial or config.losses.feature_matching:
        _check_discriminator(config)
        settings = config.discriminator.model_copy(update={"edge": judges_edges(config)})
        discriminator = build_discriminator(settings, config.model.image_channels).to(device)
        if device.type == "cuda":
            # What tensor cores read; on the CPU oneDNN's own layouts are quicker.
            discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        discriminator_optimizer = _adam(discriminator, config.train)
    optimizer = _adam(generator, config.train)
    return TrainState(generator, ema, discriminator, optimizer, discriminator_optimizer)


def _check_discriminator(config: Config) -> None:
    """Refuse losses that the configured discriminator cannot serve, and crops that it cannot see."""
    losses, judge, crop = config.losses, config.discriminator, config.data.crop_size
    if judge.name == "patch" and crop < PatchDiscriminator.SMALLEST_SIDE:
        raise InputError(
            f"data.crop_size: discriminator.name=patch judges crops of {PatchDiscriminator.SMALLEST_SIDE} "
            f"pixels or more, not {crop}; enlarge it, or use discriminator.name=strided"
        )
    small = judge.name == "strided" and crop < Discriminator.LEAST_ALONE
    if small and judge.norm == "batch" and config.train.batch_size == 1:
        raise InputError(
            f"discriminator.norm: batch cannot normalise what is left of one crop of {crop} × {crop} pixels; "
            f"use train.batch_size=2 or more, data.crop_size={Discriminator.LEAST_ALONE} or more, or spectral"
        )
    if losses.feature_matching and losses.feature_matching_of == "local" and judge.name != "strided":
        raise InputError(
            f"losses.feature_matching_of: discriminator.name={judge.name} has no local net; "
            "use all, or discriminator.name=strided"
        )
    penalised = losses.adversarial_form == "wasserstein" and losses.gradient_penalty
    if penalised and judge.norm == "batch" and judge.name != "critic":
        raise InputError(
            "discriminator.norm: batch mixes images, which losses.gradient_penalty takes one by one; "
            "use spectral or none, or losses.gradient_penalty=0"
        )


def _adam(network: nn.Module, config: TrainConfig) -> torch.optim.Adam:
    first, second = config.betas
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(
        network.parameters(),
        config.lr,
        (first, second),
        weight_decay=config.weight_decay,
        fused=True,
    )


def _changed_settings(earlier: Config, config: Config) -> list[str]:
    """Which settings differ from those that the run was started with."""
    before, now = flat(earlier.model_dump()), flat(config.model_dump())
    return [key for key, value in now.items() if before[key] != value]


def _decides_validation(key: str) -> bool:
    """Whether scores before and after a change of a setting are of other validation images."""
    return key == "train.eval_images" or (
        key.startswith(("data.", "mask.")) and key not in _OF_TRAINING_DATA_ALONE
    )


def _announce(changed: list[str], other_images: bool) -> None:
    """Say which settings changed, and what comes of it."""
    if changed and is_writer():
        note = "; other validation images, so best.pt is chosen anew" if other_images else ""
        print(f"resuming with other settings than before: {', '.join(changed)}{note}", file=sys.stderr)


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Nested settings as one mapping with dotted keys."""
    pairs: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            pairs |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            pairs[key] = value
    return pairs


def judges_edges(config: Config) -> bool:
    """Whether the discriminator sees edges: it cannot where the model does without any."""
    return config.discriminator.edge and config.model.structure_prior != "none"
