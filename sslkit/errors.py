"""What is the user's to mend, and ends a command with a message instead of a traceback."""

from sslkit.shown import visible


class _Said(Exception):
    """What it says may have come out of files of somebody else, and goes to a terminal."""

    def __str__(self) -> str:
        return visible(super().__str__())


class ConfigError(_Said, ValueError):
    """The configuration is wrong; the message says where and what would be right."""


class CheckpointError(_Said, RuntimeError):
    """There are checkpoints, but this run cannot go on from them."""


class NotFinite(_Said, RuntimeError):
    """A loss or a feature is NaN or infinite; the message says where that shows, and what was saved."""


class Refused(_Said, RuntimeError):
    """Another rank has refused to go on, and says why."""
