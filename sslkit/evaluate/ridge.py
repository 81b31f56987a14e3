"""Ridge regression onto one-hot labels, from sums over rows: exact, whatever the number of rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

PENALTIES = tuple(10.0**e for e in range(-6, 3))  # times the mean variance of a feature
ROWS = 4096  # scored at a time


@dataclass(frozen=True, eq=False)
class Sums:
    """All that the regression needs of rows, each of which has a one behind it: counts and means are among the sums."""

    products: Float[Tensor, "e e"]  # of rows with themselves
    by_label: dict[int, Float[Tensor, " e"]]  # of the rows of each label

    @staticmethod
    def of(rows: Float[Tensor, "b n d"], labels: Int[Tensor, " b"]) -> Sums:
        """Rows of `b` images, each row with the label of its image; labels are on the host."""
        rows = F.pad(rows, (0, 1), value=1.0)
        of_image = rows.sum(dim=1)
        by_label = {y: of_image[(labels == y).to(rows.device)].sum(dim=0) for y in labels.unique().tolist()}
        return Sums(rows.flatten(0, 1).mT @ rows.flatten(0, 1), by_label)

    def __add__(self, other: Sums) -> Sums:
        by_label = self.by_label | {y: x + self.by_label.get(y, 0.0) for y, x in other.by_label.items()}
        return Sums(self.products + other.products, by_label)

    def with_labels(self, classes: Int[Tensor, " c"]) -> Float[Tensor, "e c"]:
        """Products of rows with their one-hot labels."""
        none = torch.zeros_like(self.products[0])
        return torch.stack([self.by_label.get(y, none) for y in classes.tolist()], dim=1)


@dataclass(frozen=True, eq=False)
class Ridge:
    """Rows, with a one behind them, to scores of classes."""

    weight: Float[Tensor, "e c"]
    classes: Int[Tensor, " c"]  # their labels, rising, on the host
    penalty: float  # over the mean variance of a feature
    mean: Float[Tensor, " d"]  # of the rows fitted to

    def says(self, rows: Float[Tensor, "*b d"]) -> Int[Tensor, "*b"]:
        """The number of the class of the largest score."""
        parts = F.pad(rows, (0, 1), value=1.0).flatten(0, -2).split(ROWS)
        return torch.cat([(part @ self.weight).argmax(dim=1) for part in parts]).view(rows.shape[:-1])


def fitted(fit: Sums, held_out: Sums) -> Ridge:
    """The regression on all rows with the penalty that, fitted to some, has the least squared error on the others."""
    both = fit + held_out
    classes = torch.tensor(sorted(both.by_label))
    errors = [squared_error(solved(fit, classes, penalty), held_out, classes) for penalty in PENALTIES]
    penalty = PENALTIES[int(torch.stack(errors).argmin())]
    mean = both.products[-1, :-1] / both.products[-1, -1]
    return Ridge(solved(both, classes, penalty), classes, penalty, mean)


def solved(sums: Sums, classes: Int[Tensor, " c"], penalty: float) -> Float[Tensor, "e c"]:
    """Weights of least squared error plus `penalty` times the mean variance of a feature times their squares.

    The last row is the offset, which nothing penalises.
    """
    total, n = sums.products[-1, :-1], sums.products[-1, -1]
    cross = sums.with_labels(classes)
    share = cross[-1] / n
    scatter = sums.products[:-1, :-1] - torch.outer(total, total) / n
    rounding = torch.finfo(scatter.dtype).eps * sums.products.trace()  # constant features have no variance
    ridge = penalty * scatter.trace().clamp(min=rounding) / len(scatter)
    weight = torch.linalg.solve(
        scatter + ridge * torch.eye(len(scatter)).to(scatter), cross[:-1] - torch.outer(total, share)
    )
    return torch.cat([weight, (share - total / n @ weight)[None]])


def squared_error(weight: Float[Tensor, "e c"], sums: Sums, classes: Int[Tensor, " c"]) -> Float[Tensor, ""]:
    """Sum over the rows of |score - one-hot label| squared."""
    cross = (weight * sums.with_labels(classes)).sum()
    return sums.products[-1, -1] - 2 * cross + (weight * (sums.products @ weight)).sum()
