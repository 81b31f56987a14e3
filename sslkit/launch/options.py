"""What the options of `launch` stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sslkit.errors import ConfigError
from sslkit.shown import visible


def bindings(
    typed: list[str],
    *,
    data: Path | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> list[str]:
    """Options as bindings, then those typed; what stands behind the sign says in messages which option one is from.

    Raises:
        ConfigError: options contradict each other, or there is no such folder.
    """
    if steps is not None and epochs is not None:
        raise ConfigError(f"--steps {steps} and --epochs {epochs}: give the length of the run in one of the two")
    added = on_images(data, typed)
    if steps is not None:
        added += [f"train.n_steps = {steps}  # --steps {steps}", f"train.n_epochs = None  # --steps {steps}"]
    if epochs is not None:
        added += [f"train.n_epochs = {epochs}  # --epochs {epochs}", f"train.n_steps = None  # --epochs {epochs}"]
    added += [] if seed is None else [f"train.seed = {seed}  # --seed {seed}"]
    added += [] if device is None else [f"train.device = {device!r}  # {_said('device', device)}"]
    return [*added, *typed]


def on_images(data: Path | None, typed: list[str]) -> list[str]:
    """Training on a folder of images in place of a file's own data, without the evaluations meant for these.

    Evaluations that are typed stay, and so does what is kept by them.
    """
    if data is None:
        return []
    refuse_no_folder(data)
    option = _said("data", data)
    own = [any(b.lstrip().startswith(f"train.{name}") for b in typed) for name in ("evaluations", "keep_best")]
    return [
        f"train.data = @datasets.ImageFolder()  # {option}",
        f"datasets.ImageFolder.root = {str(data.absolute())!r}  # {option}",
        *([] if own[0] else [f"train.evaluations = None  # {option}"]),
        *([] if any(own) else [f"train.keep_best = None  # {option}"]),
    ]


def with_data(files: list[str], data: Path | None, bindings: list[str]) -> list[str]:
    """The bindings, and those that `--data` stands for: a macro in a protocol, the training images otherwise."""
    if data is None:
        return bindings
    refuse_no_folder(data)
    from sslkit import config

    if config.examine(files, bindings)[0].has("evaluation"):
        return [f"DATA = {str(data.absolute())!r}  # {_said('data', data)}", *bindings]
    return [*on_images(data, bindings), *bindings]


def refuse_no_folder(data: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        ConfigError: naming where it was looked for.
    """
    if not data.is_dir():
        raise ConfigError(f"--data {data}: there is no such folder (looked at {data.absolute()})")


def resources(**given: object) -> list[str]:
    """Options of `--slurm` as bindings."""
    said = {name: value for name, value in given.items() if value not in (None, ())}
    return [f"Slurm.{name} = {value!r}  # {_said(name.replace('_', '-'), value)}" for name, value in said.items()]


def _said(option: str, value: object) -> str:
    """An option as typed, on one line: a second one would be a binding."""
    return visible(f"--{option} {value}").replace("\n", "\\n")


def without(words: list[str], option: str) -> list[str]:
    """Words of a command without an option and its value."""
    kept, skip = [], False
    for word in words:
        if skip or word == option or word.startswith(f"{option}="):
            skip = word == option
            continue
        kept.append(word)
    return kept


@dataclass(frozen=True)
class Asked:
    """One `launch` as typed."""

    given: list[str]
    bindings: list[str]
    out: Path | None
    repeated: Path | None  # the run to repeat
    command: list[str]

    @property
    def files(self) -> list[str]:
        """The gin files, or what the run to repeat kept of its own.

        Raises:
            ConfigError: there is none.
        """
        if self.repeated is None:
            if not self.given:
                raise ConfigError("give a gin file (--gin FILE) or a run to repeat (--from RUN)")
            return self.given
        kept = self.repeated / "config.gin"
        if not kept.is_file():
            raise ConfigError(f"--from {self.repeated} is not a run directory: there is no {kept.absolute()}")
        return [str(kept), *self.given]

    @property
    def run_dir(self) -> Path:
        """Where the results go; refused if there is nothing that could have any."""
        files = self.files
        if self.out == Path():
            raise ConfigError("--out names the folder you are in: give a run a folder of its own")
        if self.out is not None:
            return self.out
        if self.repeated is not None:
            return self.repeated.with_name(f"{self.repeated.name}_again")
        stem = Path(files[-1]).stem
        if stem.startswith("."):
            raise ConfigError(f"{files[-1]} has no name that a run could have: give --out")
        return Path("runs") / stem

    def words(self, bindings: list[str], run_dir: Path) -> list[str]:
        """A command of other processes on the same files, with options as bindings."""
        words = [word for file in self.files for word in ("--gin", file)]
        words += [word for binding in bindings for word in ("--set", binding)]
        return [*words, "--out", str(run_dir)]

    def run(self) -> None:
        """Train in this process."""
        import click

        from sslkit import distributed, provenance
        from sslkit.launch.job import Job

        if distributed.is_main():
            click.echo(f"looking at {' '.join(self.files)}; results go to {self.run_dir}", err=True)
        changed = provenance.code_has_changed(self.repeated) if self.repeated is not None else ""
        if changed and distributed.is_main():
            click.echo(f"--from {self.repeated}: {changed}", err=True)
        Job(self.files, self.bindings, str(self.run_dir), self.command)()
        if distributed.is_main():
            click.echo(f"done: checkpoints, metrics and results are in {self.run_dir}")
