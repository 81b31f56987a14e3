"""One row for every image of the data set, and the neighbours that each had in the last epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sslkit import distributed, precision
from sslkit.memories.base import Found, Memory
from sslkit.memories.history import Candidates, History, pool
from sslkit.memories.indexes import Exact, Index
from sslkit.parameters import Count, Natural
from sslkit.registry import register
from sslkit.types import Queries


@register("memories")
class PerImage(Memory):
    """Holds the latest row of every image of the data set, and which rows were nearest to it, epoch by epoch.

    A push looks up the neighbours of its rows before it writes them, so that an image meets its own row of the epoch
    before. An image that was never pushed is not found. Every rank holds the same rows: each searches for its own
    queries, and pushes are gathered in rank order; of several rows of one image the last is kept. The one plane answers
    for all global views. Rows are l2-normalised, in float32.

    Args:
        n_neighbours: neighbours kept of each image and epoch.
        window: epochs that candidates are pooled over.
        warmup_epochs: at the start of a run, whose neighbours never count: in epoch 0 no image can meet itself, and a
            mean over it would let others lead. 0 is the authors' rule.
        view: the global view whose rows are kept, or the normalised mean of all. Once partners are drawn, the other
            views may show another image, which `"second"` and `"mean"` then store under the number of the query: they
            are the authors' switches, and only `"first"` is sound.
        index: how rows are searched; `Exact` if left out.
        storage: `"host"` keeps all tables in host memory, whatever the device of the method, and exact search then runs
            there as well; every process has its own.
        n_images, dim: images of the data set and width of a row; a run fills them in when they are left out.

    Source: AdaSim (arXiv:2303.13606), as its authors' program does it. Deliberate differences: images that were not
    seen yet are left out, where theirs are found as rows of zeros; the history is one file for each epoch, where theirs
    is in every checkpoint; duplicates in a push have a defined order; other indexes than exact search.

    Example:
        >>> memory = PerImage(n_neighbours=2, warmup_epochs=0, n_images=4, dim=2)
        >>> rows = torch.tensor([[[1.0, 0], [0, 2], [2, 1]]])
        >>> memory.push(Queries.of(rows))
        >>> memory.search(torch.tensor([[3.0, 2.9]]), k=4).index
        tensor([[ 2,  0,  1, -1]])
        >>> memory.push(Queries.of(rows))
        >>> memory.finish(0, needed=0)
        >>> memory.candidates(1).index
        tensor([[ 0,  2],
                [ 1,  2],
                [ 2,  0],
                [-1, -1]])
    """

    _rows: Float[Tensor, "n d"]
    _place: Float[Tensor, "n 2"]
    _visited: Bool[Tensor, " n"]
    _written: Int[Tensor, " n"]  # number of the push
    _index: Int[Tensor, "n k"]  # neighbours at the latest push of each image
    _similarity: Float[Tensor, "n k"]
    n_planes = None

    def __init__(
        self,
        *,
        n_neighbours: Count = 10,
        window: Count = 50,
        warmup_epochs: Natural = 1,
        view: Literal["first", "second", "mean"] = "first",
        index: Index | None = None,
        storage: Literal["device", "host"] = "device",
        n_images: Count | None = None,
        dim: Count | None = None,
    ):
        super().__init__()
        self.n_neighbours, self.window, self.view, self.storage = n_neighbours, window, view, storage
        self.warmup_epochs, self.n_images, self.dim = warmup_epochs, n_images, dim
        self.index = Exact() if index is None else index
        self.history = History(window, first=warmup_epochs)
        self.n_pushes = 0
        self._n_visited: int | None = 0  # None: to be counted
        if dim is not None:
            self.build(n_per_image=1, dim=dim)

    def build(self, *, n_per_image: int, dim: int) -> None:
        if n_per_image != 1:
            raise ValueError(
                f"memories.PerImage holds one row for each image, but its search pushes up to {n_per_image}; "
                f"it must have level='image'"
            )
        self.dim = dim
        self.index.build(dim)
        self._make_tables(self.n_images or 0)

    def make_room(self, n_images: int, folder: Path | None = None) -> None:
        """Make the tables for a data set of that size; called once, before the first push and before a state is loaded.

        Args:
            folder: where finished epochs are kept as files; in memory, and in the state, if left out.

        Raises:
            ValueError: the memory was built for another size.
        """
        if self.n_images not in (None, n_images):
            raise ValueError(f"n_images={self.n_images}, but the data set has {n_images} images")
        self.n_images = n_images
        if folder is not None:
            self.history.keep_in(folder)
        if len(self._visited) != n_images:
            self._make_tables(n_images)

    def _make_tables(self, n: int) -> None:
        like, k = getattr(self, "_rows", torch.empty(0)), self.n_neighbours
        tables = {
            "_rows": like.new_zeros(n, int(self.dim or 0)),
            "_place": like.new_zeros(n, 2),
            "_visited": like.new_zeros(n, dtype=torch.bool),
            "_written": like.new_zeros(n, dtype=torch.long),
            "_index": like.new_full((n, k), -1, dtype=torch.int32),
            "_similarity": like.new_full((n, k), -torch.inf),
        }
        for name, table in tables.items():
            if self.storage == "host":
                setattr(self, name, table)  # a buffer would follow the method to its device
            else:
                self.register_buffer(name, table)

    def __len__(self) -> int:
        if self._n_visited is None:
            self._n_visited = int(self._visited.sum())
        return self._n_visited

    @torch.no_grad()
    def search(self, queries: Float[Tensor, "q d"], *, plane: int = 0, k: int = 1) -> Found:
        """The `k` visited images of largest cosine similarity, in float32; one row answers for all planes."""
        with precision.full(queries.device):
            found = self._nearest(self._unit(queries), k)
        return Found(found.index.to(queries.device), found.similarity.to(queries.device))

    def _nearest(self, rows: Float[Tensor, "q d"], k: int) -> Found:
        return self.index.search(rows.to(self._rows.device), k, rows=self._rows, visited=self._visited)

    def _unit(self, rows: Float[Tensor, "*q d"]) -> Float[Tensor, "*q d"]:
        """Rows as the table has them: in float32, unless all is in float64."""
        return F.normalize(rows.to(self._rows.dtype), dim=-1)

    def rows(self, index: Int[Tensor, "*q"], *, plane: int = 0) -> Float[Tensor, "*q d"]:
        return _taken(self._rows, index)

    def ids(self, index: Int[Tensor, "*q"]) -> Int[Tensor, "*q"]:
        return index

    def ages(self, index: Int[Tensor, "*q"]) -> Int[Tensor, "*q"]:
        return self.n_pushes - 1 - _taken(self._written, index)

    def place(self, index: Int[Tensor, "*q"], *, plane: int = 0) -> Float[Tensor, "*q 2"]:
        return _taken(self._place, index)

    def neighbours(self, images: Int[Tensor, "*q"]) -> Found:
        """The rows that were nearest to the images at their latest push, before it was written."""
        return Found(_taken(self._index, images).long(), _taken(self._similarity, images))

    @torch.no_grad()
    def push(self, queries: Queries) -> None:
        queries = queries.dropping_idle()
        self._refuse(queries)
        with precision.full(queries.rows.device):
            planes = self._unit(queries.rows)
            rows = self._unit(planes.mean(dim=0)) if self.view == "mean" else self._of_view(planes)
            found = self._nearest(rows, self.n_neighbours)
        seen = queries.images[queries.item], rows, self._of_view(queries.place)
        answers = (x.to(rows.device) for x in (found.index, found.similarity))  # where ranks can exchange them
        gathered = [distributed.gather(x) for x in (*seen, *answers)]
        last = _last_of_each(gathered[0])
        images, rows, place, index, similarity = (x[last].to(self._rows.device) for x in gathered)
        self._rows[images], self._place[images] = rows, place.to(self._place.dtype)
        self._index[images], self._similarity[images] = index.int(), similarity.to(self._similarity.dtype)
        self._visited[images], self._written[images] = True, self.n_pushes
        self.index.write(images, rows)
        self.n_pushes += 1
        if self._n_visited != self.n_images:
            self._n_visited = None

    def _refuse(self, queries: Queries) -> None:
        planes, n, dim = queries.rows.shape
        if planes < (needed := 2 if self.view == "second" else 1):
            raise ValueError(f"view={self.view!r} needs {needed} planes, but the rows pushed have {planes}")
        if dim != self.dim:
            raise ValueError(f"dim={self.dim}, but the rows pushed are {dim} wide")
        if self.n_images is None:
            raise ValueError("n_images=None: the memory has no room yet (make_room)")
        lowest, highest = queries.images[queries.item].aminmax() if n else (0, 0)
        if lowest < 0 or highest >= self.n_images:
            raise ValueError(f"n_images={self.n_images}, but the images pushed go from {lowest} to {highest}")

    def _of_view(self, planes: Float[Tensor, "p q d"]) -> Float[Tensor, "q d"]:
        """The plane that is kept of what stands in aligned planes."""
        return planes.mean(dim=0) if self.view == "mean" else planes[0 if self.view == "first" else 1]

    @torch.no_grad()
    def finish(self, epoch: int, *, needed: int) -> None:
        """Keep the neighbours of now as those of `epoch`, and adapt the index; doing it again changes nothing.

        Files are written by rank 0, and all ranks wait for them.

        Args:
            needed: the oldest epoch that candidates may still be asked for, by a run that goes on from a checkpoint.
        """

        def keep(*, writes: bool = True) -> None:
            self.history.add(epoch, self._index, self._similarity, writes=writes)
            self.history.forget(needed - self.window, writes=writes)

        if self.history.folder is None:
            keep()
        else:
            if distributed.rank() != 0:
                keep(writes=False)
            distributed.on_main(keep)
        self.index.fit(self._rows, self._visited)

    def refuse_missing(self, epoch: int) -> None:
        """Look at the window that ends before `epoch` without pooling it.

        Raises:
            CheckpointError: an epoch of it is missing or is not what it should be.
        """
        self.history.before(epoch, shape=(len(self._visited), self.n_neighbours))

    def candidates(self, epoch: int) -> Candidates:
        """The best images for each image over the epochs of the window that ends before `epoch`, in host memory.

        A run that is younger than the window has the epochs that there are.

        Raises:
            CheckpointError: an epoch of the window is missing or is not what it should be.
        """
        n, k = len(self._visited), self.n_neighbours
        return pool(self.history.before(epoch, shape=(n, k)), n, k)

    def get_extra_state(self) -> dict[str, Any]:
        tables = {name: getattr(self, name) for name in _TABLES} if self.storage == "host" else {}
        return {"n_pushes": self.n_pushes, "history": self.history.state(), "tables": tables}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.n_pushes, self._n_visited = state["n_pushes"], None
        self.history.load(state["history"])
        for name, saved in state["tables"].items():
            table: Tensor = getattr(self, name)
            if table.shape != saved.shape:
                raise RuntimeError(f"size mismatch for {name}: {tuple(saved.shape)} saved, {tuple(table.shape)} here")
            table.copy_(saved)
        self.index.forget()


_TABLES = ("_rows", "_place", "_visited", "_written", "_index", "_similarity")


def _taken(table: Tensor, index: Int[Tensor, "*q"]) -> Tensor:
    """Rows of a table, where the question came from."""
    return table[index.to(table.device)].to(index.device)


def _last_of_each(images: Int[Tensor, " m"]) -> Int[Tensor, " u"]:
    """Where each distinct number stands last."""
    order = images.argsort(stable=True)
    numbers = images[order]
    is_last = torch.ones_like(numbers, dtype=torch.bool)
    is_last[:-1] = numbers[1:] != numbers[:-1]
    return order[is_last]
