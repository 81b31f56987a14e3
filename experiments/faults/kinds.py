"""Every kind of fault: how it is done, and what has to come of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.faults import disks, inside, shipped
from experiments.faults.inside import MOMENTS, hang, kill
from experiments.faults.shipped import N_STEPS
from experiments.faults.start import LONGEST_S
from experiments.faults.trial import Trial
from sslkit import checkpoint

EXACT = "the same command ends with the exact weights"
STOPS = "stops and says why; then the same command ends with the exact weights"
KILLED, FAILED = -signal.SIGKILL, 1
LOST = "has lost another one"
FREE_CLOCK = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        do: disturb a run until its cause is gone; a reason comes back where it cannot be done here.
        runs: how many are forked, and how many go through the real command.
        ranks: that it makes sense for.
        methods: of those that ship; all if left out.
    """

    name: str
    group: str
    promise: str
    do: Callable[[Trial], str | None]
    runs: tuple[int, int] = (5, 0)
    ranks: tuple[int, ...] = (1, 2)
    methods: Callable[[str], bool] = lambda method: True


KINDS: dict[str, Kind] = {}


def kind(
    name: str,
    group: str,
    promise: str,
    runs: tuple[int, int] = (5, 0),
    ranks: tuple[int, ...] = (1, 2),
    methods: Callable[[str], bool] = lambda method: True,
) -> Callable[[Callable[[Trial], str | None]], Callable[[Trial], str | None]]:
    """Add a kind."""

    def add(do: Callable[[Trial], str | None]) -> Callable[[Trial], str | None]:
        KINDS[name] = Kind(name, group, promise, do, runs, ranks, methods)
        return do

    return add


def _middle(trial: Trial, until: int = N_STEPS) -> int:
    return trial.rng.randrange(1, until)


def _later(trial: Trial) -> int:
    """A step behind which a checkpoint lies."""
    return trial.rng.randrange(4, N_STEPS)


# kills


@kind("all ranks killed at a random moment", "kills", EXACT, runs=(14, 2))
def _(trial: Trial) -> None:
    start = trial.start()
    trial.reach(_middle(trial), start)
    time.sleep(trial.rng.uniform(0, 0.3))
    logged = trial.step()
    start.send(signal.SIGKILL)
    start.wait()
    trial.seen.append(f"killed after step {logged}")
    trial.expect_kept(logged)


@kind("one rank killed at a random moment (out of memory)", "kills", EXACT, runs=(6, 2), ranks=(2,))
def _(trial: Trial) -> None:
    start, rank = trial.start(), trial.rng.randrange(2)
    trial.reach(_middle(trial), start)
    time.sleep(trial.rng.uniform(0, 0.2))
    logged = trial.step()
    start.send(signal.SIGKILL, rank)
    trial.seen.append(f"rank {rank} killed after step {logged}")
    if logged == N_STEPS:
        start.wait()
    elif trial.fault.forked:
        trial.ends(start, (KILLED, FAILED), LOST)
    else:
        trial.ends(start, (128 + signal.SIGKILL,), f"rank {rank} was killed by SIGKILL (out of memory?)")
    trial.expect_kept(logged)


@kind("killed at a chosen moment of a step", "kills", EXACT, runs=(6, 0))
def _(trial: Trial) -> None:
    step, moment = trial.rng.randrange(N_STEPS), trial.rng.choice(list(MOMENTS))
    rank = trial.rng.randrange(trial.fault.ranks)
    trial.seen.append(f"rank {rank}, step {step}, {moment}")
    trial.ends(trial.start(inside.at_step(step, moment, kill, rank)), (KILLED, FAILED))
    trial.expect_kept(step)


@kind("killed three times in a row", "kills", EXACT, runs=(4, 0))
def _(trial: Trial) -> None:
    for step in sorted(trial.rng.sample(range(1, N_STEPS), 3)):
        start = trial.start()
        logged = trial.reach(step, start)
        start.send(signal.SIGKILL)
        start.wait()
        trial.expect_kept(logged)


