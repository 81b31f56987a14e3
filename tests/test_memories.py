"""The queue against a plain list of images, and its search against brute force and faiss."""

from __future__ import annotations

import copy
from dataclasses import replace

import faiss
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit.memories import Queue
from sslkit.types import Queries

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DIM = 3


def push_of(counts, *, draw, first_image=0, n_planes=2, dim=DIM):
    """Random rows, alike in all planes, and places: `counts[i]` of them for image `first_image + i`."""
    n = sum(counts)
    rows = torch.randn(n, dim, generator=draw) + 0.7 * torch.randn(n_planes, n, dim, generator=draw)
    queries = Queries.of(rows, counts)
    place = 100 * torch.rand(n_planes, n, 2, generator=draw)
    return replace(queries, place=place, images=queries.images + first_image)


class Images:
    """What the queue should be: a list of images, newest first."""

    def __init__(self, n_images, dtype):
        self.n_images, self.dtype, self.images, self.n_pushes = n_images, dtype, [], 0

    def push(self, queries):
        new = []
        for place, image in enumerate(queries.images.tolist()):
            mine = queries.item == place
            rows = queries.rows[:, mine].to(self.dtype).float()
            new.append((rows, queries.place[:, mine], [image] * int(mine.sum()), self.n_pushes))
        self.images = (new[: self.n_images] + self.images)[: self.n_images]
        self.n_pushes += 1

    def rows(self, plane):
        return torch.cat([rows[plane] for rows, _, _, _ in self.images])

    def place(self, plane):
        return torch.cat([place[plane] for _, place, _, _ in self.images])

    def ids(self):
        return [i for _, _, ids, _ in self.images for i in ids]

    def ages(self):
        return [self.n_pushes - 1 - born for _, _, ids, born in self.images for _ in ids]


def assert_alike(queue, images):
    slots = queue.slots()
    assert len(queue) == len(slots) == len(images.ids())
    assert slots.unique().numel() == len(slots)
    assert queue.ids(slots).tolist() == images.ids()
    assert queue.ages(slots).tolist() == images.ages()
    for plane in range(queue.n_planes):
        assert torch.equal(queue.rows(slots, plane=plane), images.rows(plane))
        assert torch.equal(queue.place(slots, plane=plane), images.place(plane))


@settings(max_examples=150, deadline=None)
@given(
    n_images=st.integers(1, 5),
    n_per_image=st.integers(1, 3),
    n_planes=st.integers(1, 3),
    dtype=st.sampled_from(list(DTYPES)),
    data=st.data(),
)
def test_the_queue_is_a_list_of_images_newest_first(n_images, n_per_image, n_planes, dtype, data):
    counts = st.lists(st.integers(0, n_per_image), min_size=1, max_size=7)
    pushes = data.draw(st.lists(counts, min_size=1, max_size=8))
    draw = torch.Generator().manual_seed(len(pushes))
    queue = Queue(n_images, dtype=dtype, n_planes=n_planes, n_per_image=n_per_image, dim=DIM)
    images = Images(n_images, DTYPES[dtype])
    for i, push in enumerate(pushes):
        queries = push_of(push, draw=draw, first_image=10 * i, n_planes=n_planes)
        queue.push(queries)
        images.push(queries)
        assert_alike(queue, images)


@settings(max_examples=60, deadline=None)
@given(
    pushes=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=7), k=st.integers(1, 9)
)
def test_a_search_finds_what_comparing_with_every_row_finds(pushes, k):
    draw = torch.Generator().manual_seed(sum(map(len, pushes)))
    queue, images = Queue(4, n_per_image=3, dim=DIM), Images(4, torch.float32)
    for push in pushes:
        queries = push_of(push, draw=draw)
        queue.push(queries)
        images.push(queries)
    asked = torch.randn(5, DIM, generator=draw)
    for plane in (0, 1):
        found = queue.search(asked, plane=plane, k=k)
        assert found.index.shape == found.similarity.shape == (5, k)
        held = images.rows(plane)
        there = min(k, len(held))
        assert (found.index[:, there:] == -1).all()
        assert (found.similarity[:, there:] == -torch.inf).all()
        for q in range(5):
            scores = sorted((float(F.cosine_similarity(asked[q], row, dim=0)) for row in held), reverse=True)
            assert found.similarity[q, :there].tolist() == pytest.approx(scores[:there], abs=1e-6)
            rows = queue.rows(found.index[q, :there], plane=plane)
            again = F.cosine_similarity(asked[q : q + 1], rows, dim=1)
            torch.testing.assert_close(again, found.similarity[q, :there], rtol=0, atol=1e-6)
            assert found.index[q, :there].unique().numel() == there


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("n_pushes", [1, 3, 12])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_over_several_blocks_and_past_the_seam_a_search_agrees_with_faiss(k, n_pushes, dtype):
    draw = torch.Generator().manual_seed(n_pushes)
    queue = Queue(700, n_per_image=5, n_planes=1, dim=16, dtype=dtype)
    for i in range(n_pushes):
        counts = torch.randint(0, 6, (150,), generator=draw).tolist()
        queue.push(push_of(counts, draw=draw, first_image=150 * i, n_planes=1, dim=16))
    slots = queue.slots()
    index = faiss.IndexFlatIP(16)
    index.add(F.normalize(queue.rows(slots, plane=0), dim=-1).numpy())
    asked = torch.randn(40, 16, generator=draw)
    similarity, order = index.search(F.normalize(asked, dim=-1).numpy(), k)
    found = queue.search(asked, plane=0, k=k)
    assert torch.equal(found.index, slots[torch.from_numpy(order)])
    torch.testing.assert_close(found.similarity, torch.from_numpy(similarity), rtol=0, atol=1e-6)


