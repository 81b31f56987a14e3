"""Runs of a few steps on a few embedded scenes."""

from __future__ import annotations

import json

import torch

from sslkit import checkpoint, config
from sslkit.train import train

N_IMAGES, BATCH = 16, 4
SHORT = (
    f"scenes/datasets.Scenes.n_images = {N_IMAGES}",
    f"train.batch_size = {BATCH}",
    "train.n_workers = 0",
    "train.evaluations = None",
    "train.pictures = False",
    "train.log_every = 1",
)


def trained(files, run, steps, *bindings):
    """The records of a run of so many steps."""
    settings = config.load(files, [*SHORT, f"train.n_steps = {steps}", *bindings])
    torch.manual_seed(0)  # as a launched run does before it builds
    run.mkdir(exist_ok=True)
    train(run_dir=run, **settings.build("train"))
    assert checkpoint.steps(run) == [steps]
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
