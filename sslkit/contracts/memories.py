"""What memories keep to."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Generator, Tensor

from sslkit.contracts.component import ComponentContract, assert_same_state, state_of
from sslkit.contracts.inputs import DIM, drawing, normal, push_of, pushed
from sslkit.memories import Memory
from sslkit.types import Queries


class MemoryContract(ComponentContract[Memory]):
    """Entries that a search finds from the push after which it comes, that grow older, and that a checkpoint holds."""

    role = "memories"
    n_per_image: ClassVar[int] = 3  # most rows that it takes of an image
    planes: ClassVar[tuple[int, ...]] = (0, 1)  # those that differ, of the two that are pushed

    def make(self) -> Memory:
        """A memory for pushes of two planes and 4 images; for how many rows of which width, it is told by `build`.

        The images have numbers below 100.
        """
        raise NotImplementedError

    def kept(self, queries: Queries, plane: int) -> tuple[Tensor, Tensor]:
        """The rows and places of a push as the memory gives them back."""
        return queries.rows[plane], queries.place[plane]

    def component(self) -> Memory:
        memory = super().component()
        memory.build(n_per_image=self.n_per_image, dim=DIM)
        return memory

    def filled(self) -> Memory:
        return pushed(self.component(), n_per_image=self.n_per_image)

    def push_of(self, counts: list[int], *, draw: Generator, first_image: int = 0) -> Queries:
        """A push of as many rows of each image, but no more than the memory takes."""
        return push_of([min(n, self.n_per_image) for n in counts], draw=draw, first_image=first_image)

    def assert_same_answers(self, here: Memory, there: Memory) -> None:
        for x, y in zip(answers(here, self.planes), answers(there, self.planes), strict=True):
            assert torch.equal(x, y)

    def test_it_starts_empty(self) -> None:
        assert len(self.component()) == 0
        assert (self.component().search(normal(2, DIM), plane=0).index == -1).all()

    def test_saving_and_restoring_changes_nothing(self) -> None:
        memory, restored = self.filled(), self.component()
        restored.load_state_dict(state_of(memory))
        assert len(restored) == len(memory)
        self.assert_same_answers(memory, restored)
        more = self.push_of([2, 3], draw=drawing(8), first_image=90)
        memory.push(more)
        restored.push(more)
        self.assert_same_answers(memory, restored)

    def test_a_saved_state_passes_the_safe_loader_of_torch(self, tmp_path: Path) -> None:
        memory, restored = self.filled(), self.component()
        torch.save(memory.state_dict(), tmp_path / "memory.pt")
        restored.load_state_dict(torch.load(tmp_path / "memory.pt", weights_only=True))
        self.assert_same_answers(memory, restored)

    def test_a_copy_and_its_original_go_their_own_ways(self) -> None:
        memory = self.filled()
        copied, kept = copy.deepcopy(memory), copy.deepcopy(memory)
        memory.push(self.push_of([3, 3], draw=drawing(8)))
        self.assert_same_answers(copied, kept)

    def test_a_search_writes_nothing(self) -> None:
        memory = self.filled()
        before = state_of(memory)
        answers(memory, self.planes)
        assert_same_state(before, memory.state_dict())

    def test_a_search_before_a_push_does_not_see_it_and_one_after_it_does(self) -> None:
        memory = self.filled()
        queries = self.push_of([2, 1], draw=drawing(8), first_image=90)
        for plane in self.planes:
            assert not memory.ids(memory.search(queries.rows[plane], plane=plane).index).ge(90).any()
        memory.push(queries)
        for plane in self.planes:
            found = memory.search(queries.rows[plane], plane=plane)
            rows, place = self.kept(queries, plane)
            assert torch.equal(memory.ids(found.index)[:, 0], queries.images[queries.item])
            assert memory.ages(found.index).eq(0).all()
            torch.testing.assert_close(memory.rows(found.index[:, 0], plane=plane), rows)
            torch.testing.assert_close(memory.place(found.index[:, 0], plane=plane), place)

    def test_entries_grow_older_with_every_push(self) -> None:
        memory = self.component()
        queries = self.push_of([2], draw=drawing(0))
        memory.push(queries)
        for age in range(3):
            assert memory.ages(memory.search(queries.rows[0], plane=0).index).eq(age).all()
            memory.push(self.push_of([1], draw=drawing(age + 1), first_image=50))

    def test_going_round_many_times_loses_nothing_that_was_just_pushed(self) -> None:
        memory, draw = self.component(), drawing(0)
        for i in range(12):
            queries = self.push_of([3, i % 4, 1], draw=draw, first_image=3 * i)
            memory.push(queries)
            found = memory.search(queries.rows[0], plane=0)
            assert torch.equal(memory.ids(found.index)[:, 0], queries.images[queries.item])

    def test_no_gradient_passes(self) -> None:
        memory = self.filled()
        asked = normal(3, DIM).requires_grad_()
        found = memory.search(asked, plane=0)
        assert not found.similarity.requires_grad
        memory.push(replace(self.push_of([1, 1, 1], draw=drawing(0)), rows=asked.expand(2, -1, -1)))
        assert not memory.rows(found.index, plane=0).requires_grad

    def test_it_can_be_tried_out_before_there_is_data(self) -> None:
        with torch.device("meta"):
            assert len(self.component()) == 0  # a number that waits for no device


def answers(memory: Memory, planes: Sequence[int]) -> list[Tensor]:
    """All that a memory says of the entries nearest to a few rows."""
    asked = normal(7, DIM, seed=3)
    made = []
    for plane in planes:
        found = memory.search(asked, plane=plane, k=3)
        parts = memory.rows(found.index, plane=plane), memory.place(found.index, plane=plane)
        made += [found.index, found.similarity, *parts, memory.ids(found.index), memory.ages(found.index)]
    return made
