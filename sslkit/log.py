"""What a run tells: records in a file and in TensorBoard, and its progress on the screen."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


def read(path: Path) -> list[dict[str, float]]:
    """The records of a metrics file; a last line torn by a kill is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        records += [record] if isinstance(record, dict) and "step" in record else []
    return records


class Log:
    """Writes `metrics.jsonl` and TensorBoard events of a run, one record a call, and shows progress on rank 0.

    Opened at step `first` of a resumed run it drops the records that the run had written beyond its checkpoint.
    """

    def __init__(self, run_dir: Path, *, first: int, n_steps: int, is_main: bool):
        self.n_steps, self.is_main, self.first = n_steps, is_main, first
        self.began = time.monotonic()
        if not is_main:
            return
        self.path = run_dir / "metrics.jsonl"
        kept = [json.dumps(r) + "\n" for r in read(self.path) if first > 0 and r["step"] <= first]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(kept))
        os.replace(partial, self.path)
        self.file = self.path.open("a")
        self.board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first + 1)
        self.bar = tqdm(total=n_steps, initial=first, unit="step") if sys.stderr.isatty() else None

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_main:
            self.file.close()
            self.board.close()
            if self.bar is not None:
                self.bar.close()

    def write(self, step: int, record: Mapping[str, float]) -> None:
        """Keep one record. Numbers that are not finite are written as null, which JSON has and NaN is not."""
        if not self.is_main:
            return
        finite = {k: (v if not isinstance(v, float) or math.isfinite(v) else None) for k, v in record.items()}
        self.file.write(json.dumps({"step": step, **finite}) + "\n")
        self.file.flush()
        for name, value in finite.items():
            if isinstance(value, (int, float)):
                self.board.add_scalar(name, value, step)

    def tick(self) -> None:
        """One step is done."""
        if self.is_main and self.bar is not None:
            self.bar.update()

    def progress(self, step: int, record: Mapping[str, float]) -> None:
        """Show where the run stands: behind the bar on a terminal, as a line elsewhere."""
        if not self.is_main:
            return
        shown = (
            f"loss {record['loss/total']:.3f}, {record['images_per_s']:.0f} images/s, waits {record['data_wait']:.0%}"
        )
        if self.bar is not None:
            self.bar.set_postfix_str(shown)
            return
        left = (time.monotonic() - self.began) / max(1, step - self.first) * (self.n_steps - step)
        print(f"step {step}/{self.n_steps}, {shown}, {_spell(left)} left", flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.is_main:
            tqdm.write(text) if self.bar is not None else print(text, flush=True)


def _spell(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
