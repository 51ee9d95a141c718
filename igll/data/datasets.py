"""Samples for training and testing: crop, augmentation, hole and edge map of a scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from igll.config import Config, DataConfig, MaskConfig
from igll.data.bands import complete_corners, marked_in_squares, missing_pixels
from igll.data.edge_cache import EdgeCache
from igll.data.files import printable
from igll.data.masks import make_mask
from igll.data.sampler import SampleKey
from igll.data.scene_store import SceneStore, to_unit
from igll.data.sources import AID, RICE, ClearView, ImageFolder, Scene, SceneSource, Synthetic
from igll.data.splits import Part, split_names
from igll.data.stand_ins import first_usable
from igll.errors import InputError

TEST_ORIGIN = 50  # row and column at which the paper protocol's test crop starts
# First word of each random stream's seed, so that no two decisions share random numbers.
CROP, MASK, TEST_MASK = range(3)  # the next is the sampler's ORDER


class Sample(TypedDict, total=False):
    """What a dataset returns; a batch has the same keys with a leading dimension.

    Keys:
        image: input_CHW in [-1, 1], hole not yet cut out.
        target: target_CHW in [-1, 1]; equal to ``image`` unless the data comes in pairs.
        mask: mask_1HW, 1 = missing.
        edge: edge_1HW in [0, 1] of the ground truth, if edges are in use.
        index: Position in the dataset, of the stand-in if there is one.
        unusable: Of training samples with ``data.on_error=skip``: which image stands in for which, see
            :mod:`igll.data.stand_ins`; empty if none does.
    """

    image: Tensor
    target: Tensor
    mask: Tensor
    edge: Tensor
    index: int
    unusable: str


@dataclass
class InpaintingDataset(Dataset[Sample]):
    """Scenes of one part of a source, cut to crops with holes.

    Indexed by a :class:`SampleKey` it gives a random training sample, by a plain int the fixed test
    sample of that scene.

    Attributes:
        source: Where scenes come from.
        indices: The scenes of this part.
        data: Crop rules.
        mask: Hole rules.
        seed: Seed of crops, flips and holes in training.
        edges: Cache of ground-truth edge maps, or None if no edges are in use.
        store: Decoded scenes, or None if every sample is read from its file.
    """

    source: SceneSource
    indices: list[int]
    data: DataConfig
    mask: MaskConfig
    seed: int
    edges: EdgeCache | None = None
    store: SceneStore | None = None

    def __len__(self) -> int:
        """Number of scenes in this part."""
        return len(self.indices)

    def name(self, index: int) -> str:
        """Name of a scene, for people and files."""
        return printable(self.source.names[self.indices[index]])

    def __getitem__(self, key: SampleKey | int) -> Sample:
        """Return one sample; only training samples ever have a stand-in."""
        if not isinstance(key, SampleKey):
            return self._sample(key, key)
        if self.data.on_error == "error":
            return self._sample(key.image, key)
        sample, replacement = first_usable(
            self.name, len(self), key.image, lambda index: self._sample(index, key)
        )
        sample["unusable"] = replacement.encode()
        return sample

    def _sample(self, index: int, key: SampleKey | int) -> Sample:
        """The sample of an image; crop, flips and hole are the key's own, whichever image stands in."""
        kept = None if self.store is None else self.store.get(index)
        layers: list[NDArray[Any]] = list(self._layers(index)) if kept is None else list(kept)
        if self.store is not None and kept is None:
            self.store.put(index, layers)
        if isinstance(key, SampleKey):
            layers = self._train_crop(layers, key, index)
        else:
            layers = self._test_crop(layers, index)
        if kept is not None:
            layers = [to_unit(layer) for layer in layers]
        mask_HW1 = (
            layers.pop() if self._bring_mask(layers) else self._made_mask(key)[..., None].astype(np.float32)
        )
        sample = Sample(
            image=_signed(layers[0]), target=_signed(layers[1]), mask=_to_tensor(mask_HW1), index=index
        )
        if self.edges is not None:
            sample["edge"] = _to_tensor(layers[2])
        return sample

    def keep_scenes(self) -> None:
        """Keep decoded scenes from now on, within ``data.cache_mb``; before loader processes start."""
        if self.data.cache_mb and self.store is None:
            if self.data.on_error == "error":
                layers = self._layers(0)
            else:
                layers, _ = first_usable(self.name, len(self), 0, self._layers)
            self.store = SceneStore(len(self), layers, self.data.cache_mb)

    def _layers(self, index: int) -> list[NDArray[np.float32]]:
        """Input, target, edge map if edges are in use, and mask if the dataset brings it; (H, W, C)."""
        scene = self.source.load(self.indices[index])
        layers = [scene.input_HWC, scene.target_HWC]
        if self.edges is not None:
            layers.append(self._edge_map(self.edges, scene, index))
        if scene.mask_HW is not None:
            layers.append(scene.mask_HW[..., None].astype(np.float32))
        return layers

    def _bring_mask(self, layers: list[NDArray[Any]]) -> bool:
        """Whether the last layer is the dataset's own mask."""
        return len(layers) > 2 + (self.edges is not None)

    def checked_scene(self, index: int) -> Scene:
        """Read a scene and see that a crop can be taken of it.

        Raises:
            InputError: It cannot be used, for whatever reason.
        """
        scene = self.source.load(self.indices[index])
        self._check_scene(scene, index)
        return scene

    def _check_scene(self, scene: Scene, index: int) -> None:
        self.check_size(scene.target_HWC.shape[0], scene.target_HWC.shape[1], index)
        self.complete_corners(scene.target_HWC, index)

    def _edge_map(self, edges: EdgeCache, scene: Scene, index: int) -> NDArray[np.float32]:
        try:
            return edges.load(scene.edge_source_HWC, self.name(index))[..., None]
        except InputError:
            self._check_scene(scene, index)  # what is to blame if no map was made for this reason
            raise

    def check_size(self, height: int, width: int, index: int) -> None:
        """Refuse a scene that is smaller than the crop.

        Raises:
            InputError: Naming it.
        """
        crop = self.data.crop_size
        if height < crop or width < crop:
            raise InputError(
                f"{self.name(index)}: is {width}×{height} pixels, smaller than data.crop_size={crop}; "
                "take it out of the folder or choose a smaller crop"
            )

    def complete_corners(self, image_HWC: NDArray[Any], index: int) -> NDArray[np.int64] | None:
        """Where crops may start that hold no missing pixel: corners_N2, or None if no pixel is missing.

        Raises:
            InputError: There is no such crop; naming the scene.
        """
        missing_HW = missing_pixels(image_HWC)
        if missing_HW is None:
            return None
        crop = self.data.crop_size
        corners_N2 = complete_corners(missing_HW, crop)
        if not len(corners_N2):
            raise InputError(
                f"{self.name(index)}: {missing_HW.mean():.1%} of its pixels are missing (nodata, NaN, mask), "
                f"some in every crop of data.crop_size={crop}; take it out of the folder or choose a smaller "
                "crop"
            )
        return corners_N2

    def _train_crop(self, layers: list[NDArray[Any]], key: SampleKey, index: int) -> list[NDArray[Any]]:
        """Random crop without missing pixels, flip and quarter turns, the same for every layer.

        Of a pair it is a crop that holds some of the hole, if the pair has one.
        """
        rng = np.random.default_rng([self.seed, CROP, key.epoch, key.image])
        (height, width), crop = layers[0].shape[:2], self.data.crop_size
        self.check_size(height, width, index)
        corners_N2 = self.complete_corners(layers[1], index)
        if self.data.use == "pairs" and self._bring_mask(layers) and layers[-1].any():
            corners_N2 = np.argwhere(marked_in_squares(layers[-1][..., 0] > 0, crop))
        if corners_N2 is None:
            top, left = rng.integers(height - crop + 1), rng.integers(width - crop + 1)
        else:
            top, left = corners_N2[rng.integers(len(corners_N2))]
        layers = [layer[top : top + crop, left : left + crop] for layer in layers]
        if not self.data.augment:
            return layers
        flip, turns = bool(rng.integers(2)), int(rng.integers(4))
        return [np.rot90(layer[:, ::-1] if flip else layer, turns) for layer in layers]

    def _test_crop(self, layers: list[NDArray[Any]], index: int) -> list[NDArray[Any]]:
        """The paper's test crop starts at (50, 50), or as near to it as the image allows; or the centre.

        Of a scene with missing pixels it is the nearest crop without.
        """
        (height, width), crop = layers[0].shape[:2], self.data.crop_size
        self.check_size(height, width, index)
        top, left = (height - crop) // 2, (width - crop) // 2
        if self.data.test_crop == "paper":
            top, left = min(TEST_ORIGIN, height - crop), min(TEST_ORIGIN, width - crop)
        corners_N2 = self.complete_corners(layers[1], index)
        if corners_N2 is not None:
            top, left = corners_N2[np.square(corners_N2 - (top, left)).sum(1).argmin()]
        return [layer[top : top + crop, left : left + crop] for layer in layers]

    def _made_mask(self, key: SampleKey | int) -> NDArray[np.bool_]:
        """A hole made to order; in training, the paper protocol has one position per batch."""
        placement: str = self.mask.placement
        # Numbered in the whole dataset, so that an image keeps its hole when others are left out.
        scene = self.indices[key.image if isinstance(key, SampleKey) else key]
        crop = self.data.crop_size
        if not isinstance(key, SampleKey):
            return fixed_mask(self.mask, crop, self.data.split_seed, scene)
        if placement == "paper" and self.mask.kind == "square":
            rng, placement_name = np.random.default_rng([self.seed, MASK, key.step]), "paper_train"
        else:
            rng = np.random.default_rng([self.seed, MASK, key.epoch, scene])
            placement_name = "random" if placement == "paper" else placement
        return _draw(self.mask, crop, rng, placement_name)


