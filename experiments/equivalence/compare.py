"""Shipped methods in small, in float64: some optimiser steps on this rank's share, and how far apart two courses end.

What runs is what `train` runs, from the sampler to the update: only the sizes are others, and the precision.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sslkit import config, distributed, draws
from sslkit.loader import Sampler, batches
from sslkit.method import Method
from sslkit.plan import plan
from sslkit.scopes import batch_scoped, rank_local
from sslkit.train import gradients
from sslkit.types import Batch

ROOT = Path(__file__).parents[2]
N_IMAGES, STEP, N_STEPS = 16, 8, 4  # in the data, in a step over all ranks and batches, and steps: two an epoch
RESNET = "{'output_stride': 8, 'layers': (1, 1, 0, 0), 'channels': (6, 10, 10, 10)}"  # a grid of 4 x 4
VIT = "{'img_size': 32, 'patch_size': 8, 'depth': 2, 'embed_dim': 24, 'num_heads': 3}"
SMALL = {  # bound where a method has the parameter
    "scenes/datasets.Scenes.n_images": f"{N_IMAGES}",
    "scenes/datasets.Scenes.size": "48",
    "augmenters.Crop.size": "32",
    "local/augmenters.Crop.size": "24",
    "focal/augmenters.Crop.size": "32",  # as a ViT is built for: timm resamples its positions in float32
    "heads.Prototypes.hidden": "24",
    "heads.Prototypes.bottleneck": "12",
    "heads.Projector.hidden": "24",
    "heads.Projector.predictor_hidden": "16",
    "clusterers.Sinkhorn.n_clusters": "5",
    "memories.Queue.n_images": "12",
    "memories.PerImage.n_neighbours": "4",
    "memories.PerImage.window": "1",
    "memories.PerImage.warmup_epochs": "0",
    "across/Term.start_epoch": "0",
    "across/Term.start_fraction": "0.0",
    "local/Term.start_fraction": "0.0",
    "lr/schedules.ScaledCosine.warmup_epochs": "1",
    "teacher_temperature/schedules.Linear.epochs": "2",
}
EVERYWHERE = {  # the settings by which ranks come to what one does, for methods with the others
    "clusterers.Sinkhorn.cost_scale": "'image'",
    "matchers.Cycle.scope": "'all'",
    "aligners.RegionAcrossViews.scope": "'all'",
    "aligners.RegionAcrossImages.scope": "'all'",
    "backbones.Timm.drop_path": "0.0",
}
ONE_BY_ONE = {  # and those by which images of a batch do not meet, for methods on images and patches
    "backbones.Timm.name": "'vit_tiny_patch16_224'",
    "backbones.Timm.options": VIT.replace("}", ", 'pos_embed': 'none'}"),  # so that it sees small crops in float64 too
    "backbones.Timm.padding": "'zeros'",
    "backbones.Timm.drop_path": "0.0",
    "heads.Prototypes.batch_norm": "False",
    "Method.centering": "@centerings.Mean()",
    "lr/schedules.Cosine.start": "3e-4",  # without balancing, larger steps end in one prototype for all
    "aligners.MaskedPatches.normalise": "'all'",
}
APART = ("gin/recipes/cribo", "gin/recipes/adasim")
AT_ONCE = {"Partners.matcher": "@matchers.Nearest()"}  # few steps make no image lead its neighbours
ADAPTIVE = ("gin/adasim.gin", "gin/hybrids/cribo_partner.gin", "gin/hybrids/cribo_whole_images.gin")
SEPARABLE = (
    "gin/adasim.gin",
    "gin/co_dino.gin",
    "gin/dino.gin",
    "gin/dino_multicrop.gin",
    "gin/ibot.gin",
    "gin/hybrids/adasim_patch_to_image.gin",
    "gin/recipes/adasim_in1k_vits16.gin",
)


@dataclass(frozen=True)
class Case:
    """A method file in small, with changes that have a name."""

    file: str
    changes: Mapping[str, str] | None = None
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.file}, {self.note}" if self.note else self.file

    def settings(self) -> config.Config:
        """The configuration; recipes leave the data open, which are scenes then."""
        data = ["train.data = @scenes/datasets.Scenes()"] if "/recipes/" in self.file else []
        given = dict(line.split(" = ", 1) for line in config.load([self.file], data).operative.splitlines() if line)

        def has(name: str) -> bool:
            return any(full == name or full.endswith(f"/{name}") for full in given)

        bound = {name: value for name, value in SMALL.items() if has(name)}
        bound |= {name: _few(value) for name, value in given.items() if name.endswith(".outputs")}
        bound |= {"backbones.Timm.options": VIT if "vit" in given["backbones.Timm.name"] else RESNET}
        if "vit" not in given["backbones.Timm.name"]:
            bound |= {"backbones.Timm.name": "'resnet18'"}
        if given["Optimizer.name"] == "'adamw'":  # a bias before BatchNorm has the gradient of rounding, over itself 1
            bound |= {"Optimizer.options": "{'eps': 1e-5}"}
            bound |= {"lr/schedules.ScaledCosine.start": "0.1"} if has("lr/schedules.ScaledCosine.start") else {}
        if given["Method.freeze_outputs_epochs"] != "0":
            bound |= {"Method.freeze_outputs_epochs": "1"}
        bound |= {name: value for name, value in (self.changes or {}).items() if has(name)}
        return config.load([self.file], [*data, *(f"{name} = {value}" for name, value in bound.items())])


def _few(outputs: str) -> str:
    """Output layers of a head with 24 prototypes or numbers, those that are shared still so."""
    return str({name: n if isinstance(n, str) else 24 for name, n in ast.literal_eval(outputs).items()})


def cases() -> list[Case]:
    """Every shipped file; with other settings where it keeps ranks apart; with partners; and where no images meet."""
    folders = ("gin", "gin/hybrids", "gin/recipes")
    files = [str(path.relative_to(ROOT)) for folder in folders for path in sorted((ROOT / folder).glob("*.gin"))]
    return [
        *map(Case, files),
        *(Case(file, EVERYWHERE, "over all ranks") for file in files if file.startswith(APART)),
        *(Case(file, AT_ONCE, "partners at once") for file in ADAPTIVE),
        *(Case(file, ONE_BY_ONE, "image by image") for file in SEPARABLE),
    ]


@dataclass(frozen=True)
class Course:
    """What some steps of a method came to."""

    losses: list[dict[str, float]]  # of each step, the mean over its batches and all ranks
    state: dict[str, Any]  # all that the method holds at the end
    partners: list[list[int]]  # of every image, epoch by epoch
    regions: list[int]  # of each batch on this rank
    rank_local: list[str]
    batch_scoped: list[str]


def course(case: Case, accumulate: int = 1) -> Course:
    """Steps of 8 images over all ranks, in so many batches each."""
    settings = case.settings()
    torch.manual_seed(0)
    method, scenes, augmenter, optimizer = settings.part("train", "method", "data", "augmenter", "optimizer")
    data = [scenes[i] for i in range(len(scenes))]  # rendered once
    method.make_room(len(data))
    method.double().train()
    distributed.agree(method)
    optimizer.build(method)
    size = STEP // distributed.world_size() // accumulate
    n_ranks = distributed.world_size()
    length = plan(
        method, len(data), batch_size=size, accumulate=accumulate, n_epochs=None, n_steps=N_STEPS, n_ranks=n_ranks
    )
    sampler = Sampler(len(data), size, seed=0, first=0, n_batches=N_STEPS * accumulate, accumulate=accumulate)
    tables: list[list[int]] = []
    stream = batches(
        data,
        augmenter,
        sampler,
        n_workers=0,
        pin=False,
        partners=None if method.partners is None else partial(_partners, method, tables),
    )
    losses, regions = [], []
    for step in range(N_STEPS):
        torch.manual_seed(draws.step_seed(0, step, distributed.rank()))
        method.set_time(length.at(step))
        optimizer.set_time(length.at(step))
        taken = (_double(next(stream)) for _ in range(accumulate))
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        outcomes, _ = gradients(method, optimizer, taken, accumulate, nullcontext(), scaler)
        optimizer.inner.step()
        method.update(outcomes)
        losses.append({name: _mean([outcome.losses[name] for outcome in outcomes]) for name in method.terms})
        regions += [len(outcome.step.regions) for outcome in outcomes if outcome.step.regions is not None]
    return Course(losses, method.state_dict(), tables, regions, rank_local(method), batch_scoped(method))


def _partners(method: Method, tables: list[list[int]], epoch: int) -> torch.Tensor:
    assert method.partners is not None
    table = method.partners.draw(epoch, seed=0, needed=0)
    tables.append(table.tolist())
    return table


def _double(batch: Batch) -> Batch:
    return replace(batch, views=tuple(replace(view, pixels=view.pixels.double()) for view in batch.views))


def _mean(losses: Sequence[torch.Tensor]) -> float:
    """Over batches and ranks."""
    return distributed.total(torch.stack(losses).detach().mean()).item() / distributed.world_size()


def every() -> dict[str, Course]:
    """The course of all cases on this rank."""
    return {case.name: course(case) for case in cases()}


def losses_apart(here: Course, there: Course) -> float:
    """The largest difference of a loss of any step."""
    steps = zip(here.losses, there.losses, strict=True)
    return max(abs(one[name] - other[name]) for one, other in steps for name in one)


def weights_apart(here: Course, there: Course) -> float:
    """The largest difference of a weight of student or teacher."""
    weights = [name for name in here.state if name.startswith(("student.", "teacher."))]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return _apart(*({n: one.state[n] for n in weights if not n.endswith(statistics)} for one in (here, there)))


def state_apart(here: Course, there: Course) -> float:
    """The largest difference of anything that the methods hold, infinite where whole numbers or lengths differ.

    The report on partners is passed over, which rank 0 makes for the log.
    """
    return _apart(here.state, there.state)


def _apart(here: Any, there: Any) -> float:
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        if here.keys() != there.keys():
            return torch.inf
        return max((_apart(x, there[name]) for name, x in here.items() if name != "report"), default=0.0)
    if torch.is_tensor(here):
        if here.shape != there.shape or (here.isfinite() != there.isfinite()).any():
            return torch.inf
        finite = here.isfinite()
        if not here.is_floating_point():
            return 0.0 if torch.equal(here, there) else torch.inf
        return float((here - there)[finite].abs().max()) if finite.any() else 0.0
    if isinstance(here, float):
        return abs(here - there)
    return 0.0 if here == there else torch.inf
