"""A signal is a question that the run answers at the end of its step; its loader processes leave the answer to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

from sslkit import loader
from sslkit.augmenters import Crop, Crops
from sslkit.interruption import REQUEUE, STOP, watched
from sslkit.types import Sample
from tests.watched import ENVIRONMENT

ALL = (*STOP, REQUEUE)


def handlers():
    return [signal.getsignal(number) for number in ALL]


@pytest.mark.parametrize("number", STOP)
def test_a_signal_asks_to_stop_and_not_to_go_on_later(number):
    with watched() as asked:
        assert not asked.to_stop
        os.kill(os.getpid(), number)
        assert (asked.to_stop, asked.to_requeue, asked.signals) == (True, False, [number])


def test_the_signal_of_a_job_whose_time_is_up_asks_to_stop_and_to_go_on_later():
    with watched() as asked:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert (asked.to_stop, asked.to_requeue) == (True, True)


def test_a_second_ctrl_c_ends_the_process_at_once():
    before = handlers()
    with pytest.raises(KeyboardInterrupt), watched():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert handlers() == before


def test_ctrl_c_after_another_signal_is_the_first_one_of_its_kind():
    with watched() as asked:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert asked.signals == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]


def test_what_may_be_given_up_is_left_at_once_and_not_begun_again():
    done = []

    def evaluate():
        done.append("begun")
        os.kill(os.getpid(), signal.SIGUSR2)
        done.append("ended")

    with watched() as asked:
        asked.unless_asked(evaluate)
        asked.unless_asked(evaluate)
        assert done == ["begun"]
        os.kill(os.getpid(), signal.SIGUSR1)  # outside it is noted, as ever
        assert asked.signals == [signal.SIGUSR2, signal.SIGUSR1]


def test_what_may_be_given_up_is_done_if_nobody_asks_and_its_errors_are_seen():
    with watched() as asked:
        asked.unless_asked(lambda: None)
        with pytest.raises(ZeroDivisionError):
            asked.unless_asked(lambda: 1 / 0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.to_stop


def test_watched_within_watched_is_the_same_until_the_outer_one_ends():
    before = handlers()
    with watched() as outer:
        with watched() as inner:
            assert inner is outer
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.to_stop
    assert handlers() == before
    with watched() as another:
        assert not another.to_stop


def test_outside_signals_do_what_they_did_before():
    before = handlers()
    with pytest.raises(ZeroDivisionError), watched():
        assert handlers() != before
        _ = 1 / 0
    assert handlers() == before


HELD = """
from sslkit.interruption import watched
print(flush=True)
input()
with watched() as asked:
    print(*(number.name for number in asked.signals), asked.to_requeue)
"""


def test_signals_that_are_held_back_until_the_run_watches_are_not_lost():
    """A job of Slurm starts so: it may be asked to stop while it still imports."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    words = [sys.executable, "-m", "sslkit.launch.held", "-c", HELD]
    job = subprocess.Popen(words, env=ENVIRONMENT, **pipes)
    job.stdout.readline()
    job.send_signal(signal.SIGTERM)
    job.send_signal(signal.SIGUSR2)
    said, _ = job.communicate("go on\n", timeout=60)
    assert (said.split(), job.returncode) == (["SIGUSR2", "SIGTERM", "True"], 0)


def test_in_another_thread_nothing_is_caught_and_nothing_breaks():
    from concurrent.futures import ThreadPoolExecutor

    def look():
        with watched() as asked:
            return handlers(), asked.to_stop

    before = handlers()
    assert ThreadPoolExecutor(1).submit(look).result() == (before, False)


WORKER = """
import time
from sslkit import interruption
interruption.left_to_the_run()
print(flush=True)
time.sleep(600)
"""


def test_a_loader_process_outlives_signals_of_others_and_obeys_the_run():
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, env=ENVIRONMENT)
    worker.stdout.readline()
    for number in ALL:  # from a process that is not its parent, as Slurm and a terminal send them to all of a run
        subprocess.run(["kill", f"-{number}", str(worker.pid)], check=True)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.5)
    worker.terminate()  # SIGTERM of the parent
    assert worker.wait(30) == 0
    worker.stdout.close()


class Greys:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return Sample(Image.new("RGB", (8, 8), (index,) * 3), index, None)


def test_a_loader_goes_on_when_its_workers_are_asked_to_stop():
    """A terminal sends Ctrl-C to every process of a run, the workers among them."""
    crop = Crop(size=4, jitter_p=0.0, grayscale_p=0.0)
    sampler = loader.Sampler(8, 2, seed=0, first=0, n_batches=4)
    stream = loader.batches(Greys(), Crops(global_crops=[crop, crop]), sampler, n_workers=1, pin=False)
    seen = [next(stream).index]
    (worker,) = [child for child in multiprocessing.active_children() if child.is_alive()]
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(worker.pid, number)
    seen += [batch.index for batch in stream]
    assert sorted(int(i) for index in seen for i in index) == list(range(8))
