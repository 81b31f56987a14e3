"""Logits and pairs to one number."""

from sslkit.losses.base import Loss as Loss
from sslkit.losses.distillation import Distillation as Distillation
