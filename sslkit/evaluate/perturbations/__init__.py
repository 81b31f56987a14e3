"""What is done to the pixels of an image before it is classified again."""

from sslkit.evaluate.perturbations.adversarial import Adversarial as Adversarial
from sslkit.evaluate.perturbations.base import Perturbation as Perturbation
from sslkit.evaluate.perturbations.base import Shown as Shown
from sslkit.evaluate.perturbations.corruptions import Corruptions as Corruptions
from sslkit.evaluate.perturbations.internal_masking import InternalMasking as InternalMasking
