"""Configurations touch nothing but the objects that are built from them."""

import multiprocessing
import pickle
import threading

import pytest
import torch
from torch.utils.data import DataLoader

from sslkit import config
from sslkit.loader import Sampler, Views
from sslkit.memories import Queue
from tests.conftest import TINY


def test_components_built_in_python_ignore_configurations():
    config.load(["gin/cribo.gin"], ["memories.Queue.dtype = 'float16'"]).build("train")
    assert Queue(5).dtype == "float32"


def test_configurations_live_side_by_side():
    here = config.load(["gin/cribo.gin"], ["train.batch_size = 3"])
    there = config.load(["gin/dino.gin"], ["train.batch_size = 5"])
    assert [c.build("train")["batch_size"] for c in (here, there)] == [3, 5]


def test_another_thread_builds_the_same():
    settings, found = config.load(["gin/cribo.gin"], ["clusterers.Sinkhorn.n_clusters = 5"]), []
    thread = threading.Thread(target=lambda: found.append(settings.part("train", "method").clusterer.n_clusters))
    thread.start()
    thread.join()
    assert found == [5]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_loader_workers_see_the_same_values_however_they_are_started(start):
    data, augmenter = config.load(["gin/cribo.gin"], [*TINY, "augmenters.Crop.size = 24"]).part(
        "train", "data", "augmenter"
    )
    views = Views(data, augmenter, 0, augmenter.n_global)
    sampler = Sampler(len(data), 4, seed=0, first=0, n_batches=2)
    loader = DataLoader(
        views,
        batch_sampler=sampler,
        collate_fn=_as_it_is,
        num_workers=1,
        multiprocessing_context=multiprocessing.get_context(start),
    )
    for batch, places in zip(loader, sampler, strict=True):
        here = views.__getitems__(places)
        assert batch.views[0].pixels.shape[-1] == 24
        assert torch.equal(batch.views[0].pixels, here.views[0].pixels)


def _as_it_is(batch):
    return batch


def test_a_job_is_plain_strings():
    from sslkit.launch.job import Job

    job = Job(["gin/cribo.gin"], ["train.batch_size = 3"], "runs/x", ["sslkit"])
    assert pickle.loads(pickle.dumps(job)) == job
    strings = [x for value in vars(job).values() for x in (value if isinstance(value, list) else [value])]
    assert all(isinstance(x, str) for x in strings)
