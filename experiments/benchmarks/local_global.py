"""Time and memory of a whole step of CO-BYOL against one of BYOL, on the same backbone and images.

    python experiments/benchmarks/local_global.py [--growth]

A step is both networks on two views, the losses, the gradient and an update of the teacher; the heads have the widths
of gin/recipes/co_byol_in1k_resnet50.gin. The program ends with an error if the image term differs between the two.
"""

from __future__ import annotations

import argparse
from functools import partial

import measure
import numpy as np
import torch

from sslkit import config
from sslkit.method import Method
from sslkit.types import Batch, View

RECIPE = "gin/recipes/co_byol_in1k_resnet50.gin"
BYOL = ("Method.terms = %BYOL_TERMS", "Method.heads = [@heads.Projector()]", "image/Term.weight = 1.0")


class Step:
    """The inputs: a method with random weights, and two views of random pixels."""

    def __init__(self, bindings: tuple[str, ...], *, model: str, batch: int, side: int, seed: int):
        named = (f"backbones.Timm.name = {model!r}", "train.data = @datasets.Scenes()", "datasets.Scenes.n_images = 1")
        settings = config.load([RECIPE], [*named, *bindings])
        torch.manual_seed(seed)
        method = settings.part("train", "method")
        assert isinstance(method, Method)
        self.method, draw = method, torch.Generator().manual_seed(seed)

        def view() -> View:
            box, flip = torch.tensor([[0.0, 0, side, side]]).expand(batch, 4), torch.zeros(batch, dtype=torch.bool)
            return View(torch.randn(batch, 3, side, side, generator=draw), box, flip, box[:, 2:])

        self.batch = Batch((view(), view()), 2, torch.arange(batch))
        self.image: list[float] = []

    def run(self) -> None:
        self.method.zero_grad()
        outcome = self.method(self.batch)
        outcome.total.backward()
        self.method.update([outcome])
        self.image.append(outcome.losses["image"].item() / float(self.method.terms["image"].weight))

    def result(self) -> dict[str, np.ndarray]:
        return {"the image term": np.array(self.image[:1])}


def compare(side: int, args: argparse.Namespace) -> str:
    size = {"model": args.model, "batch": args.batch, "side": side, "seed": args.seed}
    forms = {
        "BYOL": partial(Step, BYOL, **size),
        "CO-BYOL": partial(Step, ("heads.Projector.rows_at_a_time = None",), **size),
        f"CO-BYOL, {args.rows} rows at a time": partial(
            Step, (f"heads.Projector.rows_at_a_time = {args.rows}",), **size
        ),
    }
    measured = measure.alternate(forms, args)
    (base, *others) = (m.result["the image term"] for m in measured.values())
    if not all(np.allclose(base, other, rtol=1e-5) for other in others):
        raise SystemExit(f"the forms disagree: the image term is {base}, {others}")
    return measure.rows(f"{side} px", measured)


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=224, help="pixels of a view; 224 gives a ResNet-50 49 positions")
    parser.add_argument("--rows", type=int, default=256, help="positions that pass a head at a time")
    args = parser.parse_args()
    sides = [round(args.side * share / 32) * 32 for share in ((0.43, 0.72) if args.growth else ())]
    tables = [compare(side, args) for side in [*sides, args.side]]
    print(f"A step of {args.model}: {args.batch} images, two views.")
    print(f"{measure.facts(args)}.\nSame image term.\n")
    print(measure.HEADER, *tables, sep="\n")


if __name__ == "__main__":
    main()
