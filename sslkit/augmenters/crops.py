"""Random crops of an image, resized, flipped and recoloured; their geometry is the crop box and the flip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from sslkit import draws
from sslkit.augmenters import colour
from sslkit.augmenters.base import Augmenter
from sslkit.maskings import Masking
from sslkit.parameters import Natural, NonNegative, Positive, Share, Within, refuse_unordered
from sslkit.registry import register
from sslkit.types import Key, View

JITTERS = {
    "brightness": colour.brightness,
    "contrast": colour.contrast,
    "saturation": colour.saturation,
    "hue": colour.hue,
}
_NAMES = tuple(JITTERS)
_BOX_TRIES = 10


@dataclass(frozen=True)
class Recipe:
    """Every number that was drawn for one view; the image and the recipe give the view."""

    box: tuple[int, int, int, int]  # left, top, width, height
    flip: bool
    jitter: tuple[tuple[str, float], ...]  # operations in their order, each with its factor
    grayscale: bool
    blur_px: float  # 0 is none
    solarise: bool
    mask: tuple[bool, ...] | None = None  # patches that are hidden; None where nothing is ever hidden


@register("augmenters")
class Crop:
    """Views of one kind: a random box of the image, resized to `size` px, flipped, recoloured and normalised.

    The defaults are what the two views of CrIBo, AdaSim and DINO share; blur and solarisation, where those views
    differ, are off.

    Args:
        scale: range of the box's share of the image area.
        ratio: range of the box's width / height, log-uniform.
        brightness, contrast, saturation: strength s, the factor is uniform in [max(0, 1 - s), 1 + s].
        hue: strength in turns, at most 0.5.
        jitter_p: probability of all four of these, in random order.
        blur_px: range of the blur's standard deviation in pixels of the view.
        solarise_threshold: levels (0 to 255) from it on are inverted.
        source: which image of the item is shown, 0 the query, 1 its partner.
        n: how many such views.
        masking: what draws the patches that are hidden from the student; none are if it is left out.

    Source: the augmentation of DINO (arXiv:2104.14294) as in CrIBo (arXiv:2310.07855), that is torchvision's
    `RandomResizedCrop` (ten tries, then the central crop), `ColorJitter`, `RandomGrayscale` and PIL's blur and
    solarisation. The resize is torch's on whole levels, within one level of PIL's; after it nothing is rounded, see
    `colour` for what that changes.
    """

    def __init__(
        self,
        *,
        size: Annotated[int, Within(1, 4096)] = 224,
        scale: Sequence[Annotated[float, Within(above=0, most=1)]] = (0.25, 1.0),
        ratio: Sequence[Positive] = (3 / 4, 4 / 3),
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        flip_p: Share = 0.5,
        jitter_p: Share = 0.8,
        brightness: NonNegative = 0.4,
        contrast: NonNegative = 0.4,
        saturation: NonNegative = 0.2,
        hue: Annotated[float, Within(0, 0.5)] = 0.1,
        grayscale_p: Share = 0.2,
        blur_p: Share = 0.0,
        blur_px: Sequence[Positive] = (0.1, 2.0),
        solarise_p: Share = 0.0,
        solarise_threshold: Annotated[float, Within(0, 256)] = 128,
        mean: Sequence[Share] = (0.485, 0.456, 0.406),
        std: Sequence[Positive] = (0.229, 0.224, 0.225),
        source: Natural = 0,
        n: Annotated[int, Within(1, 1000)] = 1,
        masking: Masking | None = None,
    ) -> None:
        refuse_unordered(scale=scale, ratio=ratio, blur_px=blur_px)
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3:
                raise ValueError(f"{name}={values!r}, but it must be one number per channel, 3")
        self.size, self.scale, self.ratio, self.interpolation = size, tuple(scale), tuple(ratio), interpolation
        self.flip_p, self.jitter_p, self.grayscale_p = flip_p, jitter_p, grayscale_p
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.blur_p, self.blur_px = blur_p, tuple(blur_px)
        self.solarise_p, self.solarise_threshold = solarise_p, solarise_threshold
        self.mean, self.std, self.source, self.n = tuple(mean), tuple(std), source, n
        self.masking = masking

        mixing = np.array([brightness, contrast, saturation])
        self._least, self._most = np.append(np.maximum(0, 1 - mixing), -hue), np.append(1 + mixing, hue)
        self._p = np.array([flip_p, jitter_p, grayscale_p, blur_p, solarise_p])
        self._to_unit = (1 / (255 * torch.tensor(self.std)))[:, None, None]
        self._offset = (torch.tensor(self.mean) / torch.tensor(self.std))[:, None, None]

    def __call__(self, image: Image.Image, key: Key, view: int = 0) -> View:
        """View number `view` of the item `key`."""
        return self.render(levels(image), self.draw(image.size, key, view))

    def draw(self, size: tuple[int, int], key: Key, view: int) -> Recipe:
        """What will be done to an image of that (width, height)."""
        rng = draws.generator(key, view, "view")
        # all numbers are drawn whatever the probabilities, so that changing one leaves the others' draws alone
        chance, factor, order, (radius,) = np.split(rng.random(14), (5, 9, 13))
        flip, jitter, grayscale, blurred, solarise = (chance < self._p).tolist()
        factors = dict(zip(JITTERS, (self._least + (self._most - self._least) * factor).tolist(), strict=True))
        names = [_NAMES[i] for i in order.argsort().tolist()]
        low, high = self.blur_px
        return Recipe(
            box=self._box(*size, rng),
            flip=flip,
            jitter=tuple((name, factors[name]) for name in names if getattr(self, name) > 0) if jitter else (),
            grayscale=grayscale,
            blur_px=float(low + (high - low) * radius) if blurred else 0.0,
            solarise=solarise,
            mask=self._mask(key, view),
        )

    def render(self, image: UInt8[Tensor, "h w 3"], recipe: Recipe) -> View:
        """The view that a recipe makes of an image."""
        left, top, width, height = recipe.box
        # cropped before resizing, as torchvision does: the filter then sees nothing outside the box
        crop = image[top : top + height, left : left + width].permute(2, 0, 1)[None]
        x = F.interpolate(crop, size=(self.size, self.size), mode=self.interpolation, antialias=True)[0]
        x = (x.flip(-1) if recipe.flip else x.contiguous()).float()
        for name, factor in recipe.jitter:
            x = JITTERS[name](x, factor)
        if recipe.grayscale:
            x = colour.grayscale(x)
        if recipe.blur_px > 0:
            x = colour.blur(x, recipe.blur_px)
        if recipe.solarise:
            x = colour.solarise(x, self.solarise_threshold)
        return View(
            pixels=x.mul_(self._to_unit).sub_(self._offset),
            box=torch.tensor(recipe.box, dtype=torch.float32),
            flip=torch.tensor(recipe.flip),
            size=torch.tensor((image.shape[1], image.shape[0]), dtype=torch.float32),
            source=self.source,
            mask=None if recipe.mask is None else torch.tensor(recipe.mask),
        )

    def _mask(self, key: Key, view: int) -> tuple[bool, ...] | None:
        """Drawn by a generator of its own: what else is drawn of a view does not depend on what is hidden of it."""
        if self.masking is None:
            return None
        return tuple(self.masking(self.size, draws.generator(key, view, "mask")).tolist())

    def _box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """A box of random area and shape at a random place, or the largest central one if ten draws do not fit."""
        shortest, longest = self.ratio
        for _ in range(_BOX_TRIES):
            area = width * height * rng.uniform(self.scale[0], self.scale[1])
            ratio = math.exp(rng.uniform(math.log(shortest), math.log(longest)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
        w, h = width, height
        if width / height < shortest:
            h = max(1, round(width / shortest))
        elif width / height > longest:
            w = max(1, round(height * longest))
        return (width - w) // 2, (height - h) // 2, w, h


@register("augmenters")
class Crops(Augmenter):
    """The views of one training item, global ones first: two for a pair, more and smaller ones for multi-crop.

    View v draws from (seed, epoch, image index, v) alone, so nothing depends on worker, rank or order.

    Args:
        global_crops: kinds of the views that both networks see.
        local_crops: kinds of the views that only the student sees.

    Example:
        >>> views = Crops(global_crops=[Crop(n=2)], local_crops=[Crop(size=96, scale=(0.05, 0.25), n=4)])
        >>> [view.pixels.shape[-1] for view in views([Image.new("RGB", (480, 360))], Key(seed=0, epoch=0, index=7))]
        [224, 224, 96, 96, 96, 96]
    """

    def __init__(self, *, global_crops: Sequence[Crop], local_crops: Sequence[Crop] = ()) -> None:
        for name, kinds in (("global_crops", global_crops), ("local_crops", local_crops)):
            for kind in kinds:
                if not isinstance(kind, Crop):
                    raise TypeError(
                        f"{name} holds {kind!r}, but each entry is a Crop (in a gin file: @augmenters.Crop())"
                    )
        if not global_crops:
            raise ValueError(f"global_crops={global_crops!r}, but both networks need at least one view")
        self.n_global = sum(kind.n for kind in global_crops)
        self.crops = tuple(kind for kind in (*global_crops, *local_crops) for _ in range(kind.n))  # one per view
        self.sources = tuple(crop.source for crop in self.crops)

    def __call__(self, images: Sequence[Image.Image], key: Key) -> list[View]:
        if len(images) < self.n_sources:
            raise ValueError(f"the item has {len(images)} images, but a Crop has source={self.n_sources - 1}")
        sources = [levels(image) for image in images[: self.n_sources]]
        return [
            crop.render(sources[crop.source], crop.draw(images[crop.source].size, key, view))
            for view, crop in enumerate(self.crops)
        ]


def levels(image: Image.Image) -> UInt8[Tensor, "h w 3"]:
    """The levels of an RGB image."""
    if image.mode != "RGB":
        raise ValueError(f"an image has mode {image.mode!r}, but views are made of 'RGB': convert it when it is loaded")
    return torch.from_numpy(np.array(image))
