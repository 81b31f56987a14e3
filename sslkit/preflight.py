"""What can be known to be wrong before any data is read."""

from __future__ import annotations

import inspect

import torch
from PIL import Image

from sslkit import config
from sslkit.config import Config
from sslkit.errors import ConfigError
from sslkit.schedules import Time
from sslkit.types import Batch, Key, View


def required(settings: Config) -> None:
    """Refuse a configuration that leaves a value of `train` open.

    Raises:
        ConfigError: naming all of them.
    """
    from sslkit.train import train

    given = {b.parameter for b in settings.bindings if b.selector == "train"}
    needed = [
        name
        for name, p in inspect.signature(train).parameters.items()
        if p.default is inspect.Parameter.empty and name not in given | {"run_dir"}
    ]
    if needed:
        raise ConfigError("\n".join(f"train.{name} is not set; add `train.{name} = ...`" for name in needed))


def one_step(settings: Config) -> None:
    """Take one step on tensors without content: every size, head, level and search that does not fit shows itself.

    Raises:
        ConfigError: with the reason and the bindings it speaks of.
    """
    augmenter = config.build(settings, "train", "augmenter")
    blank = Image.new("RGB", (64, 64))
    try:
        views = augmenter([blank], Key(0, 0, 0))
    except ValueError as error:
        raise ConfigError(f"{error}{settings.places(str(error))}") from error
    with torch.device("meta"):
        method = config.build(settings, "train", "method").train()
        batch = Batch(
            views=tuple(View.stack([view, view]).to("meta") for view in views),
            n_global=augmenter.n_global,
            index=torch.zeros(2, dtype=torch.long),
        )
        method.set_time(Time())
        try:
            outcome = method(batch)
            outcome.total.backward()
        except (ValueError, RuntimeError, TypeError, AssertionError, IndexError, KeyError) as error:
            sizes = ", ".join(f"{v.pixels.shape[-1]} px" for v in views)
            reason = f"a step does not work on views of {sizes}: {error}"
            raise ConfigError(reason + settings.places(reason)) from error