@kind("killed in the middle of the writing of a checkpoint", "saves", EXACT, runs=(4, 0))
def _(trial: Trial) -> None:
    trial.ends(trial.start(inside.while_written(trial.rng.randrange(5, 200), kill)), (KILLED, FAILED, 0))


@kind("killed between writing and renaming a checkpoint", "saves", EXACT, runs=(14, 0))
def _(trial: Trial) -> None:
    nth = trial.rng.randrange(1, 5)
    trial.ends(trial.start(inside.around_rename("step_*.pt", nth, kill)), (KILLED, FAILED))
    trial.expect(trial.whole_steps() == ([2, 4, 6, 8][max(0, nth - 3) : nth - 1]), "those before it are whole")


@kind("killed as a .partial file appears", "saves", EXACT, runs=(3, 2))
def _(trial: Trial) -> None:
    start, nth, before = trial.start(), trial.rng.randrange(1, 4), set[str]()
    until = time.monotonic() + LONGEST_S
    while len(before) < nth and not start.is_over() and time.monotonic() < until:
        found = {path.name.split(".")[0] for path in checkpoint.folder(trial.run).glob("*.partial*")}
        before |= found
        time.sleep(0.0005)
    start.send(signal.SIGKILL)
    start.wait()


@kind("killed right after a checkpoint has its name", "saves", EXACT, runs=(4, 0))
def _(trial: Trial) -> None:
    nth = trial.rng.randrange(1, 5)
    trial.ends(trial.start(inside.around_rename("step_*.pt", nth, kill, "after")), (KILLED, FAILED))
    trial.expect(2 * nth in trial.whole_steps(), "it is whole")


@kind("killed before old checkpoints go", "saves", EXACT, runs=(3, 0))
def _(trial: Trial) -> None:
    nth = trial.rng.randrange(1, 5)
    trial.ends(trial.start(inside.before_old_ones_go(nth, kill)), (KILLED, FAILED, 0))  # the other may be done
    trial.expect(2 * nth in trial.whole_steps(), "the newest is whole")


@kind("killed as another file gets its name", "saves", EXACT, runs=(4, 0))
def _(trial: Trial) -> None:
    name = trial.rng.choice(["operative.gin", "environment.json", "status.json", "metrics.jsonl", "results.json"])
    when = trial.rng.choice(["before", "after"])
    trial.seen.append(f"{when} {name}")
    trial.ends(trial.start(inside.around_rename(name, 1, kill, when)), (KILLED, FAILED, 2, 128))


@kind("killed as a file of neighbours gets its name", "saves", EXACT, runs=(4, 0), methods=shipped.follows_partners)
def _(trial: Trial) -> None:
    nth, when = trial.rng.randrange(1, 3), trial.rng.choice(["before", "after"])
    trial.ends(trial.start(inside.around_rename("epoch_*.npy", nth, kill, when)), (KILLED, FAILED))


@kind("a loader process killed", "kills", STOPS, runs=(4, 0))
def _(trial: Trial) -> None:
    trial.n_workers = 1
    rank = trial.rng.randrange(trial.fault.ranks)
    start = trial.start(inside.worker_killed(trial.rng.randrange(1, 3), rank))
    trial.ends(start, (FAILED,), "has lost a process that loads its data")


# signals


def _signalled(trial: Trial, number: signal.Signals, rank: int | None = None) -> None:
    start = trial.start()
    trial.reach(_middle(trial, N_STEPS - 1), start)
    time.sleep(trial.rng.uniform(0, 0.15))
    logged = trial.step()
    start.send(number, rank)
    codes = start.wait()
    trial.seen.append(f"{number.name} after step {logged}, exit {codes}")
    if logged >= N_STEPS - 1:  # it may have been over
        return
    trial.expect(all(code in (128 + number, 128) for code in codes), f"exit codes {codes} are {128 + number} or 128")
    trial.expect(not start.overdue, "ranks end by themselves")
    trial.expect(f"stopped by {number.name} after step" in start.text, f"says that {number.name} stopped it")
    trial.expect("Traceback" not in start.text, "no traceback")
    trial.expect_kept(logged, saved=True)


