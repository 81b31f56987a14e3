"""Checkpoints written behind the training: the run waits for a copy in memory, and not for the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from sslkit import checkpoint

_Name = tuple[Any, ...]  # the keys that lead to a tensor: joined to a text, two of them could be one


class Saver:
    """Writes one checkpoint at a time in a thread of its own.

    A state is copied into host memory that is kept for the next one: a run needs room for its state twice, and a save
    takes the time of a copy. What goes wrong while a file is written stops the run at the next call.

    Args:
        written: called in the thread after each file, with its step.
    """

    def __init__(self, run_dir: Path, written: Callable[[int], None] = lambda step: None):
        self.run_dir, self.written = run_dir, written
        self._copies: dict[_Name, Tensor] = {}
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Copy the state and leave the writing to the thread, once the file before is written.

        Raises:
            OSError: that one could not be written.
        """
        self.wait()
        names: set[_Name] = set()
        copied = self._copied(state, (), names)
        for gone in self._copies.keys() - names:
            del self._copies[gone]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._thread = Thread(target=self._write, args=(step, copied), name=f"checkpoint {step}")
        self._thread.start()

    def wait(self) -> None:
        """Until the last file is on the disk.

        Raises:
            OSError: it could not be written; those before it are as they were.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        elif self._thread is not None:  # what is being written is still of use, and what stops the run is more urgent
            self._thread.join()

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        try:
            checkpoint.save(self.run_dir, step, state)
            self.written(step)
        except BaseException as error:
            self._error = error

    def _copied(self, value: Any, name: _Name, names: set[_Name]) -> Any:
        """The value with every tensor copied into memory of ours."""
        if isinstance(value, Tensor):
            names.add(name)
            return self._copy(value, name)
        if isinstance(value, Mapping):
            return {key: self._copied(x, (*name, key), names) for key, x in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._copied(x, (*name, i), names) for i, x in enumerate(value))
        return value

    def _copy(self, tensor: Tensor, name: _Name) -> Tensor:
        kept = self._copies.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            pin = tensor.device.type == "cuda"
            kept = self._copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pin)
        return kept.copy_(tensor.detach(), non_blocking=True)
