"""What a run tells: records in a file and in TensorBoard, and its progress on the screen and in `log.txt`."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from sslkit import files
from sslkit.status import Status, spell


def read(path: Path) -> list[dict[str, float]]:
    """The records of a metrics file; lines that a kill or the disk has damaged are left out."""
    records = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        records += [record] if isinstance(record, dict) and isinstance(record.get("step"), int) else []
    return records


class Log:
    """Writes `metrics.jsonl`, TensorBoard events, `log.txt` and `status.json` of a run, and shows progress on rank 0.

    Opened at step `first` of a resumed run it drops the records that the run had written beyond its checkpoint, so that
    curves go on where they stopped.
    """

    def __init__(self, run_dir: Path, *, first: int, n_steps: int, is_main: bool):
        self.n_steps, self.is_main, self.first = n_steps, is_main, first
        self.began = time.monotonic()
        if not is_main:
            return
        self.path = run_dir / "metrics.jsonl"
        kept = [json.dumps(r) + "\n" for r in read(self.path) if first > 0 and r["step"] <= first]
        files.put_text(self.path, "".join(kept))
        self.file = self.path.open("a")
        self.board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first + 1)
        self.bar = tqdm(total=n_steps, initial=first, unit="step") if sys.stderr.isatty() else None
        self.text = Text(run_dir)
        self.status = Status(run_dir)
        self.status.change("running", step=first, n_steps=n_steps)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_main:
            if self.bar is not None:
                self.bar.close()
            self.text.close()
            try:
                self.status.flush()
                self.file.close()
                self.board.close()
            except OSError:
                if kind is None:  # else it is what stops the run, or follows from that
                    raise

    def write(self, step: int, record: Mapping[str, float]) -> None:
        """Keep one record. Numbers that are not finite are written as null, which JSON has and NaN is not.

        Raises:
            OSError: it cannot be written.
        """
        if not self.is_main:
            return
        finite = {k: (v if not isinstance(v, float) or math.isfinite(v) else None) for k, v in record.items()}
        try:
            self.file.write(json.dumps({"step": step, **finite}) + "\n")
            self.file.flush()
            for name, value in finite.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(name, value, step)
        except OSError as error:
            raise OSError(f"cannot write the record of step {step} into {self.path.parent}: {error}") from error

    def tick(self, done: int) -> None:
        """So many steps are done."""
        if self.is_main:
            self.status.beat(step=done, left_s=self._left(done))
            if self.bar is not None:
                self.bar.update()

    def progress(self, step: int, record: Mapping[str, float]) -> None:
        """Show where the run stands: behind the bar on a terminal, as a line elsewhere."""
        if not self.is_main:
            return
        shown = (
            f"loss {record['loss/total']:.3f}, {record['images_per_s']:.0f} images/s, waits {record['data_wait']:.0%}"
        )
        self.status.beat(loss=record["loss/total"], images_per_s=record["images_per_s"])
        left = f", {spell(self._left(step))} left" if step - self.first > 1 else ""  # the first step is no measure
        line = f"step {step}/{self.n_steps}, {shown}{left}"
        self.text.write(line)
        if self.bar is not None:
            self.bar.set_postfix_str(shown)
        else:
            print(line, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.is_main:
            self.text.write(text)
            tqdm.write(text) if self.bar is not None else print(text, flush=True)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No step is taken while this lasts; rank 0 asks."""
        self.status.change("evaluating")
        try:
            yield
        finally:
            self.status.change("running")

    def _left(self, step: int) -> float:
        return (time.monotonic() - self.began) / max(1, step - self.first) * (self.n_steps - step)


class Text(logging.Handler):
    """`log.txt` of a run: what was said, each line with its time, through all starts; warnings of sslkit among it."""

    def __init__(self, run_dir: Path):
        super().__init__(logging.WARNING)
        self.file = (run_dir / "log.txt").open("a")
        logging.getLogger("sslkit").addHandler(self)

    def write(self, text: str) -> None:
        """Add a line."""
        self.file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")
        self.file.flush()

    def emit(self, record: logging.LogRecord) -> None:
        self.write(record.getMessage())

    def close(self) -> None:
        logging.getLogger("sslkit").removeHandler(self)
        self.file.close()
        super().close()
