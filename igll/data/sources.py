"""Where images come from: one class per published layout, each a list of named scenes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from igll.data.bands import read_bands, require_rasterio
from igll.data.files import list_images, match_by_stem, read_image, read_mask
from igll.data.synthetic import render_scene
from igll.errors import InputError

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """One image, before crops and made masks.

    Attributes:
        target_HWC: Ground truth in [0, 1]; NaN where a raster has no value.
        input_HWC: What the model is given outside the hole; the ground truth itself unless the dataset
            is used in pairs.
        mask_HW: True = missing, where the dataset brings its own hole.
        reference_HWC: Another image of the same place, whose edges stand in for the ground truth's.
    """

    target_HWC: Image
    input_HWC: Image
    mask_HW: NDArray[np.bool_] | None = None
    reference_HWC: Image | None = None

    @property
    def edge_source_HWC(self) -> Image:
        """The image whose edge map is used: the reference if there is one, else the ground truth."""
        return self.target_HWC if self.reference_HWC is None else self.reference_HWC


class SceneSource(ABC):
    """A list of scenes.

    Attributes:
        names: One name per scene, relative to the root and without suffix where that is unique.
    """

    names: list[str]

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.names)

    @abstractmethod
    def load(self, index: int) -> Scene:
        """Read one scene.

        Raises:
            InputError: If a file cannot be read or does not fit its partner.
        """


class ImageFolder(SceneSource):
    """Any mix of image files below a folder, masks made or read from another folder.

    Grey and RGB are read as pictures, by Pillow; other numbers of bands, and any with a stretch, by rasterio.

    Args:
        root: Folder of images, searched recursively.
        channels: Image channels wanted.
        masks: Folder of masks matched by stem, or one mask file for all; None where masks are made.
        hole: Colour of missing pixels in those masks.
        references: Folder of images of the same places at another time, matched by stem.
        stretch: Raw values that become 0 and 1, see :func:`igll.data.bands.read_bands`.
    """

    def __init__(
        self,
        root: Path,
        channels: int = 3,
        masks: Path | None = None,
        hole: str = "white",
        references: Path | None = None,
        stretch: Sequence[float] | None = None,
    ) -> None:
        self.channels, self.hole, self.stretch = channels, hole, stretch
        self.rasters = channels not in (1, 3) or stretch is not None
        if self.rasters:
            require_rasterio()
        self.paths = list_images(root)
        self.names = [path.relative_to(root).as_posix() for path in self.paths]
        self.masks = None if masks is None else match_by_stem(self.paths, root, masks)
        self.references = (
            None if references is None else match_by_stem(self.paths, root, references, "reference")
        )

    def load(self, index: int) -> Scene:
        """Read one image, with its mask and its reference if the folder has them."""
        path = self.paths[index]
        image_HWC, mask_HW, reference_HWC = self._read(path), None, None
        if self.masks is not None:
            mask_HW = read_mask(self.masks[index], self.hole)
            _same_size(self.masks[index], mask_HW, path, image_HWC)
        if self.references is not None:
            reference_HWC = self._read(self.references[index])
            _same_size(self.references[index], reference_HWC, path, image_HWC)
            image_HWC[np.isnan(reference_HWC[..., 0])] = np.nan  # no crop is to hold what either lacks
        return Scene(image_HWC, image_HWC, mask_HW, reference_HWC)

    def _read(self, path: Path) -> Image:
        if self.rasters:
            return read_bands(path, self.channels, self.stretch)
        return read_image(path, self.channels)


class AID(ImageFolder):
    """AID (Xia et al. 2017): ``ROOT/CLASS/name.jpg``, 30 scene classes at 600 × 600."""

    def __init__(self, root: Path, channels: int = 3) -> None:
        super().__init__(root, channels)
        flat = [name for name in self.names if "/" not in name]
        if flat:
            raise InputError(
                f"{root}: '{flat[0]}' is not in a class folder; AID's layout is ROOT/CLASS/name.jpg "
                "(for any other layout set data.name=folder)"
            )


class RICE(SceneSource):
    """RICE1 and RICE2 (Lin et al. 2019): ``ROOT/label`` and ``ROOT/cloud``, RICE2 also ``ROOT/mask``.

    Used as ``label``, the clear images stand alone and masks are made: the paper's tables. Used in
    ``pairs``, the cloudy image is the input, the clear one the ground truth and the cloud the hole; the
    two uses answer different questions and never share a table.

    Args:
        root: Folder that holds ``label`` and, in pairs, ``cloud``.
        version: 1 finds the cloud in the pair's difference; 2 reads its own masks.
        pairs: Cloud removal instead of made masks.
        channels: Image channels wanted.
    """

    def __init__(self, root: Path, version: int, pairs: bool = False, channels: int = 3) -> None:
        self.channels, self.version = channels, version
        self.clear = list_images(_part(root, "label", f"rice{version}"))
        label_root = root / "label"
        self.names = [path.relative_to(label_root).with_suffix("").as_posix() for path in self.clear]
        self.cloudy = (
            match_by_stem(self.clear, label_root, _part(root, "cloud", f"rice{version}"), "cloudy image")
            if pairs
            else None
        )
        self.masks = None
        if pairs and version == 2:
            self.masks = match_by_stem(self.clear, label_root, _part(root, "mask", "rice2"))

    def load(self, index: int) -> Scene:
        """Read the clear image, or the pair and its cloud mask."""
        clear_HWC = read_image(self.clear[index], self.channels)
        if self.cloudy is None:
            return Scene(clear_HWC, clear_HWC)
        cloudy_HWC = read_image(self.cloudy[index], self.channels)
        _same_size(self.cloudy[index], cloudy_HWC, self.clear[index], clear_HWC)
        if self.masks is None:
            return Scene(clear_HWC, cloudy_HWC, cloud_from_difference(clear_HWC, cloudy_HWC))
        mask_HW = read_mask(self.masks[index], "white")
        _same_size(self.masks[index], mask_HW, self.clear[index], clear_HWC)
        return Scene(clear_HWC, cloudy_HWC, mask_HW)


class ClearView(SceneSource):
    """Clear-View (Bhattacharya et al.): clear scenes and their damaged forms, in folders side by side.

    ``ROOT/clear`` and, for use in pairs, ``ROOT/salt_pepper``, ``ROOT/slc_off`` or ``ROOT/cloud`` with
    equal file names. The hole of a pair is where the two images differ.

    Args:
        root: Folder that holds ``clear``.
        noise: Damage to use in pairs, or None for the clear images with made masks.
        channels: Image channels wanted.
    """

    def __init__(self, root: Path, noise: str | None = None, channels: int = 3) -> None:
        self.channels, self.noise = channels, noise
        clear_root = _part(root, "clear", "clearview")
        self.clear = list_images(clear_root)
        self.names = [path.relative_to(clear_root).with_suffix("").as_posix() for path in self.clear]
        self.damaged = (
            None
            if noise is None
            else match_by_stem(self.clear, clear_root, _part(root, noise, "clearview"), "damaged image")
        )

    def load(self, index: int) -> Scene:
        """Read the clear image, or the pair."""
        clear_HWC = read_image(self.clear[index], self.channels)
        if self.damaged is None:
            return Scene(clear_HWC, clear_HWC)
        damaged_HWC = read_image(self.damaged[index], self.channels)
        _same_size(self.damaged[index], damaged_HWC, self.clear[index], clear_HWC)
        if self.noise == "cloud":
            return Scene(clear_HWC, damaged_HWC, cloud_from_difference(clear_HWC, damaged_HWC))
        return Scene(clear_HWC, damaged_HWC, np.abs(clear_HWC - damaged_HWC).max(2) > 8 / 255)


class Synthetic(SceneSource):
    """Embedded procedural scenes: always at hand, the same for everyone.

    One band is grey, and two are red and green. Bands from the fourth on are mixtures of red, green and blue
    in fixed shares: they try out the number of bands, and stand for no part of the spectrum.

    Args:
        count: Number of scenes.
        size: Side in pixels.
        channels: Image channels wanted.
        seed: First scene's seed; scene i has seed + i.
    """

    def __init__(self, count: int, size: int, channels: int = 3, seed: int = 0) -> None:
        self.size, self.channels, self.seed = size, channels, seed
        self.names = [f"synthetic-{seed + index:05d}" for index in range(count)]
        self._rendered: dict[int, Image] = {}

    def load(self, index: int) -> Scene:
        """Render one scene; each is rendered once and kept."""
        if index not in self._rendered:
            levels_HWC = render_scene(self.seed + index, self.size)
            if self.channels > 3:
                levels_HWC = np.concatenate([levels_HWC, _mixtures(levels_HWC, self.channels - 3)], 2)
            scene_HWC = levels_HWC.astype(np.float32) / np.float32(255)
            grey = self.channels == 1
            self._rendered[index] = (
                scene_HWC.mean(2, np.float32, keepdims=True) if grey else scene_HWC[..., : self.channels]
            )
        image_HWC = self._rendered[index]
        return Scene(image_HWC, image_HWC)


def _mixtures(levels_HW3: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Weighted means of red, green and blue, no two alike: (H, W, count)."""
    golden = (5**0.5 - 1) / 2
    turns_N3 = golden * np.arange(1, count + 1)[:, None] + np.arange(3) / 3
    shares_N3 = (1 + np.cos(2 * np.pi * turns_N3)) / 3  # each row adds up to 1
    return np.rint(levels_HW3 @ shares_N3.T).astype(np.uint8)


