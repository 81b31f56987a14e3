"""Images of one training item in, views with their geometry out."""

from sslkit.augmenters.base import Augmenter
from sslkit.augmenters.crops import Crop, Crops, Recipe

__all__ = ["Augmenter", "Crop", "Crops", "Recipe"]
