"""What is said to hold accumulated batches and ranks apart does so, and where nothing is said they agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sslkit.aligners import (
    ImageAcrossImages,
    ImageAcrossViews,
    ImageToPatch,
    MaskedPatches,
    PatchToImage,
    PatchToMatch,
    PatchToRegion,
)
from sslkit.backbones import Timm
from sslkit.centerings import Balance
from sslkit.clusterers import Sinkhorn
from sslkit.contracts.inputs import DIM, images, meaning, step_of
from sslkit.contracts.inputs import taken as some_of
from sslkit.heads import Prototypes
from sslkit.losses import Cosine, Covariance, InfoNCE, KoLeo, MeanEntropy, SwappedAssignment, Variance
from sslkit.matchers import Adaptive, Cycle, Mutual, Nearest, SampledCycle, Threshold
from sslkit.memories import PerImage, Queue
from sslkit.partners import Partners
from sslkit.scopes import batch_scoped, rank_local
from sslkit.search import Search
from sslkit.term import Term
from tests.test_method import SIDE, K, Patches, assert_close, batch_of, method_of, step, taken, terms_of

EXACT = dict(rtol=1e-9, atol=1e-12)
B, N_STEPS = 6, 3


def on_images(**changes):
    """A method of which nothing says that images meet."""
    return method_of(**dict(terms=terms_of(("image",)), clusterer=None, searches=None) | changes)


def of_images(loss, **changes):
    return on_images(terms={"image": Term(aligner=ImageAcrossViews(), loss=loss, head="image")}, **changes)


def on_regions(name, aligner=None, matcher=None, **changes):
    """The same with one term on regions, beside that on images."""
    terms = terms_of(("image", name) if aligner is None else ("image",))
    if aligner is not None:
        terms[name] = Term(aligner=aligner, loss=Cosine(), head="region")
    searches = None if matcher is None else {"objects": Search(matcher=matcher, memory=Queue(8))}
    return method_of(terms=terms, searches=searches, **changes)


def searches(matcher, n_images):
    return {"images": Search(matcher=matcher, memory=Queue(n_images), level="image")}


def found(matcher, aligner=None):
    """The same whose images are compared with those that they find."""
    term = Term(aligner=aligner or ImageAcrossImages("images"), loss=Cosine(), head="image")
    return on_images(terms=terms_of(("image",)) | {"across": term}, searches=searches(matcher, 8))


FOUND = "aligners.ImageAcrossImages of term 'across'"


class WithBatchNorm(Patches):
    """Pixels normalised over all images first."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.BatchNorm2d(3), self.embed)


def vit(**options):
    size = {"img_size": SIDE, "patch_size": 8, "depth": 2, "embed_dim": 12, "num_heads": 3}
    return Timm("vit_tiny_patch16_224", options=size, **options)


def head(**options):
    return Prototypes({"image": 8}, hidden=9, bottleneck=5, **options)


TOGETHER = {  # methods of which nothing is named
    "images": on_images,
    "a vision transformer": lambda: on_images(backbone=vit()),
    "patches": lambda: on_images(terms={"image": Term(aligner=PatchToImage(), loss=Cosine(), head="image")}),
    "some patches": lambda: on_images(
        terms={"image": Term(aligner=ImageToPatch(n_positions=3), loss=Cosine(), head="image")}
    ),
    "a small queue": lambda: on_images(searches=searches(Nearest(), 6)),
    "a queue and its gate": lambda: on_images(searches=searches(Adaptive(temperature=0.3), 30)),
}
PARTED = {  # methods, and all that is named of each
    "regions": (lambda: on_regions("region"), ["aligners.RegionAcrossViews of term 'region'"]),
    "patches of regions": (lambda: on_regions("local", PatchToRegion()), ["aligners.PatchToRegion of term 'local'"]),
    "regions that find": (
        lambda: on_regions("across", matcher=Nearest()),
        ["aligners.RegionAcrossImages of term 'across'"],
    ),
    "patches that find": (
        lambda: on_regions("local", PatchToMatch("objects"), Nearest()),
        ["aligners.PatchToMatch of term 'local'"],
    ),
    "images that find": (lambda: found(Threshold(least=0.9)), [FOUND]),
    "cycle": (lambda: found(Cycle()), ["matchers.Cycle of search 'images'", FOUND]),
    "sampled cycle": (lambda: found(SampledCycle()), ["matchers.SampledCycle of search 'images'", FOUND]),
    "mutual": (lambda: found(Mutual()), ["matchers.Mutual of search 'images'", FOUND]),
    "clusters": (
        lambda: on_regions("region", clusterer=Sinkhorn(K, cost_scale="batch")),
        ["clusterers.Sinkhorn", "aligners.RegionAcrossViews of term 'region'"],
    ),
    "balance": (lambda: on_images(heads=[head()], centering=Balance()), ["centerings.Balance of 'image'"]),
    "contrast": (lambda: of_images(InfoNCE()), ["losses.InfoNCE of term 'image'"]),
    "codes": (lambda: of_images(SwappedAssignment()), ["losses.SwappedAssignment of term 'image'"]),
    "entropy": (lambda: of_images(MeanEntropy()), ["losses.MeanEntropy of term 'image'"]),
    "distances": (lambda: of_images(KoLeo()), ["losses.KoLeo of term 'image'"]),
    "variance": (lambda: of_images(Variance()), ["losses.Variance of term 'image'"]),
    "covariance": (lambda: of_images(Covariance()), ["losses.Covariance of term 'image'"]),
    "norm in the head": (lambda: on_images(heads=[head(batch_norm=True)]), ["BatchNorm in the head of 'image'"]),
    "norm in the backbone": (lambda: on_images(backbone=WithBatchNorm()), ["BatchNorm in student.backbone"]),
    "drop path": (lambda: on_images(backbone=vit(drop_path=0.5)), ["drop path or dropout in student.backbone"]),
}


