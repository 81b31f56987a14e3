"""Time and memory of the end of an epoch: keeping the neighbours of all images, and pooling those of the last epochs.

    python experiments/benchmarks/history.py [--growth] [--folder DIR]

The direct form keeps the whole history in one array of (image, epoch, neighbour), moves every epoch one place and adds
the new one; then it sums the similarities of each image in turn. sslkit writes one file for the epoch, maps those of
the others and pools some images at a time. All see the same neighbours. Memory is what the process holds itself
(RssAnon of Linux, looked at every few milliseconds); pages of mapped files, which all processes of a machine share and
the system may drop at any time, are not in it. The program ends with an error if the candidates, or their scores,
differ between the forms.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import measure
import numpy as np
import torch

from sslkit.memories import PerImage

NEAR = 101  # images, itself included, that an image may have for neighbours; a prime


def neighbours(images: int, k: int, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` neighbours of every image, distinct ones of those next to it, the nearer the more similar."""
    draw = np.random.default_rng([seed, epoch])
    first, stride = draw.integers(0, NEAR, (images, 1)), draw.integers(1, NEAR, (images, 1))
    away = (first + stride * np.arange(k)) % NEAR
    index = ((np.arange(images)[:, None] + away) % images).astype(np.int32)
    similarity = 0.95 - 0.004 * away + 0.02 * draw.standard_normal((images, k), dtype=np.float32)
    return index, similarity.astype(np.float32)


class Epoch:
    """All epochs of the window but its last one are there; `run` adds it."""

    def __init__(self, *, images: int, window: int, k: int, seed: int):
        if images < NEAR:
            raise ValueError(f"images={images}, but an image has {NEAR} to choose its neighbours from")
        self.images, self.window, self.k, self.seed = images, window, k, seed
        self.room: list[measure.Room] = []

    def drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return neighbours(self.images, self.k, epoch, self.seed)

    def run(self) -> None:
        with measure.Room() as room:
            self.index, self.score = self.finish()
        self.room.append(room)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def result(self) -> dict[str, np.ndarray]:
        """What both forms must agree on, as a digest of every so many images."""
        parts = (
            np.concatenate([x[start : start + 1000].ravel().view(np.uint8) for x in (self.index, self.score)])
            for start in range(0, self.images, 1000)
        )
        digests = b"".join(hashlib.blake2b(part.tobytes(), digest_size=16).digest() for part in parts)
        return {"candidates": np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16), **self.facts()}

    def facts(self) -> dict[str, np.ndarray]:
        return {"room": np.array([self.room[0].before, self.room[0].peak])}


class Direct(Epoch):
    def __init__(self, **size: int):
        super().__init__(**size)
        self.kept = (
            np.zeros((self.images, self.window, self.k), np.int64),
            np.zeros((self.images, self.window, self.k), np.float32),
        )
        for epoch in range(self.window - 1):
            self.kept[0][:, epoch + 1], self.kept[1][:, epoch + 1] = self.drawn(epoch)
        self.new = self.drawn(self.window - 1)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        for kept, new in zip(self.kept, self.new, strict=True):
            for epoch in range(self.window - 1):
                kept[:, epoch] = kept[:, epoch + 1]
            kept[:, -1] = new
        index, score = np.empty((self.images, self.k), np.int64), np.empty((self.images, self.k), np.float32)
        for i, (near, similarity) in enumerate(zip(*self.kept, strict=True)):
            who, place = np.unique(near, return_inverse=True)
            mean = (np.bincount(place.ravel(), weights=similarity.ravel()) / self.window).astype(np.float32)
            best = np.argsort(-mean, kind="stable")[: self.k]
            index[i], score[i] = who[best], mean[best]
        return index, score


class Ours(Epoch):
    def __init__(self, folder: str, **size: int):
        super().__init__(**size)
        self.folder = Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)  # of the process before
        self.memory = PerImage(n_neighbours=self.k, window=self.window, warmup_epochs=0, n_images=self.images, dim=1)
        self.memory.make_room(self.images, self.folder)
        for epoch in range(self.window):
            state = self.memory.state_dict()
            for name, x in zip(("_index", "_similarity"), self.drawn(epoch), strict=True):
                state[name].copy_(torch.from_numpy(x))
            self.memory.load_state_dict(state)
            if epoch < self.window - 1:
                self.memory.finish(epoch, needed=0)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        start = time.perf_counter()
        self.memory.finish(self.window - 1, needed=self.window - 1)
        self.written = time.perf_counter() - start
        found = self.memory.candidates(self.window)
        return found.index.numpy(), found.score.numpy()

    def facts(self) -> dict[str, np.ndarray]:
        sizes = [p.stat().st_size for p in self.folder.iterdir()]
        return super().facts() | {"files": np.array([len(sizes), sum(sizes) / 1e6]), "written": np.array(self.written)}


def compare(images: int, args: argparse.Namespace, folder: str) -> str:
    size = {"images": images, "window": args.window, "k": args.neighbours, "seed": args.seed}
    forms = {"direct": partial(Direct, **size), "sslkit": partial(Ours, folder=folder, **size)}
    measured = measure.alternate(forms, args)
    shutil.rmtree(folder, ignore_errors=True)
    direct, ours = (measured[name].result for name in forms)
    if wrong := measure.differences({"candidates": ours["candidates"]}, direct):
        raise SystemExit("the forms disagree: " + "; ".join(wrong))
    n_files, mb = ours["files"]
    print(
        f"{images} images: {n_files:.0f} files, {mb:,.0f} MB on the disk, the last written in {ours['written']:.2g} s."
    )
    lines = []
    for name, m in measured.items():
        seconds, (held, beyond) = min(m.seconds), m.result["room"]
        times = min(measured["direct"].seconds) / seconds
        lines.append(f"| {images:,} images | {name} | {seconds:.3g} | {times:.3g} | {held:,.0f} | {beyond:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--window", type=int, default=50, help="epochs")
    parser.add_argument("--neighbours", type=int, default=10, help="of each image and epoch")
    parser.add_argument(
        "--folder", help="where the files are put for a while; the system's temporary folder if left out"
    )
    args = parser.parse_args()
    sizes = [args.images // share for share in ((4, 2) if args.growth else ())]
    print(f"The end of an epoch: {args.neighbours} neighbours, {args.window} epochs.")
    print(f"{measure.facts(args)}.")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        tables = [compare(images, args, f"{folder}/history") for images in [*sizes, args.images]]
    print("Same candidates, same scores.\n")
    print("| size | form | fastest s | times faster | MB held between epochs | MB more at the end of one |")
    print("|---|---|--:|--:|--:|--:|", *tables, sep="\n")


if __name__ == "__main__":
    main()
