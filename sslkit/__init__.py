"""sslkit: components for composing self-supervised objectives."""

__version__ = "0.1.0"
