"""Clusterers against slow loops written as in the papers' text."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from sslkit.clusterers import Grid, KMeans, Sinkhorn
from sslkit.schedules import Linear, Time

SIZES = [(1, 4, 1, 3), (2, 9, 3, 5), (3, 16, 4, 8), (2, 12, 12, 6)]  # images, tokens, clusters, width


def images(b, n, d, k, *, seed=0, dtype=torch.float64):
    """Tokens around a few directions, positions in pixels, and distinct starting tokens."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(b, 3, d, generator=draw, dtype=dtype)
    which = torch.randint(3, (b, n), generator=draw)
    noise = torch.randn(b, n, d, generator=draw, dtype=dtype)
    tokens = directions.gather(1, which[..., None].expand(-1, -1, d)) + 0.5 * noise
    positions = 100 * torch.rand(b, n, 2, generator=draw, dtype=dtype)
    seeds = torch.rand(b, n, generator=draw).topk(k, dim=1).indices
    return tokens, positions, seeds


def transported(
    tokens, positions, seeds, *, alpha, n_rounds=5, n_balancing=5, sharpness=20.0, update_mass, hard, cost_scale
):
    """The joint-space clustering of CrIBo step by step, every distance to every member of every cluster spelt out."""
    b, n, _ = tokens.shape
    k = seeds.shape[1]
    unit = [x / x.norm(dim=-1, keepdim=True) for x in tokens]
    apart = [(p[:, None] - p[None]).norm(dim=-1) for p in positions]
    centroids = [x[s] for x, s in zip(unit, seeds, strict=True)]
    member = []
    for s in seeds:
        a = tokens.new_zeros(n, k)
        for cluster, token in enumerate(s.tolist()):
            a[token, cluster] = 1
        member.append(a)
    mass = [tokens.new_full((k,), 1 / k) for _ in range(b)]
    for _ in range(n_rounds):
        costs = []
        for x, d, mu, a in zip(unit, apart, centroids, member, strict=True):
            offers = (a[None] > 0) & (d[:, :, None] > 0)  # token n, member m, cluster k
            away = torch.where(offers, d[:, :, None] * a[None], torch.inf).amin(dim=1)
            away[away.isinf()] = 0
            away = torch.where(away == 0, away.mean(), away)
            away = away / away.max() if away.max() > 0 else away
            costs.append(-x @ mu.T + alpha * away)
        if cost_scale == "batch":
            low, high = min(m.min() for m in costs), max(m.max() for m in costs)
            costs = [(m - low) / (high - low) for m in costs]
        else:
            costs = [(m - m.min()) / (m.max() - m.min()) if m.max() > m.min() else m - m.min() for m in costs]
        for i, cost in enumerate(costs):
            plan = torch.exp(-sharpness * (cost - cost.amin(dim=1, keepdim=True)))  # rows are scaled below in any case
            plan = plan / plan.sum()
            for _ in range(n_balancing):
                plan = plan / plan.sum(dim=1, keepdim=True) / n
                plan = plan / plan.sum(dim=0, keepdim=True) * mass[i]
            best = torch.zeros_like(plan)
            for token in range(n):
                best[token, plan[token].argmax()] = 1
            member[i] = best if hard else plan
            if update_mass:
                mass[i] = (best.sum(dim=0) + 0.01) / (best.sum(dim=0) + 0.01).sum()
            mean = member[i].T @ unit[i]
            centroids[i] = mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return torch.stack(member)


SWITCHES = list(itertools.product([True, False], [True, False], ["image", "batch"], [0.0, 1.0, 2.0]))


@pytest.mark.parametrize("b, n, k, d", SIZES)
@pytest.mark.parametrize("hard, update_mass, cost_scale, alpha", SWITCHES)
def test_sinkhorn_is_the_procedure_as_written_in_the_text(b, n, k, d, hard, update_mass, cost_scale, alpha):
    for seed in range(2):
        tokens, positions, seeds = images(b, n, d, k, seed=seed)
        switches = dict(hard=hard, update_mass=update_mass, cost_scale=cost_scale)
        ours = Sinkhorn(k, positional_weight=alpha, **switches)(tokens, positions, seeds)
        expected = transported(tokens, positions, seeds, alpha=alpha, **switches)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_rounds, n_balancing, sharpness", [(1, 1, 20.0), (2, 3, 5.0), (5, 5, 60.0), (4, 1, 1.0)])
