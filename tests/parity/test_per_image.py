"""The table, its neighbours and the candidates pooled from them against the authors' program, over six epochs."""

from dataclasses import replace

import pytest
import torch

from sslkit.memories import IVF, Exact, Flat, PerImage
from sslkit.types import Queries

INDEXES = {"exact": Exact, "flat": Flat, "lists": lambda: IVF(n_lists=6, n_probe=6)}


@pytest.fixture
def sampling(reference):
    return reference("adasim_partner_sampling.npz")


def start(z, index):
    """The authors' memory starts with given rows, of which every image is taken to have been visited."""
    n, dim = z["init_features"].shape
    memory = PerImage(n_neighbours=z["topk"], window=z["votes"], warmup_epochs=0, n_images=n, dim=dim, index=index)
    rows = {"_rows": z["init_features"], "_visited": torch.ones(n, dtype=torch.bool)}
    memory.load_state_dict(memory.state_dict() | rows)
    return memory


def epochs(z, memory):
    """The memory after each epoch."""
    for epoch in range(z["epochs"]):
        for batch in range(sum(name.startswith(f"epoch{epoch}_") and name.endswith("_index") for name in z) - 1):
            at = f"epoch{epoch}_batch{batch}"
            memory.push(replace(Queries.of(z[f"{at}_features"]), images=z[f"{at}_index"]))
        memory.finish(epoch, needed=epoch)
        yield epoch


@pytest.mark.parametrize("index", INDEXES)
def test_table_and_neighbours_are_the_authors_after_every_epoch(sampling, index):
    z, memory = sampling, start(sampling, INDEXES[index]())
    every = torch.arange(z["n_samples"])
    for epoch in epochs(z, memory):
        found = memory.neighbours(every)
        torch.testing.assert_close(memory.rows(every), z[f"epoch{epoch}_bank_after"], rtol=0, atol=1e-7)
        assert torch.equal(found.index, z[f"epoch{epoch}_topk_index"])
        torch.testing.assert_close(found.similarity, z[f"epoch{epoch}_topk_similarity"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("in_files", [True, False])
def test_the_history_is_the_authors_oldest_epoch_first(sampling, in_files, tmp_path):
    z, memory = sampling, start(sampling, Exact())
    memory.make_room(z["n_samples"], tmp_path if in_files else None)
    for _ in epochs(z, memory):
        pass
    window = memory.history.before(z["epochs"], shape=(z["n_samples"], z["topk"]))
    assert torch.equal(torch.stack([torch.tensor(e["index"]) for e in window], dim=1).long(), z["vote_index"])
    similarity = torch.stack([torch.tensor(e["similarity"]) for e in window], dim=1)
    torch.testing.assert_close(similarity, z["vote_similarity"], rtol=0, atol=1e-5)


def test_decisions_and_probabilities_that_follow_from_the_candidates_are_the_authors(sampling):
    z, memory = sampling, start(sampling, Exact())
    for _ in epochs(z, memory):
        pass
    found = memory.candidates(z["epochs"])
    leads = found.index[:, 0] == torch.arange(z["n_samples"])
    assert torch.equal(leads, z["bootstraps"])
    p = (found.score / z["sampling_temperature"]).softmax(dim=1) * leads[:, None]
    partner = torch.zeros_like(z["partner_probability"]).scatter_(1, found.index, p)
    torch.testing.assert_close(partner, z["partner_probability"], rtol=0, atol=1e-5)