for _number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGUSR1):
    kind(f"{_number.name} at a random moment", "signals", EXACT, runs=(3, 0 if _number == signal.SIGUSR1 else 1))(
        lambda trial, number=_number: _signalled(trial, number)  # type: ignore[misc]
    )


@kind("a signal to one rank of two", "signals", EXACT, runs=(4, 0), ranks=(2,))
def _(trial: Trial) -> None:
    number = trial.rng.choice([signal.SIGTERM, signal.SIGUSR2])
    _signalled(trial, number, trial.rng.randrange(2))


@kind("SIGTERM while a run starts", "signals", EXACT, runs=(3, 0))
def _(trial: Trial) -> None:
    start = trial.start()
    time.sleep(trial.rng.uniform(0, 1.5))
    start.send(signal.SIGTERM)
    trial.seen.append(f"exit {start.wait()}")
    trial.expect(not start.overdue, "ranks end by themselves")


@kind("SIGINT twice", "signals", EXACT, runs=(3, 0), ranks=(1,))
def _(trial: Trial) -> None:
    start = trial.start()
    logged = trial.reach(_middle(trial, N_STEPS - 2), start)
    start.send(signal.SIGINT)
    time.sleep(0.02)
    start.send(signal.SIGINT)
    trial.ends(start, (130,))
    trial.expect_kept(logged)


# files


def _stopped(trial: Trial, step: int) -> None:
    """A run that was killed behind two checkpoints at least."""
    start = trial.start()
    trial.reach(step, start)
    start.send(signal.SIGKILL)
    start.wait()


def _newest(trial: Trial) -> Path:
    return list(checkpoint.paths(trial.run).values())[-1]


@kind("the newest checkpoint torn", "checkpoints", EXACT, runs=(4, 0))
def _(trial: Trial) -> None:
    _stopped(trial, _later(trial) + 1)
    path = _newest(trial)
    path.write_bytes(path.read_bytes()[: trial.rng.randrange(path.stat().st_size)])
    trial.expect(path.name not in _whole_names(trial), "the torn one is not taken for whole")


@kind("a bit of the newest checkpoint flipped", "checkpoints", EXACT, runs=(7, 1))
def _(trial: Trial) -> None:
    _stopped(trial, _later(trial) + 1)
    path, held = _newest(trial), bytearray(_newest(trial).read_bytes())
    place = trial.rng.randrange(len(held))
    held[place] ^= 1 << trial.rng.randrange(8)
    path.write_bytes(held)
    trial.seen.append(f"byte {place} of {len(held)}")
    trial.expect(path.name not in _whole_names(trial), "the flipped one is not taken for whole")


def _whole_names(trial: Trial) -> list[str]:
    known = checkpoint.paths(trial.run)
    return [known[step].name for step in trial.whole_steps()]


@kind("the newest checkpoint deleted", "checkpoints", EXACT, runs=(3, 0))
def _(trial: Trial) -> None:
    _stopped(trial, _later(trial) + 1)
    _newest(trial).unlink()


@kind("the newest checkpoint empty", "checkpoints", EXACT, runs=(3, 0))
def _(trial: Trial) -> None:
    _stopped(trial, _later(trial) + 1)
    _newest(trial).write_bytes(b"")


@kind("all checkpoints torn, then put back", "checkpoints", STOPS, runs=(3, 1))
def _(trial: Trial) -> None:
    _stopped(trial, _later(trial) + 1)
    shutil.copytree(checkpoint.folder(trial.run), trial.folder / "copy")
    for path in checkpoint.paths(trial.run).values():
        path.write_bytes(path.read_bytes()[: trial.rng.randrange(path.stat().st_size)])
    trial.ends(trial.start(), (FAILED, 2), "can be read; move them away to start anew")
    shutil.rmtree(checkpoint.folder(trial.run))
    shutil.copytree(trial.folder / "copy", checkpoint.folder(trial.run))


def _damaged(trial: Trial, path: Path) -> None:
    """Cut a file off, or put what is no text in it, or empty it."""
    held, how = path.read_bytes(), trial.rng.choice(["cut", "zeros", "noise", "empty"])
    place = trial.rng.randrange(len(held))
    rest = {"cut": b"", "zeros": bytes(64), "noise": trial.rng.randbytes(64) + b"\xff\n", "empty": b""}[how]
    path.write_bytes((b"" if how == "empty" else held[:place]) + rest)
    trial.seen.append(f"{path.name}: {how}")


