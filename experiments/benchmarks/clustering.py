"""Time and memory of clustering the tokens of two views: sslkit's form, and the direct one.

    python experiments/benchmarks/clustering.py [--growth]

Both forms see the same tokens, positions and seeds, and scale their cost over the batch, as the authors of CrIBo do.
The direct form writes the distance from every token to the nearest member of every cluster as a minimum over a tensor
of (image, token, token, cluster). The program ends with an error if the two assignments differ anywhere.
"""

from __future__ import annotations

import argparse
import math
from functools import partial

import measure
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkit import geometry
from sslkit.clusterers import Sinkhorn
from sslkit.types import View


class Clustering:
    """The inputs: tokens of images with a few parts each, in two views cut from 480x360 pixels."""

    def __init__(self, *, batch: int, grid: int, dim: int, clusters: int, seed: int):
        draw = torch.Generator().manual_seed(seed)
        n = grid * grid
        self.k = clusters
        self.tokens, self.positions = torch.empty(batch, 2 * n, dim), torch.empty(batch, 2 * n, 2)
        for i in range(batch):  # one image at a time, so that making the inputs raises no peak
            size = torch.tensor([480.0, 360.0])
            extent = size * (0.5 + 0.5 * torch.rand(2, 2, generator=draw))
            corner = (size - extent) * torch.rand(2, 2, generator=draw)
            view = View(torch.empty(0), torch.cat([corner, extent], dim=1), torch.tensor([False, True]), size)
            self.positions[i] = geometry.patch_positions(view, (grid, grid)).flatten(0, 1)
            sites = size * torch.rand(8, 2, generator=draw)
            part = (self.positions[i][:, None] - sites).square().sum(dim=-1).argmin(dim=1)
            self.tokens[i] = torch.randn(8, dim, generator=draw)[part] + torch.randn(2 * n, dim, generator=draw)
        self.seeds = torch.rand(batch, 2 * n, generator=draw).topk(clusters, dim=1).indices
        self.assignment = torch.empty(0)

    def result(self) -> dict[str, np.ndarray]:
        return {"assignments": self.assignment.flatten(0, 1).numpy()}


class Ours(Clustering):
    def run(self) -> None:
        self.assignment = Sinkhorn(self.k, cost_scale="batch")(self.tokens, self.positions, self.seeds)


class Direct(Clustering):
    @torch.no_grad()
    def run(self) -> None:
        self.assignment = direct(self.tokens, self.positions, self.seeds)


def direct(tokens: Tensor, positions: Tensor, seeds: Tensor, *, n_rounds: int = 5, n_balancing: int = 5) -> Tensor:
    (b, n, _), k = tokens.shape, seeds.shape[1]
    tokens = F.normalize(tokens, dim=-1)
    centroids = torch.stack([rows[drawn] for rows, drawn in zip(tokens, seeds, strict=True)])
    assignment = torch.zeros(b, n, k).scatter(1, seeds[:, None], 1.0)
    mass = torch.full((b, 1, k), 1 / k)
    apart = (positions[:, :, None] - positions[:, None]).norm(dim=-1)
    for _ in range(n_rounds):
        to_members = apart[..., None] * assignment[:, None]  # (b, n, n, k)
        away = to_members.masked_fill(to_members <= 0, math.inf).amin(dim=2)
        away = away.masked_fill(away.isinf(), 0.0)
        away = torch.where(away == 0, away.mean(dim=(1, 2), keepdim=True), away)
        cost = away / away.amax(dim=(1, 2), keepdim=True) - tokens @ centroids.mT
        cost = (cost - cost.min()) / (cost.max() - cost.min())
        plan = (-20 * cost).exp()
        plan = plan / plan.sum(dim=(1, 2), keepdim=True)
        for _ in range(n_balancing):
            plan = plan / plan.sum(dim=2, keepdim=True) / n
            plan = plan / plan.sum(dim=1, keepdim=True) * mass
        assignment = (plan == plan.amax(dim=2, keepdim=True)).float()
        mass = assignment.sum(dim=1, keepdim=True) + 0.01
        mass = mass / mass.sum(dim=2, keepdim=True)
        centroids = F.normalize(assignment.mT @ tokens, dim=-1)
    return assignment


def compare(grid: int, args: argparse.Namespace) -> str:
    size = {"batch": args.batch, "grid": grid, "dim": args.dim, "clusters": args.clusters, "seed": args.seed}
    measured = measure.alternate({"direct": partial(Direct, **size), "sslkit": partial(Ours, **size)}, args)
    if wrong := measure.differences(measured["direct"].result, measured["sslkit"].result):
        raise SystemExit("the forms disagree: " + "; ".join(wrong))
    return measure.rows(f"{grid * grid} tokens a view", measured)


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--grid", type=int, default=14, help="a view has grid x grid tokens")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=32)
    args = parser.parse_args()
    grids = [round(args.grid * share**0.5) for share in ((0.25, 0.5) if args.growth else ())]
    tables = [compare(grid, args) for grid in [*grids, args.grid]]
    print(f"Clustering: {args.batch} images, two views, width {args.dim}, {args.clusters} clusters.")
    print(f"{measure.facts(args)}.\nSame assignments.\n")
    print(measure.HEADER, *tables, sep="\n")


if __name__ == "__main__":
    main()