@pytest.mark.parametrize("hard", [True, False])
def test_sinkhorn_takes_as_many_rounds_of_each_kind_as_it_is_told(n_rounds, n_balancing, sharpness, hard):
    tokens, positions, seeds = images(2, 10, 6, 3, seed=4)
    rounds = dict(n_rounds=n_rounds, n_balancing=n_balancing, sharpness=sharpness, hard=hard, cost_scale="image")
    ours = Sinkhorn(3, **rounds)(tokens, positions, seeds)
    expected = transported(tokens, positions, seeds, alpha=1.0, update_mass=True, **rounds)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_in_float32_sinkhorn_makes_the_same_hard_clusters():
    for seed in range(5):
        tokens, positions, seeds = images(3, 18, 8, 4, seed=seed)
        wide = Sinkhorn(4)(tokens, positions, seeds)
        narrow = Sinkhorn(4)(tokens.float(), positions.float(), seeds)
        assert narrow.dtype == torch.float32
        assert torch.equal(narrow.double(), wide)


def test_tokens_that_no_longer_belong_to_a_soft_cluster_do_not_count_as_its_members():
    for seed in range(5):
        tokens, positions, seeds = images(2, 12, 6, 3, seed=seed)
        sharp = dict(sharpness=4000.0, hard=False, cost_scale="image")  # exp(-4000) is zero
        ours = Sinkhorn(3, **sharp)(tokens, positions, seeds)
        assert (ours == 0).any()
        expected = transported(tokens, positions, seeds, alpha=1.0, update_mass=True, **sharp)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_a_scheduled_positional_weight_clusters_as_its_value_at_that_time():
    tokens, positions, seeds = images(2, 16, 8, 4, seed=3)
    scheduled = Sinkhorn(4, positional_weight=Linear(0.0, 2.0, epochs=5, stepwise=True), hard=False)
    for epoch, alpha in enumerate((0.0, 0.5, 1.0, 1.5, 2.0)):
        scheduled.set_time(Time(step=3 * epoch, n_steps=15, steps_per_epoch=3))
        plain = Sinkhorn(4, positional_weight=alpha, hard=False)
        torch.testing.assert_close(scheduled(tokens, positions, seeds), plain(tokens, positions, seeds), rtol=0, atol=0)


@pytest.mark.parametrize("n, k", [(8, 2), (18, 5), (32, 16), (6, 6)])
def test_every_token_belongs_to_exactly_one_cluster(n, k):
    tokens, positions, seeds = images(4, n, 8, k)
    assignment = Sinkhorn(k)(tokens, positions, seeds)
    assert set(assignment.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(assignment.sum(dim=-1), torch.ones(4, n, dtype=torch.float64))


@pytest.mark.parametrize("update_mass", [True, False])
def test_soft_columns_weigh_exactly_their_target(update_mass):
    tokens, positions, seeds = images(3, 20, 8, 5)
    plan = Sinkhorn(5, hard=False, update_mass=update_mass, n_rounds=1)(tokens, positions, seeds)
    torch.testing.assert_close(plan.sum(dim=1), torch.full((3, 5), 0.2, dtype=torch.float64))


def test_positions_that_all_coincide_leave_the_similarity_alone():
    tokens, positions, seeds = images(2, 10, 6, 3)
    same = torch.full_like(positions, 7.0)
    assert torch.equal(Sinkhorn(3)(tokens, same, seeds), Sinkhorn(3, positional_weight=0.0)(tokens, positions, seeds))


def test_identical_tokens_at_one_place_still_give_one_cluster_each():
    assignment = Sinkhorn(3)(torch.ones(2, 6, 4), torch.zeros(2, 6, 2))
    assert torch.equal(assignment.sum(dim=-1), torch.ones(2, 6))


def test_positions_count_in_proportion_only():
    tokens, positions, seeds = images(2, 14, 6, 4)
    once = Sinkhorn(4, positional_weight=2.0)(tokens, positions, seeds)
    assert torch.equal(Sinkhorn(4, positional_weight=2.0)(tokens, 3 * positions + 50, seeds), once)


def test_a_large_positional_weight_keeps_clusters_together_in_space():
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 40, 6, generator=draw)
    corner = torch.tensor([[0.0, 0], [100, 0], [0, 100], [100, 100]]).repeat(10, 1)
    positions = (corner + torch.rand(40, 2, generator=draw))[None]
    assignment = Sinkhorn(4, positional_weight=50.0)(tokens, positions, torch.arange(4)[None])
    assert torch.equal(assignment.argmax(dim=-1)[0], torch.arange(4).repeat(10))


