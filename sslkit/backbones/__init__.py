"""Pixels to an image vector, patch tokens and their grid."""

from sslkit.backbones.base import Backbone as Backbone
from sslkit.backbones.rf_named import bagnet9 as bagnet9
from sslkit.backbones.rf_named import bagnet17 as bagnet17
from sslkit.backbones.rf_named import bagnet33 as bagnet33
from sslkit.backbones.rf_named import rf29_resnet18 as rf29_resnet18
from sslkit.backbones.rf_named import rf99_resnet50 as rf99_resnet50
from sslkit.backbones.rf_resnet import RFResNet as RFResNet
from sslkit.backbones.timm_model import Timm as Timm
from sslkit.backbones.timm_model import pad_by as pad_by
from sslkit.backbones.windows import Window as Window
from sslkit.backbones.windows import receptive_field as receptive_field
