"""What components keep to, as test classes: one per role, run by pytest on any component that follows it.

The test file of a component from another package is the contract and what makes the component:

    # test_voronoi.py
    from sslkit.contracts import ClustererContract
    from voronoi import Voronoi

    class TestVoronoi(ClustererContract):
        def make(self):
            return Voronoi(4)

The docstring of each contract's `make` says what it has to come back with. Importing this package imports pytest.
"""

import pkgutil

import pytest

# before they are imported, so that a failing assertion shows its values
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from sslkit.contracts.aligners import AlignerContract  # noqa: E402
from sslkit.contracts.augmenters import AugmenterContract  # noqa: E402
from sslkit.contracts.backbones import BackboneContract  # noqa: E402
from sslkit.contracts.centerings import CenteringContract  # noqa: E402
from sslkit.contracts.clusterers import ClustererContract  # noqa: E402
from sslkit.contracts.component import ComponentContract  # noqa: E402
from sslkit.contracts.datasets import DatasetContract  # noqa: E402
from sslkit.contracts.evaluate import EvaluationContract  # noqa: E402
from sslkit.contracts.heads import HeadContract  # noqa: E402
from sslkit.contracts.losses import LossContract  # noqa: E402
from sslkit.contracts.maskings import MaskingContract  # noqa: E402
from sslkit.contracts.matchers import MatcherContract  # noqa: E402
from sslkit.contracts.memories import MemoryContract  # noqa: E402
from sslkit.contracts.schedules import ScheduleContract  # noqa: E402

__all__ = [
    "AlignerContract",
    "AugmenterContract",
    "BackboneContract",
    "CenteringContract",
    "ClustererContract",
    "ComponentContract",
    "DatasetContract",
    "EvaluationContract",
    "HeadContract",
    "LossContract",
    "MaskingContract",
    "MatcherContract",
    "MemoryContract",
    "ScheduleContract",
]
