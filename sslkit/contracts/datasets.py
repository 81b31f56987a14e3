"""What data sets keep to."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from sslkit.contracts.component import ComponentContract
from sslkit.types import Sample


class DatasetContract(ComponentContract[Any]):
    """RGB images by number, always the same ones, in whatever order and process they are asked for."""

    role = "datasets"

    def make(self) -> Any:
        """A data set of two images or a few more; files that it reads can be written to `self.folder`."""
        raise NotImplementedError

    def test_it_holds_rgb_images_that_know_their_number(self) -> None:
        data = self.component()
        assert len(data) > 1
        for i in range(len(data)):
            assert (data[i].image.mode, data[i].index) == ("RGB", i)

    def test_masks_have_a_class_for_every_pixel_of_their_image(self) -> None:
        data = self.component()
        for i in range(len(data)):
            sample = data[i]
            for mask in (sample.mask, sample.instances):
                assert mask is None or mask.shape == (sample.image.height, sample.image.width)
                assert mask is None or mask.dtype == torch.int64

    def test_an_item_depends_on_its_number_alone(self) -> None:
        data, again = self.component(), self.component()
        forwards = [data[i] for i in range(len(data))]
        torch.manual_seed(7)
        np.random.seed(7)
        for i in reversed(range(len(data))):
            assert_same_sample(again[i], forwards[i])

    def test_a_copy_in_another_process_holds_the_same(self) -> None:
        data = self.component()
        again = pickle.loads(pickle.dumps(data))
        assert len(again) == len(data)
        for i in range(len(data)):
            assert_same_sample(again[i], data[i])

    def test_an_item_that_does_not_exist_is_an_index_error(self) -> None:
        data = self.component()
        for number in (len(data), -1):  # a negative number would be a mistake of ours, and find an image
            with pytest.raises(IndexError):
                data[number]


def assert_same_sample(here: Sample, there: Sample) -> None:
    assert np.array_equal(np.asarray(here.image), np.asarray(there.image))
    assert (here.index, here.label) == (there.index, there.label)
    for x, y in ((here.mask, there.mask), (here.instances, there.instances)):
        assert (x is None and y is None) or (x is not None and y is not None and torch.equal(x, y))
