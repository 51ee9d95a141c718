"""Pixel-difference convolutions: kernels that weigh differences between pixels instead of pixels.

Central, angular and radial differences of PiDiNet (Su et al., "Pixel Difference Networks for
Efficient Edge Detection", ICCV 2021, section 3.1). A weighted sum of differences is linear in the
pixels, so each is computed as one plain convolution with a rearranged kernel.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DifferenceKind = Literal["cv", "cd", "ad", "rd"]

# The ring of eight neighbours in a 3×3 window (row-major positions), clockwise from the top left.
_CLOCKWISE = (0, 1, 2, 5, 8, 7, 6, 3)
# Row-major positions of the eight directions in a 5×5 window, at distance two and at distance one.
_OUTER = (0, 2, 4, 10, 14, 20, 22, 24)
_INNER = (6, 7, 8, 11, 13, 16, 17, 18)


def _differences(kind: DifferenceKind, kernel_size: int) -> list[tuple[int, int, int]]:
    """What each weight multiplies: (weight, pixel added, pixel subtracted), all row-major positions."""
    if kind == "cd":
        centre = kernel_size**2 // 2
        return [(i, i, centre) for i in range(kernel_size**2) if i != centre]
    if kind == "ad":
        return [(pixel, pixel, _CLOCKWISE[(i + 1) % 8]) for i, pixel in enumerate(_CLOCKWISE)]
    # Radial weights keep the order of the directions, from position 1: position 0 stays unused.
    return [(i + 1, outer, inner) for i, (outer, inner) in enumerate(zip(_OUTER, _INNER, strict=True))]


def _difference_matrix(kind: DifferenceKind, kernel_size: int) -> Tensor:
    """The matrix of shape (weights, taps) that turns a flat weight into the flat plain kernel."""
    taps = 25 if kind == "rd" else kernel_size**2
    matrix_WT = torch.zeros(kernel_size**2, taps)
    for weight, added, subtracted in _differences(kind, kernel_size):
        matrix_WT[weight, added] += 1
        matrix_WT[weight, subtracted] -= 1
    return matrix_WT


class PixelDifferenceConv2d(nn.Conv2d):
    """A convolution over pixel differences, computed as one plain convolution.

    With weights w and pixels x under the window (dilated by ``dilation``), the kinds are

    - ``cv``: Σ wᵢ·xᵢ, the plain convolution;
    - ``cd``, central: Σ wᵢ·(xᵢ − centre);
    - ``ad``, angular: Σ wᵢ·(xᵢ − the next neighbour clockwise) over the ring of eight;
    - ``rd``, radial: Σ wᵢ·(pixel at distance two − pixel at distance one) over eight directions, a
      5×5 window from a 3×3 weight.

    The weight always has shape (out_channels, in_channels / groups, k, k). Entries that a kind does not
    use (the centre for ``cd`` and ``ad``, the first for ``rd``) get a zero gradient.

    Args:
        kind: ``cv``, ``cd``, ``ad`` or ``rd``.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd side of the weight; ``ad`` and ``rd`` are defined for 3 alone.
        padding: Zero padding in pixels; by default what keeps the size at stride 1.
        stride: Stride of the convolution.
        dilation: Distance between neighbouring taps in pixels.
        groups: Channel groups.
        bias: Whether a bias is added.

    Raises:
        ValueError: If the kind is unknown or not defined for the kernel size.
    """

    differences_WT: Tensor

    def __init__(
        self,
        kind: DifferenceKind,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int | None = None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        if kind not in get_args(DifferenceKind):
            raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(get_args(DifferenceKind))}")
        if kernel_size % 2 == 0 or (kind in ("ad", "rd") and kernel_size != 3):
            need = "odd" if kind in ("cv", "cd") else "3"
            raise ValueError(f"kernel_size is {kernel_size}; for kind {kind!r} it must be {need}")
        reach = 2 if kind == "rd" else kernel_size // 2
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=reach * dilation if padding is None else padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.kind = kind
        if kind != "cv":
            # Not saved: it follows from the kind, and published state dicts hold weights alone.
            self.register_buffer("differences_WT", _difference_matrix(kind, kernel_size), persistent=False)

    def plain_kernel(self) -> Tensor:
        """The kernel of the plain convolution that this is equal to, 5×5 for ``rd``, else k×k."""
        if self.kind == "cv":
            return self.weight
        kernel = self.weight.flatten(2) @ self.differences_WT
        return kernel.unflatten(2, (5, 5) if self.kind == "rd" else self.kernel_size)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve features of shape (B, in_channels, H, W)."""
        if self.groups > 1 and input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # There a depthwise kernel's gradient comes out wrong in bf16, even infinite (oneDNN, torch 2.13).
            with torch.autocast("cpu", enabled=False):
                return self._convolve(input.to(self.weight.dtype))
        return self._convolve(input)

    def _convolve(self, input: Tensor) -> Tensor:
        return F.conv2d(
            input, self.plain_kernel(), self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        """The kind before what a plain convolution prints."""
        return f"{self.kind}, {super().extra_repr()}"
