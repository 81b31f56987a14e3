"""The published recipes as the model needs them: counted on tensors without content, at their full sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from experiments.scaling import formulas, model
from experiments.scaling.exchanged import Norms
from sslkit import config
from sslkit.memories import Queue
from sslkit.method import Method
from sslkit.schedules import Time
from sslkit.types import Batch, Key, View

IMAGENET, REGIONS = 1_281_167, 27  # images; regions of an image that both views show, of 32 or 64 clusters
NAMES = {
    "cribo_in1k_vits16": "CrIBo, ViT-S/16",
    "cribo_in1k_vitb16": "CrIBo, ViT-B/16",
    "cribo_coco_vits16": "CrIBo, ViT-S/16, COCO",
    "adasim_in1k_vits16": "AdaSim, ViT-S/16",
    "co_dino_in100_resnet18": "CO-DINO, ResNet-18",
    "co_byol_in100_resnet18": "CO-BYOL, ResNet-18",
    "co_byol_in1k_resnet50": "CO-BYOL, ResNet-50",
}


@dataclass(frozen=True)
class Recipe:
    """`flops` are those of forwards and backwards of a batch, `search_s` what its searches take on an assumed GPU."""

    name: str
    batch: int
    accumulate: int
    flops: float
    search_s: float
    state_bytes: int
    method: Method
    norms: tuple[tuple[int, bool], ...]

    def calls(self, world: int) -> list[formulas.Call]:
        """Of an optimiser step: gradients once, the rest for every batch of it; all memories and centres are full."""
        sizes = formulas.Sizes(world, self.batch, self.batch * REGIONS, self.batch * REGIONS, self.norms)
        every = formulas.calls(self.method, sizes)
        return [
            call for call in every for _ in range(1 if call.part in ("gradients", "agreement") else self.accumulate)
        ]

    def step(self, world: int) -> model.Step:
        """A step on so many assumed GPUs; images are assumed to come fast enough."""
        return model.GPUS.step(
            world,
            self.calls(world),
            compute=self.accumulate * self.flops / model.FLOPS,
            search=self.accumulate * self.search_s,
            save=self.state_bytes / model.HOST_BYTES_PER_S / model.SAVE_EVERY,
        )


def recipe(name: str) -> Recipe:
    """One of `gin/recipes`, counted in a step of two images, which scales with the batch."""
    bindings = ["train.data = @datasets.Scenes()", "datasets.Scenes.n_images = 1"]
    settings = config.load([f"gin/recipes/{name}.gin"], bindings)
    augmenter = settings.part("train", "augmenter")
    with torch.device("meta"):
        method = settings.part("train", "method")
        assert isinstance(method, Method)
        method.make_room(IMAGENET)
    batch, few = int(settings.argument("train", "batch_size").value), 2
    method.train().set_time(Time(10**6, 2 * 10**6, 1000, batch))
    shown = augmenter([Image.new("RGB", (64, 64))] * augmenter.n_sources, Key(0, 0, 0))
    views = tuple(View.stack([view] * few).to("meta") for view in shown)
    norms = Norms(method)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        index = torch.zeros(few, dtype=torch.long, device="meta")
        method(Batch(views, augmenter.n_global, index)).total.backward()
    return Recipe(
        name=NAMES[name],
        batch=batch,
        accumulate=int(settings.argument("train", "accumulate").value or 1),
        flops=counter.get_total_flops() * batch / few,
        search_s=_search_seconds(method, batch),
        state_bytes=_state_bytes(method),
        method=method,
        norms=tuple(norms.passed),
    )


def _search_seconds(method: Method, batch: int) -> float:
    """Products of all queries with all rows of every plane, or reading these three times, whichever takes longer."""
    seconds = 0.0
    for search in method.searches.values():
        memory = search.memory
        assert isinstance(memory, Queue)
        entries, dim = memory.n_images * REGIONS, memory._rows.shape[-1]
        seconds += memory.n_planes * _product_seconds(batch * REGIONS, entries, dim)
    if method.partners is not None:
        seconds += _product_seconds(batch, IMAGENET, int(method.partners.memory.dim or 0))
    return seconds


def _product_seconds(queries: int, entries: int, dim: int) -> float:
    flops, read = 2 * queries * entries * dim, 3 * entries * dim * formulas.FLOAT
    return max(flops / model.FLOPS_FULL, read / model.DEVICE_BYTES_PER_S)


def _state_bytes(method: Method) -> int:
    """Of a checkpoint: the method, and two moments of every trained parameter."""
    buffers = sum(x.nbytes for x in (*method.parameters(), *method.buffers()))
    return buffers + 2 * sum(p.nbytes for p in method.parameters() if p.requires_grad)
