"""Which patches of a view are hidden from the student."""

from sslkit.maskings.base import Masking as Masking
from sslkit.maskings.blocks import Blocks as Blocks
from sslkit.maskings.random import Random as Random
