"""Any folder of images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sslkit.parameters import Folder, Share
from sslkit.registry import register
from sslkit.types import Sample

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # of the content: others run programs, as EPS does
ENOUGH = 1000  # files after which a share of unreadable ones means something
READABLE, UNREADABLE = 1, 2  # 0 is not tried yet

logger = logging.getLogger(__name__)


class UnreadableImagesError(ValueError):
    """More images of a folder cannot be read than its owner allowed."""


def read_rgb(path: str | Path) -> Image.Image:
    """The image in a file as RGB: palettes looked up, 16 bits brought to 8, transparency dropped.

    Raises:
        Exception: whatever Pillow raises on a file that it cannot read to the end.
    """
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        if image.mode.startswith("I"):  # Pillow's own conversion turns all above 255 into white
            return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).astype(np.uint8)).convert("RGB")
        if "transparency" in image.info:
            return image.convert("RGBA").convert("RGB")
        return image.convert("RGB")


@register("datasets")
class ImageFolder:
    """Every image below a folder, in the order of their paths.

    Where each image lies in a sub-folder, the label is the number of the first-level one among `classes`; otherwise
    `classes` is empty and labels are None. Names that start with a dot are left out.

    A file that cannot be read is reported once, and the next readable one stands in for it, with its own label but
    under the index asked for. Which files failed is kept in shared memory, so the workers of a loader count together.

    Args:
        root: the folder; `~` is the home folder.
        split: a sub-folder of `root`, such as "train", to read in its place.
        max_unreadable: share of the files, 0 to 1, that may be unreadable among those tried so far. The first 1000
            (all, where there are fewer) are counted as tried from the start.

    Raises:
        ValueError: the folder is not there or holds no image; `max_unreadable` is out of its range.
        UnreadableImagesError: more files than that cannot be read (on access; a ValueError too).
        IndexError: there is no such item.

    Example:
        >>> root = Path(getfixture("tmp_path"))
        >>> for kind in ("cat", "dog"):
        ...     (root / kind).mkdir()
        ...     Image.new("RGB", (40, 30)).save(root / kind / "1.png")
        >>> folder = ImageFolder(root)
        >>> folder.classes, folder[1].label, folder[1].image.size
        (('cat', 'dog'), 1, (40, 30))
    """

    def __init__(self, root: Folder, *, split: str | None = None, max_unreadable: Share = 0.01):
        self.root = os.path.abspath(os.path.join(os.path.expanduser(root), split or ""))
        self.max_unreadable = max_unreadable
        asked = f"ImageFolder.root={str(root)!r}" + (f", split={split!r}" if split is not None else "")
        if not os.path.isdir(self.root):
            raise ValueError(f"{asked}: there is no folder {self.root}")
        names = [
            os.path.relpath(os.path.join(folder, name), self.root)
            for folder, files in _folders(self.root)
            for name in files
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
        if not names:
            raise ValueError(
                f"{asked}: no image in {self.root} or below it; looked for files ending in {', '.join(EXTENSIONS)}"
            )
        # One array, not a list: workers made by fork would copy a list's pages merely by reading it.
        self._names = np.array(sorted(os.fsencode(name) for name in names))
        labelled = all(os.sep in name for name in names)
        self.classes = tuple(sorted({name.split(os.sep)[0] for name in names})) if labelled else ()
        self._label = {name: i for i, name in enumerate(self.classes)}
        self._state = torch.zeros(len(names), dtype=torch.uint8).share_memory_()

    def __repr__(self) -> str:
        return f"ImageFolder({self.root!r}, {len(self)} images, {len(self.classes)} classes)"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {self!r}")
        for i in (*range(index, len(self)), *range(index)):
            image = self._read(i)
            if image is not None:
                first = os.fsdecode(self._names[i]).split(os.sep)[0]
                return Sample(image=image, index=index, label=self._label.get(first))
        raise UnreadableImagesError(f"ImageFolder.root: not one image in {self.root} can be read")

    def path(self, index: int) -> str:
        """Where item `index` lies."""
        return os.path.join(self.root, os.fsdecode(self._names[index]))

    def _read(self, i: int) -> Image.Image | None:
        if self._state[i] == UNREADABLE:
            return None
        try:
            image = read_rgb(self.path(i))
        except Exception as error:  # Pillow's decoders raise nearly anything; what it was is in the report
            self._state[i] = UNREADABLE
            logger.warning(
                "cannot read %s (%s: %s); the next image stands in", self.path(i), type(error).__name__, error
            )
            self._check_share()
            return None
        self._state[i] = READABLE
        return image

    def _check_share(self) -> None:
        bad = (self._state == UNREADABLE).nonzero()[:, 0].tolist()
        tried = max(int(self._state.count_nonzero()), min(ENOUGH, len(self)))
        if len(bad) > self.max_unreadable * tried:
            listed = "".join(f"\n  {self.path(i)}" for i in bad[:20])
            raise UnreadableImagesError(
                f"{len(bad)} of {tried} images in {self.root} cannot be read, more than "
                f"ImageFolder.max_unreadable={self.max_unreadable:g} allows:{listed}"
                + (f"\n  and {len(bad) - 20} more" if len(bad) > 20 else "")
            )


def _folders(root: str) -> Iterator[tuple[str, list[str]]]:
    """Every folder below `root` and its files, links followed, but no folder entered from inside itself."""
    seen = set()
    for folder, inside, files in os.walk(root, followlinks=True):
        inside.sort()  # so that which of two links to one folder is entered does not depend on the file system
        place = os.path.realpath(folder)
        if place in seen:
            inside.clear()
            continue
        seen.add(place)
        yield folder, files
