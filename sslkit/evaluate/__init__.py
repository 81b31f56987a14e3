"""Protocols that say what frozen features are good for: called with a backbone, they answer with numbers."""

from sslkit.evaluate.base import Evaluation as Evaluation
from sslkit.evaluate.dense_retrieval import DenseRetrieval as DenseRetrieval
from sslkit.evaluate.entry import evaluation as evaluation
from sslkit.evaluate.linear_probe import LinearProbe as LinearProbe
from sslkit.evaluate.nearest_neighbours import NearestNeighbours as NearestNeighbours
from sslkit.evaluate.patch_redundancy import PatchRedundancy as PatchRedundancy
from sslkit.evaluate.perturbations import Adversarial as Adversarial
from sslkit.evaluate.perturbations import Corruptions as Corruptions
from sslkit.evaluate.perturbations import InternalMasking as InternalMasking
from sslkit.evaluate.robustness import Robustness as Robustness
