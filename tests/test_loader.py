"""Which images a batch has, and which its second source shows."""

from __future__ import annotations

import torch
from PIL import Image

from sslkit.augmenters import Crop, Crops
from sslkit.loader import Place, Sampler, Views, batches, order
from sslkit.types import Sample

N = 10


class Greys:
    """Image i is all of level 20 i and has the label i // 2; what was read is kept."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return N

    def __getitem__(self, index):
        self.read.append(index)
        return Sample(Image.new("RGB", (8, 8), (20 * index,) * 3), index, index // 2)


def crops(*sources):
    plain = dict(size=4, jitter_p=0.0, grayscale_p=0.0, mean=(0, 0, 0), std=(1, 1, 1))
    return Crops(global_crops=[Crop(source=source, **plain) for source in sources])


def levels(view):
    return (view.pixels.amax(dim=(1, 2, 3)) * 255).round().long().div(20, rounding_mode="floor").tolist()


def test_a_view_of_source_one_shows_the_partner():
    views = Views(Greys(), crops(0, 1), seed=0, n_global=2)
    batch = views.__getitems__([Place(3, 1, 7), Place(3, 4, 4)])
    assert levels(batch.views[0]) == batch.index.tolist() == [1, 4]
    assert levels(batch.views[1]) == batch.partner.tolist() == [7, 4]
    assert batch.label.tolist() == [0, 2]
    assert batch.epoch == 3


def test_a_partner_is_read_only_where_a_view_shows_it():
    for sources, n_read in (((0, 0), [1, 4]), ((0, 1), [1, 4, 7])):
        data = Greys()
        Views(data, crops(*sources), seed=0, n_global=2).__getitems__([Place(0, 1, 7), Place(0, 4, 4)])
        assert sorted(data.read) == n_read


def test_each_epoch_asks_for_its_partners_once_and_only_when_its_first_batch_is_due():
    events = []

    def partners(epoch):
        events.append(f"partners of {epoch}")
        return (torch.arange(N) + epoch) % N

    sampler = Sampler(N, 4, seed=0, first=1, n_batches=5)  # two batches an epoch
    for batch in batches(Greys(), crops(0, 1), sampler, n_workers=0, pin=False, partners=partners):
        events.append(batch.epoch)
        assert torch.equal(batch.partner, (batch.index + batch.epoch) % N)
        assert levels(batch.views[1]) == batch.partner.tolist()
    assert events == ["partners of 0", 0, "partners of 1", 1, 1, "partners of 2", 2]


def test_images_are_the_same_with_and_without_partners_and_wherever_a_run_goes_on():
    def images(first, partners=None):
        sampler = Sampler(N, 3, seed=5, first=first, n_batches=8)
        return [
            b.index.tolist() for b in batches(Greys(), crops(0), sampler, n_workers=0, pin=False, partners=partners)
        ]

    whole = images(0)
    assert whole == images(0, lambda epoch: torch.arange(N))
    for first in range(8):
        assert whole[first:] == images(first) == images(first, lambda epoch: torch.arange(N))
    assert whole[3] == order(N, 5, 1)[:3].tolist()


def test_workers_see_the_partners_of_their_epoch():
    sampler = Sampler(N, 5, seed=0, first=0, n_batches=4)
    stream = batches(
        Greys(), crops(0, 1), sampler, n_workers=2, pin=False, partners=lambda epoch: torch.full((N,), epoch)
    )
    assert [levels(batch.views[1]) for batch in stream] == [[0] * 5, [0] * 5, [1] * 5, [1] * 5]
