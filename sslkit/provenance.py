"""What a run directory keeps so that the run can be understood and repeated."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sslkit
from sslkit import checkpoint, files, log, rendezvous
from sslkit.config import Config
from sslkit.config.source import PACKAGE, search_path
from sslkit.links import refuse_links
from sslkit.registry import everything

SNAPSHOT = "snapshot.json"  # beside a copy of the code: what `code_state` said when it was taken
PACKAGES = ("torch", "torchvision", "timm", "gin-config", "numpy")


def write(run_dir: Path, settings: Config, command: list[str]) -> None:
    """Write what a start of a run was made from.

    `config.gin` is the configuration as given, in one file that needs no other; `operative.gin` has every value that is
    used; `environment.json` has a record for each start; `code/HASH.diff` is how its code differed from its commit.

    Raises:
        ConfigError: something in the directory leads out of it.
    """
    refuse_links(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    files.put_text(run_dir / "config.gin", settings.text)
    files.put_text(run_dir / "operative.gin", settings.operative)
    seed = settings.argument("train", "seed").value
    starts = [*starts_of(run_dir), {**environment(), "command": command, "seed": seed}]
    files.put_json(run_dir / "environment.json", starts)
    if not checkpoint.steps(run_dir):
        for name in ("results.json", "evaluations.json"):  # of a run that is begun anew
            (run_dir / name).unlink(missing_ok=True)
    difference = _difference()
    if difference:
        (run_dir / "code").mkdir(exist_ok=True)
        files.put_text(run_dir / "code" / f"{_hash(difference)}.diff", difference + "\n")


def write_results(run_dir: Path, results: Mapping[str, float]) -> None:
    """Write `results.json`, which says that a run is finished and with what: its last loss and all evaluations."""
    losses = [r["loss/total"] for r in log.read(run_dir / "metrics.jsonl") if "loss/total" in r]
    last = {"loss/total": losses[-1]} if losses else {}
    files.put_json(run_dir / "results.json", {**last, **results})


def code_has_changed(run_dir: Path) -> str:
    """How the code of a run's last start differs from this; empty if it does not."""
    starts = starts_of(run_dir)
    if not starts:
        return "it is not known with which code that run was made"
    before, now = starts[-1], environment()
    differing = [name for name in ("sslkit", "commit", "code") if before.get(name) != now[name]]
    packages = before.get("packages")
    had = packages if isinstance(packages, dict) else {}
    differing += [name for name, v in now["packages"].items() if had.get(name) != v]
    return "" if not differing else f"not the same as in that run: {', '.join(differing)}"


def starts_of(run_dir: Path) -> list[dict[str, Any]]:
    """The records of all starts of a run, oldest first."""
    starts = files.read_json(run_dir / "environment.json", list)
    return [start for start in starts if isinstance(start, dict)]


def environment() -> dict[str, Any]:
    """Versions, code state and hardware of this process."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "sslkit": sslkit.__version__,
        "commit": code_state()["commit"],
        "code": _hash(_difference()),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES} | _plugins(),
        "folder": os.getcwd(),
        "host": platform.node(),
        "processors": rendezvous.processors(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "ranks": rendezvous.here().size,
    }


def code_state() -> dict[str, str | None]:
    """The commit of the code that runs and how it differs from that; of a snapshot, when it was taken."""
    kept = PACKAGE.parent / SNAPSHOT
    if kept.is_file():
        return {"commit": None, "difference": "", **files.read_json(kept, dict)}
    return {"commit": _git("rev-parse", "HEAD"), "difference": _changes()}


def _difference() -> str:
    return code_state()["difference"] or ""


def _plugins() -> dict[str, str]:
    """Versions of the packages whose components are known."""
    packages = {known.package for known in everything()} - {"sslkit"}
    return {name: _version(name) for name in sorted(packages)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@functools.cache  # asked early, this is the code that the process has loaded
def _changes() -> str:
    """How the code that runs differs from its commit, new files among it; empty if it does not or nobody knows."""
    new = (_git("ls-files", "--others", "--exclude-standard", "--full-name", ":/") or "").splitlines()
    texts = [_git("diff", "HEAD") or ""]
    for name in new:
        path = PACKAGE.parent / name
        if path.suffix in (".py", ".gin", ".toml") and path.is_file():
            texts.append(f"new file {name}\n{path.read_text(errors='replace')}")
    return "\n".join(text for text in texts if text)


def _hash(text: str) -> str | None:
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else None


def _git(*words: str) -> str | None:
    """What git says of the code that runs; None outside a checkout of it."""
    if search_path() != PACKAGE.parent:  # installed, perhaps inside a repository of somebody else
        return None
    try:
        done = subprocess.run(["git", "-C", str(PACKAGE), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip("\n") if done.returncode == 0 else None
