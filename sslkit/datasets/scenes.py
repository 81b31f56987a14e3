"""Pictures drawn on the fly: textured objects on textured ground, with exact masks and nothing to download."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sslkit import draws
from sslkit.parameters import Count, Seed, Share, Within, refuse_unordered
from sslkit.registry import register
from sslkit.types import Key, Sample

Array = NDArray[np.floating[Any]]
NObjects = Annotated[int, Within(1, 100)]
NBlobs = Annotated[int, Within(0, 1000)]
Diameter = Annotated[float, Within(0.05, 1)]

TEXTURE_PERIOD = (0.075, 0.105)  # of the image: 7 to 10 px at 96, so that 64 px, a crop or a blur of 1 px leave it
GRAIN = 0.03  # standard deviation of the noise of a pixel
CANDIDATES = 32  # places tried for an object before the scene counts as full
TILE, TILE_PERIOD = 256, 16  # pixels of the stored noise, and how many of them make one period


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(np.maximum(0.866 * x - 0.5 * y, -0.866 * x - 0.5 * y), y) - 0.5


def _star(x: Array, y: Array) -> Array:
    turn = np.abs((np.arctan2(x, y) / (2 * np.pi) * 5) % 1 - 0.5) * (2 * np.pi / 5)  # 36 degrees at a tip, 0 between
    return np.hypot(x, y) * np.cos(turn + 0.44) - 0.47


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.93, np.minimum(x, y) - 0.34)


# Each function of a point (x, y): negative inside, about the distance to the edge; all of it within radius 1.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda x, y: np.hypot(x, y) - 0.88,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.7,
    "triangle": _triangle,
    "star": _star,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.7) - 0.28,
    "cross": _cross,
}


@cache
def _noise() -> Array:
    """Noise of one spatial frequency in every direction, repeating at its borders, of unit variance."""
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.fftfreq(TILE)[None])
    band = np.exp(-(((frequency * TILE_PERIOD - 0.8) / 0.2) ** 2))
    white = np.random.default_rng(0).standard_normal((TILE, TILE))
    tile: Array = np.fft.ifft2(np.fft.fft2(white) * band).real.astype(np.float32)
    tile /= tile.std()
    return tile


def _checkered(x: Array, y: Array) -> Array:
    squares: Array = 2 * np.sin(0.65 * x) * np.sin(0.65 * y)
    return squares


def _dotted(x: Array, y: Array) -> Array:
    dots: Array = np.cos(0.85 * x) + np.cos(0.425 * x + 0.736 * y) + np.cos(0.425 * x - 0.736 * y) - 0.25
    return dots


def _speckled(x: Array, y: Array) -> Array:
    scale = TILE_PERIOD / (2 * np.pi)
    return _noise()[(y * scale).astype(np.int32) % TILE, (x * scale).astype(np.int32) % TILE]


# Each function of a point in radians (2 pi is one period): the sign says which of the two colours.
TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "striped": lambda x, y: np.sin(x),
    "checkered": _checkered,
    "dotted": _dotted,
    "wavy": lambda x, y: np.sin(x + 2.2 * np.sin(0.45 * y)),
    "speckled": _speckled,
    "banded": lambda x, y: np.sin(np.hypot(x, y)),
}

# The first six differ in shape and in texture; with the second six, neither alone tells the class any more.
CLASSES = tuple(
    (list(TEXTURES)[(i + shift) % len(TEXTURES)], shape) for shift in (0, 2) for i, shape in enumerate(SHAPES)
)


@register("datasets")
class Scenes:
    """Scenes of textured objects on textured ground, each drawn anew from (seed, split, index).

    A class is a shape with a texture ("striped disc"), all equally likely; colours are drawn per object and say
    nothing about it. `label` counts from 0 into `classes`; in `mask` the same class is `label + 1` and 0 is background.
    Scenes have a `label` only where `objects` is (1, 1).

    Args:
        n_images: length of the set.
        size: side of the square picture in pixels, at least 32.
        n_classes: 1 to 12. Up to 6 no two share a shape or a texture; with 12 every shape and every texture has two.
        objects: fewest and most objects of a scene; where no place is left there are fewer, but never none.
        scale: smallest and largest diameter of an object, as a share of the side.
        rotation: objects turn by up to this many degrees either way, 0 to 180.
        occlusion: how far the circles around two objects may run into each other, 0 (they stay apart) to 1.
        clutter: fewest and most small plain blobs and strokes, which are background.
        color_variation: 0 gives every object the same two greys, 1 any colours.
        texture_contrast: difference in brightness between the two colours of an object, 0 to 1.
        background_texture: the same for the ground; 0 is a plain one.
        split: "train" or "val": different scenes of the same classes.

    Raises:
        ValueError: an argument is out of its range.
        IndexError: there is no such item.

    Example:
        >>> scenes = Scenes(n_images=100, size=64, objects=(1, 1))
        >>> sample = scenes[7]
        >>> sample.image.size, sample.mask.shape
        ((64, 64), torch.Size([64, 64]))
        >>> sample.mask.unique().tolist() == [0, sample.label + 1]
        True
        >>> scenes.classes[:3]
        ('striped disc', 'checkered square', 'dotted triangle')
    """

    def __init__(
        self,
        *,
        n_images: Count = 10_000,
        size: Annotated[int, Within(32, 4096)] = 96,
        n_classes: Annotated[int, Within(1, len(CLASSES))] = 12,
        objects: tuple[NObjects, NObjects] = (2, 4),
        scale: tuple[Diameter, Diameter] = (0.3, 0.5),
        rotation: Annotated[float, Within(0, 180)] = 180.0,
        occlusion: Share = 0.2,
        clutter: tuple[NBlobs, NBlobs] = (2, 6),
        color_variation: Share = 1.0,
        texture_contrast: Share = 0.6,
        background_texture: Share = 0.4,
        seed: Seed = 0,
        split: Literal["train", "val"] = "train",
    ):
        refuse_unordered(objects=objects, scale=scale, clutter=clutter)
        self.n_images, self.size, self.n_classes = n_images, size, n_classes
        self.objects, self.scale, self.clutter = (
            tuple(objects),
            tuple(scale),
            tuple(clutter),
        )  # gin files may hold lists
        self.rotation, self.occlusion, self.color_variation = rotation, occlusion, color_variation
        self.texture_contrast, self.background_texture = texture_contrast, background_texture
        self.seed, self.split = seed, split
        self.classes = tuple(f"{texture} {shape}" for texture, shape in CLASSES[:n_classes])

    def __repr__(self) -> str:
        return (
            f"Scenes({self.n_images} of {self.size} px, {self.n_classes} classes, "
            f"split={self.split!r}, seed={self.seed})"
        )

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.n_images:
            raise IndexError(f"item {index} of {self!r}")
        rng = draws.generator(Key(self.seed, 0, index), 0, f"scene {self.split}")
        canvas = self._background(rng)  # channels first: numpy is slow over a last axis of 3
        for _ in range(rng.integers(self.clutter[0], self.clutter[1] + 1)):
            self._draw_clutter(rng, canvas)
        mask = np.zeros((self.size, self.size), np.int64)
        instances = np.zeros_like(mask)
        places = self._places(rng)
        labels = rng.integers(self.n_classes, size=len(places))
        for number, (place, label) in enumerate(zip(places, labels, strict=True), start=1):
            window, inside = self._draw_object(rng, canvas, place, *CLASSES[label])
            mask[window][inside] = label + 1
            instances[window][inside] = number
        # Grain lies over everything: on the ground alone it would give the objects away.
        grain = rng.standard_normal((self.size, self.size), np.float32) * np.float32(255 * GRAIN)
        pixels = (canvas * 255 + grain).clip(0, 255).astype(np.uint8)
        return Sample(
            image=Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))),
            index=index,
            label=int(labels[0]) if self.objects == (1, 1) else None,
            mask=torch.from_numpy(mask),
            instances=torch.from_numpy(instances),
        )

    def _places(self, rng: np.random.Generator) -> list[Array]:
        """(x, y, radius) in pixels of each object. Drawn before the classes, so that none is dropped more often."""
        places: list[Array] = []
        n_objects = int(rng.integers(self.objects[0], self.objects[1] + 1))
        for radius in self.size / 2 * rng.uniform(self.scale[0], self.scale[1], n_objects):
            centre = rng.uniform(radius, self.size - radius, (CANDIDATES, 2))
            free = np.ones(CANDIDATES, bool)
            for x, y, other in places:
                apart = np.hypot(centre[:, 0] - x, centre[:, 1] - y)
                free &= apart >= (1 - self.occlusion) * (radius + other)
            if free.any():
                places.append(np.array([*centre[free.argmax()], radius], np.float32))
        return places

    def _colors(self, rng: np.random.Generator, contrast: float) -> tuple[Array, Array]:
        """Two colours (3, 1, 1) that differ by `contrast` in brightness, either one the brighter."""
        middle, tint = rng.uniform(-0.5, 0.5, (2, 3, 1, 1)) * self.color_variation
        middle = 0.5 + middle * (1 - contrast / 2)
        half = contrast / 2 * np.sign(rng.random() - 0.5) + tint / 2 * min(1, 2 * contrast)
        return (middle + half).clip(0, 1).astype(np.float32), (middle - half).clip(0, 1).astype(np.float32)

    def _window(self, x: float, y: float, radius: float) -> tuple[tuple[slice, slice], Array, Array]:
        """The pixels around a point, and their places relative to it."""
        left, top = max(0, int(x - radius - 1)), max(0, int(y - radius - 1))
        right, bottom = min(self.size, int(x + radius + 2)), min(self.size, int(y + radius + 2))
        columns = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5 - x)
        rows = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
        return (slice(top, bottom), slice(left, right)), columns, rows

    def _draw_object(
        self, rng: np.random.Generator, canvas: Array, place: Array, texture: str, shape: str
    ) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
        """Paint one object; its window of the picture and which pixels of that it covers come back."""
        angle, stretch, shear, period, *phase = rng.random(6, np.float32)
        angle = np.deg2rad(self.rotation) * (2 * angle - 1)
        cos, sin, squeeze = np.cos(angle), np.sin(angle), 1 + 0.25 * stretch
        lean = 0.3 * (2 * shear - 1)
        # Canvas to object. No singular value is below 1, so nothing leaves the circle that was found free.
        pose = np.array([[1, lean], [0, squeeze]]) @ np.array([[cos, sin], [-sin, cos]])
        pose = (pose / np.linalg.svd(pose, compute_uv=False)[-1]).astype(np.float32)
        radius = place[2]
        window, dx, dy = self._window(*place)
        x, y = pose[0, 0] * dx + pose[0, 1] * dy, pose[1, 0] * dx + pose[1, 1] * dy
        edge = SHAPES[shape](x / radius, y / radius) * radius
        wave = np.float32(
            2 * np.pi / (self.size * (TEXTURE_PERIOD[0] + period * (TEXTURE_PERIOD[1] - TEXTURE_PERIOD[0])))
        )
        shift = np.float32(0 if texture == "banded" else 40) * np.array(
            phase
        )  # bands stay around the centre of the object
        paint = (0.5 + 1.2 * TEXTURES[texture](wave * x + shift[0], wave * y + shift[1])).clip(0, 1)
        one, other = self._colors(rng, self.texture_contrast)
        canvas[:, *window] += (0.5 - edge).clip(0, 1) * (one + paint * (other - one) - canvas[:, *window])
        return window, edge < 0

    def _draw_clutter(self, rng: np.random.Generator, canvas: Array) -> None:
        """Paint one short stroke of one colour, so short at times that it is a blob."""
        x, y, angle, length, width = rng.random(5)
        x, y, angle = x * self.size, y * self.size, 2 * np.pi * angle
        length, width = (0.08 * length) * self.size, (0.01 + 0.025 * width) * self.size
        window, dx, dy = self._window(x, y, length + width)
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along = (np.abs(cos * dx + sin * dy) - np.float32(length)).clip(0, None)
        edge = np.hypot(along, sin * dx - cos * dy) - np.float32(width)
        color = self._colors(rng, 0.5)[0]
        canvas[:, *window] += (0.5 - edge).clip(0, 1) * (color - canvas[:, *window])

    def _background(self, rng: np.random.Generator) -> Array:
        """Ground of two colours, mixed by a field that is slower than any object's texture."""
        one, other = self._colors(rng, self.background_texture)
        field = BACKGROUNDS[rng.integers(len(BACKGROUNDS))](rng, self.size)
        return one + (0.5 + field).clip(0, 1) * (other - one)


