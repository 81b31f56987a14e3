"""What a run directory keeps so that the run can be understood and repeated."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

import sslkit
from sslkit import config
from sslkit.config import Config
from sslkit.loader import processors

PACKAGES = ("torch", "torchvision", "timm", "gin-config", "numpy")


def write(run_dir: Path, settings: Config) -> None:
    """Write `config.gin`, which needs no other file, `operative.gin` and `environment.json`."""
    run_dir.mkdir(parents=True, exist_ok=True)
    _put(run_dir / "config.gin", settings.text)
    _put(run_dir / "operative.gin", config.operative())
    _put(run_dir / "environment.json", json.dumps(environment(), indent=2) + "\n")


def environment() -> dict[str, object]:
    """Command, versions, code state and hardware of this process."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "sslkit": sslkit.__version__,
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": _git("status", "--short"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "processors": processors(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _git(*words: str) -> str | None:
    """What git says of the code that runs; None outside a checkout."""
    try:
        done = subprocess.run(["git", "-C", str(config.PACKAGE), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _put(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
