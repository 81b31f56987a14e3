"""Pairs for tests of losses: those that aligners make of a few images, and random ones with all that can occur."""

from __future__ import annotations

import torch

from sslkit.aligners import ImageAcrossViews
from sslkit.contracts.inputs import step_of
from sslkit.types import Pairs, Rows


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def across_views(b, n_global=2, n_local=0):
    """The image of every view against that of each other global view; rows are view-major."""
    return ImageAcrossViews()(step_of(b=b, n_global=n_global, n_local=n_local))


def random_rows(n, n_views, n_images, draw, idle=0.0):
    view, ids = (torch.randint(k, (n,), generator=draw) for k in (n_views, n_images))
    weight = (torch.rand(n, generator=draw) >= idle).double()
    return Rows(torch.zeros(n, 0), view, ids, 10 + ids, weight)


def random_pairs(n, n_prediction, n_target, *, seed=0, n_views=2, n_images=4, idle=0.2):
    """Pairs between rows of random views and images, of which some are idle or in no pair; some pairs weigh nothing."""
    draw = torch.Generator().manual_seed(seed)
    prediction = random_rows(n_prediction, n_views, n_images, draw, idle)
    target = random_rows(n_target, n_views, n_images, draw, idle)
    i, j = (torch.randint(len(rows), (n,), generator=draw) for rows in (prediction, target))
    weight = torch.rand(n, generator=draw, dtype=torch.float64) * (torch.rand(n, generator=draw) < 0.8)
    return Pairs(prediction, target, i, j, weight * prediction.weight[i] * target.weight[j])


def loss_and_gradient(loss, prediction, *rest):
    """What a loss comes to, and its gradient for the first argument."""
    prediction = prediction.detach().clone().requires_grad_()
    value = loss(prediction, *rest)
    value.backward()
    return value.detach(), prediction.grad
