"""How fast 1 to 64 GPUs would be: a model of the time of a step, checked against 1 and 2 processes of this machine.

    python -m experiments.scaling.run [--measure]

writes `table.md` and `efficiency.png` from `measured.json`, which `--measure` writes anew.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from experiments.scaling import constants, formulas, recipes
from experiments.scaling.exchanged import Seen, watch
from experiments.scaling.model import Link, Machine
from experiments.scaling.processes import on_ranks
from sslkit import config

HERE = Path(__file__).parent
SMALL = ("train.batch_size = 8", "scenes/datasets.Scenes.n_images = 32")
AT_ONCE = ("Partners.start_epoch = 1", "memories.PerImage.warmup_epochs = 0")  # a run that never draws is refused
OWN_NORMS = "Method.batch_norm_scope = 'rank'"
METHODS = {
    "CrIBo": ("gin/cribo.gin", [*SMALL]),
    "AdaSim": ("gin/adasim.gin", [*SMALL, *AT_ONCE]),
    "BYOL": ("gin/byol.gin", [*SMALL]),
    "CrIBo, BatchNorm of a rank": ("gin/cribo.gin", [*SMALL, OWN_NORMS]),
    "AdaSim, BatchNorm of a rank": ("gin/adasim.gin", [*SMALL, *AT_ONCE, OWN_NORMS]),
}
WORLDS = (1, 2, 4, 8, 16, 32, 64)


def measure(n: int) -> dict[str, Any]:
    """Constants, and what steps of real runs take on one process and on two, by method."""
    (links, _) = on_ranks(2, constants.links, 5 * n)
    found: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[1],
        "link": {"clock": vars(links.clock), "busy": vars(links.busy)},
        "methods": {},
    }
    for name, (file, bindings) in METHODS.items():
        (apart,) = on_ranks(1, constants.alone, [file], bindings, n)
        (one,) = on_ranks(1, watch, [file], bindings, n + 1)
        two, other = on_ranks(2, watch, [file], bindings, n + 1)
        found["methods"][name] = {
            "load": vars(apart.load),
            "compute": vars(apart.compute),
            "measured": {world: _medians(seen) for world, seen in (("1", one), ("2", two))},
            "counted": _counted(two),
            "calls": [[c.kind, c.bytes, c.part] for c in expected(file, bindings, two, other)],
        }
        print(name, json.dumps(found["methods"][name]["measured"]), flush=True)
    return found


def expected(file: str, bindings: list[str], seen: Seen, other: Seen) -> list[formulas.Call]:
    """The calls of the last step on two ranks by the formulas, for the sizes that it had."""
    method, batch_size = config.load([file], bindings).part("train", "method", "batch_size")
    sizes = formulas.Sizes(
        2,
        batch_size,
        max(seen.rows, other.rows),
        max(seen.queries, other.queries),
        seen.norms,
        has_labels=True,
    )
    return formulas.calls(method, sizes)


def _medians(seen: Seen) -> dict[str, float]:
    return {"seconds": statistics.median(seen.seconds), "busy": statistics.median(seen.busy)}


def _counted(seen: Seen) -> dict[str, list[int]]:
    """Calls and bytes of the last step, by part."""
    parts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for call in seen.steps[-1]:
        parts[call.part][0] += 1
        parts[call.part][1] += call.bytes
    return dict(parts)


def predictions(found: dict[str, Any]) -> list[str]:
    """Predicted against measured steps, of one process and of two."""
    lines = [
        "| method | processes | seconds of | load | compute | exchange | predicted | measured | error |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, method in found["methods"].items():
        calls = [formulas.Call(*call) for call in method["calls"]]
        for world in (1, 2):
            for kind, key in (("clock", "seconds"), ("busy", "busy")):
                machine = Machine(lambda _, kind=kind: Link(**found["link"][kind]))
                load, compute = method["load"][key], method["compute"][key]
                step = machine.step(world, calls, compute=compute, load=load)
                measured = method["measured"][str(world)][key]
                of = "the clock" if kind == "clock" else "processors"
                columns = f"{load:.3f} | {compute:.3f} | {step.exchange:.3f} | {step.total:.3f} | {measured:.3f}"
                lines.append(f"| {name} | {world} | {of} | {columns} | {step.total / measured - 1:+.0%} |")
    return lines


def counts(found: dict[str, Any]) -> list[str]:
    """Calls and bytes of a step on two ranks, counted and by the formulas."""
    lines = ["| method | part | calls | bytes a rank hands in | by the formulas |", "|---|---|--:|--:|--:|"]
    for name, method in found["methods"].items():
        for part, (n, n_bytes) in method["counted"].items():
            by_formula = sum(b for _, b, p in method["calls"] if p == part)
            said = "not in them" if part == "losses" else f"{by_formula:,}"
            lines.append(f"| {name} | {part} | {n} | {n_bytes:,} | {said} |")
    return lines


def table(made: list[recipes.Recipe]) -> list[str]:
    """Of the recipes on assumed GPUs: the parts of a step on one and on 64, and efficiency."""
    lines = [
        "| recipe | images a GPU | TFLOP | compute, ms | search, ms | save, ms | GB handed in a step at 64 | calls "
        "| exchange at 8, ms | at 64, ms | efficiency at 8 | at 16 | at 64 |",
        "|---|" + "--:|" * 12,
    ]
    for r in made:
        one, eight, more, most = (r.step(world) for world in (1, 8, 16, 64))
        calls = r.calls(64)
        ms = " | ".join(f"{1000 * x:.1f}" for x in (one.compute, one.search, one.save))
        handed = f"{sum(c.bytes for c in calls) / 1e9:.2f} | {len(calls)}"
        exchange = f"{1000 * eight.exchange:.0f} | {1000 * most.exchange:.0f}"
        efficiency = " | ".join(f"{one.total / x.total:.0%}" for x in (eight, more, most))
        images = f"{r.batch}" + (f" x {r.accumulate}" if r.accumulate > 1 else "")
        tera = r.flops * r.accumulate / 1e12
        lines.append(f"| {r.name} | {images} | {tera:.1f} | {ms} | {handed} | {exchange} | {efficiency} |")
    return lines


def draw(made: list[recipes.Recipe], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for r, line in zip(made, ("-", "--", ":", "-.", "-", "--", ":"), strict=True):  # some lie on one another
        one = r.step(1).total
        left.plot(WORLDS, [100 * one / r.step(world).total for world in WORLDS], line, marker="o", label=r.name)
    left.set_xscale("log", base=2)
    left.set_xticks(WORLDS, [str(world) for world in WORLDS])
    left.axvspan(1, 8, color="0.93", zorder=0)
    left.text(1.1, 2, "one node", color="0.4")
    left.set(xlabel="GPUs", ylabel="efficiency, %", ylim=(0, 103), title="a model; nothing of it is measured")
    left.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 0.08))
    names = ("compute", "search", "exchange", "save")
    below = [0.0] * len(made)
    for name in names:
        parts = [100 * getattr(r.step(64), name) / r.step(64).total for r in made]
        right.barh([r.name for r in made], parts, left=below, label=name)
        below = [a + b for a, b in zip(below, parts, strict=True)]
    right.invert_yaxis()
    right.set(xlabel="% of a step on 64 GPUs", xlim=(0, 100), title="a model; nothing of it is measured")
    right.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, -0.3))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="the constants and steps of this machine, anew")
    parser.add_argument("--steps", type=int, default=10, help="of each measurement")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = HERE / "measured.json"
    if args.measure:
        kept.write_text(json.dumps(measure(args.steps), indent=1) + "\n")
    found = json.loads(kept.read_text())
    made = [recipes.recipe(name) for name in recipes.NAMES]
    draw(made, HERE / "efficiency.png")
    parts = {"Recipes on assumed GPUs": table(made), "Predicted and measured": predictions(found)}
    parts["Exchanged in a step"] = counts(found)
    text = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in parts.items())
    (HERE / "table.md").write_text(f"# Tables\n\nMade by `run.py`.\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