def run(make, n_parts):
    """Losses of some steps, each of a batch in so many parts, and what the method holds at the end."""
    torch.manual_seed(0)
    method, losses = make(), []
    for at in range(N_STEPS):
        torch.manual_seed(at)
        batch = batch_of(at, b=B, first_image=B * at)
        outcomes = step(method, [taken(batch, part) for part in torch.arange(B).split(B // n_parts)], at=at)
        losses.append({n: sum(o.losses[n].detach() for o in outcomes) / n_parts for n in outcomes[0].losses})
    held = {name: x for name, x in method.state_dict().items() if torch.is_tensor(x) and "_born" not in name}
    held |= {name: list(search.memory.counts) for name, search in method.searches.items()}
    return losses, held


@pytest.mark.parametrize("name", TOGETHER)
def test_where_nothing_is_named_two_batches_a_step_come_to_one_of_twice_the_size(name):
    assert batch_scoped(TOGETHER[name]()) == []
    (losses, held), (whole, expected) = (run(TOGETHER[name], n) for n in (2, 1))
    for here, there in zip(losses, whole, strict=True):
        assert_close(here, there, **EXACT)
    assert_close(held, expected, **EXACT)


@pytest.mark.parametrize("name", PARTED)
def test_what_is_named_makes_two_batches_a_step_differ_from_one_of_twice_the_size(name):
    make, names = PARTED[name]
    assert batch_scoped(make()) == names
    (_, held), (_, expected) = (run(make, n) for n in (2, 1))
    moved = [n for n in held if n.startswith("student.") and held[n].is_floating_point()]
    assert not all(torch.allclose(held[n], expected[n], rtol=1e-5, atol=1e-8) for n in moved)


# names


RANK = {
    "matchers.Cycle.scope = 'rank' of search 'images'": lambda: found(Cycle(scope="rank")),
    "aligners.ImageAcrossImages.scope = 'rank' of term 'across'": lambda: found(
        Nearest(), ImageAcrossImages("images", scope="rank")
    ),
    "losses.KoLeo.scope = 'rank' of term 'image'": lambda: of_images(KoLeo(scope="rank")),
    "clusterers.Sinkhorn.cost_scale = 'batch'": lambda: on_regions("region", clusterer=Sinkhorn(K, cost_scale="batch")),
    "Method.batch_norm_scope = 'rank': BatchNorm in the head of 'image'": lambda: on_images(
        heads=[head(batch_norm=True)], batch_norm_scope="rank"
    ),
    "drop path or dropout in student.backbone": lambda: on_images(backbone=vit(drop_path=0.5)),
}


@pytest.mark.parametrize("name", RANK)
def test_what_is_local_to_a_rank_is_named_by_its_switch(name):
    assert rank_local(RANK[name]()) == [name]


@pytest.mark.parametrize("name", [*TOGETHER, *PARTED])
def test_nothing_is_local_to_a_rank_that_is_not_asked_to_be(name):
    make = TOGETHER[name] if name in TOGETHER else PARTED[name][0]
    switched = {"clusters": ["clusterers.Sinkhorn.cost_scale = 'batch'"], "drop path": PARTED["drop path"][1]}
    assert rank_local(make()) == switched.get(name, [])


def test_batch_norm_within_ranks_is_no_matter_where_there_is_none():
    assert rank_local(on_images(batch_norm_scope="rank")) == []


def test_a_part_that_gin_files_do_not_know_has_the_name_of_its_class():
    class Crowded(Cosine):
        scope = "rank"

    assert rank_local(of_images(Crowded())) == ["Crowded.scope = 'rank' of term 'image'"]
    assert batch_scoped(of_images(Crowded())) == ["Crowded of term 'image'"]


def test_partners_are_chosen_among_all_images_whoever_holds_them():
    partners = Partners(memory=PerImage(n_neighbours=2, warmup_epochs=0, window=1), matcher=Mutual(scope="rank"))
    assert rank_local(on_images(partners=partners)) == batch_scoped(on_images(partners=partners)) == []


# parts by themselves, in the setting that is not their default


def test_clusters_of_an_image_depend_on_its_batch_only_where_the_cost_is_scaled_over_it():
    tokens, positions, seeds = images(4, 12, DIM, 3)
    for scale, expected in (("image", True), ("batch", False)):
        clusterer = Sinkhorn(3, cost_scale=scale)
        alone = [clusterer(*one) for one in zip(tokens.split(1), positions.split(1), seeds.split(1), strict=True)]
        assert torch.equal(torch.cat(alone), clusterer(tokens, positions, seeds)) == expected


@pytest.mark.parametrize("normalise", ["masked", "all"])
def test_hidden_patches_of_an_image_weigh_less_beside_more_images_only_if_images_without_any_do_not_count(normalise):
    shown = torch.tensor([False, False, True, True])  # the second half hides nothing in the first view
    step_ = step_of(b=4)
    first, second = step_.batch.views
    views = (replace(first, mask=first.mask & ~shown[:, None]), second)
    step_ = replace(step_, batch=replace(step_.batch, views=views))
    aligner = MaskedPatches(normalise=normalise)
    halves = [meaning(aligner(some_of(step_, half))) for half in torch.arange(4).split(2)]
    mean = {pair: weight / 2 for half in halves for pair, weight in half.items()}
    assert (mean == pytest.approx(meaning(aligner(step_)))) == (aligner.scope is None) == (normalise == "all")