def fixed_mask(mask: MaskConfig, crop: int, seed: int, scene: int) -> NDArray[np.bool_]:
    """The hole of a test image.

    Args:
        mask: Hole rules; the kind is not ``files``.
        crop: Side of the crop in pixels.
        seed: The split's seed.
        scene: The image's number in the whole dataset.

    Returns:
        mask_HW, True = missing.
    """
    rng = np.random.default_rng([seed, TEST_MASK, scene])
    placement = "paper_test" if mask.placement == "paper" else mask.placement
    return _draw(mask, crop, rng, placement)


def _draw(mask: MaskConfig, crop: int, rng: np.random.Generator, placement: str) -> NDArray[np.bool_]:
    """A hole of one of the families and of the ratio, each drawn where there is a choice."""
    kind: str = mask.kind
    if kind == "mixed":
        kind = mask.families[int(rng.integers(len(mask.families)))]
    low, high = mask.ratio if isinstance(mask.ratio, list) else (mask.ratio, mask.ratio)
    ratio = low if low == high else float(rng.uniform(low, high))
    return make_mask(kind, crop, crop, ratio, rng, placement)


def _check_name(config: Config) -> None:
    """Refuse settings that do not go with ``data.name`` and would not be heeded."""
    data, channels = config.data, config.model.image_channels
    if channels not in (1, 3) and data.name not in ("folder", "synthetic"):
        raise InputError(
            f"model.image_channels: {data.name} has 1 or 3 channels, not {channels}; for files with other "
            "bands set data.name=folder"
        )
    if data.stretch and data.name != "folder":
        raise InputError(f"data.stretch: goes with data.name=folder, not {data.name}")
    if data.reference_root and (data.name != "folder" or config.model.structure_prior != "reference"):
        raise InputError(
            "data.reference_root: goes with data.name=folder and model.structure_prior=reference"
        )
    if config.mask.kind == "files" and data.name != "folder":
        raise InputError(f"mask.kind: 'files' goes with data.name=folder, not {data.name}")
    if data.use == "pairs" and data.name not in ("rice1", "rice2", "clearview"):
        raise InputError(f"data.use: 'pairs' goes with data.name=rice1, rice2 or clearview, not {data.name}")
    for key, root in (("root", data.root), ("val_root", data.val_root)):
        if root and data.name == "synthetic":
            raise InputError(
                f"data.{key}: synthetic scenes come from no folder; for the images in {root} set "
                f"data.name=folder, or leave it out (data.{key}=null)"
            )


