"""The sentence that joins the parts: two networks, regions, searches, terms, and what moves after a step."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sslkit import batch_norm, distributed, draws, ops, precision, projection, widths
from sslkit.backbones import Backbone
from sslkit.centerings import Centering, Mean
from sslkit.clusterers import Clusterer
from sslkit.component import Component
from sslkit.distributed import Scope
from sslkit.geometry import patch_positions
from sslkit.heads import Head
from sslkit.network import Network
from sslkit.parameters import Name, Natural, Within
from sslkit.partners import Partners
from sslkit.registry import joint
from sslkit.schedules import Cosine, Scheduled, Time
from sslkit.search import Search
from sslkit.term import Term
from sslkit.types import Batch, Features, Outcome, Pairs, Regions, Rows, Step


@joint
class Method(Component):
    """A self-supervised objective: a weighted sum of terms between a student and its running average.

    Args:
        backbone, heads: the student; the teacher starts as its copy.
        terms: by name; the names stand in the log.
        clusterer: makes the regions, from the teacher's patch tokens of all global views together.
        searches: by name; aligners refer to them.
        partners: draws, once per epoch, the images that views of source 1 show.
        momentum: of the teacher; 1 leaves it as it is.
        centering: for every output layer, or one for each by name.
        freeze_outputs_epochs: epochs before which the heads' last layers are not trained.
        static_shapes: keep rows of empty regions, with weight 0, so that shapes never change (for compilation); the
            numbers are the same.
        batch_norm_scope: whose rows BatchNorm measures in training, in backbone and heads of both networks: those of
            all ranks, as the programs of BYOL, MoCo v3 and, on ResNets, DINO do, or of each rank its own.
    """

    momentum: Float[Tensor, ""]

    def __init__(
        self,
        *,
        backbone: Backbone,
        heads: Sequence[Head],
        terms: Mapping[Name, Term],
        clusterer: Clusterer | None = None,
        searches: Mapping[Name, Search] | None = None,
        partners: Partners | None = None,
        momentum: Annotated[Scheduled, Within(0, 1)] | None = None,
        centering: Centering | Mapping[str, Centering] | None = None,
        freeze_outputs_epochs: Natural = 0,
        static_shapes: bool = False,
        batch_norm_scope: Scope = "all",
    ):
        super().__init__()
        if "total" in terms:
            raise ValueError(f"terms={list(terms)}, but 'total' is what the log calls their sum")
        if not terms:
            raise ValueError("terms={}, but a method needs at least one term")
        for name, term in terms.items():
            if term.aligner.reads != "images" and backbone.mask == "drop":
                raise ValueError(
                    f"term {name!r} compares the student's {term.aligner.reads}, but the backbone's mask='drop' leaves "
                    f"nothing in the places of hidden patches: set Timm.mask = 'token'"
                )
        for head, width in zip(heads, widths.taken(backbone, heads, terms, searches or {}), strict=True):
            head.build(width)
        refuse_unlearnt(heads, terms, searches or {})
        self.student = Network(backbone, heads)
        if batch_norm_scope == "all":
            batch_norm.synchronise(self.student)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher.backbone.without_drop_path()
        for head in self.teacher.heads:
            head.without_predictor()
        self.clusterer = clusterer
        self.terms = cast(Mapping[str, Term], nn.ModuleDict(terms))
        self.searches = cast(Mapping[str, Search], nn.ModuleDict(searches or {}))
        for search in self.searches.values():
            rows = backbone.dim if search.level == "image" else backbone.patch_dim
            dim = rows if search.output is None else self.student.width(search.output)
            search.memory.build(n_per_image=self._n_per_image(search), dim=dim)
        self.partners = partners
        if partners is not None:
            partners.memory.build(n_per_image=1, dim=backbone.dim)
        made = self._centerings(centering or Mean())
        self.centerings = cast(Mapping[str, Centering], nn.ModuleDict(made))
        if static_shapes and any(_has_batch_norm(head) for head in heads):
            raise ValueError("static_shapes=True with BatchNorm in a head: empty regions would enter its statistics")
        self.freeze_outputs_epochs, self.static_shapes = freeze_outputs_epochs, static_shapes
        self.batch_norm_scope = batch_norm_scope
        self.outputs_frozen = freeze_outputs_epochs > 0
        self.schedule("momentum", Cosine(0.996, 1.0) if momentum is None else momentum)

    def _n_per_image(self, search: Search) -> int:
        if search.level == "image":
            return 1
        if self.clusterer is None:
            raise ValueError(
                "a search at level='region' needs regions, but the method has no clusterer (Method.clusterer)"
            )
        return int(self.clusterer.n_clusters)

    def _centerings(self, given: Centering | Mapping[str, Centering]) -> dict[str, Centering]:
        made = {}
        embeddings = [name for head in self.student.heads if not head.scores for name in head.names]
        for name in given if isinstance(given, Mapping) else ():
            if name in embeddings:
                raise ValueError(
                    f"centering has an entry for {name!r}, but what its head makes are embeddings, not scores"
                )
        for head in self.student.heads:
            for name, n_prototypes in head.widths.items() if head.scores else ():
                if isinstance(given, Mapping) and name not in given:
                    raise ValueError(
                        f"centering has no entry for the output layer {name!r}; it has: {', '.join(given)}"
                    )
                made[name] = copy.deepcopy(given[name] if isinstance(given, Mapping) else given)
                made[name].build(n_prototypes)
        return made

    def make_room(self, n_images: int, folder: Path | None = None) -> None:
        """Make the tables that have a row for each image of the data set; called once, before the first step.

        Args:
            folder: where the history that is too large for a checkpoint is kept; in memory if left out.
        """
        if self.partners is not None:
            self.partners.make_room(n_images, None if folder is None else folder / "neighbours")

    def set_time(self, time: Time) -> None:
        super().set_time(time)
        for term in self.terms.values():
            term.set_time(time)
        self.outputs_frozen = time.epoch < self.freeze_outputs_epochs

    def forward(self, batch: Batch, seeds: Int[Tensor, "b k"] | None = None) -> Outcome:
        """The losses of one batch. Nothing is written (but running statistics of BatchNorm): `update` moves the state.

        Args:
            seeds: tokens that start the clusters of each image; drawn by the batch's seed, epoch and index if left out.
        """
        step = self.look(batch, seeds)
        on = {name: term for name, term in self.terms.items() if term.is_on or batch.index.is_meta}
        heads, target_heads = ({name: getattr(t, side) for name, t in on.items()} for side in ("head", "target_head"))
        asked = {name: _asked(name, term, step) for name, term in on.items()}
        static = self.static_shapes or batch.index.is_meta
        pairs = asked
        if not static:
            pairs = projection.without_idle_rows(asked, heads, target_heads, self.batch_norm_scope)
        with torch.no_grad():
            targets = projection.project(
                self.teacher,
                [(pairs[name].target.rows, head, pairs[name].output) for name, head in target_heads.items()],
            )
            scored = {name: head for name, head in target_heads.items() if head in self.centerings}
            own = projection.own_targets(targets, pairs, scored, projection.of_this_batch(asked, step))
            offsets = {head: self.centerings[head](logits, weight) for head, (logits, weight) in own.items()}
        predictions = projection.project(
            self.student, [(pairs[name].prediction.rows, head, None) for name, head in heads.items()]
        )
        losses = {name: batch.views[0].pixels.new_zeros(()) for name in self.terms}
        for name, term in on.items():
            target = targets[id(pairs[name].target.rows), term.target_head]
            target = target - offsets[term.target_head] if term.target_head in offsets else target
            prediction = predictions[id(pairs[name].prediction.rows), term.head]
            losses[name] = term.weight * term.loss(prediction, target, pairs[name])
        return Outcome(losses, step, own, offsets)

    def look(self, batch: Batch, seeds: Int[Tensor, "b k"] | None = None) -> Step:
        """What both networks see in one batch, its regions and their matches.

        No loss is asked, and in eval mode no other rank.
        """
        student: Features = self.student(batch.views, batch.index, masked=True, partner=batch.partner)
        with torch.no_grad():
            teacher: Features = self.teacher(batch.global_views, batch.index, partner=batch.partner)
        regions = None if self.clusterer is None else self.regions(batch, student, teacher, seeds)
        with torch.no_grad():
            asked = {name: s.queries(batch, self.teacher, teacher, regions) for name, s in self.searches.items()}
        matches = {name: search(asked[name]) for name, search in self.searches.items()}
        return Step(batch, student, teacher, regions, matches, asked)

    def regions(
        self, batch: Batch, student: Features, teacher: Features, seeds: Int[Tensor, "b k"] | None = None
    ) -> Regions:
        """The parts of each image, clustered over the global views that show it and pooled from both networks.

        Raises:
            ValueError: such a view is the only one that shows its image, or they have different numbers of patches.
        """
        sources, sizes = teacher.sources, [x.shape[1] for x in teacher.patches]
        views = [v for v, source in enumerate(sources) if source == 0]
        if len(views) < 2 <= len(sources):
            raise ValueError(
                f"regions are clustered over the global views of one image together, but only view {views} of "
                f"{len(sources)} shows it, the others its partner (sources {sources}), and positions in two images "
                f"cannot be compared: give the image another view (a global crop with augmenters.Crop.source = 0)"
            )
        if len({sizes[v] for v in views}) > 1:
            raise ValueError(
                f"regions are clustered over the global views of an image together, so these must have one size; they "
                f"have {sizes} patches"
            )
        clusterer = self.clusterer
        assert clusterer is not None
        k = int(clusterer.n_clusters)
        tokens = torch.cat([teacher.patches[v] for v in views], dim=1)
        positions = torch.cat([patch_positions(batch.views[v], teacher.grids[v]) for v in views], dim=1)
        n = tokens.shape[1]
        if seeds is None and k <= n:
            seeds = draws.distinct(batch.seed, batch.epoch, batch.index, n, k, "clusters")
        joint = clusterer(tokens, positions, seeds)
        labels = torch.stack(joint.argmax(dim=-1).chunk(len(views), dim=1))
        assignment = ops.per_column(torch.stack(joint.chunk(len(views), dim=1)))
        valid = (assignment > 0).any(dim=2).all(dim=0)
        static = self.static_shapes or batch.index.is_meta
        kept = torch.arange(valid.numel(), device=valid.device) if static else valid.flatten().nonzero()[:, 0]
        weight = valid.flatten()[kept].to(assignment.dtype).repeat(len(views))

        def pooled(rows: Sequence[Tensor]) -> Tensor:
            stacked = torch.stack(list(rows)).to(assignment.dtype)
            return ops.pool(stacked, assignment).flatten(1, 2)[:, kept]

        def located(rows: Sequence[Tensor]) -> Rows:
            view = torch.cat([torch.full_like(kept, v) for v in views])
            item = (kept // k).repeat(len(views))
            return Rows(pooled(rows).flatten(0, 1), view, item, batch.index[item], weight)

        with precision.full(tokens.device):
            return Regions(
                views=tuple(views),
                labels=labels,
                assignment=assignment,
                valid=valid,
                student=located([student.patches[v] for v in views]),
                teacher=located([teacher.patches[v] for v in views]),
                cluster=kept % k,
                place=pooled(positions.chunk(len(views), dim=1)),
            )

    @torch.no_grad()
    def update(self, outcomes: list[Outcome]) -> None:
        """Move the teacher, the memories and the centres, once per optimiser step; nothing else writes state."""
        for name, search in self.searches.items():
            for outcome in reversed(outcomes):  # the first image of a step is its newest, as of a single batch
                search.memory.push(outcome.step.queries[name])
        if self.partners is not None:
            self.partners.update(outcomes)
        for name, centering in self.centerings.items():
            seen = [outcome.targets[name] for outcome in outcomes if name in outcome.targets]
            if seen:
                centering.move(torch.cat([x for x, _ in seen]), torch.cat([w for _, w in seen]))
        trained = dict(self.student.named_parameters())
        for name, mean in self.teacher.named_parameters():
            own = distributed.local(mean)
            own.mul_(self.momentum).add_((1 - self.momentum) * distributed.local(trained[name]))

    def drop_frozen_gradients(self) -> None:
        """Forget the gradients of the heads' last layers while these are frozen."""
        if self.outputs_frozen:
            for parameter in self.student.output_layers():
                parameter.grad = None


