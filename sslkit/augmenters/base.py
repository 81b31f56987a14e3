"""What all augmenters share."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from sslkit.types import Key, View


class Augmenter:
    """The images of one training item to its views, global ones first, as the key alone decides."""

    n_global: int  # views that both networks see
    n_sources: int = 1  # images of an item that views show: 2 with a partner

    def __call__(self, images: Sequence[Image.Image], key: Key) -> list[View]:
        raise NotImplementedError
