import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from sslkit.datasets import ImageFolder
from sslkit.datasets.image_folder import UnreadableImagesError, read_rgb


def fill(root, names, *, broken=()):
    """Images of one grey each, 1, 2, ... in the order of `names`; `broken` ones hold no image."""
    for value, name in enumerate(names, start=1):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in broken:
            path.write_bytes(b"not an image")
        else:
            Image.new("RGB", (6, 4), (value, value, value)).save(path)
    return root


def values(folder):
    return [folder[i].image.getpixel((0, 0))[0] for i in range(len(folder))]


def test_items_come_in_the_order_of_their_paths_with_first_level_labels(tmp_path):
    folder = ImageFolder(fill(tmp_path, ["a/1.png", "a/2/x.png", "b/0.PNG", "b/deep/er/1.bmp"]))
    assert values(folder) == [1, 2, 3, 4]
    assert folder.classes == ("a", "b")
    assert [folder[i].label for i in range(4)] == [0, 0, 1, 1]
    assert [folder[i].index for i in range(4)] == [0, 1, 2, 3]


def test_there_are_no_labels_when_an_image_lies_at_the_top(tmp_path):
    folder = ImageFolder(fill(tmp_path, ["a/1.png", "top.png"]))
    assert folder.classes == () and folder[0].label is None


def test_a_split_is_a_sub_folder_with_classes_of_its_own(tmp_path):
    fill(tmp_path, ["train/a/1.png", "train/b/2.png", "val/b/3.png"])
    train, val = (ImageFolder(tmp_path, split=split) for split in ("train", "val"))
    assert (train.classes, values(train)) == (("a", "b"), [1, 2])
    assert (val.classes, values(val), val[0].label) == (("b",), [3], 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"ImageFolder.root='.*', split='test': there is no folder .*/test$"):
        ImageFolder(tmp_path, split="test")
    with pytest.raises(ValueError, match=r"ImageFolder.root='.*', split='empty': no image in .*/empty or below it"):
        ImageFolder(tmp_path, split="empty")


def test_other_and_hidden_files_are_left_out(tmp_path):
    fill(tmp_path, ["1.png"])
    (tmp_path / "._2.png").write_bytes(b"")
    (tmp_path / "list.txt").write_text("1.png")
    assert len(ImageFolder(tmp_path)) == 1


def test_an_unreadable_image_is_reported_once_and_the_next_stands_in(tmp_path, caplog):
    names = ["a/1.png", "a/2.png", "b/3.png"]
    folder = ImageFolder(fill(tmp_path, names, broken=["a/2.png"]), max_unreadable=0.5)
    with caplog.at_level(logging.WARNING):
        assert values(folder) == values(folder) == [1, 3, 3]
    assert [str(tmp_path / "a" / "2.png") in r.getMessage() for r in caplog.records] == [True]
    assert (folder[1].index, folder[1].label) == (1, 1)  # the label is that of the image shown


def test_the_last_image_is_replaced_by_the_first(tmp_path):
    folder = ImageFolder(fill(tmp_path, ["1.png", "2.png"], broken=["2.png"]), max_unreadable=0.5)
    assert values(folder) == [1, 1]


def test_too_many_unreadable_images_stop_the_run_with_their_paths(tmp_path):
    names = [f"{i:02}.png" for i in range(20)]
    folder = ImageFolder(fill(tmp_path, names, broken=names[4:7]), max_unreadable=0.1)
    with pytest.raises(UnreadableImagesError, match=r"3 of 20 .*ImageFolder\.max_unreadable=0\.1") as caught:
        values(folder)
    assert all(str(tmp_path / name) in str(caught.value) for name in names[4:7])


def test_a_folder_of_only_unreadable_images_is_an_error_at_any_share(tmp_path):
    folder = ImageFolder(fill(tmp_path, ["1.png", "2.png"], broken=["1.png", "2.png"]), max_unreadable=1.0)
    with pytest.raises(UnreadableImagesError, match="not one image"):
        folder[0]


@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_workers_of_a_loader_count_together(tmp_path, context):
    names = [f"{i}.png" for i in range(8)]
    folder = ImageFolder(fill(tmp_path, names, broken=["0.png", "5.png"]), max_unreadable=0.25)
    loader = torch.utils.data.DataLoader(
        folder, batch_size=None, num_workers=2, multiprocessing_context=context, sampler=[0, 5, 0, 5]
    )
    assert [sample.image.getpixel((0, 0))[0] for sample in loader] == [2, 7, 2, 7]
    assert [i for i in range(8) if folder._state[i] == 2] == [0, 5]


def test_an_error_in_a_worker_keeps_its_kind_and_text(tmp_path):
    folder = ImageFolder(fill(tmp_path, ["0.png", "1.png"], broken=["1.png"]))
    loader = torch.utils.data.DataLoader(folder, batch_size=None, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(UnreadableImagesError, match=str(tmp_path / "1.png")):
        list(loader)


def test_the_set_survives_pickling(tmp_path):
    folder = ImageFolder(fill(tmp_path, ["a/1.png", "b/ü.png"]))
    again = pickle.loads(pickle.dumps(folder))
    assert repr(again) == repr(folder) and values(again) == [1, 2]


def test_a_truncated_or_empty_file_is_unreadable(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:1500])
    (tmp_path / "3.png").write_bytes(b"")
    folder = ImageFolder(tmp_path, max_unreadable=0.7)
    first = np.asarray(folder[0].image)
    assert (np.asarray(folder[1].image) == first).all() and (np.asarray(folder[2].image) == first).all()


def palette():
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 90, 90, 90])
    return image


def transparent_palette():
    image = palette()
    image.info["transparency"] = b"\x00\x80"
    return image


@pytest.mark.parametrize(
    "image, suffix",
    [
        (Image.new("L", (2, 2), 90), "png"),
        (Image.new("LA", (2, 2), (90, 10)), "png"),
        (Image.new("RGBA", (2, 2), (90, 90, 90, 10)), "png"),
        (palette(), "png"),
        (transparent_palette(), "png"),
        (Image.new("CMYK", (2, 2), (165, 165, 165, 0)), "tif"),
        (Image.fromarray(np.full((2, 2), 90 * 257, np.uint16)), "png"),
        (Image.fromarray(np.full((2, 2), 90 * 257, np.int32)), "tif"),
    ],
    ids=["grey", "grey-alpha", "rgba", "palette", "transparent-palette", "cmyk", "16-bit", "32-bit"],
)
def test_every_kind_of_pixel_becomes_rgb_of_the_same_brightness(tmp_path, image, suffix):
    image.save(tmp_path / f"x.{suffix}")
    rgb = read_rgb(tmp_path / f"x.{suffix}")
    assert rgb.mode == "RGB" and rgb.getpixel((0, 0)) == (90, 90, 90)


def test_a_folder_that_is_missing_or_has_no_images_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"ImageFolder\.root.*{tmp_path / 'nowhere'}"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"ImageFolder\.root.*{tmp_path}.*\.jpeg, \.jpg"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_out_of_range_is_named_with_its_value(tmp_path, share):
    with pytest.raises(ValueError, match=f"max_unreadable={share}"):
        ImageFolder(fill(tmp_path, ["1.png"]), max_unreadable=share)


def test_an_item_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(IndexError, match="item 1 of"):
        ImageFolder(fill(tmp_path, ["1.png"]))[1]


def test_a_link_to_its_own_folder_adds_no_images(tmp_path):
    fill(tmp_path, ["a/1.png", "a/2.png"])
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert len(ImageFolder(tmp_path)) == 2