for _name in ("metrics.jsonl", "status.json", "environment.json"):

    @kind(f"{_name} damaged", "records", EXACT, runs=(3, 0))
    def _(trial: Trial, name: str = _name) -> None:
        _stopped(trial, _later(trial) + 1)
        trial.keeps_metrics = name != "metrics.jsonl"
        _damaged(trial, trial.run / name)


@kind("evaluations.json damaged", "records", EXACT, runs=(4, 0), ranks=(1,))
def _(trial: Trial) -> None:
    trial.bindings += [*shipped.EVALUATED, "train.keep_best = 'knn/accuracy'"]
    _stopped(trial, _later(trial) + 1)
    _damaged(trial, trial.run / "evaluations.json")


@kind("operative.gin deleted, then put back", "records", STOPS, runs=(2, 0))
def _(trial: Trial) -> None:
    _stopped(trial, _later(trial))
    held = (trial.run / "operative.gin").read_bytes()
    (trial.run / "operative.gin").unlink()
    trial.ends(trial.start(), (2,), "operative.gin is gone")
    (trial.run / "operative.gin").write_bytes(held)


@kind("a file of neighbours damaged, then put back", "records", STOPS, runs=(5, 0), methods=shipped.follows_partners)
def _(trial: Trial) -> None:
    trial.start(inside.at_step(5, "as the step begins", kill)).wait()
    newest = max(trial.whole_steps(), default=0)
    path = trial.run / "neighbours" / "epoch_000000.npy"
    held, how = bytearray(path.read_bytes()), trial.rng.choice(["torn", "deleted", "flipped"])
    copy = bytes(held)
    path.unlink()
    if how == "torn":
        path.write_bytes(held[: trial.rng.randrange(len(held))])
    if how == "flipped":
        held[trial.rng.randrange(128, len(held))] ^= 1 << trial.rng.randrange(8)
        path.write_bytes(held)
    trial.seen.append(f"{path.name} {how}, newest checkpoint {newest}")
    if newest == 4:  # one from before makes the file anew
        trial.ends(trial.start(), (FAILED,), path.name)
    path.write_bytes(copy)


# disks


def _on_disk(trial: Trial, megabytes: float) -> contextlib.AbstractContextManager[Path]:
    trial.run = trial.folder / "disk" / "run"
    return disks.memory(trial.folder / "disk", megabytes)


def _off_disk(trial: Trial) -> None:
    """Bring the run to where it stays when the disk goes; a run directory may be moved."""
    moved = shutil.copytree(trial.run, trial.folder / "run") if trial.run.exists() else trial.folder / "run"
    trial.run = moved


# on two ranks the other one waits for the first until a launcher ends it, which forked ranks have none of
@kind("full disk at the start", "disks", STOPS, runs=(4, 0), ranks=(1,))
def _(trial: Trial) -> str | None:
    if disks.refusal():
        return disks.refusal()
    with _on_disk(trial, 24) as disk:
        filler = disks.fill(disk, trial.rng.choice([0, 0, 8192]))
        trial.ends(trial.start(), (FAILED, 2, 128), "No space left")
        filler.unlink()
        _off_disk(trial)
    return None


@kind("full disk during a checkpoint", "disks", STOPS, runs=(5, 1))
def _(trial: Trial) -> str | None:
    if disks.refusal():
        return disks.refusal()
    with _on_disk(trial, 24) as disk:
        start = trial.start()
        logged = trial.reach(trial.rng.randrange(1, 4), start)
        filler = disks.fill(disk, trial.rng.randrange(4096, 100_000))
        trial.ends(start, (FAILED,), "No space left")
        trial.expect_kept(logged)
        filler.unlink()
        _off_disk(trial)
    return None


