"""The joint-view clusterer against the authors' program."""

import torch

from sslkit import ops
from sslkit.clusterers import Sinkhorn


def cluster(z, **changes):
    settings = dict(
        n_rounds=z["n_iter"],
        n_balancing=z["sinkhorn_iterations"],
        sharpness=z["sinkhorn_lambda"],
        positional_weight=z["pos_alpha"],
        update_mass=bool(z["update_marginal"][0] if torch.is_tensor(z["update_marginal"]) else z["update_marginal"]),
        cost_scale="batch",
    )
    joint = Sinkhorn(z["n_clusters"], **settings | changes)(z["tokens"], z["positions"], z["init_index"])
    return ops.per_column(torch.stack(joint.chunk(2, dim=1)))


def test_assignments_and_validity_are_the_authors(clustering):
    assignment = cluster(clustering)
    torch.testing.assert_close(assignment, clustering["assignments"], atol=1e-6, rtol=0)
    valid = (assignment > 0).any(dim=2).all(dim=0)
    assert torch.equal(valid, clustering["valid"])
    assert torch.equal(valid.sum(dim=1), clustering["clusters_per_image"])


def test_centroids_are_the_authors(clustering):
    pooled = ops.pool(clustering["pooled_tokens"], cluster(clustering))
    for view, rows in enumerate(pooled):
        expected = clustering[f"centroids_view{view + 1}"]
        torch.testing.assert_close(rows[clustering["valid"]], expected, atol=1e-5, rtol=0)


def test_an_image_alone_is_clustered_as_in_its_batch_only_when_the_cost_is_scaled_per_image(clustering):
    alone = {**clustering, **{k: clustering[k][:1] for k in ("tokens", "positions", "init_index")}}
    together = cluster(clustering, cost_scale="image")[:, :1]
    assert torch.equal(cluster(alone, cost_scale="image"), together)
