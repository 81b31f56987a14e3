"""Logits and pairs to one number."""

from sslkit.losses.distillation import Distillation as Distillation
