"""Partners on two ranks with half of each batch against one rank with all of it, in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from sslkit import distributed
from sslkit.matchers import Adaptive, Nearest
from tests.ranks import on_ranks
from tests.test_method import taken
from tests.test_partners import N, method_with, partners_of, seen

pytestmark = pytest.mark.slow
EPOCHS = 5
MATCHERS = {"adaptive": Adaptive(temperature=0.5), "naive": Nearest()}
LABEL = torch.arange(N) // 3


def run(matcher, folder):
    """Some epochs of steps that train, on this rank's share: the partners of each, what was seen, and the end."""
    method = method_with(partners_of(MATCHERS[matcher], start_epoch=1), folder)
    share = 4 // distributed.world_size()
    mine = torch.arange(share) + distributed.rank() * share
    tables, losses = [], []
    for epoch in range(EPOCHS):
        tables.append(method.partners.draw(epoch, seed=3, needed=0))
        for first in range(0, N, 4):
            batch = taken(seen(first, epoch), mine)
            other = taken(seen(first, epoch + 50), mine)  # stands for the partner's pixels
            batch = replace(batch, views=(batch.views[0], other.views[1]), label=LABEL[batch.index])
            method.student.zero_grad()
            outcome = method(batch)
            outcome.total.backward()
            distributed.average_gradients([p for p in method.student.parameters() if p.requires_grad])
            with torch.no_grad():
                for p in method.student.parameters():
                    p -= 0.1 * p.grad if p.grad is not None else 0
            method.update([outcome])
            losses.append(distributed.total(outcome.total.detach()) / distributed.world_size())
    state = {name: x for name, x in method.state_dict().items() if torch.is_tensor(x)}
    return dict(tables=tables, losses=losses, state=state, report=method.partners.report)


def work(folder):
    return {matcher: run(matcher, folder / matcher) for matcher in MATCHERS}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return on_ranks(partial(work, folder), folder)


@pytest.mark.parametrize("matcher", MATCHERS)
def test_two_ranks_draw_the_partners_of_one_and_end_in_its_state(ranks, matcher, tmp_path):
    alone = run(matcher, tmp_path)
    assert any(not torch.equal(table, torch.arange(N)) for table in alone["tables"])
    for rank in ranks:
        for here, there in zip(alone["tables"], rank[matcher]["tables"], strict=True):
            assert torch.equal(here, there)
        torch.testing.assert_close(alone["losses"], rank[matcher]["losses"], rtol=1e-9, atol=1e-12)
        assert alone["state"].keys() == rank[matcher]["state"].keys()
        for name, x in alone["state"].items():
            torch.testing.assert_close(x, rank[matcher]["state"][name], rtol=1e-9, atol=1e-12, msg=name)
    assert alone["report"] == ranks[0][matcher]["report"]
