"""EfficientNet-Lite0 as a feature extractor, for where the weights of Inception cannot be had.

A Fréchet distance on its features is computed as FID is, but its values are not on FID's scale and need not
order methods alike, so it goes by its own name, FD-effnet-lite0. The network is EfficientNet-B0 (Tan and Le
2019) without squeeze-and-excitation and with ReLU6 for swish.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from igll.metrics.image import require_side
from igll.metrics.names import MetricUnavailableError
from igll.metrics.weights import cached_weights, read_weights

WEIGHTS_NAME: Final = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
FEATURES: Final = 1280

# Stages: kernel, stride of the first block, expansion, channels, blocks.
_STAGES: Final = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM_CHANNELS = 32
_CLASSIFIER = ("_fc.weight", "_fc.bias")


class EfficientNetLite0(nn.Module):
    """From uint8 RGB images of any size from 32 px on to the 1,280 features before the classifier.

    The modules bear the names of the published file of weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, _STEM_CHANNELS, 3, stride=2)
        self._bn0 = _batch_norm(_STEM_CHANNELS)
        blocks, channels = [], _STEM_CHANNELS
        for kernel, first_stride, expansion, width, count in _STAGES:
            for index in range(count):
                stride = first_stride if index == 0 else 1
                blocks.append(_Block(channels, width, kernel, stride, expansion))
                channels = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv2d(channels, FEATURES, 1)
        self._bn1 = _batch_norm(FEATURES)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """The pooled features.

        Args:
            image_BCHW: (B, 3, H, W), uint8, H and W at least 32. Seen at its own size.

        Returns:
            features_BD: (B, 1280), float32.

        Raises:
            MetricUnavailableError: The images are too small.
        """
        require_side("fd_effnet_lite0", image_BCHW)
        maps_BCHW = (image_BCHW.float() - 127) / 128
        maps_BCHW = functional.relu6(self._bn0(self._conv_stem(maps_BCHW)))
        for block in self._blocks:
            maps_BCHW = block(maps_BCHW)
        return functional.relu6(self._bn1(self._conv_head(maps_BCHW))).mean((2, 3))


def effnet_lite0(weights: str | None = None) -> EfficientNetLite0:
    """The network with its published ImageNet weights, in evaluation mode.

    Args:
        weights: File of the weights; None looks for ``efficientnet-lite0-57934424.pth`` in torch hub's cache.

    Raises:
        MetricUnavailableError: The file is absent or not the published one.
    """
    path = _weights_file(weights)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MetricUnavailableError(f"{path} cannot be read ({error.strerror or error})") from error
    if digest != WEIGHTS_SHA256:
        raise MetricUnavailableError(
            f"{path} is not the published {WEIGHTS_NAME}: its SHA-256 begins with {digest[:8]}"
        )
    state = read_weights(path)
    network = EfficientNetLite0()
    network.load_state_dict({key: value for key, value in state.items() if key not in _CLASSIFIER})
    return network.eval().requires_grad_(False)


def _weights_file(weights: str | None) -> Path:
    if weights is None:
        try:
            return cached_weights(WEIGHTS_NAME)
        except MetricUnavailableError as reason:
            raise MetricUnavailableError(f"{reason}, and eval.fd_weights names no file") from None
    path = Path(weights).expanduser()
    if not path.is_file():
        raise MetricUnavailableError(f"eval.fd_weights: {path} is not a file")
    return path


class _SameConv2d(nn.Conv2d):
    """Convolution without bias that pads as TensorFlow's SAME does, where the network was trained.

    With stride 2 and an even side the extra row and column are the last ones, not the first.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        padding: list[int] = []
        for side in (maps_BCHW.shape[3], maps_BCHW.shape[2]):
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [missing // 2, missing - missing // 2]
        return super().forward(functional.pad(maps_BCHW, padding))


class _Block(nn.Module):
    """Inverted residual: widen, convolve each channel for itself, narrow; added to the input if alike."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        self._expands = expansion > 1
        self._adds = stride == 1 and channels == out
        inner = channels * expansion
        if self._expands:
            self._expand_conv = _SameConv2d(channels, inner, 1)
            self._bn0 = _batch_norm(inner)
        self._depthwise_conv = _SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _batch_norm(inner)
        self._project_conv = _SameConv2d(inner, out, 1)
        self._bn2 = _batch_norm(out)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        inner_BCHW = maps_BCHW
        if self._expands:
            inner_BCHW = functional.relu6(self._bn0(self._expand_conv(inner_BCHW)))
        inner_BCHW = functional.relu6(self._bn1(self._depthwise_conv(inner_BCHW)))
        result_BCHW: Tensor = self._bn2(self._project_conv(inner_BCHW))
        return result_BCHW + maps_BCHW if self._adds else result_BCHW


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)  # TensorFlow's value
