"""Frozen VGG features for the perceptual and style losses (section 3.6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from igll.errors import InputError
from igll.losses.precision import full_precision

Backbone = Literal["vgg19", "vgg16"]
Normalisation = Literal["auto", "imagenet", "caffe", "unit", "signed"]

PERCEPTUAL_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE_LAYERS = ("relu2_2", "relu3_3", "relu4_3", "relu5_2")

_CHANNELS = (64, 128, 256, 512, 512)
_CONVOLUTIONS: dict[Backbone, tuple[int, ...]] = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}

# Mean and standard deviation of the RGB input in [0, 1] that the weights were trained for.
_STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
    # What peers feed although the weights were trained for imagenet's: [0, 1] and [-1, 1] as they are.
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "signed": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class _Published(NamedTuple):
    """One file of torchvision's, its normalisation, and the first row of its first filter's red plane."""

    backbone: Backbone
    name: str
    normalisation: Literal["imagenet", "caffe"]
    first_row: tuple[float, float, float]


# In the order in which the cache is searched. Both kinds have first filters of one size although their
# inputs differ 58 times in scale, so no statistic of the weights tells them apart: their values do.
_PUBLISHED = (
    _Published("vgg19", "vgg19-dcbb9e9d.pth", "imagenet", (-0.0535, -0.0493, -0.0679)),
    _Published("vgg16", "vgg16_features-amdegroot-88682ab5.pth", "caffe", (0.4800, 0.4084, -0.0651)),
    _Published("vgg16", "vgg16-397923af.pth", "imagenet", (-0.5537, 0.1427, 0.5290)),
)
_ADDRESS = "https://download.pytorch.org/models/"
_HALF_PRECISION_ROUNDING = 1e-3


class VGGFeatures(nn.Module):
    """The convolutions of VGG16 or VGG19 (Simonyan & Zisserman 2015), frozen, with named activations.

    Args:
        backbone: ``vgg19`` (the paper's) or ``vgg16``.
        weights: State dict with torchvision's names (``features.0.weight`` …), ``.safetensors`` or
            ``.pth``; other entries are ignored. None takes torchvision's file from the torch hub cache.
        allow_download: Fetch torchvision's file into the cache where it is missing.
        normalisation: What the weights expect of their input: ``imagenet`` (ImageNet mean and standard
            deviation), ``caffe`` (mean removed, range 0 … 255), or ``auto``: recognise torchvision's files.
            ``unit`` and ``signed`` feed [0, 1] and [-1, 1] as they are, whatever the weights expect.
        amp: Compute in bfloat16.
        losses: Weights of the configuration that ask for it, for the message where its own are missing.

    Raises:
        InputError: Missing, unreadable or unfitting weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone = "vgg19",
        weights: str | Path | None = None,
        allow_download: bool = False,
        normalisation: Normalisation = "auto",
        amp: bool = False,
        losses: Sequence[str] = ("perceptual", "style"),
    ) -> None:
        super().__init__()
        if backbone not in _CONVOLUTIONS:
            raise InputError(f"losses.backbone: '{backbone}' is not known; use vgg19 or vgg16")
        self.backbone = backbone
        path = Path(weights) if weights is not None else _cached(backbone, allow_download, losses)
        layers, self._position = _convolution_stack(backbone)
        self.features = nn.Sequential(*layers)
        state = _read(path)
        _check(state, self.state_dict(), path, backbone)
        if normalisation == "auto":
            normalisation = _recognise(state, path)
        self.load_state_dict(state)
        self.normalisation = normalisation
        mean, std = _STATISTICS[normalisation]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.amp = amp
        if amp:
            # In the order in which CPUs and tensor cores multiply 16-bit numbers fastest.
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def check_layers(self, key: str, layers: Iterable[str]) -> None:
        """Refuse names that the backbone does not have.

        Args:
            key: The setting that names them, for the message.
            layers: Names as :meth:`forward` takes them.

        Raises:
            InputError: Naming the first unknown one.
        """
        unknown = [name for name in layers if name not in self._position]
        if unknown:
            raise InputError(
                f"losses.{key}: {self.backbone} has no {unknown[0]}; choose another layer or losses.backbone"
            )

    def forward(
        self,
        image_BCHW: Tensor,
        layers: Iterable[str] = (*PERCEPTUAL_LAYERS, *STYLE_LAYERS),
        mask_B1HW: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the activations of the named layers.

        Args:
            image_BCHW: Images in [-1, 1], at least 16 pixels a side. Three bands are taken for red, green
                and blue; one band stands for all three, and the second of two for blue too. More bands are
                seen three by three; the last group reaches back so that it is full: (0, 1, 2) and
                (1, 2, 3) of four.
            layers: Names such as ``relu4_1``; the net runs as far as the deepest of them.
            mask_B1HW: What the normalised image is multiplied by: the net sees zeros outside.

        Returns:
            Activations (G·B, C, H', W') by name, float32: all images of the first of G groups of bands, then
            those of the next. A mean over them is the mean over the groups.
        """
        wanted = {self._position[name]: name for name in layers}
        found: dict[str, Tensor] = {}
        with full_precision(image_BCHW):
            image_N3HW = _three_by_three(image_BCHW.float())
            activation = ((image_N3HW + 1) / 2 - self.mean) / self.std
            if mask_B1HW is not None:
                activation = activation * mask_B1HW.float().repeat(len(image_N3HW) // len(mask_B1HW), 1, 1, 1)
        with torch.autocast(image_BCHW.device.type, torch.bfloat16, enabled=self.amp):
            for index, layer in enumerate(list(self.features)[: max(wanted, default=-1) + 1]):
                activation = layer(activation)
                if index in wanted:
                    found[wanted[index]] = activation.float()
        return found


def _three_by_three(image_BCHW: Tensor) -> Tensor:
    """Bands in groups of three, one group after another along the batch: (G·B, 3, H, W)."""
    bands = image_BCHW.shape[1]
    # Slices, because a list of numbers would be an index that the device has to be sent.
    if bands < 3:
        return torch.cat([image_BCHW[:, min(band, bands - 1), None] for band in range(3)], 1)
    starts = [*range(0, bands - 3, 3), bands - 3]
    return torch.cat([image_BCHW[:, start : start + 3] for start in starts])


def _convolution_stack(backbone: Backbone) -> tuple[list[nn.Module], dict[str, int]]:
    """The layers in torchvision's numbering, and the index of every ReLU by name."""
    layers: list[nn.Module] = []
    position: dict[str, int] = {}
    in_channels = 3
    for block, (count, channels) in enumerate(zip(_CONVOLUTIONS[backbone], _CHANNELS, strict=True), start=1):
        for number in range(1, count + 1):
            layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU()]
            position[f"relu{block}_{number}"] = len(layers) - 1
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    return layers[:-1], position


