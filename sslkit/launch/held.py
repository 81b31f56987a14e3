"""`python -m sslkit.launch.held WORDS...`: Python with these words, signals to stop held back until it wants them.

A job imports for seconds before it can catch a signal, and submitit's own handlers would end it or ask Slurm for a new
start too early. Held back, a signal waits until `sslkit.interruption.watched`.
"""

import os
import signal
import sys

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
