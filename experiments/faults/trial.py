"""One fault and its judgement: a run is disturbed, the cause goes, the same command is given again."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.faults import shipped
from experiments.faults.shipped import N_STEPS, SAVE_EVERY
from experiments.faults.start import LONGEST_S, Inside, Start, nothing
from sslkit import checkpoint, log, status


@dataclass(frozen=True)
class Fault:
    """What is done to which run.

    Args:
        forked: whether ranks are forked; else the command runs as a user types it.
    """

    kind: str
    method: str
    ranks: int
    number: int
    forked: bool = True

    @property
    def key(self) -> str:
        """Names it in the results."""
        return f"{self.kind} | {self.method} | {self.ranks} | {self.number}{'' if self.forked else ' | command'}"


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


class Trial:
    """The run that a fault is done to.

    `wrong` collects what was promised and not kept, `seen` what happened.
    """

    def __init__(self, fault: Fault, folder: Path, whole: Path):
        self.fault, self.whole = fault, whole
        self.rng = random.Random(fault.key)
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.run, self.data = folder / "run", folder.parent / "images"
        self.said = folder / "said.txt"
        self.bindings: list[str] = []
        self.n_workers = 0
        self.keeps_metrics = True
        self.environment: dict[str, str] = {}
        self.wrong: list[str] = []
        self.seen: list[str] = []

    def own_data(self) -> Path:
        """Images that belong to this trial."""
        self.data = shutil.copytree(self.data, self.folder / "images")
        return self.data

    def start(self, inside: Inside = nothing, bindings: Sequence[str] = (), run: Path | None = None) -> Start:
        """Give the command."""
        fault = self.fault
        usual = shipped.bindings(fault.method, self.data, fault.ranks, self.n_workers)
        given = list({text.partition(" = ")[0]: text for text in (*usual, *self.bindings, *bindings)}.values())
        return Start(
            shipped.FILES[fault.method], given, run or self.run, self.said,
            ranks=fault.ranks, forked=fault.forked, inside=inside, environment=self.environment,
        )  # fmt: skip

    def expect(self, kept: bool, promise: str) -> None:
        """A promise, and whether it was kept."""
        if not kept:
            self.wrong.append(promise)

    def ends(self, start: Start, codes: Sequence[int], *words: str) -> None:
        """Wait for the end; exit codes have to be among these, and each of the words has to be said."""
        found = start.wait()
        self.seen.append(f"exit {' '.join(map(str, found))}")
        self.expect(all(code in codes for code in found), f"exit codes {found} among {list(codes)}")
        self.expect(not start.overdue, f"ranks {start.overdue} end by themselves")
        text = " ".join(self.said.read_text(errors="replace").split()) if self.said.exists() else ""
        for word in words:
            self.expect(word in text, f"says {word!r}")
        own = text.replace("Exception in thread Thread-1: Traceback", "")  # TensorBoard's, of a disk that is full
        self.expect("Traceback" not in own, "no traceback")

    def step(self) -> int:
        """The step of the newest record."""
        try:
            records = log.read(self.run / "metrics.jsonl")
        except OSError:
            return 0
        return int(max((record["step"] for record in records), default=0))

    def reach(self, step: int, start: Start) -> int:
        """Until the run has come to a step, or its end."""
        until = time.monotonic() + LONGEST_S
        while self.step() < step and not start.is_over() and time.monotonic() < until:
            time.sleep(0.01)
        return self.step()

    def whole_steps(self) -> list[int]:
        """Steps with a checkpoint that can be read."""
        found = []
        for step, path in checkpoint.paths(self.run).items():
            try:
                checkpoint.read(path)
            except Exception:
                continue
            found.append(step)
        return found

    def expect_kept(self, logged: int, *, saved: bool = False) -> None:
        """Nothing finished is lost: of `logged` steps all that were saved, which is all of them where a run says so."""
        least = logged if saved else (logged - 1) // SAVE_EVERY * SAVE_EVERY - SAVE_EVERY
        newest = max(self.whole_steps(), default=0)
        self.expect(newest >= least, f"a checkpoint of step {least} or later is whole (newest {newest} of {logged})")

    def goes_on(self) -> None:
        """The same command leads to the weights of the run that nothing disturbed."""
        newest, before = max(self.whole_steps(), default=0), len(self.said.read_text()) if self.said.exists() else 0
        start = self.start()
        codes = start.wait()
        said = self.said.read_text(errors="replace")[before:] if self.said.exists() else ""
        self.seen.append(f"went on from {newest}")
        self.expect(codes == [0] * len(codes), f"the same command ends with 0 (was {codes}: {said.strip()[-300:]})")
        if newest:
            self.expect(f"going on from step {newest} of" in said, f"goes on from step {newest}, the newest whole one")
        found = re.findall(r"going on from step (\d+)", said)
        self.seen += [f"said {found}"] if found != ([str(newest)] if newest else []) else []
        if any(codes):
            return
        step, state = checkpoint.latest(self.run) or (0, {})
        whole = torch.load(self.whole, weights_only=True)
        self.expect(step == N_STEPS, f"the last checkpoint is of step {N_STEPS} (is {step})")
        differing = [name for name in whole if not same(whole[name], state.get(name))]
        self.expect(not differing and whole.keys() == state.keys(), f"bits of the undisturbed run ({differing} differ)")
        self.expect(status.read(self.run).get("state") == "finished", "status.json says finished")
        self.expect((self.run / "results.json").is_file(), "results.json is there")
        if self.keeps_metrics:
            steps = [record["step"] for record in log.read(self.run / "metrics.jsonl") if "loss/total" in record]
            self.expect(steps == list(range(1, N_STEPS + 1)), f"every step once in metrics.jsonl (has {steps})")
        left = [path.name for path in self.run.rglob("*.partial*")]
        self.expect(not left, f"nothing half written is left ({left})")
