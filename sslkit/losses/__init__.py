"""Logits and pairs to one number."""

from sslkit.losses.base import Loss as Loss
from sslkit.losses.cosine import Cosine as Cosine
from sslkit.losses.covariance import Covariance as Covariance
from sslkit.losses.distillation import Distillation as Distillation
from sslkit.losses.info_nce import InfoNCE as InfoNCE
from sslkit.losses.koleo import KoLeo as KoLeo
from sslkit.losses.mean_entropy import MeanEntropy as MeanEntropy
from sslkit.losses.swapped_assignment import SwappedAssignment as SwappedAssignment
from sslkit.losses.variance import Variance as Variance
