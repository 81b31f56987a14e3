"""Two hundred faults and more, over runs of every method that ships, on one rank and on two.

    python -m experiments.faults.run [--slice N] [--only WORDS] [--anew]

Stopped at any moment and started again it goes on. Writes table.md and matrix.png beside itself once all are done. Runs
lie in runs/faults/; what a fault came to stands in runs/faults/results.jsonl, and the run of one that failed is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import torch

from experiments.faults import page, shipped
from experiments.faults.kinds import KINDS
from experiments.faults.start import Start
from experiments.faults.trial import Fault, Trial
from sslkit import checkpoint, provenance, registry


def planned() -> list[Fault]:
    """All faults, kinds in turns; methods and numbers of ranks take turns as well, so that each meets many kinds."""
    met: dict[tuple[str, int], int] = {}
    faults = []
    for kind in KINDS.values():
        draw = Random(kind.name)
        for number in range(sum(kind.runs)):
            able = [(m, n) for m in shipped.FILES if kind.methods(m) for n in kind.ranks]
            least = min(met.get(pair, 0) for pair in able)
            method, ranks = draw.choice([pair for pair in able if met.get(pair, 0) == least])
            met[method, ranks] = met.get((method, ranks), 0) + 1
            faults.append(Fault(kind.name, method, ranks, number, number < kind.runs[0]))
    return sorted(faults, key=_turn)


def _turn(fault: Fault) -> int:
    """Starts of the real command are slow, so only a few of them come early."""
    return fault.number if fault.forked else 2 + 4 * (fault.number - KINDS[fault.kind].runs[0])


def some(faults: Sequence[Fault], n: int) -> list[Fault]:
    """So many faults of different kinds, spread over the groups; hardly any takes the real command."""
    firsts = {fault.kind: fault for fault in reversed(faults) if fault.forked}
    kinds = [kind for kind in KINDS if kind in firsts]
    return [firsts[kinds[i * len(kinds) // n]] for i in range(min(n, len(kinds)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--slice", type=int, metavar="N", help="only so many faults, of different kinds")
    parser.add_argument("--only", default="", metavar="WORDS", help="only faults whose name has these words")
    parser.add_argument("--anew", action="store_true", help="forget what was found before")
    parser.add_argument("--runs", type=Path, default=Path("runs/faults"))
    parser.add_argument("--at-once", type=int, default=2)
    asked = parser.parse_args()
    runs = asked.runs.absolute()
    if asked.anew:
        shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True, exist_ok=True)
    everything = planned()
    faults = everything if asked.slice is None else some(everything, asked.slice)
    faults = [fault for fault in faults if asked.only in fault.key]
    results = runs / "results.jsonl"
    done = {record["key"] for record in page.read(results)}
    waiting = [fault for fault in faults if fault.key not in done]
    _prepare(runs)
    wholes = sorted({(fault.method, fault.ranks) for fault in waiting})
    share([lambda pair=pair: undisturbed(runs, *pair) for pair in wholes], asked.at_once)
    share([lambda fault=fault: judge(fault, runs, results) for fault in waiting], asked.at_once)
    found = [record for record in page.read(results) if record["key"] in {fault.key for fault in faults}]
    print(page.summary(found))
    if asked.slice is None and not asked.only and asked.runs == Path("runs/faults"):
        page.write(found)
    sys.exit(0 if len(found) == len(faults) and all(record["ok"] is not False for record in found) else 1)


def _prepare(runs: Path) -> None:
    """Import and remember what every start would, so that its processes need not."""
    torch.set_num_threads(1)
    registry.load()
    provenance.environment()
    shipped.images(runs / "images")


def share(calls: Sequence[Callable[[], None]], at_once: int) -> None:
    """Make all calls in some processes, each taking the next as it comes free."""
    taken, given = os.pipe()
    os.write(given, b"".join(i.to_bytes(4, "little") for i in range(len(calls))))
    os.close(given)
    workers = []
    for _ in range(at_once):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                while number := os.read(taken, 4):
                    calls[int.from_bytes(number, "little")]()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        workers.append(pid)
    os.close(taken)
    codes = [os.waitpid(pid, 0)[1] for pid in workers]
    if any(codes):
        sys.exit("error: a process of the harness has failed")


def undisturbed(runs: Path, method: str, ranks: int) -> None:
    """The last state of a run that nothing disturbs, in a file."""
    kept = _kept(runs, method, ranks)
    if kept.exists():
        return
    run, said = kept.with_suffix(".run"), kept.with_suffix(".txt")
    shutil.rmtree(run, ignore_errors=True)
    start = Start(
        shipped.FILES[method], shipped.bindings(method, runs / "images", ranks), run, said, ranks=ranks, forked=True
    )
    if any(start.wait()):
        raise RuntimeError(f"{method} on {ranks} ranks does not train:\n{start.text[-2000:]}")
    found = checkpoint.latest(run)
    assert found is not None
    torch.save(found[1], kept.with_suffix(".partial"))
    os.replace(kept.with_suffix(".partial"), kept)
    shutil.rmtree(run)


def _kept(runs: Path, method: str, ranks: int) -> Path:
    folder = runs / "undisturbed"
    folder.mkdir(exist_ok=True)
    return folder / f"{method.replace('/', '_')}_{ranks}.pt"


def judge(fault: Fault, runs: Path, results: Path) -> None:
    """Do one fault and keep what came of it."""
    kind, began = KINDS[fault.kind], time.monotonic()
    folder = runs / fault.key.replace(" | ", "_").replace(" ", "_").replace("/", "_").replace(",", "")
    trial, reason = Trial(fault, folder, _kept(runs, fault.method, fault.ranks)), None
    try:
        reason = kind.do(trial)
        if reason is None:
            trial.goes_on()
    except Exception as error:
        trial.wrong.append(f"the harness failed: {type(error).__name__}: {error}")
        (folder / "harness.txt").write_text(traceback.format_exc())
    record = {
        "key": fault.key, "kind": fault.kind, "group": kind.group, "method": fault.method, "ranks": fault.ranks,
        "how": "forked" if fault.forked else "command", "promise": kind.promise,
        "happened": "; ".join(trial.seen), "wrong": trial.wrong, "skipped": reason,
        "ok": None if reason is not None else not trial.wrong, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    with results.open("a") as file:
        file.write(json.dumps(record) + "\n")
    if not trial.wrong:
        shutil.rmtree(folder, ignore_errors=True)
    said = f"skipped: {reason}" if reason is not None else "kept" if not trial.wrong else f"BROKEN: {trial.wrong}"
    print(f"{record['seconds']:5.1f} s  {fault.key}: {said}", flush=True)


if __name__ == "__main__":
    main()
