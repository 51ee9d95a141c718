"""Ground on which synthetic aerial scenes are drawn: noise, curved frames, sunlight and the camera.

Lengths are in pixels. A canvas holds two layers, the colour of the ground and the height of what
stands on it; light is computed from both once at the end, so every shadow of a scene falls the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import ndimage

Plane: TypeAlias = NDArray[np.float32]
Choice: TypeAlias = NDArray[np.bool_]

# Standard deviation of Pillow's bicubic surfaces through unit-variance values: its resize and its transform
# use different cubics (a = -0.5 and a = -1).
_RESIZED_STD = np.float32(0.81)
_TRANSFORMED_STD = np.float32(0.9)
# From this bump size on, in pixels, the lattice of a noise layer is turned.
_TURNED_SCALE = 16.0
# Walls are vertical; beyond this slope a surface is shaded as if it leant no further.
_STEEPEST = 1.3
# In pixels.
_LONGEST_SHADOW = 28
# Brightness from which the camera compresses highlights.
_SHOULDER = np.float32(0.72)


def rgb(red: float, green: float, blue: float) -> Plane:
    """A colour given in 0..255 as three float32 numbers in 0..1."""
    return np.array([red, green, blue], dtype=np.float32) / np.float32(255)


def palette(*colours: tuple[float, float, float]) -> Plane:
    """Colours given in 0..255 as a (K, 3) float32 table in 0..1."""
    return np.array(colours, dtype=np.float32) / np.float32(255)


def ramp(value_HW: Plane, low: float, high: float) -> Plane:
    """Linear step: 0 where ``value_HW`` is at or below ``low``, 1 at or above ``high``."""
    return np.clip((value_HW - low) / (high - low), 0, 1).astype(np.float32)


class Canvas:
    """A square piece of ground.

    Attributes:
        rng: The generator from which everything on this canvas is drawn.
        size: Side in pixels.
        metre: Pixels per metre.
        x_HW: Column of every pixel, float32.
        y_HW: Row of every pixel, float32.
        colour_HWC: Reflectance, RGB, 0..1, float32.
        height_HW: Height above ground in pixels, float32.
        built_HW: 1 where no plant may grow (roads, roofs, water), float32.
    """

    def __init__(self, rng: np.random.Generator, size: int, metre: float) -> None:
        self.rng = rng
        self.size = size
        self.metre = metre
        axis_S = np.arange(size, dtype=np.float32)
        self.y_HW: Plane = np.repeat(axis_S[:, None], size, axis=1)
        self.x_HW: Plane = np.repeat(axis_S[None, :], size, axis=0)
        self.colour_HWC: Plane = np.zeros((size, size, 3), dtype=np.float32)
        self.height_HW: Plane = np.zeros((size, size), dtype=np.float32)
        self.built_HW: Plane = np.zeros((size, size), dtype=np.float32)

    def noise(self, scale: float, octaves: int = 1, gain: float = 0.5) -> Plane:
        """Smooth random surface of zero mean and about unit variance.

        Args:
            scale: Size of the largest bumps in pixels, at least 1.
            octaves: Number of layers; each halves the bump size (down to one pixel).
            gain: Amplitude of a layer relative to the one before.
        """
        total_HW: Plane = np.zeros_like(self.height_HW)
        amplitude, power = 1.0, 0.0
        for _ in range(octaves):
            total_HW += np.float32(amplitude) * self._layer(max(scale, 1.0))
            power += amplitude**2
            amplitude *= gain
            scale /= 2
        return total_HW / np.float32(math.sqrt(power))

    def _layer(self, scale: float) -> Plane:
        if scale == 1.0:
            return self.rng.standard_normal((self.size, self.size), dtype=np.float32)
        if scale >= _TURNED_SCALE:
            return self._turned_layer(scale)
        extent = self.size / scale
        side = math.ceil(extent) + 5
        lattice = Image.fromarray(self.rng.standard_normal((side, side), dtype=np.float32))
        left, top = (2 + float(value) for value in self.rng.random(2))
        box = (left, top, left + extent, top + extent)
        surface = lattice.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        return np.asarray(surface, dtype=np.float32) / _RESIZED_STD

    def _turned_layer(self, scale: float) -> Plane:
        # Large bumps would show the directions of their lattice: it is turned by a random angle.
        # Sampling every fourth pixel first keeps this as cheap as the upright kind.
        coarse = math.ceil(self.size / 4) + 4
        reach = math.ceil(coarse * 4 * math.sqrt(2) / scale / 2) + 3
        lattice = Image.fromarray(self.rng.standard_normal((2 * reach, 2 * reach), dtype=np.float32))
        angle = float(self.rng.uniform(0, 2 * math.pi))
        across, down = 4 / scale * math.cos(angle), 4 / scale * math.sin(angle)
        left = reach + float(self.rng.uniform(-0.5, 0.5)) - coarse / 2 * (across - down)
        top = reach + float(self.rng.uniform(-0.5, 0.5)) - coarse / 2 * (across + down)
        turn = (across, -down, left, down, across, top)
        turned = lattice.transform((coarse, coarse), Image.Transform.AFFINE, turn, Image.Resampling.BICUBIC)
        box = (2, 2, 2 + self.size / 4, 2 + self.size / 4)
        surface = turned.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        return np.asarray(surface, dtype=np.float32) / _TRANSFORMED_STD

    def paint(self, cover_HW: Plane, colour: Plane) -> None:
        """Lay a colour, (3,) or (H, W, 3), over the ground where ``cover_HW`` (0..1) says so."""
        self.colour_HWC += cover_HW[..., None] * (colour - self.colour_HWC)

    def mottle(self, factor_HW: Plane) -> None:
        """Brighten or darken the ground by ``1 + factor_HW``."""
        self.colour_HWC *= 1 + factor_HW[..., None]

    def pick(self, table_K3: Plane, spread: float = 0.06) -> Plane:
        """One colour of a table, its brightness and tint varied a little."""
        colour = table_K3[self.rng.integers(len(table_K3))]
        brightness = 1 + spread * self.rng.uniform(-1, 1)
        tint_3 = 1 + 0.3 * spread * self.rng.uniform(-1, 1, 3)
        return (colour * brightness * tint_3).astype(np.float32)


@dataclass(frozen=True)
class Frame:
    """A turned and gently bent coordinate system: ``u`` runs along a street or river, ``v`` across it."""

    angle: float
    x0: float
    y0: float
    amplitude: float = 0.0
    wavelength: float = 400.0
    phase: float = 0.0

    def bend(self, u: ArrayLike) -> Plane:
        """Sideways displacement of the axis at ``u``."""
        phase = np.asarray(u, dtype=np.float32) * np.float32(2 * math.pi / self.wavelength) + self.phase
        return np.asarray(self.amplitude * (np.sin(phase) + 0.35 * np.sin(1.9 * phase + 1)), dtype=np.float32)

    def slope(self, u: ArrayLike) -> Plane:
        """Derivative of :meth:`bend`."""
        rate = np.float32(2 * math.pi / self.wavelength)
        phase = np.asarray(u, dtype=np.float32) * rate + self.phase
        turn = np.cos(phase) + 0.35 * 1.9 * np.cos(1.9 * phase + 1)
        return np.asarray(self.amplitude * rate * turn, dtype=np.float32)

    def locate(self, x: Plane, y: Plane) -> tuple[Plane, Plane]:
        """Pixel to frame coordinates; ``v`` is measured square to ``u`` from the bent axis."""
        cosine, sine = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        u = (x - self.x0) * cosine + (y - self.y0) * sine
        v = (y - self.y0) * cosine - (x - self.x0) * sine
        return u, v - self.bend(u)

    def place(self, u: Plane, v: Plane) -> tuple[Plane, Plane, Plane]:
        """Frame to pixel coordinates, with the direction of the axis there in radians."""
        cosine, sine = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        across = v + self.bend(u)
        x = self.x0 + u * cosine - across * sine
        y = self.y0 + u * sine + across * cosine
        return x, y, np.float32(self.angle) + np.arctan(self.slope(u))


def random_frame(canvas: Canvas, bend: float = 0.0, wavelength: float = 400.0) -> Frame:
    """A frame through the middle third of the canvas, in any direction, bent by at most ``bend``."""
    rng, size = canvas.rng, canvas.size
    return Frame(
        angle=float(rng.uniform(0, math.pi)),
        x0=float(size * rng.uniform(0.33, 0.67)),
        y0=float(size * rng.uniform(0.33, 0.67)),
        amplitude=float(bend * rng.uniform(0.3, 1)),
        wavelength=float(wavelength * rng.uniform(0.8, 1.4)),
        phase=float(rng.uniform(0, 2 * math.pi)),
    )


@dataclass(frozen=True)
class Sun:
    """Direction of the light: image azimuth in radians (towards the sun) and tangent of its elevation."""

    azimuth: float
    tangent: float

    def facing(self, height_HW: Plane) -> Plane:
        """Brightness of each slope relative to level ground (Lambert's law)."""
        rise_y_HW, rise_x_HW = np.gradient(height_HW)
        towards_HW = rise_x_HW * math.cos(self.azimuth) + rise_y_HW * math.sin(self.azimuth)
        towards_HW = np.clip(towards_HW, -_STEEPEST, _STEEPEST)
        steepness_HW = np.minimum(rise_x_HW**2 + rise_y_HW**2, _STEEPEST**2)
        lit_HW = (1 - towards_HW / self.tangent) / np.sqrt(1 + steepness_HW)
        return np.clip(lit_HW, 0, 1.8).astype(np.float32)

    def shadow(self, height_HW: Plane, reach: int) -> Plane:
        """Cast shadow, 0 (lit) to 1, looking for obstacles up to ``reach`` pixels away."""
        top = float(height_HW.max() - height_HW.min())
        reach = min(reach, math.ceil(top / self.tangent))
        padded = np.pad(height_HW, reach, mode="edge")
        rows, columns = height_HW.shape
        cover_HW = np.full_like(height_HW, height_HW.min())
        for step in range(1, reach + 1):
            dx, dy = round(step * math.cos(self.azimuth)), round(step * math.sin(self.azimuth))
            there_HW = padded[reach + dy : reach + dy + rows, reach + dx : reach + dx + columns]
            np.maximum(cover_HW, there_HW - np.float32(step * self.tangent), out=cover_HW)
        # A surface is fully dark where the shadow's ceiling is two pixels above it: the sun is no point.
        return np.clip((cover_HW - height_HW) / 2, 0, 1)


def photograph(canvas: Canvas) -> NDArray[np.uint8]:
    """Light the canvas and take its picture.

    Args:
        canvas: What to photograph.

    Returns:
        (H, W, 3) uint8: sun and sky light, haze, lens blur and sensor noise included.
    """
    rng, size = canvas.rng, canvas.size
    sun = Sun(float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.7, 1.5)))
    lit_HW = sun.facing(canvas.height_HW) * (1 - sun.shadow(canvas.height_HW, _LONGEST_SHADOW))
    sky = float(rng.uniform(0.3, 0.45))
    sky_3 = sky * np.array([0.92, 1.0, 1.12], dtype=np.float32)
    light_HWC = sky_3 + (1 - sky_3) * lit_HW[..., None]
    picture_HWC = canvas.colour_HWC * light_HWC
    picture_HWC *= 1 + np.float32(0.03) * canvas.noise(size / 2)[..., None]
    # Distance takes the strength out of colours.
    grey_HW1 = picture_HWC.mean(axis=2, keepdims=True)
    picture_HWC += np.float32(rng.uniform(0.0, 0.35)) * (grey_HW1 - picture_HWC)
    haze = float(rng.uniform(0.0, 0.12))
    veil_3 = np.array([0.62, 0.66, 0.70], dtype=np.float32)
    cast_3 = (1 + 0.04 * rng.uniform(-1, 1, 3)).astype(np.float32) * float(rng.uniform(0.88, 1.1))
    picture_HWC = picture_HWC * cast_3 * (1 - haze) + veil_3 * haze
    picture_HWC = ndimage.gaussian_filter(picture_HWC, (0.55, 0.55, 0), truncate=3)
    # Film and sensor curves bend over before white.
    over_HWC = np.maximum(picture_HWC - _SHOULDER, 0)
    picture_HWC -= over_HWC - (1 - _SHOULDER) * np.tanh(over_HWC / (1 - _SHOULDER))
    grain_HW = canvas.noise(1.0) * np.float32(rng.uniform(0.006, 0.014))
    chroma_HWC = rng.standard_normal(picture_HWC.shape, dtype=np.float32) * np.float32(0.004)
    picture_HWC += grain_HW[..., None] + chroma_HWC
    return np.round(np.clip(picture_HWC, 0, 1) * 255).astype(np.uint8)
