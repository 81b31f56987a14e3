"""Classification by one linear layer: how well classes lie apart in frozen image vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from sslkit import draws
from sslkit.evaluate.base import Backbone
from sslkit.evaluate.classification import Classification, numbers_of
from sslkit.evaluate.samples import Samples
from sslkit.parameters import Count, Natural, Seed, Within
from sslkit.registry import register

log = logging.getLogger("sslkit")
ROWS = 16384  # whose scores are held at a time
ROUNDS = 1000  # of L-BFGS at most
SMALLEST_GRADIENT = 1e-6  # where it stops
RESOLUTION = 1e-6  # of its largest value: a feature that varies less is constant but for rounding
Penalty = Annotated[float, Within(above=0, most=1e6)]  # the largest leave no weight to speak of


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Scores of the classes, linear in standardised image vectors, in float64; a gradient passes to the vectors."""

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]
    mean: Float[Tensor, " d"]
    deviation: Float[Tensor, " d"]

    def __call__(self, image: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        return ((image.double() - self.mean) / self.deviation) @ self.weight.mT + self.bias


@dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier, the labels of its classes, which rise, and how it came to be."""

    classifier: LinearClassifier
    classes: Int[Tensor, " c"]
    penalty: float
    train_accuracy: float


@register("evaluate")
class LinearProbe(Classification):
    """Accuracy of a linear classifier of frozen image vectors.

        loss = - mean_n log softmax(W z_n + b)[label_n] + penalty / 2 |W|^2       z: the vectors, standardised

    Every dimension of the vectors is brought to mean 0 and deviation 1 over the training images, so that one penalty
    suits all of them and the scale of the features does not matter. The loss is convex. L-BFGS with a strong Wolfe line
    search goes towards its one minimum, in float64, until no part of the gradient is above 1e-6 or 1000 rounds are
    over; vectors are extracted once, so neither a learning rate nor the order of images plays a part. The penalty of
    the most right images among those held out of `train` is chosen (of several, the largest), and the classifier fitted
    again to the whole of `train`. With one penalty nothing is held out.

    A validation image whose class has no image in `train` counts as wrong.

    Args:
        train, val: data sets whose samples have labels. Where both have `classes`, their names must agree.
        penalties: those to choose from; small ones suit many images, large ones few.
        held_out: share of the training images by which the penalty is chosen, drawn by `seed`.
        image_size: side of the square input in pixels.
        resize: bring the shorter side to so many pixels and cut the square out of the middle; None squeezes the whole
            image into the square.
        n_train, n_val: use so many images, drawn by `seed`; a smaller draw is part of a larger one. None = all.
        n_workers: processes that read images.

    Raises:
        ValueError: an argument is out of its range, or the square is larger than the resized image; on calling, a
            sample has no label, or one that no image of `train` has, where `train` was used whole and has no `classes`
            that would explain it.
        NotFinite: on calling, a feature is NaN or infinite.

    Source: logistic regression by L-BFGS as CLIP (arXiv:2103.00020, appendix A.3) probes, with a penalty chosen on
    held-out images. Differences: standardised vectors, a short list of penalties. Papers on self-supervision mostly
    train the layer by SGD on augmented images for 100 epochs (DINO, BYOL), which needs the backbone at every step and a
    learning rate that suits its features; those numbers are not the same as these. What CO-SSL (arXiv:2501.02860) used
    is unknown.

    Example:
        >>> from sslkit.datasets import Scenes
        >>> train, val = (Scenes(n_images=8, size=32, objects=(1, 1), split=split) for split in ("train", "val"))
        >>> def backbone(pixels):
        ...     return pixels.mean(dim=(2, 3)), pixels.flatten(2).mT, tuple(pixels.shape[2:])
        >>> found = LinearProbe(train=train, val=val, image_size=32)(backbone, "cpu")
        >>> list(found)
        ['accuracy', 'train_accuracy', 'penalty', 'n_classes', 'n_train', 'n_val']
    """

    def __init__(
        self,
        *,
        train: Samples,
        val: Samples,
        penalties: Sequence[Penalty] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        held_out: Annotated[float, Within(0.01, 0.9)] = 0.2,
        image_size: Count = 224,
        resize: Count | None = None,
        n_train: Count | None = None,
        n_val: Count | None = None,
        batch_size: Count = 64,
        n_workers: Natural = 0,
        seed: Seed = 0,
    ):
        if not penalties:
            raise ValueError(f"penalties={penalties}, but it must have a number")
        super().__init__(
            "linear probe",
            train=train,
            val=val,
            image_size=image_size,
            resize=resize,
            n_train=n_train,
            n_val=n_val,
            batch_size=batch_size,
            n_workers=n_workers,
            seed=seed,
        )
        if len(self.train) < 2:
            raise ValueError(f"train has {len(self.train)} image, but some are to be held out of it")
        self.penalties, self.held_out = tuple(sorted(penalties, reverse=True)), held_out

    def __call__(self, backbone: Backbone, device: torch.device | str) -> dict[str, float | int]:
        """`accuracy` and `train_accuracy`, the `penalty` chosen, and how much was looked at.

        The backbone is on `device` already. A module is put in evaluation mode and back again.
        """
        fitted = self.fit(backbone, device)
        rows, labels = self.vectors(self.val, backbone, device)
        truth = self.truth(labels, self.val.indices, fitted.classes).to(device)
        return {
            "accuracy": accuracy(fitted.classifier, rows, truth),
            "train_accuracy": fitted.train_accuracy,
            "penalty": fitted.penalty,
            "n_classes": len(fitted.classes),
            "n_train": len(self.train),
            "n_val": len(self.val),
        }

    @torch.no_grad()
    def fit(self, backbone: Backbone, device: torch.device | str) -> Fitted:
        """The classifier of the training images."""
        rows, labels = self.vectors(self.train, backbone, device)
        classes = labels.unique()
        truth = numbers_of(labels, classes).to(device)
        penalty = self._choose(rows, truth, len(classes))
        classifier = regression(rows, truth, len(classes), penalty)
        return Fitted(classifier, classes, penalty, accuracy(classifier, rows, truth))

    def _choose(self, rows: Float[Tensor, "n d"], truth: Int[Tensor, " n"], n_classes: int) -> float:
        """The penalty of the most right images among those held out; of several, the largest."""
        if len(self.penalties) == 1:
            return self.penalties[0]
        images = torch.tensor(self.train.indices)
        order = draws.uniform(self.seed, 0, images, 1, f"{self.use} held out")[:, 0].argsort(stable=True)
        n_held = min(max(1, round(self.held_out * len(rows))), len(rows) - 1)
        held, kept = order[:n_held].to(rows.device), order[n_held:].to(rows.device)
        rows, others, truth, others_truth = rows[kept], rows[held], truth[kept], truth[held]
        found = {}
        for penalty in tqdm(self.penalties, desc="linear probe, penalties", leave=False, disable=None):
            classifier = regression(rows, truth, n_classes, penalty)
            found[penalty] = accuracy(classifier, others, others_truth)
        best = max(found, key=lambda penalty: found[penalty])
        if best in (self.penalties[0], self.penalties[-1]):
            log.warning("penalty=%g is at an end of penalties=%s; a longer list might do better", best, self.penalties)
        return best


@torch.no_grad()
def regression(
    rows: Float[Tensor, "n d"], truth: Int[Tensor, " n"], n_classes: int, penalty: float
) -> LinearClassifier:
    """The linear classifier of least penalised cross-entropy on standardised rows."""
    n, dim = rows.shape
    mean = sum(part.double().sum(dim=0) for part in rows.split(ROWS)) / n
    squares = sum((part.double() - mean).square().sum(dim=0) for part in rows.split(ROWS))
    deviation = (squares / n).sqrt()
    is_rounding = deviation <= RESOLUTION * torch.maximum(rows.amax(dim=0), -rows.amin(dim=0))
    deviation = deviation.masked_fill(is_rounding, 1.0)
    found = LinearClassifier(mean.new_zeros(n_classes, dim), mean.new_zeros(n_classes), mean, deviation)

    def loss_and_gradient() -> Tensor:
        loss = penalty / 2 * found.weight.square().sum()
        found.weight.grad, found.bias.grad = penalty * found.weight, torch.zeros_like(found.bias)
        for part, labels in zip(rows.split(ROWS), truth.split(ROWS), strict=True):
            standard = (part.double() - mean) / deviation
            log_p = F.log_softmax(standard @ found.weight.mT + found.bias, dim=1)
            loss -= log_p.gather(1, labels[:, None]).sum() / n
            excess = (log_p.exp() - F.one_hot(labels, n_classes)) / n
            found.weight.grad += excess.mT @ standard
            found.bias.grad += excess.sum(dim=0)
        return loss

    solver = torch.optim.LBFGS(
        [found.weight, found.bias],
        max_iter=ROUNDS,
        max_eval=10 * ROUNDS,
        tolerance_grad=SMALLEST_GRADIENT,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    solver.step(loss_and_gradient)
    if solver.state[found.weight]["n_iter"] >= ROUNDS:
        log.warning("the linear probe with penalty=%g was stopped after %d rounds, before its minimum", penalty, ROUNDS)
    found.weight.grad = found.bias.grad = None
    return found


def is_right(scores: Float[Tensor, "n c"], truth: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether the true class has the largest score; of equal ones the first counts, of those not finite none."""
    return (scores.argmax(dim=1) == truth) & scores.isfinite().all(dim=1)


def accuracy(classifier: LinearClassifier, rows: Float[Tensor, "n d"], truth: Int[Tensor, " n"]) -> float:
    """The share of rows that are right."""
    parts = zip(rows.split(ROWS), truth.split(ROWS), strict=True)
    return sum(int(is_right(classifier(part), true).sum()) for part, true in parts) / len(rows)
