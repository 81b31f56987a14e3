"""Images changed a little, where it hurts most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sslkit.evaluate.base import Backbone, outputs_at
from sslkit.evaluate.perturbations.base import Classify, Perturbation, Shown
from sslkit.parameters import Count, NonNegative, Positive
from sslkit.registry import joint


@joint
class Adversarial(Perturbation):
    """White-box attacks on backbone and classifier together that change no level by more than a radius.

        x <- clip(x + step sign(gradient of the cross-entropy at x))      clip: to the radius, and to [0, 1]

    "fgsm" goes one step of a whole radius from the image. "pgd" goes `n_steps` of `step` radii from a place drawn
    evenly from within the radius, and the last place counts. Radius and levels are those of the image before it is
    normalised for the backbone. Only images that are right without an attack are attacked: the others stay wrong.

    Args:
        radii: largest change of a level, in steps of 8-bit images, 1/255.
        kinds: the attacks.
        n_steps: of "pgd".
        step: length of one of them, as a share of the radius.

    Source: FGSM (arXiv:1412.6572, equation 1) and PGD (arXiv:1706.06083, section 2.1). CO-SSL (arXiv:2501.02860)
    reports PGD at small radii; radii, steps and starts are unknown, and these are ours.
    """

    def __init__(
        self,
        *,
        radii: Sequence[NonNegative] = (0.25, 0.5, 1.0, 2.0),
        kinds: Sequence[Literal["fgsm", "pgd"]] = ("fgsm", "pgd"),
        n_steps: Count = 10,
        step: Positive = 0.25,
    ):
        self.kinds, self.strengths, self.n_steps, self.step = kinds, radii, n_steps, step

    def __call__(self, shown: Shown, kind: str, strength: float, classify: Classify) -> Float[Tensor, "b 3 h w"]:
        radius = strength / 255
        attacked = shown.right
        levels, truth = shown.levels[attacked], shown.truth[attacked]
        if not len(levels):
            return shown.levels
        if kind == "fgsm":
            found = ascend(levels, levels, truth, classify, radius=radius, step=radius, n_steps=1)
        else:
            place = shown.uniform(levels[0].numel(), "adversarial start").view_as(shown.levels)[attacked]
            start = levels + radius * (2 * place - 1)
            found = ascend(start, levels, truth, classify, radius=radius, step=self.step * radius, n_steps=self.n_steps)
        everything = shown.levels.clone()
        everything[attacked] = found
        return everything

    def check(self, backbone: Backbone, image_size: int) -> None:
        """Look whether the backbone can be attacked.

        Raises:
            ValueError: the image vector does not depend on the pixels in a way that has a gradient.
        """
        if not outputs_at(backbone, image_size)[0].requires_grad:
            raise ValueError("the backbone passes no gradient to the pixels, without which there is no attack")


def ascend(
    start: Float[Tensor, "b 3 h w"],
    levels: Float[Tensor, "b 3 h w"],
    truth: Int[Tensor, " b"],
    classify: Classify,
    *,
    radius: float,
    step: float,
    n_steps: int,
) -> Float[Tensor, "b 3 h w"]:
    """The levels to which steps along the sign of the gradient lead from `start`, each clipped to what is allowed."""
    least, most = (levels - radius).clamp(min=0), (levels + radius).clamp(max=1)
    found = start.clamp(least, most)
    for _ in range(n_steps):
        with torch.enable_grad():
            here = found.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(classify(here), truth, reduction="sum"), here)
        found = (found + step * gradient.sign()).clamp(least, most)
    return found
