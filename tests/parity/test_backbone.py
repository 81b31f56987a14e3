"""A timm ViT with converted weights against the authors' ViT."""

import torch

from sslkit.backbones import Timm
from sslkit.backbones.weights import from_authors, load


def vit_like(state, *, image_size, n_heads):
    """A timm ViT of the size of an authors' backbone."""
    patch = state["patch_embed.proj.weight"]
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    options = dict(
        img_size=image_size, patch_size=patch.shape[-1], embed_dim=len(patch), num_heads=n_heads, depth=depth
    )
    return Timm("vit_tiny_patch16_224", options=options)


def test_class_token_and_patches_are_the_authors(reference):
    z = reference("backbone_features.npz")
    state = {name.removeprefix("state/"): x for name, x in z.items() if name.startswith("state/")}
    backbone = vit_like(state, image_size=z["images"].shape[-1], n_heads=3).eval()
    report = load(backbone, {k.removeprefix("backbone."): v for k, v in from_authors(prefixed(state)).items()})
    assert len(report.loaded) == len(state)
    with torch.no_grad():
        image, patches, _ = backbone(z["images"])
    torch.testing.assert_close(image, z["cls"], rtol=0, atol=1e-5)
    torch.testing.assert_close(patches, z["tokens"][:, 1:], rtol=0, atol=1e-5)


def prefixed(state):
    return {f"module.backbone.{name}": x for name, x in state.items()}