@kind("full disk during records", "disks", STOPS, runs=(4, 0))
def _(trial: Trial) -> str | None:
    if disks.refusal():
        return disks.refusal()
    trial.bindings.append("train.save_every = 100")
    with _on_disk(trial, 24) as disk:
        start = trial.start()
        trial.reach(trial.rng.randrange(1, 4), start)
        filler = disks.fill(disk)
        trial.ends(start, (FAILED,), "No space left")
        filler.unlink()
        _off_disk(trial)
    trial.bindings.remove("train.save_every = 100")
    return None


@kind("full disk during a file of neighbours", "disks", STOPS, runs=(3, 0), methods=shipped.follows_partners)
def _(trial: Trial) -> str | None:
    if disks.refusal():
        return disks.refusal()
    with _on_disk(trial, 24) as disk:
        start = trial.start(inside.at_step(2, "after the backward pass", lambda: _filled(disk), 0))
        trial.ends(start, (FAILED,), "No space left")
        (disk / "filler").unlink()
        _off_disk(trial)
    return None


def _filled(disk: Path) -> None:
    disks.fill(disk)


@kind("read-only run directory at the start", "disks", STOPS, runs=(4, 0), ranks=(1,))
def _(trial: Trial) -> str | None:
    if disks.refusal():
        return disks.refusal()
    with _on_disk(trial, 24) as disk:
        if trial.rng.random() < 0.5:  # else nothing is there yet
            _stopped(trial, 5)
        _retried(lambda: disks.read_only(disk, on=True))
        trial.ends(trial.start(), (FAILED, 2, 128), "Read-only file system")
        disks.read_only(disk, on=False)
        _off_disk(trial)
    return None


def _retried(call: Callable[[], None]) -> None:
    for _ in range(50):
        try:
            return call()
        except Exception:
            time.sleep(0.1)
    return call()


@kind("a disk fails and becomes read-only in the middle", "disks", STOPS, runs=(4, 1))
def _(trial: Trial) -> str | None:
    if disks.refusal():
        return disks.refusal()
    disk = disks.Journalled(trial.folder / "disk")
    try:
        trial.run = disk.folder / "run"
        start = trial.start()
        logged = trial.reach(trial.rng.randrange(1, 5), start)
        disk.fail()
        trial.ends(start, (FAILED,), "Read-only file system")
        _retried(disk.unmount)
        disk.mount()
        trial.expect_kept(logged)
        trial.keeps_metrics = False  # what was not synced went with the disk
        _off_disk(trial)
    finally:
        _retried(disk.unmount)
    return None


# data


@kind("a corrupt image, then put back", "data", STOPS, runs=(5, 1))
def _(trial: Trial) -> None:
    path = trial.own_data() / f"{trial.rng.randrange(shipped.N_IMAGES):02}.png"
    held = path.read_bytes()
    path.write_bytes(held[:60] + trial.rng.randbytes(40))
    trial.ends(trial.start(), (FAILED,), path.name, "max_unreadable")
    path.write_bytes(held)


@kind("an image vanishes, then comes back", "data", STOPS, runs=(4, 0))
def _(trial: Trial) -> None:
    path = trial.own_data() / f"{trial.rng.randrange(shipped.N_IMAGES):02}.png"
    held, start = path.read_bytes(), trial.start()
    logged = trial.reach(trial.rng.randrange(1, 4), start)
    path.unlink()
    trial.ends(start, (FAILED,), path.name, "max_unreadable")
    trial.expect_kept(logged)
    path.write_bytes(held)


@kind("the data folder vanishes, then comes back", "data", STOPS, runs=(4, 1))
def _(trial: Trial) -> None:
    folder, start = trial.own_data(), trial.start()
    logged = trial.reach(trial.rng.randrange(1, 6), start)
    folder.rename(trial.folder / "elsewhere")
    trial.ends(start, (FAILED,), "max_unreadable")
    trial.expect_kept(logged)
    trial.ends(trial.start(), (2,), "there is no folder" if trial.fault.forked else "folder")
    (trial.folder / "elsewhere").rename(folder)


# numbers


