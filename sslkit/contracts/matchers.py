"""What matchers keep to."""

from __future__ import annotations

from dataclasses import replace

import torch

from sslkit.contracts.component import ComponentContract, assert_same_state, state_of
from sslkit.contracts.inputs import DIM, blank, drawing, push_of, pushed
from sslkit.matchers import Matcher
from sslkit.memories import Memory, Queue
from sslkit.types import Queries


def queue() -> Memory:
    """An empty memory of 4 images."""
    return Queue(4, n_per_image=3, dim=DIM)


class MatcherContract(ComponentContract[Matcher]):
    """Entries of a memory with a trust that never exceeds the query's own weight; nothing is written."""

    role = "matchers"

    def make(self) -> Matcher:
        """A matcher for queries of two planes."""
        raise NotImplementedError

    def queries(self) -> Queries:
        return push_of([2, 0, 3], draw=drawing(4))

    def test_an_empty_memory_gives_weight_zero(self) -> None:
        matches = self.component()(self.queries(), queue())
        assert matches.weight.shape == (2, 5)
        assert (matches.weight == 0).all()
        assert (matches.ids == -1).all()
        assert matches.rows.shape == self.queries().rows.shape

    def test_no_queries_give_no_matches(self) -> None:
        nobody = push_of([0, 0], draw=drawing(0))
        matches = self.component()(nobody, pushed(queue()))
        assert matches.index.shape == matches.weight.shape == (2, 0)

    def test_a_query_has_the_match_that_it_has_alone_unless_its_scope_says_that_queries_meet(self) -> None:
        matcher, memory, queries = self.component(), pushed(queue()), self.queries()
        n = len(queries.item)
        alone = [matcher(replace(queries, weight=one).dropping_idle(), memory) for one in torch.eye(n)]
        weight = torch.cat([matches.weight for matches in alone], dim=1)
        assert torch.equal(weight, matcher(queries, memory).weight) == (matcher.scope is None)

    def test_neither_the_memory_nor_the_queries_are_written(self) -> None:
        memory, queries = pushed(queue()), self.queries()
        before, rows = state_of(memory), queries.rows.clone()
        self.component()(queries, memory)
        assert_same_state(before, memory.state_dict())
        assert torch.equal(queries.rows, rows)

    def test_a_match_is_the_entry_its_index_names(self) -> None:
        memory = pushed(queue())
        matches = self.component()(self.queries(), memory)
        for plane in (0, 1):
            assert torch.equal(matches.rows[plane], memory.rows(matches.index[plane], plane=plane))
            assert torch.equal(matches.place[plane], memory.place(matches.index[plane], plane=plane))
        assert torch.equal(matches.ids, memory.ids(matches.index))

    def test_weights_lie_between_zero_and_that_of_the_query(self) -> None:
        weight = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0])
        matches = self.component()(replace(self.queries(), weight=weight), pushed(queue()))
        assert ((matches.weight >= 0) & (matches.weight <= weight)).all()

    def test_the_chances_of_the_queries_alone_decide_what_is_drawn(self) -> None:
        memory, made = pushed(queue()), []
        for seed in (0, 1):
            matcher = self.component()
            torch.manual_seed(seed)
            made.append(matcher(self.queries(), memory))
        assert torch.equal(made[0].index, made[1].index)
        assert torch.equal(made[0].weight, made[1].weight)

    def test_no_gradient_passes(self) -> None:
        queries = self.queries()
        matches = self.component()(replace(queries, rows=queries.rows.requires_grad_()), pushed(queue()))
        assert not matches.rows.requires_grad
        assert not matches.weight.requires_grad

    def test_matches_have_the_precision_of_the_memory_or_of_the_queries_never_less_than_float32(self) -> None:
        queries = self.queries()
        matches = self.component()(replace(queries, rows=queries.rows.half()), pushed(queue()))
        assert matches.rows.dtype == torch.float32

    def test_it_holds_no_state(self) -> None:
        assert self.component().state_dict() == {}

    def test_it_can_be_tried_out_before_there_is_data(self) -> None:
        queries = blank(self.queries())
        with torch.device("meta"):
            assert self.component()(queries, queue()).weight.shape == (2, 5)
