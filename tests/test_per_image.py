"""The table of all images against a dict, its history against a slow loop, its indexes against one another."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit import config, distributed
from sslkit.contracts import MemoryContract
from sslkit.contracts.component import assert_same_state
from sslkit.errors import CheckpointError
from sslkit.matchers import Nearest
from sslkit.memories import IVF, Exact, Flat, PerImage
from sslkit.memories.history import CHUNK, PAIR, History, pool
from sslkit.memories.indexes.ivf import k_means
from sslkit.search import Search
from sslkit.types import Queries
from tests.conftest import ROOT
from tests.ranks import on_ranks
from tests.test_contracts import kept_of_the_first_view

DIM = 6
N = 12
INDEXES = {"Exact": Exact, "Flat": Flat, "IVF": functools.partial(IVF, n_lists=4, n_probe=4)}
make = functools.partial(PerImage, n_images=N, dim=DIM, n_neighbours=3, warmup_epochs=0)


def push_of(images, draw, *, n_planes=2, dim=DIM):
    rows = torch.randn(n_planes, len(images), dim, generator=draw)
    place = 100 * torch.rand(n_planes, len(images), 2, generator=draw)
    return replace(Queries.of(rows), images=torch.tensor(images), place=place)


def filled(n_epochs=1, *, seed=0, batch=4, **settings):
    """A memory after some epochs of pushes in random order, and the neighbours after each."""
    memory, draw, after = make(**settings), torch.Generator().manual_seed(seed), []
    for epoch in range(n_epochs):
        for images in torch.randperm(N, generator=draw).split(batch):
            memory.push(push_of(images.tolist(), draw))
        memory.finish(epoch, needed=epoch)
        after.append(memory.neighbours(torch.arange(N)))
    return memory, after


class TestWithFlat(MemoryContract):
    n_per_image, planes, kept = 1, (0,), kept_of_the_first_view

    def make(self):
        return PerImage(n_images=100, index=Flat())


class TestWithIVF(TestWithFlat):
    def make(self):
        return PerImage(n_images=100, index=IVF(n_lists=3, n_probe=3))

    def filled(self):
        memory = super().filled()
        memory.finish(0, needed=0)
        assert memory.index.is_ready
        return memory


class TestOnTheHost(TestWithFlat):
    def make(self):
        return PerImage(n_images=100, storage="host")


# the table


class Dict:
    """What the memory should be: a row for each image that was pushed."""

    def __init__(self, k):
        self.k, self.rows, self.place, self.born, self.neighbours, self.n_pushes = k, {}, {}, {}, {}, 0

    def nearest(self, row):
        scores = [(float(row @ other), -image) for image, other in self.rows.items()]
        return [(-image, score) for score, image in sorted(scores, reverse=True)][: self.k]

    def push(self, queries):
        rows = F.normalize(queries.rows[0], dim=-1)
        found = [self.nearest(row) for row in rows]
        for i, image in enumerate(queries.images.tolist()):
            self.rows[image], self.place[image] = rows[i], queries.place[0, i]
            self.born[image], self.neighbours[image] = self.n_pushes, found[i]
        self.n_pushes += 1


@pytest.mark.parametrize("index", INDEXES)
@settings(max_examples=40, deadline=None)
@given(pushes=st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=9), min_size=1, max_size=8))
def test_the_memory_is_a_dict_of_the_latest_rows(index, pushes):
    draw = torch.Generator().manual_seed(len(pushes))
    memory, plain = make(index=INDEXES[index]()), Dict(3)
    for at, images in enumerate(pushes):
        queries = push_of(images, draw)
        memory.push(queries)
        plain.push(queries)
        if at == 3:
            memory.finish(0, needed=0)  # where IVF has rows enough, it begins to search in lists
        assert len(memory) == len(plain.rows)
        seen = torch.tensor(sorted(plain.rows))
        assert torch.equal(memory.rows(seen), torch.stack([plain.rows[i] for i in seen.tolist()]))
        assert torch.equal(memory.place(seen), torch.stack([plain.place[i] for i in seen.tolist()]))
        assert memory.ages(seen).tolist() == [at - plain.born[i] for i in seen.tolist()]
        found = memory.neighbours(seen)
        for image, which, similarity in zip(seen.tolist(), found.index, found.similarity, strict=True):
            expected = plain.neighbours[image]
            n = len(expected)
            assert which.tolist() == [i for i, _ in expected] + [-1] * (3 - n)
            assert similarity[:n].tolist() == pytest.approx([s for _, s in expected], abs=1e-6)
            assert similarity[n:].eq(-torch.inf).all()


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("k", [1, 5, 40])
def test_a_search_finds_what_comparing_with_every_visited_row_finds(index, k):
    draw = torch.Generator().manual_seed(0)
    memory = PerImage(n_images=40, dim=DIM, index=INDEXES[index]())
    some = torch.randperm(40, generator=draw)[:30]
    for images in some.split(10):
        memory.push(push_of(images.tolist(), draw))
    memory.finish(0, needed=0)
    asked = torch.randn(7, DIM, generator=draw)
    found = memory.search(asked, k=k)
    assert found.index.shape == found.similarity.shape == (7, k)
    seen, there = some.sort().values, min(k, 30)
    similarity, order = (F.normalize(asked, dim=-1) @ memory.rows(seen).mT).sort(dim=1, descending=True)
    assert torch.equal(found.index[:, :there], seen[order[:, :there]])
    torch.testing.assert_close(found.similarity[:, :there], similarity[:, :there], rtol=0, atol=1e-6)
    assert found.index[:, there:].eq(-1).all()
    assert found.similarity[:, there:].eq(-torch.inf).all()


@pytest.mark.parametrize("index", INDEXES)
def test_a_search_without_queries_and_a_push_of_nobody_change_and_find_nothing(index):
    memory, _ = filled(index=INDEXES[index]())
    before = memory.search(torch.eye(DIM), k=2)
    assert memory.search(torch.zeros(0, DIM), k=2).index.shape == (0, 2)
    memory.push(replace(push_of([1], torch.Generator()), weight=torch.zeros(1)))
    assert torch.equal(memory.search(torch.eye(DIM), k=2).index, before.index)


def test_an_image_meets_its_own_row_of_the_epoch_before_and_others_of_this_one():
    memory = make(n_images=3, dim=2, n_neighbours=1)
    east, north = torch.tensor([1.0, 0]), torch.tensor([0, 1.0])
    memory.push(Queries.of(torch.stack([east, north])[None]))
    memory.push(replace(Queries.of(north[None, None]), images=torch.tensor([0])))  # nearest: image 1, not the new row
    assert memory.neighbours(torch.tensor([0])).index.item() == 1
    memory.push(replace(Queries.of(north[None, None] + 0.1 * east), images=torch.tensor([2])))
    assert memory.neighbours(torch.tensor([2])).index.item() in (0, 1)
    memory.push(replace(Queries.of(east[None, None]), images=torch.tensor([1])))  # nearest: image 2, written just now
    assert memory.neighbours(torch.tensor([1])).index.item() == 2


def test_of_an_image_that_a_push_has_twice_the_last_row_is_kept():
    memory, draw = make(), torch.Generator().manual_seed(0)
    queries = push_of([5, 2, 5, 5, 2], draw)
    memory.push(queries)
    assert len(memory) == 2
    expected = F.normalize(queries.rows[0, [4, 3]], dim=-1)
    assert torch.equal(memory.rows(torch.tensor([2, 5])), expected)
    assert torch.equal(memory.place(torch.tensor([2, 5])), queries.place[0, [4, 3]])


def test_rows_of_weight_zero_are_not_kept():
    memory = make()
    memory.push(replace(push_of([1, 2], torch.Generator()), weight=torch.tensor([0.0, 1.0])))
    assert memory.search(torch.eye(DIM)).index.eq(2).all()


def test_the_kept_row_is_that_of_the_view_asked_for():
    queries, who = push_of([1, 2], torch.Generator().manual_seed(0), n_planes=3), torch.tensor([1, 2])
    unit = F.normalize(queries.rows, dim=-1)
    for view, rows, place in (
        ("first", unit[0], queries.place[0]),
        ("second", unit[1], queries.place[1]),
        ("mean", F.normalize(unit.mean(dim=0), dim=-1), queries.place.mean(dim=0)),
    ):
        memory = make(view=view)
        memory.push(queries)
        assert torch.equal(memory.rows(who), rows)
        assert torch.equal(memory.place(who), place)


def test_everything_is_of_float32_and_of_float64_where_the_method_is():
    queries = push_of([1, 2], torch.Generator())
    for memory, dtype in ((make(), torch.float32), (make().double(), torch.float64)):
        memory.push(replace(queries, rows=queries.rows.bfloat16() if dtype == torch.float32 else queries.rows.double()))
        assert memory.rows(torch.tensor([1])).dtype == memory.search(queries.rows[0]).similarity.dtype == dtype


@pytest.mark.parametrize(
    "wrong, named",
    [
        (lambda: make().build(n_per_image=4, dim=DIM), "up to 4; it must have level='image'"),
        (lambda: make().make_room(N + 1), "n_images=12, but the data set has 13 images"),
        (lambda: make().push(push_of([N], torch.Generator())), "n_images=12, but the images pushed go from 12 to 12"),
        (lambda: make().push(push_of([3, -1], torch.Generator())), "go from -1 to 3"),
        (lambda: make().push(push_of([1], torch.Generator(), dim=4)), "dim=6, but the rows pushed are 4 wide"),
        (lambda: make(view="second").push(push_of([1], torch.Generator(), n_planes=1)), "view='second' needs 2 planes"),
        (lambda: make(n_images=None).push(push_of([1], torch.Generator())), "no room yet"),
        (lambda: make(view="third"), "view='third', but it must be 'first' or 'second' or 'mean'"),
        (lambda: make(storage="disk"), "storage='disk'"),
        (lambda: IVF(n_lists=4, n_probe=5), "n_probe=5, but there are only n_lists=4"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        wrong()


def test_a_refused_push_changes_nothing():
    memory, _ = filled()
    before = copy.deepcopy(memory.state_dict())
    with pytest.raises(ValueError, match="n_images"):
        memory.push(push_of([0, N], torch.Generator()))
    assert_same_state(before, memory.state_dict())


def test_tables_in_host_memory_stay_there_when_the_method_moves():
    for storage, is_moved in (("device", True), ("host", False)):
        memory, _ = filled(storage=storage)
        held = sum(x.numel() for x in memory.buffers())
        moved = copy.deepcopy(memory).to("meta")
        assert moved.rows(torch.arange(N, device=moved._rows.device)).is_meta == is_moved
        assert held == (N * (DIM + 2 + 1 + 1 + 3 + 3) if is_moved else 0)


def test_host_memory_changes_no_answer():
    (here, _), (there, _) = filled(2, storage="host"), filled(2)
    asked = torch.randn(5, DIM, generator=torch.Generator().manual_seed(1))
    assert torch.equal(here.search(asked, k=4).index, there.search(asked, k=4).index)
    assert torch.equal(here.candidates(2).score, there.candidates(2).score)


# the history


def slow_pool(epochs, n, k):
    """Sums of similarities in a dict of each image, the largest first, then the smaller number."""
    index, score = torch.full((n, k), -1), torch.full((n, k), -torch.inf)
    for i in range(n):
        sums = {}
        for epoch in epochs:
            for j, s in zip(epoch["index"][i].tolist(), epoch["similarity"][i].tolist(), strict=True):
                if j >= 0:
                    sums[j] = sums.get(j, 0.0) + s
        mean = {j: float(np.float32(s / len(epochs))) for j, s in sums.items()}
        for place, j in enumerate(sorted(mean, key=lambda j: (-mean[j], j))[:k]):
            index[i, place], score[i, place] = j, mean[j]
    return index, score


def epochs_of(seed, n_epochs, n, k, *, absent=0.0, levels=None):
    """Neighbours of some epochs: distinct images in each, similarities of either sign, some of them equal."""
    rng, epochs = np.random.default_rng(seed), []
    for _ in range(n_epochs):
        epoch = np.empty((n, k), PAIR)
        for i in range(n):
            epoch["index"][i] = rng.choice(2 * k + 1, k, replace=False)
        similarity = rng.uniform(-1, 1, (n, k))
        epoch["similarity"] = similarity if levels is None else np.round(similarity * levels) / levels
        gone = rng.random((n, k)) < absent
        epoch["index"][gone], epoch["similarity"][gone] = -1, -np.inf
        epochs.append(epoch)
    return epochs


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 999),
    n_epochs=st.integers(1, 7),
    n=st.integers(1, 9),
    k=st.integers(1, 6),
    absent=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
    levels=st.sampled_from([None, 2, 4]),
)
def test_pooled_neighbours_are_those_of_a_slow_loop(seed, n_epochs, n, k, absent, levels):
    epochs = epochs_of(seed, n_epochs, n, k, absent=absent, levels=levels)
    found = pool(epochs, n, k)
    index, score = slow_pool(epochs, n, k)
    assert torch.equal(found.index, index)
    assert torch.equal(found.score, score)
    assert not (found.score.signbit() & (found.score == 0)).any()  # equal zeros are equal bits


def test_images_beyond_a_chunk_and_several_threads_change_nothing():
    n = 2 * CHUNK + 3
    epochs = epochs_of(0, 3, n, 4)
    found = pool(epochs, n, 4)
    index, score = slow_pool(epochs, n, 4)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = pool(epochs, n, 4)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found.index, index) and torch.equal(again.index, index)
    assert torch.equal(found.score, score) and torch.equal(again.score, score)


def test_a_neighbour_of_half_of_the_epochs_is_scored_half():
    epochs = [np.zeros((1, 2), PAIR) for _ in range(4)]
    for at, epoch in enumerate(epochs):
        epoch["index"], epoch["similarity"] = [[0, 1 if at % 2 else 2 + at]], [[0.9, 0.8]]
    found = pool(epochs, 1, 3)
    assert found.index.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(found.score, torch.tensor([[0.9, 0.4, 0.2]]), rtol=0, atol=1e-7)


def test_equal_scores_go_to_the_smaller_number():
    epoch = np.zeros((1, 4), PAIR)
    epoch["index"], epoch["similarity"] = [[7, 3, 9, 1]], [[0.5, 0.5, 0.75, 0.5]]
    assert pool([epoch], 1, 4).index.tolist() == [[9, 1, 3, 7]]


def test_epochs_of_the_warm_up_do_not_count():
    memory = make(warmup_epochs=2, window=3)
    draw = torch.Generator().manual_seed(0)
    plain = []
    for epoch in range(4):
        memory.push(push_of(torch.randperm(N, generator=draw).tolist(), draw))
        memory.finish(epoch, needed=0)
        plain.append(memory.history.held[epoch])
    assert memory.candidates(2).index.eq(-1).all()
    for epoch, counted in ((3, plain[2:3]), (4, plain[2:4])):
        index, score = slow_pool(counted, N, 3)
        assert torch.equal(memory.candidates(epoch).index, index)
        assert torch.equal(memory.candidates(epoch).score, score)


def test_a_file_that_another_run_wrote_is_refused(tmp_path):
    memory, other = make(), make()
    for each, folder in ((memory, "mine"), (other, "theirs")):
        each.make_room(N, tmp_path / folder)
        draw = torch.Generator().manual_seed(len(folder))
        each.push(push_of(list(range(N)), draw))
        each.push(push_of(list(range(N)), draw))
        each.finish(0, needed=0)
    shutil.copy(other.history.path(0), memory.history.path(0))
    with pytest.raises(CheckpointError, match="is not what this run wrote there"):
        memory.candidates(1)


def test_no_epoch_gives_no_candidate():
    found = make().candidates(0)
    assert found.index.eq(-1).all() and found.index.shape == (N, 3)
    assert found.score.eq(-torch.inf).all()


@pytest.mark.parametrize("in_files", [True, False])
def test_the_window_slides_oldest_first_and_every_epoch_in_it_is_as_it_was(in_files, tmp_path):
    memory, after = make(window=3), []
    memory.make_room(N, tmp_path / "history" if in_files else None)
    draw = torch.Generator().manual_seed(0)
    for epoch in range(6):
        assert len(memory.history.before(epoch, shape=(N, 3))) == min(epoch, 3)
        for images in torch.randperm(N, generator=draw).split(5):
            memory.push(push_of(images.tolist(), draw))
        memory.finish(epoch, needed=epoch)
        after.append(memory.neighbours(torch.arange(N)))
        window = memory.history.before(epoch + 1, shape=(N, 3))
        for found, pairs in zip(after[-3:], window, strict=True):
            assert np.array_equal(pairs["index"], found.index.numpy())
            assert np.array_equal(pairs["similarity"], found.similarity.numpy())
        index, score = slow_pool(window, N, 3)
        assert torch.equal(memory.candidates(epoch + 1).index, index)
        assert torch.equal(memory.candidates(epoch + 1).score, score)


@pytest.mark.parametrize("in_files", [True, False])
def test_epochs_are_kept_as_long_as_a_checkpoint_may_need_them(in_files, tmp_path):
    memory, _ = filled()
    memory.window = memory.history.window = 2
    if in_files:
        memory.make_room(N, tmp_path)
    for epoch in range(1, 8):
        memory.finish(epoch, needed=max(0, epoch - 3))
    for epoch in (4, 5, 6, 7, 8):
        memory.candidates(epoch)  # a run may go on from epoch 4
    with pytest.raises(CheckpointError, match="epoch 1"):
        memory.candidates(3)
    assert memory.history.epochs_on_disk() == ([2, 3, 4, 5, 6, 7] if in_files else [])


@pytest.mark.parametrize("in_files", [True, False])
def test_finishing_an_epoch_again_changes_nothing(in_files, tmp_path):
    memory = make(index=IVF(n_lists=3, n_probe=1))
    memory.make_room(N, tmp_path if in_files else None)
    memory.push(push_of(list(range(N)), torch.Generator().manual_seed(0)))
    memory.finish(0, needed=0)
    before, mapped = copy.deepcopy(memory.state_dict()), memory.history.before(1, shape=(N, 3))
    memory.finish(0, needed=0)
    assert_same_state(before, memory.state_dict())
    assert np.array_equal(mapped[0], memory.history.before(1, shape=(N, 3))[0])


@pytest.mark.parametrize("storage", ["device", "host"])
@pytest.mark.parametrize("in_files", [True, False])
def test_after_a_restart_the_memory_goes_on_as_if_it_had_not_stopped(storage, in_files, tmp_path):
    def new():
        memory = PerImage(n_neighbours=3, window=2, warmup_epochs=0, storage=storage, index=IVF(n_lists=3, n_probe=1))
        memory.build(n_per_image=1, dim=DIM)
        memory.make_room(N, tmp_path / "history" if in_files else None)
        return memory

    memory, draw = new(), torch.Generator().manual_seed(0)
    for epoch in range(3):
        memory.push(push_of(list(range(N)), draw))
        memory.finish(epoch, needed=epoch)
    torch.save(memory.state_dict(), tmp_path / "state.pt")
    restarted = new()
    restarted.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert bool(memory.state_dict()["_extra_state"]["history"]["held"]) != in_files
    for epoch in range(3, 6):
        here, there = memory.candidates(epoch), restarted.candidates(epoch)
        assert torch.equal(here.index, there.index) and torch.equal(here.score, there.score)
        queries = push_of(torch.randperm(N, generator=draw).tolist(), draw)
        for each in (memory, restarted):
            each.push(queries)
            each.finish(epoch, needed=epoch)
        assert_same_state(memory.state_dict(), restarted.state_dict())


@pytest.mark.parametrize("storage", ["device", "host"])
def test_a_state_of_another_size_is_refused(storage):
    other = make(n_images=N + 1, storage=storage)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(filled(storage=storage)[0].state_dict())


def damaged(kind, path):
    if kind == "absent":
        path.unlink()
    elif kind == "torn":
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "short":
        path.write_bytes(path.read_bytes()[:20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "foreign":
        np.save(path, np.zeros((N, 3)))
    elif kind == "other":
        np.save(path, np.zeros((N, 4), PAIR))
    elif kind == "text":
        path.write_text("epoch 1\n" * 40)


@pytest.mark.parametrize("kind", ["absent", "torn", "short", "empty", "foreign", "other", "text"])
def test_a_damaged_file_is_named_with_what_to_do(kind, tmp_path):
    memory = make()
    memory.make_room(N, tmp_path)
    for epoch in range(3):
        memory.finish(epoch, needed=0)
    path = memory.history.path(1)
    damaged(kind, path)
    with pytest.raises(CheckpointError) as caught:
        memory.candidates(3)
    assert str(path) in str(caught.value)
    assert "move away the checkpoints made after epoch 1" in str(caught.value)
    memory.finish(1, needed=0)
    memory.candidates(3)


def test_a_disk_that_is_full_leaves_the_epochs_before_and_nothing_half_written(tmp_path, monkeypatch):
    memory = make()
    memory.make_room(N, tmp_path)
    memory.finish(0, needed=0)

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        memory.finish(1, needed=1)
    assert [p.name for p in tmp_path.iterdir()] == [memory.history.path(0).name]


@pytest.mark.slow
def test_a_kill_while_a_file_is_written_leaves_a_readable_history(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from sslkit.memories.history import History\n"
        "history = History(5); history.keep_in(Path(sys.argv[1]))\n"
        "for epoch in range(10_000):\n"
        "    index = torch.full((400_000, 4), epoch, dtype=torch.int32)\n"
        "    history.add(epoch, index, index.float()); history.forget(epoch - 5)"
    )
    n_torn = 0
    for _ in range(20):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
        old = set(tmp_path.glob("*.partial*"))
        while not set(tmp_path.glob("*.partial*")) - old or not list(tmp_path.glob("*.npy")):
            assert process.poll() is None
        process.kill()
        process.wait()
        n_torn += len(set(tmp_path.glob("*.partial*")) - old)
        history = History(5)
        history.keep_in(tmp_path)
        newest = history.epochs_on_disk()[-1]
        for back, pairs in enumerate(reversed(history.before(newest + 1, shape=(400_000, 4)))):
            assert (pairs["index"] == newest - back).all()
            assert (pairs["similarity"] == newest - back).all()
        if n_torn == 3:
            break
    assert n_torn  # kills did come in between
    history.add(0, torch.zeros(2, 1, dtype=torch.int32), torch.zeros(2, 1))
    assert not list(tmp_path.glob("*.partial*"))


# the indexes


def clustered(n, dim, n_clusters, *, seed=0, spread=0.6):
    """Unit rows around directions that every seed has; `spread` is the length of the noise against theirs."""
    centres = F.normalize(torch.randn(n_clusters, dim, generator=torch.Generator().manual_seed(-1)), dim=1)
    draw = torch.Generator().manual_seed(seed)
    which = torch.randint(n_clusters, (n,), generator=draw)
    noise = spread * F.normalize(torch.randn(n, dim, generator=draw), dim=1)
    return F.normalize(centres[which] + noise, dim=1)


def with_rows(rows, index):
    memory = PerImage(n_images=len(rows), dim=rows.shape[1], n_neighbours=1, index=index)
    memory.load_state_dict(memory.state_dict() | {"_rows": rows, "_visited": torch.ones(len(rows), dtype=torch.bool)})
    memory.finish(0, needed=0)
    return memory


def test_over_many_blocks_all_indexes_agree_before_and_after_rows_have_changed():
    rows = clustered(20_000, 16, 50)
    made = [with_rows(rows, index) for index in (Exact(), Flat(), IVF(n_lists=8, n_probe=8))]
    asked = clustered(40, 16, 50, seed=1)
    for round_ in range(3):
        exact, *others = (memory.search(asked, k=10) for memory in made)
        for found in others:
            torch.testing.assert_close(found.similarity, exact.similarity, rtol=0, atol=1e-5)
            assert torch.equal(found.index, exact.index)
        changed = torch.randperm(20_000, generator=torch.Generator().manual_seed(round_))[:1000]
        queries = replace(Queries.of(clustered(1000, 16, 50, seed=7 + round_)[None]), images=changed)
        for memory in made:
            memory.push(queries)


def test_few_lists_find_nearly_all_neighbours_of_clustered_rows():
    rows, asked = clustered(20_000, 32, 200), clustered(200, 32, 200, seed=1)
    exact = with_rows(rows, Exact()).search(asked, k=10).index
    recall = []
    for n_probe in (1, 4, 16, 64):
        found = with_rows(rows, IVF(n_lists=64, n_probe=n_probe)).search(asked, k=10).index
        recall.append((found[:, :, None] == exact[:, None]).any(dim=2).double().mean().item())
    assert recall == sorted(recall)
    assert recall[-1] == 1
    assert recall[1] > 0.95
    assert recall[0] > 0.85


def test_before_the_first_epoch_is_over_and_with_fewer_rows_than_lists_search_is_exact():
    draw = torch.Generator().manual_seed(0)
    memory, exact = make(index=IVF(n_lists=8, n_probe=1)), make()
    for images in ([0, 1, 2], [3, 4]):
        for each in (memory, exact):
            each.push(push_of(images, torch.Generator().manual_seed(images[0])))
            each.finish(0, needed=0)
        asked = torch.randn(5, DIM, generator=draw)
        assert torch.equal(memory.search(asked, k=4).index, exact.search(asked, k=4).index)
    assert not memory.index.is_ready
    memory.push(push_of(list(range(N)), draw))
    assert not memory.index.is_ready
    memory.finish(1, needed=1)
    assert memory.index.is_ready


def test_lists_are_made_without_a_random_draw_and_follow_the_rows():
    rows = clustered(3000, 16, 20)
    here, there = (with_rows(rows, IVF(n_lists=20, n_probe=1)) for _ in range(2))
    torch.rand(3)
    assert torch.equal(here.index._centroids, there.index._centroids)
    other = with_rows(rows.flip(1), IVF(n_lists=20, n_probe=1))
    assert not torch.equal(here.index._centroids, other.index._centroids)


def test_k_means_moves_to_the_mean_directions_and_leaves_empty_groups():
    rows = F.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [1.0, 0.1], [0.0, 1.0]]), dim=1)
    means = k_means(rows, 4, 5)  # rows 0 and 2 are equal: the second of their groups stays empty
    torch.testing.assert_close(means, rows, rtol=0, atol=1e-6)
    halves = k_means(rows[[0, 1, 3, 3]], 2, 5)  # started by rows 0 and 3
    torch.testing.assert_close(halves, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), rtol=0, atol=1e-6)


def test_saved_lists_answer_as_those_that_were_saved():
    rows, asked = clustered(5000, 16, 50), clustered(30, 16, 50, seed=1)
    memory = with_rows(rows, IVF(n_lists=32, n_probe=2))
    changed = replace(Queries.of(clustered(500, 16, 50, seed=2)[None]), images=torch.arange(500))
    memory.push(changed)
    restored = PerImage(n_images=5000, dim=16, n_neighbours=1, index=IVF(n_lists=32, n_probe=2))
    restored.search(asked)
    restored.load_state_dict(copy.deepcopy(memory.state_dict()))
    copied = copy.deepcopy(memory)
    for other in (restored, copied):
        here, there = memory.search(asked, k=10), other.search(asked, k=10)
        assert torch.equal(here.index, there.index)
        torch.testing.assert_close(here.similarity, there.similarity, rtol=0, atol=1e-6)


@pytest.mark.parametrize("index", INDEXES)
def test_a_search_works_without_values(index):
    with torch.device("meta"):
        memory = make(index=INDEXES[index]())
        found = memory.search(torch.zeros(4, DIM), k=2)
        assert found.index.shape == (4, 2)
        assert memory.rows(found.index).shape == (4, 2, DIM)


# in a method


def test_a_search_inside_a_step_is_refused():
    with pytest.raises(ValueError, match="it is for Partners, not for a search"):
        Search(matcher=Nearest(), memory=PerImage(), level="image")


def test_a_file_names_the_index(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text("include 'gin/adasim.gin'\nmemories.PerImage.index = @IVF()\nIVF.n_lists = 8\nIVF.n_probe = 2\n")
    memory = config.load([str(file)]).part("train", "method").partners.memory
    assert (memory.index.n_lists, memory.index.n_probe) == (8, 2)
    _, problems = config.examine([str(file)], [])
    assert [str(problem) for problem in problems] == []


# several processes

CASES = {
    "exact": {},
    "host": dict(storage="host"),
    "ivf": dict(index=IVF(n_lists=4, n_probe=2)),
    "files": {},
}


def run(case, folder):
    """Two epochs of this rank's share of each batch: tables, candidates and what the state holds."""
    memory = make(window=2, **copy.deepcopy(CASES[case]))
    memory.make_room(N, Path(folder) / "history" if case == "files" else None)
    draw, rank = torch.Generator().manual_seed(0), distributed.rank()
    for epoch in range(3):
        order = torch.randperm(N, generator=draw)
        order[5] = order[0]  # one that both ranks have
        for images in order.split(6):
            queries = push_of(images.tolist(), draw)
            share = slice(rank * 3, rank * 3 + 3) if distributed.is_on() else slice(None)
            mine = replace(
                queries,
                rows=queries.rows[:, share],
                place=queries.place[:, share],
                images=queries.images[share],
                item=torch.arange(len(queries.images[share])),
                weight=queries.weight[share],
                chance=queries.chance[:, share],
            )
            memory.push(mine)
        memory.finish(epoch, needed=epoch)
    every, candidates = torch.arange(N), memory.candidates(3)
    found = memory.neighbours(every)
    return dict(
        exact=[memory.rows(every), memory.place(every), memory.ages(every), found.index, candidates.index],
        close=[found.similarity, candidates.score],
        state=memory.state_dict(),
        files=memory.history.epochs_on_disk(),
    )


def work(folder):
    return {case: run(case, folder) for case in CASES}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return on_ranks(functools.partial(work, folder), folder)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_hold_the_tables_of_one_with_all_images(ranks, case, tmp_path):
    alone = run(case, tmp_path)
    for rank in ranks:
        for here, there in zip(rank[case]["exact"], alone["exact"], strict=True):
            assert torch.equal(here, there)
        for here, there in zip(rank[case]["close"], alone["close"], strict=True):
            torch.testing.assert_close(here, there, rtol=0, atol=1e-6)
        assert rank[case]["files"] == alone["files"] == ([0, 1, 2] if case == "files" else [])
    assert_same_state(ranks[0][case]["state"], ranks[1][case]["state"])