def test_the_wrap_around_case_does_cross_the_seam():
    draw = torch.Generator().manual_seed(12)
    queue = Queue(700, n_per_image=5, n_planes=1, dim=16)
    for _ in range(12):
        queue.push(push_of(torch.randint(0, 6, (150,), generator=draw).tolist(), draw=draw, n_planes=1, dim=16))
    assert queue.oldest + len(queue) > queue.capacity


def test_a_search_of_an_empty_queue_finds_nothing():
    found = Queue(3, n_per_image=2, dim=DIM).search(torch.randn(2, DIM), plane=0, k=2)
    assert (found.index == -1).all()
    assert (found.similarity == -torch.inf).all()


def test_a_search_without_queries_has_no_answers():
    queue = Queue(3, n_per_image=2, dim=DIM)
    queue.push(push_of([1, 2], draw=torch.Generator()))
    assert queue.search(torch.zeros(0, DIM), plane=1).index.shape == (0, 1)


def test_similarities_do_not_depend_on_the_length_of_rows():
    queue = Queue(2, n_planes=1, n_per_image=1, dim=2)
    queue.push(Queries.of(torch.tensor([[[100.0, 1], [0.1, 0.1]]])))
    found = queue.search(torch.tensor([[3.0, 3.0]]), plane=0)
    assert queue.ids(found.index).tolist() == [[1]]
    assert found.similarity.item() == pytest.approx(1)


def test_rows_of_weight_zero_are_not_kept():
    queries = push_of([2, 1], draw=torch.Generator().manual_seed(0))
    queue = Queue(3, n_per_image=2, dim=DIM)
    queue.push(replace(queries, weight=torch.tensor([1.0, 0.0, 1.0])))
    assert torch.equal(queue.rows(queue.slots(), plane=0), queries.rows[0, [0, 2]])
    assert list(queue.counts) == [1, 1]


def test_an_image_without_rows_still_pushes_out_the_oldest():
    draw = torch.Generator().manual_seed(0)
    queue = Queue(2, n_per_image=2, dim=DIM)
    queue.push(push_of([2, 1], draw=draw))
    queue.push(push_of([0], draw=draw, first_image=2))
    assert queue.ids(queue.slots()).tolist() == [0, 0]


def test_what_is_pushed_is_a_copy():
    queries = push_of([1], draw=torch.Generator().manual_seed(0))
    queue = Queue(2, n_per_image=2, dim=DIM)
    queue.push(queries)
    before = queue.rows(queue.slots(), plane=0).clone()
    queries.rows.zero_()
    assert torch.equal(queue.rows(queue.slots(), plane=0), before)


def test_after_a_restart_the_queue_goes_on_as_if_it_had_not_stopped():
    draw = torch.Generator().manual_seed(0)
    queue = Queue(3, n_per_image=2, dim=DIM, dtype="float16")
    for i in range(4):
        queue.push(push_of([2, 0, 1][: 1 + i % 3], draw=draw, first_image=i))
    restarted = Queue(3, n_per_image=2, dim=DIM, dtype="float16")
    restarted.load_state_dict(copy.deepcopy(queue.state_dict()))
    for i in range(3):
        assert torch.equal(queue.slots(), restarted.slots())
        for plane in (0, 1):
            assert torch.equal(queue.rows(queue.slots(), plane=plane), restarted.rows(queue.slots(), plane=plane))
            assert torch.equal(queue.place(queue.slots(), plane=plane), restarted.place(queue.slots(), plane=plane))
        assert torch.equal(queue.ids(queue.slots()), restarted.ids(queue.slots()))
        assert torch.equal(queue.ages(queue.slots()), restarted.ages(queue.slots()))
        more = push_of([1, 2], draw=draw, first_image=10 + i)
        queue.push(more)
        restarted.push(more)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_a_queue_in_half_precision_takes_half_the_room(dtype):
    queue = Queue(4, n_per_image=2, dim=DIM, dtype=dtype)
    assert queue._rows.dtype == DTYPES[dtype]
    queue.push(push_of([1], draw=torch.Generator()))
    assert queue.rows(queue.slots(), plane=0).dtype == torch.float32


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: Queue(0), "n_images=0"),
        (lambda: Queue(1, dtype="int8"), "dtype='int8', but it must be 'float32' or 'float16' or 'bfloat16'"),
        (lambda: Queue(2, n_per_image=1, dim=DIM).push(Queries.of(torch.zeros(2, 2, DIM), [2])), "n_per_image=1"),
        (lambda: Queue(2, n_per_image=1, dim=DIM).push(Queries.of(torch.zeros(3, 1, DIM))), "n_planes=2, .* have 3"),
    ],
)
def test_the_queue_refuses_what_does_not_fit_and_names_it(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_a_refused_push_changes_nothing():
    queue = Queue(2, n_per_image=1, dim=DIM)
    queue.push(push_of([1], draw=torch.Generator()))
    before = copy.deepcopy(queue.state_dict())
    with pytest.raises(ValueError, match="n_per_image"):
        queue.push(Queries.of(torch.zeros(2, 2, DIM), [2]))
    for name, x in queue.state_dict().items():
        assert torch.equal(x, before[name]) if isinstance(x, torch.Tensor) else x == before[name]
