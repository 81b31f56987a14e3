"""Every clusterer with every matcher, aligner and loss: two steps of each, and what ran or was refused.

    python -m experiments.hybrids.grid

The parts are those that are registered, so a new one is in the grid by existing. Writes grid.md beside itself.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from sslkit.aligners import Aligner
from sslkit.backbones import Timm
from sslkit.clusterers import Clusterer
from sslkit.heads import Head, Projector, Prototypes
from sslkit.losses import Loss
from sslkit.matchers import Matcher
from sslkit.memories import Queue
from sslkit.method import Method
from sslkit.registry import components
from sslkit.schedules import Time
from sslkit.search import Search
from sslkit.term import Term
from sslkit.types import Batch, View

HERE = Path(__file__).parent
SCORED = ("Distillation", "SwappedAssignment", "MeanEntropy")  # by prototypes; other losses see embeddings
SMALL: dict[str, dict[str, Any]] = {
    "Sinkhorn": {"n_clusters": 3},
    "KMeans": {"n_clusters": 3},
    "Grid": {"rows": 1, "columns": 2},
    "Threshold": {"least": 0.2},
    "Adaptive": {"temperature": 10.0},
    "ImageAcrossImages": {"search": "images"},
    "RegionAcrossImages": {"search": "regions"},
}
VIT = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}


class Combination(NamedTuple):
    """The names of a method's parts."""

    clusterer: str
    matcher: str
    aligner: str
    loss: str


def everything() -> list[Combination]:
    """The full grid."""
    axes = (["none", *components("clusterers")], *(components(role) for role in ("matchers", "aligners", "losses")))
    return [Combination(*names) for names in itertools.product(*axes)]


def covering(grid: Sequence[Combination]) -> list[Combination]:
    """Some of the grid in which all parts that meet in it meet: greedily, the one with most new meetings next."""
    left = {pair for each in grid for pair in _meetings(each)}
    chosen = []
    while left:
        best = max(grid, key=lambda each: len(_meetings(each) & left))
        chosen.append(best)
        left -= _meetings(best)
    return chosen


def _meetings(each: Combination) -> set[tuple[tuple[str, str], ...]]:
    return set(itertools.combinations(each._asdict().items(), 2))


def attempt(each: Combination, n_steps: int = 2) -> str | None:
    """Why a method of these parts is refused; None if it takes its steps, with finite gradients that are not all 0.

    All steps see the same images, so that searches find them in the memory and trust them.

    Raises:
        ArithmeticError: a loss or gradient is not finite, or the last step has none.
    """
    try:
        method = made(each)
        optimizer = torch.optim.AdamW(method.student.parameters(), lr=1e-3)
        for at in range(n_steps):
            method.set_time(Time(at, n_steps, steps_per_epoch=1))
            outcome = method(batch())
            optimizer.zero_grad()
            outcome.total.backward()
            gradients = [p.grad for p in method.student.parameters() if p.grad is not None]
            if not all(x.isfinite().all() for x in (outcome.total, *gradients)):
                raise ArithmeticError(f"{each}: not finite at step {at}")
            if at == n_steps - 1 and not any(x.any() for x in gradients):
                raise ArithmeticError(f"{each}: nothing is compared in step {at}")
            optimizer.step()
            method.update([outcome])
    except ValueError as error:
        return str(error)
    return None


def made(each: Combination) -> Method:
    """A small method of these parts: one term, and searches for images and, where there are any, for regions."""

    def part(role: str, name: str, **others: Any) -> Any:
        return components(role)[name](**SMALL.get(name, {}) | others)

    torch.manual_seed(0)
    has_regions = each.clusterer != "none"
    clusterer: Clusterer | None = part("clusterers", each.clusterer) if has_regions else None
    levels = {"images": "image"} | ({"regions": "region"} if has_regions else {})
    searches = {}
    for name, level in levels.items():
        matcher: Matcher = part("matchers", each.matcher)
        searches[name] = Search(matcher=matcher, memory=Queue(n_images=8), level=level)  # type: ignore[arg-type]
    found = {"search": "regions" if has_regions else "images"} if each.aligner == "PatchToMatch" else {}
    aligner: Aligner = part("aligners", each.aligner, **found)
    loss: Loss = part("losses", each.loss)
    head: Head = Projector({"rows": 8}, hidden=16, predictor_hidden=16)
    if each.loss in SCORED:
        head = Prototypes({"rows": 8}, hidden=16, bottleneck=8)
    return Method(
        backbone=Timm("vit_tiny_patch16_224", options=VIT, mask="token"),
        heads=[head],
        terms={"term": Term(aligner=aligner, loss=loss, head="rows")},
        clusterer=clusterer,
        searches=searches,
    )


def batch(b: int = 6) -> Batch:
    """Two global views of random pixels with hidden patches, alike so that an image is nearest to itself."""
    draw = torch.Generator().manual_seed(0)

    box = torch.rand(b, 4, generator=draw) * 8 + torch.tensor([0.0, 0, 20, 20])
    hidden = torch.rand(b, 16, generator=draw).argsort(dim=1) < 5
    pixels = torch.randn(b, 3, 32, 32, generator=draw)
    view = View(pixels, box, torch.zeros(b, dtype=torch.bool), torch.full((b, 2), 32.0), mask=hidden)
    return Batch((view, view), 2, torch.arange(b))


def table(said: dict[Combination, str | None]) -> str:
    """How many of each aligner and loss ran, and every reason for which others were refused, with what they share."""
    losses = sorted({each.loss for each in said})
    lines = [f"| aligner | {' | '.join(losses)} |", "|---" * (len(losses) + 1) + "|"]
    for aligner in sorted({each.aligner for each in said}):
        cells = []
        for loss in losses:
            here = [reason is None for each, reason in said.items() if (each.aligner, each.loss) == (aligner, loss)]
            cells.append(f"{sum(here)} of {len(here)}")
        lines.append(f"| `{aligner}` | {' | '.join(cells)} |")
    lines += ["", "| refused | reason | what these share |", "|---|---|---|"]
    reasons = Counter(reason for reason in said.values() if reason is not None)
    for reason, n in reasons.most_common():
        shared = _shared([each for each, other in said.items() if other == reason], list(said))
        lines.append(f"| {n} | {reason} | {shared} |")
    n_ran = sum(reason is None for reason in said.values())
    return "\n".join([f"{n_ran} of {len(said)} ran, {len(said) - n_ran} were refused.", "", *lines]) + "\n"


def _shared(some: list[Combination], grid: list[Combination]) -> str:
    """The parts of each role that occur, where not all of them do."""
    said = []
    for role in Combination._fields:
        names = {getattr(each, role) for each in some}
        if names != {getattr(each, role) for each in grid}:
            said.append(f"{role} {' or '.join(sorted(names))}")
    return ", ".join(said)


def main() -> None:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--pairs", action="store_true", help="only so many that every two parts meet; write nothing")
    asked = options.parse_args()
    grid = covering(everything()) if asked.pairs else everything()
    said = {each: attempt(each) for each in tqdm(grid, desc="combinations")}
    if not asked.pairs:
        (HERE / "grid.md").write_text(table(said))
    print(table(said))


if __name__ == "__main__":
    main()
