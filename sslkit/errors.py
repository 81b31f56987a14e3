"""What ends a command with a message instead of a traceback: mostly what is the user's to mend."""

import signal

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
    """Another rank has refused to go on, and says why.

    Args:
        code: that it exits with.
    """

    def __init__(self, code: int = 1):
        super().__init__("another rank has refused to go on, and says why")
        self.code = code


class RankLost(_Said, RuntimeError):
    """Another rank has died or does not answer; the message says how that showed."""


class WorkerLost(_Said, RuntimeError):
    """A process that loads data for this rank has died."""


class Interrupted(_Said, RuntimeError):
    """A signal has stopped the run at the end of a step, after everything was saved.

    Args:
        step: steps done.
        signals: what was received, by any rank.
        requeue: whether the run was asked to go on later by itself.
    """

    def __init__(self, step: int, signals: list[signal.Signals], requeue: bool):
        names = ", ".join(dict.fromkeys(number.name for number in signals))
        where = f"after step {step}, which is saved" if step else "before the first step"
        super().__init__(
            f"stopped by {names} {where}; the same command {'goes on from there' if step else 'starts anew'}"
        )
        self.step, self.signals, self.requeue = step, signals, requeue

    @property
    def number(self) -> int:
        """Of the first signal."""
        return self.signals[0]


class SlurmError(_Said, RuntimeError):
    """A command of Slurm failed; the message has what it said."""
