"""The rows of the nearest lists compared."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sslkit.memories.indexes.held import Held, Images, Rows
from sslkit.parameters import Count
from sslkit.registry import joint

SAMPLED = 64  # rows of each list that the centroids are made of
BLOCK = 8192


@joint
class IVF(Held):
    """The visited rows in the lists of the nearest centroids, by an inverted file of faiss, changed in place.

    Centroids are spherical k-means of the table at the end of each epoch, from evenly spaced rows and without a random
    draw, and are saved: a run that goes on has the same lists. Before the end of the first epoch, and while there are
    fewer rows than lists, every row is compared. It takes the room of the table a second time.

    Args:
        n_lists: centroids; about the square root of the number of images is usual.
        n_probe: lists searched for each query; `n_lists` makes the search exact.
        n_rounds: of k-means.

    Source: https://github.com/facebookresearch/faiss, IndexIVFFlat.
    """

    _centroids: Float[Tensor, "n_lists d"]

    def __init__(self, *, n_lists: Count = 1024, n_probe: Count = 16, n_rounds: Count = 10):
        super().__init__()
        if n_probe > n_lists:
            raise ValueError(f"n_probe={n_probe}, but there are only n_lists={n_lists} to search")
        self.n_lists, self.n_probe, self.n_rounds = n_lists, n_probe, n_rounds
        self.is_ready = False

    def build(self, dim: int) -> None:
        self.register_buffer("_centroids", torch.zeros(self.n_lists, dim))

    @torch.no_grad()
    def fit(self, rows: Float[Tensor, "n d"], visited: Bool[Tensor, " n"]) -> None:
        kept = visited.nonzero()[:, 0]
        if len(kept) < self.n_lists:
            return
        n = min(len(kept), SAMPLED * self.n_lists)
        sample = rows[kept[torch.arange(n, device=kept.device) * len(kept) // n]].cpu()
        self._centroids.copy_(k_means(sample, self.n_lists, self.n_rounds))
        self.is_ready = True
        self.forget()

    def make(self, images: Images, rows: Rows, n_images: int) -> Any:
        import faiss  # here, so that who does not use it need not have two OpenMP run times in a process

        quantizer = faiss.IndexFlatIP(rows.shape[1])
        quantizer.add(self._centroids.cpu().numpy())
        held = faiss.IndexIVFFlat(quantizer, rows.shape[1], self.n_lists, faiss.METRIC_INNER_PRODUCT)
        held.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]
        held.nprobe = self.n_probe
        held.add_with_ids(rows, images)
        return held

    def replace(self, held: Any, images: Images, rows: Rows) -> None:
        held.remove_ids(images)
        held.add_with_ids(rows, images)

    def ask(self, held: Any, queries: Rows, k: int) -> tuple[Images, Rows]:
        similarity, image = held.search(queries, k)
        return image, similarity

    def get_extra_state(self) -> dict[str, bool]:
        return {"is_ready": self.is_ready}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        self.is_ready = state["is_ready"]
        self.forget()


def k_means(rows: Float[Tensor, "n d"], k: int, n_rounds: int) -> Float[Tensor, "k d"]:
    """Directions of `k` groups of l2-normalised rows, started by evenly spaced rows; an empty group stays as it was."""
    means = rows[torch.arange(k) * len(rows) // k].clone()
    for _ in range(n_rounds):
        nearest = torch.cat([(part @ means.mT).argmax(dim=1) for part in rows.split(BLOCK)])
        sums = torch.zeros_like(means).index_add_(0, nearest, rows)
        is_empty = nearest.bincount(minlength=k) == 0
        means = F.normalize(sums, dim=1).where(~is_empty[:, None], means)
    return means
