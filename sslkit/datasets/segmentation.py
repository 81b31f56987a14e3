"""Images with a class for every pixel, in the layout of CamVid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sslkit.datasets.image_folder import EXTENSIONS, read_rgb
from sslkit.parameters import Folder
from sslkit.registry import register
from sslkit.types import Sample


@register("datasets")
class Segmentation:
    """Images of `root/images/SPLIT`, each with the class mask of its name in `root/labels/SPLIT`, in order of names.

    Masks are PNG files of 8-bit class indices, grey or with a palette, and come as they are: a void class keeps its
    number (11 in CamVid).

    Args:
        root: the folder that holds `images` and `labels`; `~` is the home folder.
        split: the sub-folder of both, such as "train".

    Raises:
        ValueError: a folder or a label file is missing, there is no image, or (on access) a file cannot be read, a
            mask has not 8 bits, or its size is not that of the image.
        IndexError: there is no such item.

    Example:
        >>> root = Path(getfixture("tmp_path"))
        >>> for kind, mode in (("images", "RGB"), ("labels", "L")):
        ...     (root / kind / "val").mkdir(parents=True)
        ...     Image.new(mode, (40, 30)).save(root / kind / "val" / "street.png")
        >>> Segmentation(root, split="val")[0].mask.shape
        torch.Size([30, 40])
    """

    def __init__(self, root: Folder, *, split: str):
        self.root, self.split = Path(root).expanduser().absolute(), split
        images = self.root / "images" / split
        if not split or not images.is_dir():
            known = sorted(path.name for path in (self.root / "images").glob("*") if path.is_dir())
            raise ValueError(
                f"Segmentation(root={str(root)!r}, split={split!r}): there is no folder {images}; "
                + (f"the splits there are {', '.join(known)}" if known else "it takes root/images/SPLIT")
            )
        self._names = sorted(
            path.name for path in images.iterdir() if path.suffix.lower() in EXTENSIONS and path.name[0] != "."
        )
        if not self._names:
            raise ValueError(f"Segmentation.root={str(root)!r}: no image ending in {', '.join(EXTENSIONS)} in {images}")
        for i in range(len(self)):
            image, label = self.paths(i)
            if not label.is_file():
                raise ValueError(f"{image} has no label file; it would be {label}")

    def __repr__(self) -> str:
        return f"Segmentation({str(self.root)!r}, split={self.split!r}, {len(self)} images)"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {self!r}")
        image_path, label_path = self.paths(index)
        try:
            image = read_rgb(image_path)
        except Exception as error:
            raise ValueError(f"cannot read {image_path}: {error}") from error
        mask = _read_mask(label_path)
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"{label_path} is {mask.shape[1]} x {mask.shape[0]} pixels, "
                f"but {image_path} is {image.width} x {image.height}"
            )
        return Sample(image=image, index=index, mask=mask)

    def paths(self, index: int) -> tuple[Path, Path]:
        """Where the image and the mask of item `index` lie."""
        name = self._names[index]
        images, labels = (self.root / kind / self.split for kind in ("images", "labels"))
        return images / name, (labels / name).with_suffix(".png")


def _read_mask(path: Path) -> torch.Tensor:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode, values = image.mode, np.array(image)
    except Exception as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if mode not in ("L", "P"):
        raise ValueError(f"{path} has pixels of mode {mode}, but a mask holds 8-bit class indices (mode L or P)")
    return torch.from_numpy(values.astype(np.int64))
