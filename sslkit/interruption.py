"""Being asked to stop: a signal sets a flag, and the run stops at the end of a step, when everything is saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)  # and not to start again by itself
REQUEUE = signal.SIGUSR2  # time is up, or others need the machine: to go on later; NCCL may take SIGUSR1


class Asked:
    """Whether and how a run was asked to stop."""

    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []
        self._gives_up = False  # what is done now is left at once

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal has come."""
        again = number == signal.SIGINT and signal.SIGINT in self.signals
        self.signals.append(signal.Signals(number))
        if again:
            raise KeyboardInterrupt
        if self._gives_up:
            self._gives_up = False
            raise _GivenUp

    def unless_asked(self, call: Callable[[], object]) -> None:
        """Do what may be done again later: not at all after a signal, and no further when one comes."""
        try:
            self._gives_up = True
            try:
                if not self.signals:
                    call()
            finally:
                self._gives_up = False
        except _GivenUp:
            pass

    @property
    def to_stop(self) -> bool:
        return bool(self.signals)

    @property
    def to_requeue(self) -> bool:
        return REQUEUE in self.signals


class _GivenUp(BaseException):
    pass


_now: list[Asked] = []  # of the run that this process is about


@contextmanager
def watched() -> Iterator[Asked]:
    """What signals ask of this process while it is in here; outside, they do what they did before.

    A second SIGINT ends the process at once, as a user expects of Ctrl-C. Outside of the main thread nothing can be
    caught, and nothing is. Within another one it is the same as that.
    """
    asked = Asked()
    if _now or threading.current_thread() is not threading.main_thread():
        yield _now[0] if _now else asked
        return
    before = {number: signal.getsignal(number) for number in (*STOP, REQUEUE)}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # by nohup
        del before[signal.SIGHUP]
    _now.append(asked)
    for number in before:
        signal.signal(number, asked.note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, before)  # whoever started us may have held them back until now
    try:
        yield asked
    finally:
        _now.clear()
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def left_to_the_run() -> None:
    """Let a loader process outlive signals sent to all processes of a run; it ends when the run ends it."""
    for number in (*STOP, REQUEUE):
        signal.signal(number, signal.SIG_IGN if number != signal.SIGTERM else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_obey_the_run, daemon=True).start()


def _obey_the_run() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
