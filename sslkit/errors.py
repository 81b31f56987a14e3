"""What is the user's to mend, and ends a command with a message instead of a traceback."""


class ConfigError(ValueError):
    """The configuration is wrong; the message says where and what would be right."""


class CheckpointError(RuntimeError):
    """There are checkpoints, but this run cannot go on from them."""


class NotFinite(RuntimeError):
    """A loss or a feature is NaN or infinite; the message says where that shows, and what was saved."""


class Refused(RuntimeError):
    """Another rank has refused to go on, and says why."""