def _asked(name: str, term: Term, step: Step) -> Pairs:
    try:
        pairs: Pairs = term.aligner(step)
    except ValueError as error:
        raise ValueError(f"term {name!r}: {error}") from error
    if pairs.output not in (None, term.target_head):
        raise ValueError(
            f"term {name!r}: what its search finds are embeddings of {pairs.output!r} (Search.output), but they are "
            f"compared with head={term.target_head!r}"
        )
    return pairs


def refuse_unlearnt(heads: Sequence[Head], terms: Mapping[str, Term], searches: Mapping[str, Search]) -> None:
    """Refuse output layers of the teacher that stay what they were at random, since no loss reaches the student's.

    Raises:
        ValueError: naming the output layer, and the term or search whose rows pass it.
    """
    layers = {name: head.outputs[name] for head in heads for name in head.names}  # of which some may be one
    learnt = {id(layers[term.head]) for term in terms.values() if term.head in layers}
    unlearnt = {name for name, layer in layers.items() if id(layer) not in learnt}
    asked = {f"the targets of term {name!r} pass target_head": term.target_head for name, term in terms.items()}
    asked |= {f"the rows of search {name!r} pass output": search.output for name, search in searches.items()}
    for user, output in asked.items():
        if output in unlearnt:
            raise ValueError(
                f"{user}={output!r}, but no term has head={output!r}, so that it would stay random: let a term train it"
            )


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(m, batch_norm.BatchNorm) for m in module.modules())
