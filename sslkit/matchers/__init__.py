"""Rows of other images that a query is compared with, and how far to trust them."""

from sslkit.matchers.adaptive import Adaptive as Adaptive
from sslkit.matchers.base import Matcher as Matcher
from sslkit.matchers.chooser import Chooser as Chooser
from sslkit.matchers.cycle import Cycle as Cycle
from sslkit.matchers.mutual import Mutual as Mutual
from sslkit.matchers.nearest import Nearest as Nearest
from sslkit.matchers.sampled_cycle import SampledCycle as SampledCycle
from sslkit.matchers.threshold import Threshold as Threshold
from sslkit.matchers.uniform import Uniform as Uniform