def test_the_other_images_of_a_batch_matter_only_when_the_cost_is_scaled_over_the_batch():
    tokens, positions, seeds = images(4, 16, 6, 4, seed=2)
    tokens[0] = tokens[0, :1] + 0.05 * tokens[0]  # an image of little contrast
    for scale, alike in (("image", True), ("batch", False)):
        clusterer = Sinkhorn(4, cost_scale=scale, hard=False)
        alone = clusterer(tokens[:1], positions[:1], seeds[:1])
        together = clusterer(tokens, positions, seeds)[:1]
        assert torch.allclose(alone, together, rtol=1e-9, atol=0) == alike


@pytest.mark.parametrize(
    "wrong, named",
    [
        (dict(n_clusters=0), "n_clusters=0"),
        (dict(n_clusters=2, n_rounds=0), "n_rounds=0"),
        (dict(n_clusters=2, n_balancing=0), "n_balancing=0"),
        (dict(n_clusters=2, sharpness=0.0), "sharpness=0.0"),
        (dict(n_clusters=2, positional_weight=-1.0), "positional_weight=-1.0"),
        (dict(n_clusters=2, cost_scale="world"), "cost_scale='world'"),
    ],
)
def test_sinkhorn_refuses_what_cannot_be_and_names_it(wrong, named):
    with pytest.raises(ValueError, match=named):
        Sinkhorn(**wrong)


def k_means(tokens, seeds, n_rounds):
    """Spherical k-means, a token and a cluster at a time."""
    made = []
    for x, start in zip(F.normalize(tokens, dim=-1), seeds, strict=True):
        centroids = [x[s] for s in start.tolist()]
        for _ in range(n_rounds):
            label = [max(range(len(centroids)), key=lambda c: float(t @ centroids[c])) for t in x]
            for c in range(len(centroids)):
                mine = [t for t, at in zip(x, label, strict=True) if at == c]
                if mine:
                    centroids[c] = F.normalize(sum(mine), dim=0)
        made.append([[float(at == c) for c in range(len(centroids))] for at in label])
    return torch.tensor(made, dtype=tokens.dtype)


@pytest.mark.parametrize("b, n, k, d", SIZES)
@pytest.mark.parametrize("n_rounds", [1, 2, 5])
def test_k_means_is_its_slow_loop(b, n, k, d, n_rounds):
    for seed in range(3):
        tokens, positions, seeds = images(b, n, d, k, seed=seed)
        ours = KMeans(k, n_rounds=n_rounds)(tokens, positions, seeds)
        torch.testing.assert_close(ours, k_means(tokens, seeds, n_rounds), rtol=0, atol=0)


def test_a_k_means_cluster_that_loses_its_tokens_keeps_its_centroid():
    tokens = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [0, 1]]])
    assignment = KMeans(3)(tokens, torch.zeros(1, 4, 2), torch.tensor([[0, 1, 2]]))
    assert assignment.argmax(dim=-1).tolist() == [[0, 0, 2, 2]]
    assert assignment.isfinite().all()


def test_k_means_needs_a_round():
    with pytest.raises(ValueError, match="n_rounds=0"):
        KMeans(2, n_rounds=0)


@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 3), (3, 2), (4, 4)])
def test_the_grid_puts_every_token_in_the_cell_that_holds_its_place(rows, columns):
    tokens, positions, _ = images(3, 24, 4, 1)
    ours = Grid(rows, columns)(tokens, positions)
    for image in range(3):
        (left, top), (right, bottom) = positions[image].amin(dim=0).tolist(), positions[image].amax(dim=0).tolist()
        for token, (x, y) in enumerate(positions[image].tolist()):
            column = min(int((x - left) / (right - left) * columns), columns - 1)
            row = min(int((y - top) / (bottom - top) * rows), rows - 1)
            expected = [float(cell == row * columns + column) for cell in range(rows * columns)]
            assert ours[image, token].tolist() == expected


def test_the_grid_does_not_look_at_the_tokens():
    tokens, positions, _ = images(2, 12, 4, 1)
    assert torch.equal(Grid(2, 2)(tokens, positions), Grid(2, 2)(-tokens.flip(1), positions))


def test_the_grid_needs_a_row_and_a_column():
    with pytest.raises(ValueError, match="rows=0"):
        Grid(0, 2)
    with pytest.raises(ValueError, match="columns=0"):
        Grid(2, 0)
