"""CO-BYOL, CO-DINO, CO-MoCoV3 and patches against regions: two ranks come to what one process does with all images."""

from __future__ import annotations

import pytest
import torch

from sslkit import distributed
from sslkit.aligners import ImageAcrossViews, ImageToPatch, PatchToImage, PatchToMatch, PatchToRegion
from sslkit.backbones import Timm
from sslkit.centerings import Balance
from sslkit.clusterers import Sinkhorn
from sslkit.heads import Projector, Prototypes
from sslkit.losses import Cosine, Distillation, InfoNCE
from sslkit.matchers import Nearest
from sslkit.memories import Queue
from sslkit.method import Method
from sslkit.schedules import Time
from sslkit.search import Search
from sslkit.term import Term
from tests.ranks import on_ranks
from tests.test_method import batch_of, taken

N_IMAGES, N_STEPS, WORLD = 6, 3, 2
EXACT = dict(rtol=1e-9, atol=1e-9)
SMALL = {"layers": (1, 1, 1, 1), "channels": (6, 8, 10, 12), "output_stride": 8}


def co(loss, head, aligner=None):
    """A base on whole images with a local term and a head of its own."""
    heads = [head({"image": 6}), head({"local": 6})]
    image = Term(aligner=ImageAcrossViews(), head="image", loss=loss())
    local = Term(aligner=aligner or PatchToImage(), head="local", loss=loss())
    return dict(heads=heads, terms={"image": image, "local": local})


def projector(outputs):
    return Projector(outputs, hidden=9, end_norm="plain", predictor_hidden=8)


def projector_in_parts(outputs):
    return Projector(outputs, hidden=9, end_norm="plain", predictor_hidden=8, rows_at_a_time=7)


def prototypes(outputs):
    return Prototypes(outputs, hidden=9, bottleneck=5, batch_norm=True)


def on_regions():
    terms = {
        "region": Term(aligner=PatchToRegion(), head="region", loss=Distillation()),
        "match": Term(aligner=PatchToMatch("objects"), head="region", loss=Distillation()),
    }
    search = Search(matcher=Nearest(), memory=Queue(12))
    heads = [Prototypes({"region": 6}, hidden=9, bottleneck=5, batch_norm=True)]
    return dict(heads=heads, terms=terms, clusterer=Sinkhorn(3), searches={"objects": search}, centering=Balance())


METHODS = {
    "CO-BYOL": lambda: co(Cosine, projector),
    "CO-BYOL, some rows at a time": lambda: co(Cosine, projector_in_parts),
    "CO-BYOL, other direction": lambda: co(Cosine, projector, ImageToPatch()),
    "CO-BYOL, some positions": lambda: co(Cosine, projector, PatchToImage(n_positions=5)),
    "CO-DINO": lambda: co(Distillation, prototypes),
    "CO-MoCoV3": lambda: co(InfoNCE, projector),
    "regions and matches": on_regions,
}


def run(name):
    """Losses of every step, and the state at the end, of this rank's share of the images."""
    torch.manual_seed(0)
    backbone = Timm("resnet18", options=SMALL)
    method = Method(backbone=backbone, momentum=0.9, **METHODS[name]()).double()
    parameters = list(method.student.parameters())
    size = N_IMAGES // distributed.world_size()
    share = slice(size * distributed.rank(), size * (distributed.rank() + 1))
    losses = []
    for at in range(N_STEPS):
        method.set_time(Time(at, N_STEPS, steps_per_epoch=2))
        outcome = method(taken(batch_of(at, b=N_IMAGES, first_image=at), share))
        method.zero_grad()
        outcome.total.backward()
        distributed.average_gradients(parameters)
        with torch.no_grad():
            for p in parameters:
                if p.grad is not None:
                    p -= 0.1 * p.grad
        method.update([outcome])
        losses.append({term: loss.item() for term, loss in outcome.losses.items()})
    return losses, method.state_dict()


def work():
    return {name: run(name) for name in METHODS}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(work, tmp_path_factory.mktemp("ranks"), WORLD)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_come_to_what_one_process_does_with_all_images(ranks, name):
    losses, state = run(name)
    for at, step in enumerate(losses):
        for term, loss in step.items():
            assert sum(rank[name][0][at][term] for rank in ranks) / WORLD == pytest.approx(loss, rel=1e-9, abs=1e-12)
    for rank in ranks:
        assert rank[name][1].keys() == state.keys()
        for key, x in state.items():
            if torch.is_tensor(x):
                torch.testing.assert_close(rank[name][1][key], x, **EXACT, msg=lambda m, key=key: f"{key}: {m}")
            else:
                assert rank[name][1][key] == x
