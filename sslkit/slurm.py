"""What a run asks of Slurm, and the file that is submitted."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslkit.parameters import Count, Natural, Positive, checked
from sslkit.registry import entry

_PARAMETERS = (
    "nodes",
    "gpus",
    "tasks",
    "cpus",
    "memory_gb",
    "partition",
    "account",
    "qos",
    "constraint",
    "time",
    "signal_s",
    "array_limit",
    "setup",
    "options",
)
FOR_SHELL = ("setup", "options")  # become lines of a shell, which not every file may bring along
_OURS = {
    "cpus_per_task",
    "gpus_per_node",
    "mem",
    "ntasks",
    "ntasks_per_node",
    "array",
    "chdir",
    "error",
    "export",
    "export_file",
    "job_name",
    "open_mode",
    "output",
    "requeue",
    "no_requeue",
    "signal",
    "wrap",
    *("parsable", "test_only", "wait", "help", "usage", "version", "quiet", "verbose"),  # change what sbatch prints
}


@entry(free=_PARAMETERS)
@dataclass(frozen=True, kw_only=True)
class Slurm:
    """The resources of a job, bound in a gin file as `Slurm.partition = 'gpu'` or given to `launch --slurm`.

    Args:
        nodes: machines.
        gpus: accelerators of each.
        tasks: ranks on each; one for each accelerator if left out, and one where there is none.
        cpus: processors of each rank; all but one of them load images.
        memory_gb: host memory of each machine; what the partition gives if left out.
        partition, account, qos, constraint: as Slurm has them; its defaults if left out.
        time: longest time before the job is stopped and queued again: minutes, or `"hours:minutes:seconds"` or
            `"days-hours"` as Slurm writes it.
        signal_s: seconds before the end of that time at which the run is asked to save; longer than a step and a
            checkpoint take, and the search for partners (AdaSim) at the start of an epoch.
        array_limit: jobs of a sweep that run at the same time; all if left out.
        setup: shell lines before Python starts, such as `"module load cuda"`.
        options: further options of sbatch by their long names, such as `{"reservation": "mine"}`.
    """

    nodes: Count = 1
    gpus: Natural = 0
    tasks: Count | None = None
    cpus: Count = 8
    memory_gb: Positive | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | Count = "1-00:00:00"
    signal_s: Count = 120
    array_limit: Count | None = None
    setup: Sequence[str] = ()
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in self.options or ():
            if name in _PARAMETERS:
                raise ValueError(f"options={self.options!r}: write Slurm.{name} instead of the option {name!r}")
            if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or name.replace("-", "_") in _OURS:
                raise ValueError(f"options={self.options!r}: {name!r} is no option of sbatch, or one that the run sets")
        for name in _PARAMETERS:
            value = getattr(self, name)
            for text in value.values() if name == "options" and value else [value]:
                if isinstance(text, str) and not text.isprintable():
                    raise ValueError(f"{name}={value!r} has a character that cannot stand in a line for sbatch")
        if minutes(self.time) * 60 <= self.signal_s:
            raise ValueError(
                f"time={self.time!r} is not longer than signal_s={self.signal_s}, the seconds before its end at which "
                f"the run saves and stops"
            )

    @property
    def tasks_per_node(self) -> int:
        return self.tasks or self.gpus or 1

    @property
    def n_ranks(self) -> int:
        return self.nodes * self.tasks_per_node

    def parameters(self, name: str, code: Path) -> dict[str, Any]:
        """What submitit's executor is told.

        Args:
            name: of the job.
            code: the snapshot that is imported.
        """
        setup = [
            *self.setup,
            "export PYTHONDONTWRITEBYTECODE=1",  # the snapshot is looked at when the next job is submitted
            "export PYTHONSAFEPATH=1",  # `python -m` would import from the working directory first
            f"export SRUN_CPUS_PER_TASK={self.cpus}",  # srun does not take it from sbatch
            f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        ]
        asked = {
            "job_name": re.sub(r"[^\w.=+-]+", "-", name),
            "time": minutes(self.time),
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks_per_node,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "mem": None if self.memory_gb is None else f"{math.ceil(self.memory_gb * 1024)}M",
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "signal_delay_s": self.signal_s,
            "array_parallelism": self.array_limit,
            "setup": setup,
            "stderr_to_stdout": True,
            "srun_args": [f"--cpus-per-task={self.cpus}", "--kill-on-bad-exit=1", "--wait=300"],
            "additional_parameters": {"requeue": True, **(self.options or {})},
        }
        return {key: value for key, value in asked.items() if value is not None}


checked(Slurm)


def minutes(time: str | int) -> int:
    """A length of time as Slurm writes it (`minutes`, `hours:minutes:seconds`, `days-hours:minutes`, ...) in minutes.

    Raises:
        ValueError: it is not of one of these forms.
    """
    text = str(time)
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        raise ValueError(f"time={time!r}: write minutes, 'hours:minutes:seconds', or 'days-hours'")
    days, *rest = found.groups()
    first, second, third = (int(part) if part is not None else None for part in rest)
    if days is not None:
        seconds = int(days) * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    elif third is not None:
        seconds = (first or 0) * 3600 + (second or 0) * 60 + third
    else:
        seconds = (first or 0) * 60 + (second or 0)
    if seconds < 60:
        raise ValueError(f"time={time!r} is less than a minute, the least that Slurm counts")
    return -(-seconds // 60)