def build_source(config: Config, part: Part) -> SceneSource:
    """Open the dataset that a configuration names.

    Raises:
        InputError: If ``data.root`` is missing, empty or not laid out as the dataset is published, or a
            setting does not go with ``data.name``.
    """
    _check_name(config)
    data, channels = config.data, config.model.image_channels
    if data.name == "synthetic":
        return Synthetic(data.synthetic_images, max(256, data.crop_size), channels)
    chosen = data.val_root if part == "test" and data.val_root else data.root
    if not chosen:
        raise InputError(
            f"data.root: data.name={data.name} needs a folder; set data.root=/path/to/{data.name}"
        )
    root = Path(chosen).expanduser()
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set data.root (or data.val_root) to where the images are")
    if config.mask.kind == "files" and not config.mask.root:
        raise InputError(
            "mask.root: mask.kind=files needs masks; set it to their folder, or to one mask for all"
        )
    masks = Path(config.mask.root).expanduser() if config.mask.kind == "files" and config.mask.root else None
    pairs = data.use == "pairs"
    match data.name:
        case "aid":
            return AID(root, channels)
        case "rice1" | "rice2":
            return RICE(root, int(data.name[-1]), pairs, channels)
        case "clearview":
            return ClearView(root, data.noise if pairs else None, channels)
        case _:
            references = Path(data.reference_root).expanduser() if data.reference_root else None
            return ImageFolder(root, channels, masks, config.mask.hole, references, data.stretch)


