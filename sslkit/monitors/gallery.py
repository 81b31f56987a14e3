"""The pictures that a run directory holds."""

from __future__ import annotations

from pathlib import Path

import torch

from sslkit.augmenters import Augmenter
from sslkit.backbones import Backbone, Timm, Window, receptive_field
from sslkit.evaluate.base import evaluating
from sslkit.loader import Images, Views
from sslkit.method import Method
from sslkit.monitors import pictures
from sslkit.monitors.receptive_field_map import receptive_field_map
from sslkit.partners import Partners

N_IMAGES = 32  # looked at; the pictures show a handful of them
N_ROWS, N_NEIGHBOURS = 6, 5  # of the picture of partners


@torch.no_grad()
def draw(run_dir: Path, method: Method, data: Images, augmenter: Augmenter) -> list[Path]:
    """Draw clusters, matches, partners, features, receptive fields and curves into `run_dir/pictures`.

    The paths of those that there are come back. The images are spread evenly over the data and seen in fixed views, so
    that pictures of two moments compare.
    """
    folder = run_dir / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    device = next(method.parameters()).device
    n = min(N_IMAGES, len(data))
    views = Views(data, augmenter, seed=0, n_global=augmenter.n_global)
    batch = views.of(i * len(data) // n for i in range(n)).to(device)
    drawn = []
    with evaluating(method):
        step = method.look(batch)
        if step.regions is not None:
            drawn.append(folder / "clusters.png")
            pictures.clusters(batch, step.regions, step.teacher.grids, drawn[-1])
            for name, found in step.matches.items():
                if method.searches[name].level == "region":
                    drawn.append(folder / f"matches_{name}.png")
                    pictures.matches(batch, step.regions, step.teacher.grids, found, data, drawn[-1])
        if method.partners is not None:
            drawn.append(folder / "partners.png")
            _partners(method.partners, data, drawn[-1])
        drawn.append(folder / "features.png")
        pictures.pca(method.teacher.backbone, batch.views[0].pixels, drawn[-1])
        drawn.append(folder / "receptive_field.png")
        backbone = method.teacher.backbone
        receptive_field_map(backbone, batch.views[0].pixels, drawn[-1], window=_window(backbone))
    if (run_dir / "metrics.jsonl").is_file():
        drawn.append(folder / "curves.png")
        pictures.curves(run_dir / "metrics.jsonl", drawn[-1])
    return drawn


def _window(backbone: Backbone) -> Window | None:
    """What patches can depend on, where that is less than everything and known: those of the last layer."""
    if not isinstance(backbone, Timm) or backbone.patch_layer is not None:
        return None
    try:
        return receptive_field(backbone.model)
    except ValueError:
        return None


def _partners(partners: Partners, data: Images, path: Path) -> None:
    """Some images with their partners of this epoch, those that have another one first."""
    table = partners.table.cpu()
    own = torch.arange(len(table))
    moved = (table != own).nonzero()[:, 0]
    shown = moved if len(moved) >= N_ROWS else torch.cat([moved, own[table == own][: N_ROWS - len(moved)]])
    shown = shown[torch.linspace(0, len(shown) - 1, min(N_ROWS, len(shown))).long()]
    found = partners.memory.neighbours(shown)
    pictures.partners(
        shown,
        found.index[:, :N_NEIGHBOURS],
        found.similarity[:, :N_NEIGHBOURS],
        table[shown],
        data,
        path,
        title=f"Partners of epoch {partners.epoch}: another image for {len(moved) / len(table):.1%} of all",
    )
