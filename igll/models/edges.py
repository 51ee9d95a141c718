"""Edge maps: detectors of a complete image's edges.

``PiDiNet`` is the paper's detector (Su et al., "Pixel Difference Networks for Efficient Edge
Detection", ICCV 2021), built to hold its authors' published weights; ``SobelDetector`` stands in where
those are absent. Both are frozen.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igll.errors import InputError
from igll.models.pixel_difference import DifferenceKind, PixelDifferenceConv2d

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class _Published(NamedTuple):
    """One published PiDiNet: its size, and the file that holds its weights."""

    width: int
    reduced_width: int
    file_name: str
    sha256: str


PUBLISHED_PIDINET: dict[str, _Published] = {
    "pidinet": _Published(
        60, 24, "table5_pidinet.pth", "80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c"
    ),
    "pidinet_small": _Published(
        30, 12, "table5_pidinet-small.pth", "55740e3a0e6c4c3f82a921902851a86be6ad5a144db29add4ab57e1a22007f76"
    ),
    "pidinet_tiny": _Published(
        20, 8, "table5_pidinet-tiny.pth", "e32b23fff6c1cb9bd4385a1d615023346fc2e3f2f3a8db7f78cc4ce95a14730c"
    ),
}
# No published file is larger; reading one byte more is enough to know that a file is another.
_LARGEST_FILE = 4 * 2**20


class EdgeDetector(nn.Module):
    """Maps an image of shape (B, C, H, W) in [-1, 1] to its edge map of shape (B, 1, H, W) in [0, 1].

    Attributes:
        fingerprint: Names the detector and its weights; equal fingerprints mean equal maps, so it can
            key a cache on disk.
    """

    fingerprint: str


class _PixelDifferenceBlock(nn.Module):
    """Depthwise difference convolution and 1×1 mix, residual; the first of a stage halves the grid."""

    def __init__(self, kind: DifferenceKind, in_channels: int, out_channels: int, halve: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if halve else nn.Identity()
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if halve else nn.Identity()
        self.conv1 = PixelDifferenceConv2d(kind, in_channels, in_channels, groups=in_channels, bias=False)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        pooled_BCHW = self.pool(features_BCHW)
        return self.shortcut(pooled_BCHW) + self.conv2(F.relu(self.conv1(pooled_BCHW)))


class _DilatedSum(nn.Module):
    """PiDiNet's compact dilation module: four dilated convolutions of one reduced map, added."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1)
        for i, dilation in enumerate((5, 7, 9, 11), start=1):
            conv = nn.Conv2d(out_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
            self.add_module(f"conv2_{i}", conv)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        reduced_BCHW = self.conv1(F.relu(features_BCHW))
        first_BCHW, *rest = (self.get_submodule(f"conv2_{i}")(reduced_BCHW) for i in range(1, 5))
        return sum(rest, start=first_BCHW)


class _SpatialGate(nn.Module):
    """PiDiNet's compact spatial attention: one sigmoid weight per pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 1)
        self.conv2 = nn.Conv2d(4, 1, 3, padding=1, bias=False)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        return features_BCHW * torch.sigmoid(self.conv2(self.conv1(F.relu(features_BCHW))))


class _ToMap(nn.Module):
    """A 1×1 convolution to one channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        return self.conv(features_BCHW)


class PiDiNet(EdgeDetector):
    """PiDiNet with central, angular, radial and plain convolutions in turn, as its Table 5 models are.

    Modules are named as in the published state dicts. The map is the fused one.

    Images of one channel are repeated three times; of any number but one or three, their channels' mean
    is. Sides below 8 pixels are extended by repeating the border, and the map is cut back.

    Args:
        variant: ``pidinet`` (710,149 parameters), ``pidinet_small`` (183,763) or ``pidinet_tiny`` (84,477).
    """

    mean_1C11: Tensor
    std_1C11: Tensor

    def __init__(self, variant: str = "pidinet") -> None:
        super().__init__()
        width, reduced, _, _ = PUBLISHED_PIDINET[variant]
        self.fingerprint = f"{variant}-untrained"
        kinds: tuple[DifferenceKind, ...] = ("cd", "ad", "rd", "cv")
        self.init_block = PixelDifferenceConv2d("cd", 3, width, bias=False)
        widths = (width, 2 * width, 4 * width, 4 * width)
        channels = width
        for stage, stage_width in enumerate(widths, start=1):
            # The first layer takes the first stage's first kind, so that stage has one block fewer.
            for i, kind in enumerate(kinds[1:] if stage == 1 else kinds, start=1):
                block = _PixelDifferenceBlock(kind, channels, stage_width, halve=stage > 1 and i == 1)
                self.add_module(f"block{stage}_{i}", block)
                channels = stage_width
        self.dilations = nn.ModuleList(_DilatedSum(stage_width, reduced) for stage_width in widths)
        self.attentions = nn.ModuleList(_SpatialGate(reduced) for _ in widths)
        self.conv_reduces = nn.ModuleList(_ToMap(reduced) for _ in widths)
        self.classifier = nn.Conv2d(len(widths), 1, 1)
        self.register_buffer("mean_1C11", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std_1C11", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Detect edges.

        Args:
            image_BCHW: Images in [-1, 1], any channels, height and width.

        Returns:
            Edge probabilities in [0, 1] of shape (B, 1, H, W).
        """
        height, width = image_BCHW.shape[-2:]
        image_B3HW = _three_channels(image_BCHW)
        if min(height, width) < 8:
            pad = (0, max(8 - width, 0), 0, max(8 - height, 0))
            image_B3HW = F.pad(image_B3HW, pad, mode="replicate")
        features_BCHW = self.init_block(((image_B3HW + 1) / 2 - self.mean_1C11) / self.std_1C11)
        logits = []
        for stage, (dilate, gate, reduce) in enumerate(
            zip(self.dilations, self.attentions, self.conv_reduces, strict=True), start=1
        ):
            for i in range(1, 4 if stage == 1 else 5):
                features_BCHW = self.get_submodule(f"block{stage}_{i}")(features_BCHW)
            logits_B1hw = reduce(gate(dilate(features_BCHW)))
            logits.append(F.interpolate(logits_B1hw, image_B3HW.shape[-2:], mode="bilinear"))
        fused_B1HW = torch.sigmoid(self.classifier(torch.cat(logits, dim=1)))
        return fused_B1HW[..., :height, :width]


def _three_channels(image_BCHW: Tensor) -> Tensor:
    """The image itself if it has three channels, else its mean over the channels, three times."""
    if image_BCHW.shape[1] == 3:
        return image_BCHW
    return image_BCHW.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)


def load_pidinet(variant: str, weights: str | Path | None = None) -> PiDiNet:
    """A PiDiNet with its published weights, which are for research use and not shipped.

    Args:
        variant: ``pidinet``, ``pidinet_small`` or ``pidinet_tiny``.
        weights: The published file; by default it is looked for under its published name in the folder
            ``checkpoints`` of ``torch.hub.get_dir()``.

    Returns:
        The detector on the CPU, neither frozen nor in eval mode.

    Raises:
        InputError: If the variant is unknown, or the file is absent or not the published one. A file is
            recognised by its SHA-256 before anything in it is read.
    """
    if variant not in PUBLISHED_PIDINET:
        raise InputError(f"edges.detector is {variant!r}; PiDiNet comes as {', '.join(PUBLISHED_PIDINET)}")
    published = PUBLISHED_PIDINET[variant]
    path = Path(weights or Path(torch.hub.get_dir()) / "checkpoints" / published.file_name).expanduser()
    remedy = (
        f"get {published.file_name} from github.com/hellozhuo/pidinet, folder trained_models (for research "
        f"use, not shipped), and set edges.weights to its path, or set edges.detector to sobel"
    )
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"edges.weights: {path} cannot be read ({error.strerror}); {remedy}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != published.sha256:
        owners = {entry.sha256: f"that of {name}" for name, entry in PUBLISHED_PIDINET.items()}
        found = owners.get(sha256, f"another (SHA-256 {sha256[:12]}…)")
        raise InputError(
            f"edges.weights: {path} is not the published file of {variant} but {found}; {remedy}"
        )
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["state_dict"]
    detector = PiDiNet(variant)
    detector.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    detector.fingerprint = f"{variant}-{sha256[:12]}"
    return detector


class SobelDetector(EdgeDetector):
    """Edges without parameters: Gaussian-smoothed gradients at three scales, thinned and normalised.

    At each scale σ the strength is σ times the root of the squared gradient's mean over the channels. The
    geometric mean over the scales keeps the fine scale's place and drops the texture that the coarse ones
    do not see. It is thinned by its ratio to the largest of the 3×3 neighbourhood, and normalised as
    s² / (s² + t²) with t one and a half times the image's mean strength.
    """

    _scales = (1.5, 3.0, 6.0)
    # Smallest t, in units of [-1, 1]: keeps noise and faint texture dark where an image has no real edge.
    _smallest_threshold = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = "sobel-1"  # count up whenever the map changes

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Detect edges.

        Args:
            image_BCHW: Images in [-1, 1], any channels, height and width.

        Returns:
            Edge strengths in [0, 1] of shape (B, 1, H, W), zero where the image is constant.
        """
        strengths_SB1HW = torch.stack([_gradient_strength(image_BCHW, scale) for scale in self._scales])
        strength_B1HW = strengths_SB1HW.log().mean(dim=0).exp()
        peak_B1HW = F.max_pool2d(strength_B1HW, 3, stride=1, padding=1)
        threshold_B111 = 1.5 * strength_B1HW.mean(dim=(2, 3), keepdim=True)
        thinned_B1HW = strength_B1HW * (strength_B1HW / peak_B1HW)
        return thinned_B1HW**2 / (thinned_B1HW**2 + threshold_B111.clamp(min=self._smallest_threshold) ** 2)


def _gradient_strength(image_BCHW: Tensor, scale: float) -> Tensor:
    """σ·|∇(G_σ * image)| of shape (B, 1, H, W), root mean square over the channels."""
    radius = int(4 * scale + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=image_BCHW.dtype, device=image_BCHW.device)
    gaussian = torch.exp(-(offsets**2) / (2 * scale**2))
    gaussian = gaussian / gaussian.sum()
    slope = offsets * gaussian / scale**2
    batch, channels, height, width = image_BCHW.shape
    planes_N1HW = F.pad(
        image_BCHW.reshape(batch * channels, 1, height, width), (radius,) * 4, mode="replicate"
    )
    along_x = F.conv2d(F.conv2d(planes_N1HW, slope.view(1, 1, 1, -1)), gaussian.view(1, 1, -1, 1))
    along_y = F.conv2d(F.conv2d(planes_N1HW, gaussian.view(1, 1, 1, -1)), slope.view(1, 1, -1, 1))
    squared_BCHW = (along_x**2 + along_y**2).view(batch, channels, height, width)
    # The addend keeps the logarithm, and the root's gradient, finite in constant regions.
    return scale * torch.sqrt(squared_BCHW.mean(dim=1, keepdim=True) + 1e-12)


def build_edge_detector(name: str, weights: str | Path | None = None) -> EdgeDetector:
    """The detector of a configuration, frozen: in eval mode, no parameter asking for a gradient.

    Args:
        name: ``pidinet``, ``pidinet_small``, ``pidinet_tiny`` or ``sobel`` (key ``edges.detector``).
        weights: PiDiNet's published file (key ``edges.weights``), see ``load_pidinet``.

    Raises:
        InputError: If the name is unknown, weights are given for ``sobel``, or they cannot be used.
    """
    if name == "sobel":
        if weights is not None:
            raise InputError(
                "edges.weights is set but edges.detector is sobel, which has none; remove edges.weights"
            )
        return SobelDetector().eval()
    if name not in PUBLISHED_PIDINET:
        raise InputError(
            f"edges.detector is {name!r}; it must be one of {', '.join(PUBLISHED_PIDINET)}, sobel"
        )
    return load_pidinet(name, weights).eval().requires_grad_(False)
