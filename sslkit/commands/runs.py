"""What can be done with a finished (or running) run directory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from sslkit import checkpoint, config
from sslkit.commands.following import best_step
from sslkit.config import Config
from sslkit.errors import CheckpointError, ConfigError
from sslkit.launch.options import with_data
from sslkit.links import refuse_links
from sslkit.method import Method


def settings_of(run: Path) -> Config:
    """The configuration that a run directory keeps; its data need not be there.

    Raises:
        ConfigError: the directory is not a run's.
    """
    kept = run / "operative.gin"  # not as given: another version may have other defaults
    if not kept.is_file():
        raise ConfigError(f"{run} is not a run directory: there is no {kept.absolute()}")
    settings = config.load([str(kept)])
    if not settings.has("train"):
        raise ConfigError(f"{kept} binds nothing of `train`, so {run} is no run")
    return settings


def method_of(run: Path, settings: Config, at: str | None = None) -> tuple[int, Method]:
    """The run's method in the state of a checkpoint, with its step.

    Args:
        at: the step, or the result that it is best by; the newest one that can be read if left out.

    Raises:
        ConfigError: the run has no such checkpoint.
    """
    found = checkpoint.latest(run) if at is None else _kept(run, at)
    if found is None:
        raise ConfigError(f"{run} has no checkpoint yet (looked at {checkpoint.folder(run).absolute()})")
    step, state = found
    method: Method = settings.part("train", "method")
    try:
        method.make_room(state["identity"]["n_images"], run)
        method.load_state_dict(state["method"])
    except (RuntimeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the checkpoint of step {step} in {run} does not fit its configuration: {reason}"
        ) from error
    return step, method


def _kept(run: Path, at: str) -> tuple[int, dict[str, Any]]:
    step, known = int(at) if at.isdecimal() else best_step(run, at), checkpoint.steps(run)
    if step not in known:
        raise ConfigError(f"--at {at}: {run} has no checkpoint of that step; it has {known or 'none'}")
    return step, checkpoint.of_step(run, step)


def evaluate_run(
    run: Path, protocol: str, data: Path | None, bindings: list[str], at: str | None = None
) -> dict[str, Any]:
    """The protocol's results on the teacher's backbone of a run, with what they are results of."""
    step, method = method_of(run, settings_of(run), at)
    settings = config.load([protocol], with_data([protocol], data, bindings))
    if not settings.has("evaluation"):
        raise ConfigError(f"{protocol} does not set evaluation.protocol")
    ask = settings.part("evaluation", "protocol")
    try:
        ask.check(method.teacher.backbone)
    except ValueError as error:
        raise ConfigError(f"{error}{settings.places(str(error))}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = ask(method.teacher.backbone.to(device), device)
    same = settings.operative.replace(repr(str(data.absolute())), "'DATA'") if data else settings.operative
    return {
        "run": str(run),
        "step": step,
        "protocol": Path(protocol).stem,
        "protocol_hash": hashlib.sha256(same.encode()).hexdigest()[:12],
        **results,
    }


def export_run(run: Path, out: Path, at: str | None = None) -> str:
    """Write the teacher's backbone of a run in timm's layout; how to load it comes back.

    The run's configuration is in the metadata of the tensor file.

    Raises:
        ConfigError: the backbone is not one of timm's.
    """
    from sslkit.backbones import Timm
    from sslkit.backbones.weights import export_timm

    settings = settings_of(run)
    step, method = method_of(run, settings, at)
    backbone = method.teacher.backbone
    if not isinstance(backbone, Timm):
        raise ConfigError(f"{run} has a backbone of type {type(backbone).__name__}, but only Timm ones can be exported")
    size = settings.part("train", "augmenter").crops[0].size
    return export_timm(backbone, out, image_size=size, provenance={"gin": settings.text, "step": str(step)})


def picture_run(run: Path, at: str | None = None) -> list[Path]:
    """Draw what a checkpoint of a run does on images of its data; the paths of the pictures.

    Raises:
        ConfigError: something in the directory leads out of it.
    """
    from sslkit.monitors import gallery

    refuse_links(run)
    settings = settings_of(run)
    _, method = method_of(run, settings, at)
    return gallery.draw(run, method, *settings.part("train", "data", "augmenter"))
