"""What an evaluation measured, as a name and a hash: results with different hashes are not comparable."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from igll.config import Config
from igll.data.datasets import InpaintingDataset, Sample
from igll.data.masks import mask_bytes
from igll.data.sources import ImageFolder
from igll.engine.edge_maps import sees_ground_truth_edges
from igll.errors import InputError

TASK_PARTS = ("images", "crop", "masks", "metrics")
METRICS_VERSION = 1  # count up whenever a metric's definition changes

Part = Mapping[str, Any]


@dataclass(frozen=True)
class Protocol:
    """Everything but the method that changes a number.

    The four parts of the task must agree before two methods may be compared; what a method is given to
    know of the structure is its own, and is marked.

    Attributes:
        name: For people, such as ``aid-square25-paper256-oracle``. Not part of the hashes, as it holds
            the name that a folder happens to have.
        images: Count, and SHA-256 of the names and of the pixels of all test images as they were cut.
        crop: Size and rule of the test crop.
        masks: SHA-256 of the masks themselves, in the order of the images. How they were made is no part.
        metrics: Names and definitions.
        structure: The structure prior, whose edges are fed to the network, and by what detector.
    """

    name: str
    images: Part
    crop: Part
    masks: Part
    metrics: Part
    structure: Part

    @property
    def task_sha256(self) -> str:
        """Hash of images, crop, masks and metrics."""
        return _sha256({part: getattr(self, part) for part in TASK_PARTS})

    @property
    def sha256(self) -> str:
        """Hash of the task and the structure prior."""
        return _sha256({"task": self.task_sha256, "structure": self.structure})

    @property
    def oracle(self) -> bool:
        """Whether the network was given edges of the ground truth."""
        return self.structure.get("edges_of") == "ground truth"

    def to_json(self) -> dict[str, Any]:
        """Name, hashes and parts, as they stand in ``metrics.json``."""
        parts = {part: dict(getattr(self, part)) for part in (*TASK_PARTS, "structure")}
        return {"name": self.name, "task_sha256": self.task_sha256, "sha256": self.sha256, "parts": parts}

    @classmethod
    def from_json(cls, stored: Any, source: str) -> Protocol:
        """Read back what :meth:`to_json` gave.

        Args:
            stored: The mapping.
            source: What an error calls its origin.

        Raises:
            InputError: It is incomplete, or a hash is not that of the parts.
        """
        try:
            parts = {field.name: stored["parts"][field.name] for field in fields(cls) if field.name != "name"}
            protocol = cls(str(stored["name"]), **parts)
            hashes = {key: stored[key] for key in ("task_sha256", "sha256")}
        except (KeyError, TypeError):
            raise InputError(f"{source}: has no complete protocol; evaluate again") from None
        if not all(isinstance(part, dict) for part in parts.values()):
            raise InputError(f"{source}: has no complete protocol; evaluate again")
        for key, value in hashes.items():
            if value != getattr(protocol, key):
                raise InputError(
                    f"{source}: protocol.{key} is {str(value)[:12]}, but its parts hash to "
                    f"{getattr(protocol, key)[:12]}; the file was changed, evaluate again"
                )
        return protocol

    def differences(self, other: Protocol) -> list[str]:
        """What of the task differs from another's, one phrase per part that has to be made equal."""
        found = []
        if self.images["names_sha256"] != other.images["names_sha256"]:
            found.append(f"images ({self.images['count']} and {other.images['count']}, other names)")
        if self.crop != other.crop:
            found.append(f"crop ({_words(self.crop)} and {_words(other.crop)})")
        if not found and self.images != other.images:
            found.append("images (equal names, other pixels)")
        # Other images or crops have other masks for that reason alone.
        if not found and self.masks != other.masks:
            found.append("masks")
        if self.metrics != other.metrics:
            keys = sorted(self.metrics.keys() | other.metrics.keys())
            changed = [key for key in keys if self.metrics.get(key) != other.metrics.get(key)]
            found.append(f"metrics ({', '.join(changed)})")
        return found