def cloud_from_difference(clear_HWC: Image, cloudy_HWC: Image, threshold: float = 0.08) -> NDArray[np.bool_]:
    """Find the cloud of a pair: where the cloudy image is no mere haze over the clear one.

    Even haze maps each band's brightness by one straight line (light through it, plus light from it) and
    hides nothing. The line is fitted to the quarter of the pixels in which the images differ least; what is
    much brighter than it says is cloud. That is smoothed, thresholded, freed of specks by an opening and
    widened by 5 pixels, because a cloud's rim is thinner than its threshold shows. Shadows do not count.

    Args:
        clear_HWC: Clear image in [0, 1].
        cloudy_HWC: Cloudy image of the same place and size.
        threshold: Smallest mean height above the line that counts, in units of the full range.

    Returns:
        mask_HW, True = cloud.
    """
    difference_HW = np.abs(clear_HWC - cloudy_HWC).mean(2)
    calm_HW = difference_HW <= np.quantile(difference_HW, 0.25)
    height_HW = np.zeros_like(difference_HW)
    for clear_HW, cloudy_HW in zip(np.moveaxis(clear_HWC, 2, 0), np.moveaxis(cloudy_HWC, 2, 0), strict=True):
        spread = clear_HW[calm_HW].var()
        slope = np.cov(clear_HW[calm_HW], cloudy_HW[calm_HW])[0, 1] / spread if spread > 1e-6 else 1.0
        haze_HW = cloudy_HW[calm_HW].mean() + slope * (clear_HW - clear_HW[calm_HW].mean())
        height_HW += (cloudy_HW - haze_HW) / clear_HWC.shape[2]
    smooth_HW = ndimage.gaussian_filter(height_HW, 1.5)
    opened_HW = ndimage.binary_opening(smooth_HW > threshold, iterations=2)
    return np.asarray(ndimage.binary_dilation(opened_HW, iterations=5), dtype=bool)


def _part(root: Path, name: str, dataset: str) -> Path:
    folder = root / name
    if not folder.is_dir():
        raise InputError(f"{root}: has no folder '{name}', which data.name={dataset} needs")
    return folder


def _same_size(path: Path, array: NDArray[np.generic], other: Path, reference: NDArray[np.generic]) -> None:
    if array.shape[:2] != reference.shape[:2]:
        size, wanted = _size(array.shape), _size(reference.shape)
        raise InputError(f"{path}: is {size} pixels, but {other} is {wanted}; they must have the same size")


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}×{shape[0]}"
