"""How much of a linear probe's accuracy is left when images are perturbed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from sslkit.evaluate.base import Backbone, Evaluation, evaluating, refuse_not_finite
from sslkit.evaluate.linear_probe import LinearProbe, is_right
from sslkit.evaluate.perturbations import Perturbation, Shown
from sslkit.evaluate.pixels import normalised
from sslkit.registry import register


@register("evaluate")
class Robustness(Evaluation):
    """Accuracy of a linear probe on perturbed validation images, the probe being trained on clean ones.

        ratio = accuracy on perturbed images / accuracy on the same images unperturbed

    The probe is fitted once, and every perturbation is applied to the pixels that the backbone would have seen: the
    square of the probe's `image_size`, levels from 0 to 1, before they are normalised. Accuracies are averaged over the
    strengths of a kind, then over the kinds of a perturbation, then over perturbations; the last mean is of things that
    hardly compare, and is there for a log to have one number.

    Args:
        probe: the classifier, with its data sets, the size of images, and the seed of all draws.
        perturbations: what is done to images, by the name that it has in the results.

    Raises:
        ValueError: there is no perturbation, one has no kind or no strength, or a name is one of the results; on
            calling, as `LinearProbe`.
        NotFinite: on calling, a feature of an image as it is is NaN or infinite. An image for which that is so only
            when it is perturbed counts as wrong.

    Source: the measures under which CO-SSL (arXiv:2501.02860) reports robustness; of its protocols only the names are
    known, and all settings are ours. The ratio is the relative form of accuracy under ImageNet-C (arXiv:1903.12261).

    Example:
        >>> from sslkit.datasets import Scenes
        >>> from sslkit.evaluate.perturbations import InternalMasking
        >>> train, val = (Scenes(n_images=8, size=32, objects=(1, 1), split=split) for split in ("train", "val"))
        >>> def backbone(pixels):
        ...     return pixels.mean(dim=(2, 3)), pixels.flatten(2).mT, tuple(pixels.shape[2:])
        >>> probe = LinearProbe(train=train, val=val, image_size=32)
        >>> found = Robustness(probe=probe, perturbations={"masking": InternalMasking(sizes=(0.5,))})(backbone, "cpu")
        >>> list(found)
        ['accuracy', 'n_val', 'robust_accuracy', 'ratio', 'masking']
        >>> list(found["masking"]), list(found["masking"]["centre"])
        (['robust_accuracy', 'ratio', 'centre', 'random'], ['robust_accuracy', 'ratio', '0.5'])
    """

    headline = "robust_accuracy"

    def __init__(self, *, probe: LinearProbe, perturbations: Mapping[str, Perturbation]):
        if not perturbations:
            raise ValueError(f"perturbations={perturbations}, but it must have one")
        for name, perturbation in perturbations.items():
            if name in ("accuracy", "n_val", "robust_accuracy", "ratio"):
                raise ValueError(f"a perturbation is called {name!r}, which is the name of a result")
            if not perturbation.kinds or not perturbation.strengths:
                raise ValueError(f"the perturbation {name!r} has no kind or no strength")
        self.probe, self.perturbations = probe, perturbations

    def __call__(self, backbone: Backbone, device: torch.device | str) -> dict[str, Any]:
        """`accuracy` on clean images, `robust_accuracy` and `ratio`, and both for each perturbation, kind and strength.

        A ratio is None where no clean image is right. The backbone is on `device` already. A module is put in
        evaluation mode and back again.
        """
        fitted = self.probe.fit(backbone, device)

        def classify(levels: Tensor) -> Tensor:
            image, _, _ = backbone(normalised(levels))
            return fitted.classifier(image)

        clean = 0
        right = dict.fromkeys(self._versions(), 0)
        with evaluating(backbone), torch.no_grad():
            for levels, index, labels in self.probe.batches(self.probe.val, "robustness"):
                truth = self.probe.truth(labels, index.tolist(), fitted.classes)
                levels, truth = levels.to(device), truth.to(device)
                scores = classify(levels)
                refuse_not_finite(scores, self.probe.val.name, index)
                shown = Shown(levels, truth, is_right(scores, truth), index.to(device), self.probe.seed)
                clean += int(shown.right.sum())
                for name, kind, strength in right:
                    perturbed = self.perturbations[name](shown, kind, strength, classify)
                    right[name, kind, strength] += int(is_right(classify(perturbed), truth).sum())
        n_val = len(self.probe.val)
        accuracy: dict[str, Any] = {}
        for (name, kind, strength), number in right.items():
            accuracy.setdefault(name, {}).setdefault(kind, {})[f"{strength:.12g}"] = number / n_val
        return {"accuracy": clean / n_val, "n_val": n_val, **_summary(accuracy, clean / n_val)}

    def check(self, backbone: Backbone) -> None:
        """Look at what can be known from one image of each set.

        Raises:
            ValueError: the probe or a perturbation cannot work with the backbone or the data.
        """
        self.probe.check(backbone)
        for perturbation in self.perturbations.values():
            perturbation.check(backbone, self.probe.image_size)

    def _versions(self) -> list[tuple[str, str, float]]:
        """Name, kind and strength of all that is done to an image."""
        return [(name, *of) for name, p in self.perturbations.items() for of in product(p.kinds, p.strengths)]


def _summary(accuracy: Mapping[str, Any] | float, clean: float) -> dict[str, Any]:
    """An accuracy, or the mean of those that it is made of, over the clean one; what it is made of behind it."""
    parts = {name: _summary(x, clean) for name, x in accuracy.items()} if isinstance(accuracy, Mapping) else {}
    found = mean(part["robust_accuracy"] for part in parts.values()) if isinstance(accuracy, Mapping) else accuracy
    return {"robust_accuracy": found, "ratio": found / clean if clean else None, **parts}
