"""Pixels to an image vector, patch tokens and their grid."""

from sslkit.backbones.base import Backbone as Backbone
from sslkit.backbones.timm_model import Timm as Timm
from sslkit.backbones.timm_model import pad_by as pad_by