@cache
def _enlarge(n: int, size: int) -> Array:
    """The matrix (size, n) that reads `n` values at `size` places, smoothly."""
    place = np.linspace(0, n - 1, size)[:, None] - np.arange(n)
    weight = np.exp(-2 * place**2)
    matrix: Array = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


def _smooth(rng: np.random.Generator, size: int, rows: int, columns: int) -> Array:
    """A random field with about `rows` x `columns` hills and valleys."""
    values = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return _enlarge(rows, size) @ values @ _enlarge(columns, size).T


def _slope(rng: np.random.Generator, size: int) -> Array:
    """A plane in a random direction, from about -0.5 to 0.5."""
    angle = rng.uniform(0, 2 * np.pi)
    line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    return np.float32(np.cos(angle)) * line[None] + np.float32(np.sin(angle)) * line[:, None]


def _clouds(rng: np.random.Generator, size: int) -> Array:
    return 0.6 * _smooth(rng, size, 4, 4) + 0.4 * _smooth(rng, size, 9, 9)


def _gradient(rng: np.random.Generator, size: int) -> Array:
    return _slope(rng, size) + 0.3 * _smooth(rng, size, 6, 6)


def _grating(rng: np.random.Generator, size: int) -> Array:
    warped = rng.uniform(2, 5) * _slope(rng, size) + 0.15 * _smooth(rng, size, 5, 5) + rng.uniform()
    waves: Array = 0.5 * np.sin(np.float32(2 * np.pi) * warped.astype(np.float32))
    return waves


def _streaks(rng: np.random.Generator, size: int) -> Array:
    field = 0.8 * _smooth(rng, size, 3, 14)
    return field.T if rng.uniform() < 0.5 else field


def _patches(rng: np.random.Generator, size: int) -> Array:
    field: Array = (8 * (_smooth(rng, size, 7, 7) + 0.5 * _slope(rng, size))).clip(-0.5, 0.5)
    return field


BACKGROUNDS = (_clouds, _gradient, _grating, _streaks, _patches)
