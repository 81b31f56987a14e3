import pickle

import numpy as np
import pytest
from PIL import Image

from sslkit.datasets import Segmentation


@pytest.fixture
def root(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind / "val").mkdir(parents=True)
    for name in ("b.c.jpg", "a.png"):
        Image.new("RGB", (3, 2)).save(tmp_path / "images" / "val" / name)
    for name, value in (("a.png", 4), ("b.c.png", 11)):
        Image.fromarray(np.array([[0, 1, value], [0, 1, value]], np.uint8)).save(tmp_path / "labels" / "val" / name)
    return tmp_path


def test_every_image_comes_with_the_mask_of_its_name(root):
    street = Segmentation(root, split="val")
    assert len(street) == 2
    assert [street[i].mask.tolist()[0] for i in range(2)] == [[0, 1, 4], [0, 1, 11]]
    assert (street[1].image.mode, street[1].image.size, street[1].index, street[1].label) == ("RGB", (3, 2), 1, None)


def test_masks_with_a_palette_keep_their_indices(root):
    image = Image.fromarray(np.array([[0, 7, 255]] * 2, np.uint8))
    image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(root / "labels" / "val" / "a.png")
    assert Segmentation(root, split="val")[0].mask.tolist()[0] == [0, 7, 255]


def test_the_set_survives_pickling(root):
    street = Segmentation(root, split="val")
    again = pickle.loads(pickle.dumps(street))
    assert repr(again) == repr(street) and (again[0].mask == street[0].mask).all()


def test_a_missing_label_file_is_named_with_its_image(root):
    (root / "labels" / "val" / "b.c.png").unlink()
    with pytest.raises(ValueError, match=r"images/val/b\.c\.jpg .*labels/val/b\.c\.png"):
        Segmentation(root, split="val")


def test_a_mask_of_another_size_is_named(root):
    Image.new("L", (5, 2)).save(root / "labels" / "val" / "a.png")
    with pytest.raises(ValueError, match=r"labels/val/a\.png is 5 x 2 .*images/val/a\.png is 3 x 2"):
        Segmentation(root, split="val")[0]


def test_a_mask_in_color_is_named(root):
    Image.new("RGB", (3, 2)).save(root / "labels" / "val" / "a.png")
    with pytest.raises(ValueError, match=r"labels/val/a\.png .*mode RGB"):
        Segmentation(root, split="val")[0]


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_an_unreadable_file_is_named(root, kind):
    (root / kind / "val" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"cannot read .*{kind}/val/a\.png"):
        Segmentation(root, split="val")[0]


def test_an_unknown_split_is_answered_with_those_there_are(root):
    with pytest.raises(ValueError, match=r"split='test'.*images/test; the splits there are val"):
        Segmentation(root, split="test")
    with pytest.raises(ValueError, match="it takes root/images/SPLIT"):
        Segmentation(root / "nowhere", split="val")


def test_a_split_without_images_is_an_error(root):
    (root / "images" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no image ending in .*images/empty"):
        Segmentation(root, split="empty")


def test_an_item_that_does_not_exist_is_an_error(root):
    with pytest.raises(IndexError, match="item 2 of"):
        Segmentation(root, split="val")[2]
