"""What every registered component keeps to, so that a new one is tested by existing."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import sslkit.components  # noqa: F401  fills the registry
from sslkit.component import Component
from sslkit.registry import ROLES, components, register
from sslkit.schedules import Time
from sslkit.types import Pairs
from tests.test_aligners import meaning, permuted, step_of
from tests.test_clusterers import images
from tests.test_memories import push_of

K, DIM = 4, 5  # clusters, width
TINY = {
    "Sinkhorn": dict(n_clusters=K),
    "KMeans": dict(n_clusters=K),
    "Grid": dict(rows=2, columns=2),
    "Queue": dict(n_images=4, n_per_image=3, dim=DIM),
    "RegionAcrossImages": dict(search="objects"),
    "Prototypes": dict(outputs={"image": 6, "region": 3}, dim=DIM, hidden=8, bottleneck=4),
    "Constant": dict(value=0.5),
    "Cosine": dict(start=1.0, end=0.0, warmup_epochs=1),
    "ScaledCosine": dict(start=1.0, end=0.0, warmup_epochs=1),
    "Linear": dict(start=1.0, end=0.0),
    "Piecewise": dict(values={0: 1.0, 2: 0.5}),
    "Timm": dict(
        name="vit_tiny_patch16_224", options=dict(depth=1, embed_dim=24, num_heads=3, patch_size=8, img_size=32)
    ),
    "Crops": dict(global_crops=()),
    "Scenes": dict(n_images=3, size=32),
}
ELSEWHERE = {"ImageFolder", "Segmentation", "DenseRetrieval"}  # need files; their own tests make them
EVERY = [pytest.param(cls, id=f"{role}.{name}") for role in ROLES for name, cls in components(role).items()]
BUILT = [
    pytest.param(role, name, id=f"{role}.{name}")
    for role in ROLES
    for name in components(role)
    if name not in ELSEWHERE
]


def make(role, name):
    torch.manual_seed(0)
    arguments = TINY.get(name, {})
    if name == "Crops":
        arguments = dict(global_crops=(components("augmenters")["Crop"](size=32, n=2),))
    made = components(role)[name](**arguments)
    if role == "centerings":
        made.build(6)
    return made


def random(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def state_of(module):
    return copy.deepcopy(module.state_dict())


def assert_same_state(before, after):
    assert before.keys() == after.keys()
    for name, x in before.items():
        assert torch.equal(x, after[name]) if isinstance(x, torch.Tensor) else x == after[name], name


# everything


def test_every_role_has_a_component():
    assert all(components(role) for role in ROLES)


@pytest.mark.parametrize("cls", EVERY)
def test_every_component_says_in_its_first_line_what_comes_out(cls):
    first = (cls.__doc__ or "").split("\n\n")[0].strip()
    assert first.endswith((".", ":")), first


@pytest.mark.parametrize("cls", EVERY)
def test_every_component_annotates_its_parameters_and_takes_no_others(cls):
    parameters = inspect.signature(cls).parameters.values()
    assert [p.name for p in parameters if p.annotation is inspect.Parameter.empty] == []
    assert [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)] == []  # gin would swallow typos


@pytest.mark.parametrize("cls", EVERY)
def test_every_parameter_has_a_default_of_its_own_that_no_call_can_change(cls):
    for p in inspect.signature(cls).parameters.values():
        assert not isinstance(p.default, (list, dict, set, torch.Tensor, nn.Module)), p.name


@pytest.mark.parametrize("role, name", BUILT)
def test_every_component_can_be_pickled(role, name):
    made = make(role, name)
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is type(made)
    if isinstance(made, nn.Module):
        assert_same_state(made.state_dict(), again.state_dict())


@pytest.mark.parametrize("role, name", BUILT)
def test_every_component_can_be_copied(role, name):
    made = make(role, name)
    again = copy.deepcopy(made)
    assert again is not made
    if isinstance(made, nn.Module):
        assert_same_state(made.state_dict(), again.state_dict())
        places = {x.data_ptr() for x in made.state_dict().values() if isinstance(x, torch.Tensor)}
        copied = {x.data_ptr() for x in again.state_dict().values() if isinstance(x, torch.Tensor)}
        assert not (places & copied) - {0}


@pytest.mark.parametrize("role, name", BUILT)
def test_setting_the_time_changes_no_saved_state(role, name):
    made = make(role, name)
    if isinstance(made, Component):
        before = state_of(made)
        made.set_time(Time(3, 10, 2))
        assert_same_state(before, made.state_dict())


def test_a_name_can_be_taken_only_once():
    with pytest.raises(ValueError, match=r"losses.Distillation is already taken by sslkit.losses.distillation"):
        register("losses")(type("Distillation", (), {}))


def test_an_unknown_role_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match="did you mean 'losses'"):
        components("loses")
    with pytest.raises(ValueError, match="the roles are augmenters, "):
        register("loses")


# clusterers


@pytest.mark.parametrize("name", components("clusterers"))
class TestEveryClusterer:
    def test_every_token_has_one_cluster_and_one_vote(self, name):
        assignment = make("clusterers", name)(*images(3, 12, DIM, K))
        assert assignment.shape == (3, 12, K)
        assert torch.equal(assignment.sum(dim=-1), torch.ones(3, 12).double())

    def test_no_gradient_passes(self, name):
        tokens, positions, seeds = images(2, 12, DIM, K)
        assert not make("clusterers", name)(tokens.requires_grad_(), positions, seeds).requires_grad

    def test_permuting_the_images_permutes_the_answer(self, name):
        tokens, positions, seeds = images(4, 12, DIM, K)
        order = torch.tensor([2, 0, 3, 1])
        clusterer = make("clusterers", name)
        expected = clusterer(tokens, positions, seeds)[order]
        assert torch.equal(clusterer(tokens[order], positions[order], seeds[order]), expected)

    def test_the_same_seeds_give_the_same_answer(self, name):
        clusterer, given = make("clusterers", name), images(2, 12, DIM, K)
        first = clusterer(*given)
        clusterer(*images(2, 12, DIM, K, seed=9))
        torch.manual_seed(7)
        assert torch.equal(clusterer(*given), first)

    def test_without_seeds_the_generator_of_torch_decides(self, name):
        clusterer, (tokens, positions, _) = make("clusterers", name), images(2, 12, DIM, K)
        answers = []
        for _ in range(2):
            torch.manual_seed(3)
            answers.append(clusterer(tokens, positions))
        assert torch.equal(*answers)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_tokens_of_any_precision_are_clustered_in_at_least_float32(self, name, dtype):
        tokens, positions, seeds = images(2, 12, DIM, K)
        assignment = make("clusterers", name)(tokens.to(dtype), positions.float(), seeds)
        assert assignment.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)

    def test_mixed_precision_changes_nothing(self, name):
        tokens, positions, seeds = images(2, 12, DIM, K, dtype=torch.float32)
        clusterer = make("clusterers", name)
        expected = clusterer(tokens, positions, seeds)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(clusterer(tokens, positions, seeds), expected)

    def test_its_input_stays_as_it_was(self, name):
        given = images(2, 12, DIM, K)
        before = [x.clone() for x in given]
        make("clusterers", name)(*given)
        assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))

    def test_more_clusters_than_tokens_are_refused(self, name):
        tokens, positions, _ = images(2, K - 1, DIM, 1)
        with pytest.raises(ValueError, match=f"n_clusters={K}, but an image has only {K - 1} tokens"):
            make("clusterers", name)(tokens, positions)

    def test_as_many_clusters_as_tokens_are_fine(self, name):
        assert make("clusterers", name)(*images(2, K, DIM, K)).shape == (2, K, K)

    def test_nothing_is_remembered(self, name):
        assert make("clusterers", name).state_dict() == {}


# losses


def loss_case(seed=0):
    """Predictions, targets and pairs with weights of their own."""
    draw = torch.Generator().manual_seed(seed)
    i, j = (torch.randint(6, (9,), generator=draw) for _ in range(2))
    nothing = torch.zeros(6, 0)
    pairs = Pairs(nothing, nothing, i, j, torch.rand(9, generator=draw), torch.arange(6))
    return torch.randn(6, 8, generator=draw), torch.randn(6, 8, generator=draw), pairs


@pytest.mark.parametrize("name", components("losses"))
class TestEveryLoss:
    def test_it_is_one_number(self, name):
        assert make("losses", name)(*loss_case()).shape == ()

    def test_pairs_of_weight_zero_are_ignored(self, name):
        loss = make("losses", name)
        p, t = random(6, 8), random(6, 8, seed=1)
        pairs = Pairs.diagonal(6, weight=[1.0, 1, 1, 1, 0, 0])
        other = torch.cat([p[:4], random(2, 8, seed=2)])
        torch.testing.assert_close(loss(p, t, pairs), loss(other, t, pairs))

    def test_all_weights_zero_make_it_zero_with_a_zero_gradient(self, name):
        p, t, pairs = loss_case()
        p.requires_grad_()
        loss = make("losses", name)(p, t, replace(pairs, weight=torch.zeros(9)))
        loss.backward()
        assert loss == 0
        assert (p.grad == 0).all()

    def test_no_pairs_make_it_zero(self, name):
        nothing = torch.zeros(0, dtype=torch.long)
        pairs = Pairs(torch.zeros(0, 0), torch.zeros(0, 0), nothing, nothing, torch.zeros(0), nothing)
        assert make("losses", name)(random(6, 8), torch.zeros(0, 8), pairs) == 0

    def test_permuting_the_pairs_changes_nothing(self, name):
        p, t, pairs = loss_case()
        order = torch.tensor([3, 1, 8, 0, 2, 7, 5, 6, 4])
        shuffled = replace(pairs, i=pairs.i[order], j=pairs.j[order], weight=pairs.weight[order])
        loss = make("losses", name)
        torch.testing.assert_close(loss(p, t, shuffled), loss(p, t, pairs))

    def test_renumbering_the_rows_changes_nothing(self, name):
        p, t, pairs = loss_case()
        order = torch.tensor([4, 2, 0, 5, 1, 3])
        place = torch.argsort(order)
        renumbered = replace(pairs, i=place[pairs.i], j=place[pairs.j], owner=pairs.owner[order])
        loss = make("losses", name)
        torch.testing.assert_close(loss(p[order], t[order], renumbered), loss(p, t, pairs))

    def test_the_gradient_reaches_the_prediction_and_not_a_detached_target(self, name):
        p, t, pairs = loss_case()
        p, t = p.requires_grad_(), t.requires_grad_()
        make("losses", name)(p, t.detach(), pairs).backward()
        touched = torch.zeros(6).bool()
        touched[pairs.i] = True
        assert torch.equal(p.grad.abs().sum(dim=1) > 0, touched)
        assert t.grad is None

    def test_nothing_is_written(self, name):
        loss = make("losses", name)
        before = state_of(loss)
        loss(*loss_case())
        assert_same_state(before, loss.state_dict())


# memories


def filled_memory(name):
    memory = make("memories", name)
    draw = torch.Generator().manual_seed(0)
    for i, counts in enumerate(([3, 0, 2], [1, 3], [2, 2])):
        memory.push(push_of(counts, draw=draw, first_image=10 * i, dim=DIM))
    return memory


def answers(memory):
    asked = random(7, DIM, seed=3)
    made = []
    for plane in (0, 1):
        found = memory.search(asked, plane=plane, k=3)
        parts = memory.rows(found.index, plane=plane), memory.place(found.index, plane=plane)
        made += [found.index, found.similarity, *parts, memory.ids(found.index), memory.ages(found.index)]
    return made


def assert_same_answers(here, there):
    for x, y in zip(answers(here), answers(there), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("name", components("memories"))
class TestEveryMemory:
    def test_it_starts_empty(self, name):
        assert len(make("memories", name)) == 0
        assert (make("memories", name).search(random(2, DIM), plane=0).index == -1).all()

    def test_saving_and_restoring_changes_nothing(self, name):
        memory, restored = filled_memory(name), make("memories", name)
        restored.load_state_dict(state_of(memory))
        assert len(restored) == len(memory)
        assert_same_answers(memory, restored)
        more = push_of([2, 3], draw=torch.Generator().manual_seed(8), first_image=90, dim=DIM)
        memory.push(more)
        restored.push(more)
        assert_same_answers(memory, restored)

    def test_a_saved_state_passes_the_safe_loader_of_torch(self, name, tmp_path):
        memory, restored = filled_memory(name), make("memories", name)
        torch.save(memory.state_dict(), tmp_path / "memory.pt")
        restored.load_state_dict(torch.load(tmp_path / "memory.pt", weights_only=True))
        assert_same_answers(memory, restored)

    def test_a_copy_and_its_original_go_their_own_ways(self, name):
        memory = filled_memory(name)
        copied, kept = copy.deepcopy(memory), copy.deepcopy(memory)
        memory.push(push_of([3, 3], draw=torch.Generator().manual_seed(8), dim=DIM))
        assert_same_answers(copied, kept)

    def test_a_search_writes_nothing(self, name):
        memory = filled_memory(name)
        before = state_of(memory)
        answers(memory)
        assert_same_state(before, memory.state_dict())

    def test_a_search_before_a_push_does_not_see_it_and_one_after_it_does(self, name):
        memory = filled_memory(name)
        queries = push_of([2, 1], draw=torch.Generator().manual_seed(8), first_image=90, dim=DIM)
        for plane in (0, 1):
            assert not memory.ids(memory.search(queries.rows[plane], plane=plane).index).ge(90).any()
        memory.push(queries)
        for plane in (0, 1):
            found = memory.search(queries.rows[plane], plane=plane)
            assert memory.ids(found.index)[:, 0].tolist() == [90, 90, 91]
            assert memory.ages(found.index).eq(0).all()
            torch.testing.assert_close(memory.rows(found.index[:, 0], plane=plane), queries.rows[plane])
            torch.testing.assert_close(memory.place(found.index[:, 0], plane=plane), queries.place[plane])

    def test_entries_grow_older_with_every_push(self, name):
        memory = make("memories", name)
        queries = push_of([2], draw=torch.Generator().manual_seed(0), dim=DIM)
        memory.push(queries)
        for age in range(3):
            assert memory.ages(memory.search(queries.rows[0], plane=0).index).eq(age).all()
            memory.push(push_of([1], draw=torch.Generator().manual_seed(age + 1), first_image=50, dim=DIM))

    def test_going_round_many_times_loses_nothing_that_was_just_pushed(self, name):
        memory, draw = make("memories", name), torch.Generator().manual_seed(0)
        for i in range(12):
            queries = push_of([3, i % 4, 1], draw=draw, first_image=3 * i, dim=DIM)
            memory.push(queries)
            found = memory.search(queries.rows[0], plane=0)
            assert torch.equal(memory.ids(found.index)[:, 0], queries.images[queries.item])

    def test_no_gradient_passes(self, name):
        memory = filled_memory(name)
        asked = random(3, DIM).requires_grad_()
        found = memory.search(asked, plane=0)
        assert not found.similarity.requires_grad
        memory.push(replace(push_of([3], draw=torch.Generator()), rows=asked.expand(2, -1, -1)))
        assert not memory.rows(found.index, plane=0).requires_grad


# matchers


@pytest.mark.parametrize("name", components("matchers"))
class TestEveryMatcher:
    queries = push_of([2, 0, 3], draw=torch.Generator().manual_seed(4), dim=DIM)

    def test_an_empty_memory_gives_weight_zero(self, name):
        matches = make("matchers", name)(self.queries, make("memories", "Queue"))
        assert matches.weight.shape == (2, 5)
        assert (matches.weight == 0).all()
        assert (matches.ids == -1).all()
        assert matches.rows.shape == self.queries.rows.shape

    def test_no_queries_give_no_matches(self, name):
        nobody = push_of([0, 0], draw=torch.Generator(), dim=DIM)
        matches = make("matchers", name)(nobody, filled_memory("Queue"))
        assert matches.index.shape == matches.weight.shape == (2, 0)

    def test_neither_the_memory_nor_the_queries_are_written(self, name):
        memory = filled_memory("Queue")
        before, rows = state_of(memory), self.queries.rows.clone()
        make("matchers", name)(self.queries, memory)
        assert_same_state(before, memory.state_dict())
        assert torch.equal(self.queries.rows, rows)

    def test_a_match_is_the_entry_its_index_names(self, name):
        memory = filled_memory("Queue")
        matches = make("matchers", name)(self.queries, memory)
        for plane in (0, 1):
            assert torch.equal(matches.rows[plane], memory.rows(matches.index[plane], plane=plane))
            assert torch.equal(matches.place[plane], memory.place(matches.index[plane], plane=plane))
        assert torch.equal(matches.ids, memory.ids(matches.index))

    def test_weights_lie_between_zero_and_that_of_the_query(self, name):
        weight = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0])
        matches = make("matchers", name)(replace(self.queries, weight=weight), filled_memory("Queue"))
        assert ((matches.weight >= 0) & (matches.weight <= weight)).all()

    def test_no_gradient_passes(self, name):
        queries = replace(self.queries, rows=self.queries.rows.clone().requires_grad_())
        matches = make("matchers", name)(queries, filled_memory("Queue"))
        assert not matches.rows.requires_grad
        assert not matches.weight.requires_grad

    def test_matches_have_the_precision_of_the_memory_or_of_the_queries_never_less_than_float32(self, name):
        queries = replace(self.queries, rows=self.queries.rows.half())
        matches = make("matchers", name)(queries, filled_memory("Queue"))
        assert matches.rows.dtype == torch.float32

    def test_it_holds_no_state(self, name):
        assert make("matchers", name).state_dict() == {}


# aligners


@pytest.mark.parametrize("name", components("aligners"))
class TestEveryAligner:
    @pytest.mark.parametrize("static", [True, False])
    def test_the_rows_it_speaks_of_exist(self, name, static):
        pairs = make("aligners", name)(step_of(static=static))
        assert len(pairs.i) == len(pairs.j) == len(pairs.weight) > 0
        assert pairs.i.min() >= 0
        assert pairs.i.max() < len(pairs.prediction)
        assert pairs.j.min() >= 0
        assert pairs.j.max() < len(pairs.target) == len(pairs.owner)

    @pytest.mark.parametrize("static", [True, False])
    def test_weights_are_never_negative_and_sum_to_one(self, name, static):
        weight = make("aligners", name)(step_of(static=static)).weight
        assert (weight >= 0).all()
        assert weight.sum().item() == pytest.approx(1)

    def test_static_rows_change_nothing(self, name):
        aligner = make("aligners", name)
        there = meaning(aligner(step_of(static=False)))
        assert meaning(aligner(step_of(static=True))) == pytest.approx(there)

    def test_permuting_the_images_permutes_the_pairs(self, name):
        aligner, step = make("aligners", name), step_of()
        there = meaning(aligner(permuted(step, torch.tensor([2, 0, 1]))))
        assert there == pytest.approx(meaning(aligner(step)))

    def test_predictions_are_the_students_and_targets_have_no_gradient(self, name):
        step = step_of()
        pairs = make("aligners", name)(step)
        assert pairs.prediction.requires_grad
        assert not pairs.target.requires_grad
        assert not pairs.weight.requires_grad

    def test_rows_are_not_copied_where_the_step_has_them(self, name):
        step = step_of()
        own = [step.student.image.rows, step.regions.student.rows]
        assert any(make("aligners", name)(step).prediction is rows for rows in own)  # else a head sees them twice

    def test_it_holds_no_state(self, name):
        assert make("aligners", name).state_dict() == {}


# centerings


@pytest.mark.parametrize("name", components("centerings"))
class TestEveryCentering:
    def test_it_takes_off_one_finite_number_per_prototype(self, name):
        offset = make("centerings", name)(random(5, 6), torch.ones(5))
        assert offset.shape == (6,)
        assert offset.isfinite().all()
        assert not offset.requires_grad

    def test_asking_writes_nothing_and_moving_writes_only_what_is_saved(self, name):
        centering = make("centerings", name)
        logits, weight = random(5, 6), torch.ones(5)
        before = state_of(centering)
        centering(logits, weight)
        assert_same_state(before, centering.state_dict())
        centering.move(logits, weight)
        restored = make("centerings", name)
        restored.load_state_dict(state_of(centering))
        assert torch.equal(restored(logits, weight), centering(logits, weight))

    def test_the_order_of_the_rows_does_not_matter(self, name):
        here, there = make("centerings", name), make("centerings", name)
        logits, weight = random(5, 6), torch.tensor([1.0, 0, 1, 0.5, 1])
        here.move(logits, weight)
        there.move(logits.flip(0), weight.flip(0))
        torch.testing.assert_close(here(logits, weight), there(logits.flip(0), weight.flip(0)))

    def test_popular_prototypes_are_not_made_more_popular(self, name):
        centering = make("centerings", name)
        logits, weight = 0.01 * random(8, 6) + torch.tensor([0.3, 0, 0, 0, 0, 0]), torch.ones(8)
        centering.move(logits, weight)
        offset = centering(logits, weight)
        assert offset[0] >= offset[1:].max()


# schedules


@pytest.mark.parametrize("name", components("schedules"))
class TestEverySchedule:
    def test_it_is_a_finite_number_at_each_moment_and_a_function_of_the_time_alone(self, name):
        schedule = make("schedules", name)
        moments = [Time(step, 12, 3, 64) for step in range(14)]
        forwards = [schedule(t) for t in moments]
        backwards = [schedule(t) for t in reversed(moments)]
        assert forwards == backwards[::-1]
        assert torch.tensor(forwards).isfinite().all()

    def test_it_has_a_value_before_any_run_is_known(self, name):
        assert isinstance(make("schedules", name)(Time()), float)

    def test_asking_changes_nothing(self, name):
        schedule = make("schedules", name)
        before = copy.deepcopy(vars(schedule))
        schedule(Time(5, 12, 3))
        assert vars(schedule) == before


# heads


@pytest.mark.parametrize("name", components("heads"))
class TestEveryHead:
    def test_it_scores_rows_for_each_of_its_outputs(self, name):
        head = make("heads", name)
        for output in head.names:
            scores = head(random(3, DIM), output)
            assert scores.shape[0] == 3
            assert scores.isfinite().all()

    def test_the_gradient_reaches_the_rows_and_the_parameters(self, name):
        head, rows = make("heads", name), random(3, DIM).requires_grad_()
        sum((head(rows, output) ** 2).sum() for output in head.names).backward()
        assert (rows.grad.abs().sum(dim=1) > 0).all()
        assert all(p.grad is not None for p in head.parameters() if p.requires_grad)

    def test_it_can_be_built_for_another_width(self, name):
        head = make("heads", name)
        head.build(9)
        assert head(random(2, 9), head.names[0]).shape[0] == 2

    def test_its_last_layers_are_where_a_method_freezes_them(self, name):
        assert set(make("heads", name).outputs) == set(make("heads", name).names)


# backbones


@pytest.mark.parametrize("name", components("backbones"))
class TestEveryBackbone:
    def test_it_makes_an_image_vector_and_a_grid_of_patches(self, name):
        backbone = make("backbones", name)
        image, patches, (h, w) = backbone(random(2, 3, 32, 48))
        assert image.shape == (2, backbone.dim)
        assert patches.shape == (2, h * w, backbone.dim)
        assert h < w

    def test_without_drop_path_two_passes_in_training_agree(self, name):
        backbone = make("backbones", name).train().without_drop_path()
        x = random(2, 3, 32, 32)
        for here, there in zip(backbone(x)[:2], backbone(x)[:2], strict=True):
            assert torch.equal(here, there)


def test_the_tiny_settings_name_only_what_exists():
    known = {name for role in ROLES for name in components(role)}
    assert known >= {*TINY, *ELSEWHERE}
