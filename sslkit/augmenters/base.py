"""What all augmenters share."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from sslkit.types import Key, View


class Augmenter:
    """The images of one training item to its views, global ones first, as the key alone decides."""

    n_global: int  # views that both networks see
    sources: Sequence[int] = (0,)  # which image of an item each view shows: 0 the image itself, 1 its partner

    @property
    def n_sources(self) -> int:
        """Images of an item that it asks for."""
        return 1 + max(self.sources)

    def __call__(self, images: Sequence[Image.Image], key: Key) -> list[View]:
        raise NotImplementedError
