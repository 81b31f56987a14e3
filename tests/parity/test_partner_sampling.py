"""Which images draw a partner, and how likely each is, against the authors' program."""

from collections import defaultdict

import torch

from sslkit.matchers import Adaptive

GRID = 2**18  # chances tried; a share is off by at most one of them


def pooled(index, similarity, k):
    """Mean similarities over the epochs, 0 where an image was not near, best first."""
    total = defaultdict(float)
    for j, s in zip(index.flatten().tolist(), similarity.flatten().tolist(), strict=True):
        total[j] += s / len(index)
    best = sorted(total.items(), key=lambda found: -found[1])[:k]
    return torch.tensor([j for j, _ in best]), torch.tensor([s for _, s in best])


def test_images_draw_the_partners_that_the_authors_draw_as_often(reference):
    z = reference("adasim_partner_sampling.npz")
    matcher = Adaptive(temperature=z["sampling_temperature"])
    chance = (torch.arange(GRID) + 0.5) / GRID
    for image in range(z["n_samples"]):
        index, score = pooled(z["vote_index"][image], z["vote_similarity"][image], z["topk"])
        own = torch.full((GRID,), image)
        chosen = matcher.choose(index.expand(GRID, -1), score.expand(GRID, -1), own, chance)
        share = torch.bincount(chosen, minlength=z["n_samples"]) / GRID
        if z["bootstraps"][image]:
            torch.testing.assert_close(share, z["partner_probability"][image], rtol=0, atol=1e-5)
        else:
            assert share[image] == 1
    assert z["bootstraps"].any()
    assert not z["bootstraps"].all()