def _not_finite(trial: Trial, what: str) -> None:
    step, rank = trial.rng.randrange(1, N_STEPS), trial.rng.randrange(trial.fault.ranks)
    value = trial.rng.choice([float("nan"), float("nan"), float("inf")])
    trial.seen.append(f"{value} at step {step} of rank {rank}")
    trial.ends(trial.start(inside.poisoned(what, step, rank, value)), (FAILED,), f"is not finite at step {step}")
    trial.expect_kept(step)
    held = list(trial.run.glob(f"not_finite_step_{step}_rank_*.pt"))
    trial.expect(len(held) == trial.fault.ranks, "what is needed to see why is kept")
    for path in held:
        path.unlink()


kind("NaN or inf in a loss", "numbers", STOPS, runs=(5, 0))(lambda trial: _not_finite(trial, "loss"))
kind("NaN or inf in a gradient", "numbers", STOPS, runs=(5, 0))(lambda trial: _not_finite(trial, "gradient"))
kind("NaN or inf in a pixel", "numbers", STOPS, runs=(5, 0))(lambda trial: _not_finite(trial, "pixels"))


# ranks


@kind("a rank hangs in the middle of a step", "ranks", STOPS, runs=(4, 0), ranks=(2,))
def _(trial: Trial) -> None:
    step, moment, rank = trial.rng.randrange(1, N_STEPS - 1), trial.rng.choice(list(MOMENTS)), trial.rng.randrange(2)
    trial.seen.append(f"rank {rank}, step {step}, {moment}")
    start = trial.start(inside.at_step(step, moment, hang, rank), ["train.patience_s = 10.0"])
    start.hung = {rank}
    trial.ends(start, (FAILED, KILLED), LOST)
    trial.expect_kept(step)


@kind("a rank hangs before a checkpoint", "ranks", STOPS, runs=(4, 0), ranks=(2,))
def _(trial: Trial) -> None:
    step = trial.rng.choice([1, 3, 5])
    start = trial.start(inside.at_step(step, "as the step ends", hang, 1), ["train.patience_s = 10.0"])
    start.hung = {1}
    trial.ends(start, (FAILED, KILLED), LOST)
    trial.expect_kept(step)


@kind("a rank stopped from outside, by the command", "ranks", STOPS, runs=(0, 1), ranks=(2,))
def _(trial: Trial) -> None:
    start = trial.start(bindings=["train.patience_s = 10.0"])
    logged = trial.reach(_middle(trial, 5), start)
    start.send(signal.SIGSTOP, trial.rng.randrange(2))
    trial.ends(start, (FAILED,), LOST)
    trial.expect_kept(logged)


# clock, company


def _clock(trial: Trial, jump: str) -> str | None:
    if not Path(FREE_CLOCK).is_file():
        return "no libfaketime (Debian package faketime)"
    note = trial.folder / "clock"
    note.write_text("+0d\n")
    trial.environment = {
        "LD_PRELOAD": FREE_CLOCK,
        "FAKETIME_TIMESTAMP_FILE": str(note),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    start = trial.start()
    trial.reach(_middle(trial, 5), start)
    note.write_text(f"{jump}\n")
    trial.seen.append(f"{jump} after step {trial.step()}")
    if trial.rng.random() < 0.5:
        start.send(signal.SIGKILL)
        start.wait()
    else:
        trial.ends(start, (0,))
    trial.expect_kept(trial.step())
    return None


kind("the clock jumps forwards", "clock", EXACT, runs=(0, 2), ranks=(1,))(lambda trial: _clock(trial, "+400d"))
kind("the clock jumps backwards", "clock", EXACT, runs=(0, 2), ranks=(1,))(lambda trial: _clock(trial, "-400d"))


@kind("two commands on one run directory", "company", EXACT, runs=(4, 1), ranks=(1, 2))
def _(trial: Trial) -> None:
    first = trial.start()
    trial.reach(1, first)
    other, before = trial.folder / "other.txt", trial.said
    trial.said = other
    for pid in first.ranks():  # or it may be over before the second one looks
        os.kill(pid, signal.SIGSTOP)
    second = trial.start()
    trial.ends(second, (2, FAILED), "another process trains in")
    for pid in first.ranks():
        os.kill(pid, signal.SIGCONT)
    trial.said = before
    codes = first.wait()
    trial.expect(codes == [0] * len(codes), f"the first is not disturbed (exit {codes}: {first.text[-200:]})")
