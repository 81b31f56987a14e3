import torch
import torch.nn.functional as F

from sslkit.evaluate.dense_retrieval import (
    confusion,
    intersection_over_union,
    patch_labels,
    retrieve,
    upsample,
)


def test_dense_retrieval_gives_the_reference_probabilities_and_miou(reference):
    case = reference("dense_retrieval.npz")
    n_classes, ignore, side = (case[name] for name in ("n_classes", "ignore_index", "grid"))
    grid = (side, side)
    train, val = (F.normalize(case[f"{name}_features"], dim=-1) for name in ("train", "val"))
    train_masks, val_masks = (case[f"{name}_masks"].long() for name in ("train", "val"))

    labels = torch.cat([patch_labels(mask, grid, n_classes, ignore, void_as=0) for mask in train_masks])
    soft = retrieve(val.flatten(0, 1), train.flatten(0, 1), labels, case["n_neighbours"], case["temperature"]).view(
        *val.shape[:2], n_classes
    )
    torch.testing.assert_close(soft, case["patch_label_probabilities"], atol=1e-5, rtol=0)

    counts = torch.zeros(n_classes, n_classes, dtype=torch.long)
    for image, mask in zip(soft, val_masks, strict=True):
        counts += confusion(upsample(image, grid, mask.shape).argmax(dim=0), mask, n_classes, ignore)
    assert abs(intersection_over_union(counts).nanmean().item() - case["miou"]) < 1e-4