def _cached(backbone: Backbone, allow_download: bool, losses: Sequence[str]) -> Path:
    """The backbone's file in the torch hub cache, downloaded first if that is allowed."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    names = [published.name for published in _PUBLISHED if published.backbone == backbone]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if not allow_download:
        raise InputError(
            f"{' or '.join(names)} is not in {folder}: put it there, set losses.vgg_weights to a file, "
            "change losses.backbone, set allow_download=true, or do without: "
            f"{' '.join(f'losses.{name}=0' for name in losses)}"
        )
    try:
        torch.hub.load_state_dict_from_url(
            _ADDRESS + names[0],
            str(folder),
            map_location="cpu",
            progress=False,
            check_hash=True,
            weights_only=True,
        )
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{_ADDRESS}{names[0]}: download failed ({' '.join(str(error).split())}); "
            f"fetch it by other means into {folder}, or set losses.vgg_weights to a file"
        ) from None
    return folder / names[0]


def _read(path: Path) -> dict[str, Tensor]:
    """The convolutions' entries of a state dict file, in float32."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; losses.vgg_weights names a .safetensors or .pth state dict")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            entries = load_file(path)
        else:
            entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the two readers raise a dozen kinds between them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read as VGG weights ({reason}); fetch the file again") from None
    if not isinstance(entries, Mapping):
        raise InputError(f"{path}: holds no state dict, but {type(entries).__name__}")
    return {
        name: value.float()
        for name, value in entries.items()
        if str(name).startswith("features.") and isinstance(value, Tensor)
    }


def _check(state: dict[str, Tensor], expected: dict[str, Tensor], path: Path, backbone: Backbone) -> None:
    """Refuse a file whose names or shapes are not the backbone's."""
    for name, value in expected.items():
        if name not in state:
            raise InputError(f"{path}: {name} is missing, so this is not {backbone}; see losses.backbone")
        if state[name].shape != value.shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, {backbone} has {tuple(value.shape)}; "
                "see losses.backbone"
            )
    surplus = sorted(set(state) - set(expected))
    if surplus:
        raise InputError(f"{path}: {surplus[0]} is not a part of {backbone}; see losses.backbone")


def _recognise(state: dict[str, Tensor], path: Path) -> Literal["imagenet", "caffe"]:
    """The normalisation of a published file, known by its name or first weights (16-bit copies included)."""
    row = state["features.0.weight"][0, 0, 0]
    for published in _PUBLISHED:
        if path.name == published.name or torch.allclose(
            row, torch.tensor(published.first_row), rtol=0, atol=_HALF_PRECISION_ROUNDING
        ):
            return published.normalisation
    raise InputError(
        f"{path}: none of torchvision's VGG files, so the scale of its input is unknown; "
        "set losses.vgg_normalisation to imagenet or caffe"
    )
