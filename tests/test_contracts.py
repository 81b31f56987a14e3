"""Every registered component under the contract of its role, so that a new one is tested by existing."""

from __future__ import annotations

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image

import sslkit.components  # noqa: F401  fills the registry
from sslkit import contracts
from sslkit.contracts import ComponentContract
from sslkit.contracts.inputs import DIM
from sslkit.evaluate import Adversarial, Corruptions, InternalMasking
from sslkit.registry import ROLES, components, register

K = 4
TINY = {  # by name, or by role and name where two roles have it
    "Sinkhorn": dict(n_clusters=K),
    "KMeans": dict(n_clusters=K),
    "Grid": dict(rows=2, columns=2),
    "Queue": dict(n_images=4, n_per_image=3, dim=DIM),
    "Threshold": dict(least=0.2),
    "ImageAcrossImages": dict(search="images"),
    "PatchToMatch": dict(search="objects"),
    "PerImage": dict(n_images=100),
    "RegionAcrossImages": dict(search="objects"),
    "Projector": dict(outputs={"image": 6, "region": 3}, hidden=8, end_norm="plain", predictor_hidden=7),
    "Prototypes": dict(outputs={"image": 6, "region": 3, "patch": "image"}, dim=DIM, hidden=8, bottleneck=4),
    "Constant": dict(value=0.5),
    "schedules.Cosine": dict(start=1.0, end=0.0, warmup_epochs=1),
    "Scaled": dict(value=0.5),
    "ScaledCosine": dict(start=1.0, end=0.0, warmup_epochs=1),
    "Linear": dict(start=1.0, end=0.0),
    "Product": dict(factors=[0.5, 2.0]),
    "Rest": dict(value=0.25),
    "Piecewise": dict(values={0: 1.0, 2: 0.5}),
    "Timm": dict(
        name="vit_tiny_patch16_224",
        options=dict(depth=1, embed_dim=24, num_heads=3, patch_size=8, img_size=32),
        mask="token",
    ),
    "Crop": dict(size=32),
    "Blocks": dict(patch_size=8),
    "Random": dict(patch_size=8),
    "Scenes": dict(n_images=3, size=32),
}


# what takes other components, or files


def crops(self):
    crop, blocks = components("augmenters")["Crop"], components("maskings")["Blocks"]
    return components("augmenters")["Crops"](
        global_crops=(crop(size=32, masking=blocks(8)), crop(size=32, source=1)), local_crops=(crop(size=16),)
    )


def views_of_a_crop(self, augmenter, images, key=contracts.augmenters.KEY):
    return [augmenter(images[0], key, view) for view in range(2)]  # it makes single views, `Crops` asks it for them


def image_folder(self):
    for place in ("cat/one", "dog/two", "dog/three"):
        path = self.folder / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (len(place), 2, 3)).save(path)
    return components("datasets")["ImageFolder"](self.folder)


def segmentation(self):
    for kind in ("images", "labels"):
        (self.folder / kind / "val").mkdir(parents=True, exist_ok=True)
    for name, value in (("a.png", 4), ("b.png", 11)):
        Image.new("RGB", (3, 2), (value, 0, 0)).save(self.folder / "images" / "val" / name)
        Image.fromarray(np.full((2, 3), value, np.uint8)).save(self.folder / "labels" / "val" / name)
    return components("datasets")["Segmentation"](self.folder, split="val")


def dense_retrieval(self):
    train, val = (components("datasets")["Scenes"](n_images=2, size=32, split=split) for split in ("train", "val"))
    return components("evaluate")["DenseRetrieval"](train=train, val=val, n_classes=13, n_neighbours=3, image_size=32)


def kept_of_the_first_view(self, queries, plane):
    return F.normalize(queries.rows[0], dim=-1), queries.place[0]


def labelled_scenes():
    return {
        name: components("datasets")["Scenes"](n_images=n, size=32, objects=(1, 1), n_classes=2, split=name)
        for n, name in ((8, "train"), (4, "val"))
    }


def nearest_neighbours(self):
    return components("evaluate")["NearestNeighbours"](**labelled_scenes(), n_neighbours=(3, 5), image_size=32)


def linear_probe(self):
    return components("evaluate")["LinearProbe"](**labelled_scenes(), image_size=32)


def robustness(self):
    perturbations = dict(
        corruptions=Corruptions(severities=(5,)),
        masking=InternalMasking(sizes=(0.5,)),
        adversarial=Adversarial(radii=(1.0,)),
    )
    return components("evaluate")["Robustness"](probe=linear_probe(self), perturbations=perturbations)


def patch_redundancy(self):
    return components("evaluate")["PatchRedundancy"](**labelled_scenes(), image_size=32)


OWN = {
    "PerImage": dict(n_per_image=1, planes=(0,), kept=kept_of_the_first_view),
    "Crops": dict(make=crops),
    "Crop": dict(views=views_of_a_crop, test_it_says_how_many_views_are_global=None),
    "ImageFolder": dict(make=image_folder),
    "Segmentation": dict(make=segmentation),
    "DenseRetrieval": dict(make=dense_retrieval),
    "NearestNeighbours": dict(make=nearest_neighbours),
    "LinearProbe": dict(make=linear_probe),
    "Robustness": dict(make=robustness),
    "PatchRedundancy": dict(make=patch_redundancy),
}

CONTRACTS = {
    contract.role: contract
    for contract in (getattr(contracts, name) for name in contracts.__all__)
    if contract is not ComponentContract
}


def contract_of(role, name):
    def make(self):
        return components(role)[name](**TINY.get(f"{role}.{name}", TINY.get(name, {})))

    return type(f"Test{role.title()}{name}", (CONTRACTS[role],), {"make": make, **OWN.get(name, {})})


tests = [contract_of(role, name) for role in ROLES for name in components(role)]
globals().update({test.__name__: test for test in tests})  # where pytest looks


def test_every_role_has_a_component_and_a_contract():
    assert all(components(role) for role in ROLES)
    assert set(CONTRACTS) == set(ROLES)


def test_a_name_can_be_taken_only_once():
    with pytest.raises(ValueError, match=r"losses.Distillation is already taken by sslkit.losses.distillation"):
        register("losses")(type("Distillation", (), {}))


def test_an_unknown_role_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match="did you mean 'losses'"):
        components("loses")
    with pytest.raises(ValueError, match="the roles are augmenters, "):
        register("loses")


def test_the_tiny_settings_name_only_what_exists():
    known = {key for role in ROLES for name in components(role) for key in (name, f"{role}.{name}")}
    assert known >= {*TINY, *OWN}