class ProtocolRecorder:
    """Follows an evaluation and hashes what is measured, however it is cut into batches."""

    def __init__(self) -> None:
        self._pixels, self._masks = hashlib.sha256(), hashlib.sha256()

    def add(self, sample: Sample) -> None:
        """Take note of a batch, in the order of the dataset."""
        for image_CHW, target_CHW, mask_1HW in zip(
            sample["image"], sample["target"], sample["mask"], strict=True
        ):
            for picture_CHW in (image_CHW, target_CHW):
                self._pixels.update(f"{tuple(picture_CHW.shape)}".encode())
                self._pixels.update(_sixteen_bits(picture_CHW))
            self._masks.update(mask_bytes(mask_1HW[0].numpy() > 0.5))

    def protocol(self, dataset: InpaintingDataset, config: Config) -> Protocol:
        """The protocol of an evaluation of all that was added.

        Args:
            dataset: The test images; edge maps, if it has any, are those fed to the network.
            config: With the checkpoint's own model settings.
        """
        names = [dataset.name(index) for index in range(len(dataset))]
        metrics = config.eval.metrics
        return Protocol(
            name=_name(config),
            images={
                "count": len(names),
                "names_sha256": names_sha256(names),
                "pixels_sha256": self._pixels.hexdigest(),
            },
            crop={"size": config.data.crop_size, "rule": config.data.test_crop},
            masks={"sha256": self._masks.hexdigest()},
            metrics={
                "names": sorted(metrics),
                "lpips_net": config.eval.lpips_net if "lpips" in metrics else None,
                "measured_on": "8-bit composites",
                "version": METRICS_VERSION,
            },
            structure=_structure(dataset, config),
        )


def names_sha256(names: list[str]) -> str:
    """SHA-256 of image names in their order."""
    return _sha256(names)


def _structure(dataset: InpaintingDataset, config: Config) -> dict[str, Any]:
    """What the network is given to know of the structure in the hole."""
    prior = config.model.structure_prior
    if dataset.edges is None:
        return {"prior": prior, "edges_of": "nothing"}
    fed = {"prior": prior, "detector": dataset.edges.fingerprint}
    if sees_ground_truth_edges(config):
        return {**fed, "edges_of": "ground truth"}
    content = hashlib.sha256()
    if isinstance(dataset.source, ImageFolder) and dataset.source.references is not None:
        for index in dataset.indices:
            content.update(hashlib.sha256(dataset.source.references[index].read_bytes()).digest())
    return {**fed, "edges_of": "reference images", "references_sha256": content.hexdigest()}


def _name(config: Config) -> str:
    """Data, holes, crop and structure prior in one word."""
    data, mask = config.data, config.mask
    folder = data.val_root or data.root
    name = Path(folder).expanduser().resolve().name if data.name == "folder" and folder else data.name
    if data.use == "pairs":
        holes = f"pairs_{data.noise}" if data.name == "clearview" else "pairs"
    elif mask.kind == "files":
        holes = "files"
    else:
        bounds = mask.ratio if isinstance(mask.ratio, list) else [mask.ratio]
        holes = mask.kind + "to".join(f"{100 * ratio:.0f}" for ratio in bounds)
        if mask.kind == "square" and mask.placement != "paper":
            holes += f"_{mask.placement}"
    words = [name, holes, f"{data.test_crop}{data.crop_size}", config.model.structure_prior]
    return "-".join(re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_") for word in words)


def _sixteen_bits(image_CHW: Tensor) -> bytes:
    """An image in [-1, 1] as whole numbers, so that a last digit's rounding does not change its hash."""
    return np.rint((image_CHW.double().numpy() + 1) * 32767.5).astype("<u2").tobytes()


def _words(part: Part) -> str:
    return " ".join(str(value) for value in part.values())


def _sha256(content: Any) -> str:
    """Hash of JSON content in its one canonical form."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
