"""A picture of what flows where in a composed method, drawn from its configuration alone.

What the boxes say (`content`) is put in its place (`placement`) and drawn (`svg`); nothing is built.
"""

from __future__ import annotations

from sslkit.config import Config
from sslkit.diagram.placement import layout
from sslkit.diagram.svg import render


def draw(settings: Config) -> str:
    """The data flow of the method that a configuration composes, as SVG."""
    return render(layout(settings))
