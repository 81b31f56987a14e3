"""Data sets: map-style, each item a `Sample`."""

from sslkit.datasets.image_folder import ImageFolder as ImageFolder
from sslkit.datasets.scenes import Scenes as Scenes
from sslkit.datasets.segmentation import Segmentation as Segmentation
