"""The object queue and the cycle-consistent matcher against the authors' program, over consecutive steps."""

import pytest
import torch

from sslkit.matchers import Cycle, SampledCycle
from sslkit.memories import Queue
from sslkit.types import Queries


def filled(z):
    k = z["max_clusters"]
    rows = z["init_bank"]
    queue = Queue(z["queue_images"], n_per_image=k, dim=rows.shape[-1])
    counts = z["init_counts"].tolist()
    queue.push(Queries.of(rows[:, : sum(counts)], counts=counts))
    return queue


def n_steps(z):
    return sum(name.endswith("_bank_after") for name in z)


@pytest.mark.parametrize("matcher", [Cycle(), SampledCycle(n_candidates=1)], ids=["cycle", "sampled from one"])
def test_neighbours_and_accepted_matches_are_the_authors(matching, matcher):
    z, queue = matching, filled(matching)
    for s in range(n_steps(z)):
        queries = Queries.of(
            torch.stack([z[f"step{s}_objects_view1"], z[f"step{s}_objects_view2"]]), z[f"step{s}_counts"].tolist()
        )
        matches = matcher(queries, queue)
        for plane in (0, 1):
            found = z[f"step{s}_neighbours_from_view{plane + 1}"]
            assert torch.equal(matches.rows[plane], found[plane])
            assert torch.equal(queue.rows(matches.index[plane], plane=1 - plane), found[1 - plane])
            assert torch.equal(matches.weight[plane].bool(), z[f"step{s}_accepted_from_view{plane + 1}"])
        queue.push(queries)


def test_the_queue_holds_the_authors_images_newest_first(matching):
    z, queue = matching, filled(matching)
    for s in range(n_steps(z)):
        rows = torch.stack([z[f"step{s}_objects_view1"], z[f"step{s}_objects_view2"]])
        queue.push(Queries.of(rows, z[f"step{s}_counts"].tolist()))
        assert list(reversed(queue.counts)) == z[f"step{s}_counts_after"].tolist()
        held = torch.stack([queue.rows(queue.slots(), plane=p) for p in (0, 1)])
        assert torch.equal(held, z[f"step{s}_bank_after"])