def build_dataset(config: Config, part: Part, edges: EdgeCache | None = None) -> InpaintingDataset:
    """Open one part of the dataset that a configuration names.

    With ``data.val_root`` set, training uses all of ``data.root`` and testing all of ``data.val_root``;
    otherwise the root is split by ``data.test_fraction`` and ``data.split_seed``.

    Raises:
        InputError: As :func:`build_source`, and if the part has no image.
    """
    data = config.data
    source = build_source(config, part)
    indices = list(range(len(source)))
    if not (data.val_root and data.name != "synthetic"):
        indices = split_names(source.names, part, data.test_fraction, data.split_seed)
    limit = data.limit if part == "train" else data.test_limit
    indices = [indices[position] for position in spread(len(indices), limit)]
    if not indices:
        raise InputError(
            f"data.test_fraction: {data.test_fraction} of {len(source)} images leaves none for the {part} "
            "part; change it, or name a folder of test images in data.val_root"
        )
    return InpaintingDataset(source, indices, data, config.mask, config.seed, edges)


def spread(count: int, limit: int | None) -> list[int]:
    """Up to ``limit`` of ``count`` positions, evenly spread: of sorted names, some of every class."""
    if limit is None or limit >= count:
        return list(range(count))
    return [(position * count) // limit for position in range(limit)]


def _signed(image_HWC: NDArray[np.float32]) -> Tensor:
    return _to_tensor(image_HWC) * 2 - 1


def _to_tensor(array_HWC: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array_HWC.transpose(2, 0, 1)))


__all__ = ["InpaintingDataset", "Sample", "Scene", "build_dataset", "build_source"]
