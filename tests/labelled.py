"""Small labelled images for tests of protocols that classify, and a backbone whose image vectors are the pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sslkit.types import Sample

SIDE = 4


class Pictures:
    """Images of the given levels (n, height, width, 3) and labels; `read` says which were asked for."""

    def __init__(self, levels, labels):
        self.levels, self.labels, self.read = np.asarray(levels, np.uint8), list(labels), []

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        self.read.append(i)
        return Sample(image=Image.fromarray(self.levels[i]), index=i, label=self.labels[i])

    def at(self, order):
        return Pictures(self.levels[order], [self.labels[i] for i in order])

    def labelled(self, name_of):
        return Pictures(self.levels, map(name_of, self.labels))


def noise(n, n_classes, *, seed):
    rng = np.random.default_rng(seed)
    return Pictures(rng.integers(0, 256, (n, SIDE, SIDE, 3)), rng.integers(0, n_classes, n).tolist())


def of_one_colour_a_class(n, n_classes, *, seed):
    """Images that show their class, each with a little noise of its own."""
    rng = np.random.default_rng(seed)
    colours = np.random.default_rng(0).integers(30, 220, (n_classes, SIDE, SIDE, 3))
    labels = [*range(n_classes), *rng.integers(0, n_classes, n - n_classes).tolist()]
    return Pictures(colours[labels] + rng.integers(-9, 10, (n, SIDE, SIDE, 3)), labels)


def pixels_as_they_are(pixels):
    image = pixels.flatten(1)
    return image, image[:, None], (1, 1)
