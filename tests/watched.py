"""Runs started as a user does and watched from outside, until something is done to them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT, command

# CrIBo with networks that take a fraction of a second for a step
SMALL = (
    "scenes/datasets.Scenes.n_images = 48",
    "train.batch_size = 4",
    "train.n_workers = 1",
    "train.evaluations = None",
    "train.pictures = False",
    "train.log_every = 50",
    "train.save_every = 10",
    "across/Term.start_fraction = 0.1",
    "backbones.Timm.options = {'output_stride': 8, 'layers': (1, 1, 1, 1), 'channels': (8, 8, 16, 16)}",
    "heads.Prototypes.outputs = {'image': 32, 'region': 32}",
    "heads.Prototypes.hidden = 32",
    "memories.Queue.n_images = 24",
    "augmenters.Crop.size = 48",
)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def small(*others):
    """The same bindings, and others, which take the place of those of their names."""
    names = {binding.partition(" = ")[0] for binding in others}
    return (*(binding for binding in SMALL if binding.partition(" = ")[0] not in names), *others)


def launch(run, *words, bindings=SMALL):
    """The words of a launch."""
    return command("launch", "--gin", "gin/cribo.gin", "--out", str(run), *words, bindings=bindings)


def start(words):
    """A process whose output can be read."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, text=True, **pipes)


def done(words):
    """The same, to its end."""
    return subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def torchrun(words, n=2):
    """The same words on ranks of torchrun."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), *words[1:]]


def until_it_steps(process):
    """Wait until a run has taken a step."""
    for line in process.stdout:
        if line.startswith("step "):
            return
    raise AssertionError(process.stderr.read())


def ranks_of(process):
    """The processes of the ranks, in their order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(map(int, children), key=_rank)


def _rank(process):
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next(int(v.partition(b"=")[2]) for v in variables if v.startswith(b"RANK="))


def until_gone(process, patience_s=60):
    """Wait for the end of a process that is not our child."""
    until = time.monotonic() + patience_s
    while _is_alive(process):
        assert time.monotonic() < until
        time.sleep(0.05)


def _is_alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
