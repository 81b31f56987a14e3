"""Rows of other images that a query is compared with, and how far to trust them."""

from sslkit.matchers.base import Matcher as Matcher
from sslkit.matchers.cycle import Cycle as Cycle
from sslkit.matchers.nearest import Nearest as Nearest
from sslkit.matchers.base import Chooser as Chooser
