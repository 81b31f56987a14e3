"""The table and the picture of what faults came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Record = dict[str, Any]


def read(results: Path) -> list[Record]:
    """What faults came to, each once: the last time it was done."""
    found: dict[str, Record] = {}
    for line in results.read_text().splitlines() if results.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["key"]] = record
    return list(found.values())


def summary(records: Sequence[Record]) -> str:
    """How many there were, and which promises were broken."""
    kept, skipped = sum(record["ok"] is True for record in records), sum(record["ok"] is None for record in records)
    broken = [record for record in records if record["ok"] is False]
    lines = [f"{len(records)} faults: {kept} promises kept, {len(broken)} broken, {skipped} skipped"]
    lines += [f"  {record['key']}: {'; '.join(record['wrong'])} ({record['happened']})" for record in broken]
    lines += sorted({f"  skipped, {record['kind']}: {record['skipped']}" for record in records if record["ok"] is None})
    return "\n".join(lines)


def write(records: Sequence[Record]) -> None:
    """Write table.md and matrix.png."""
    (HERE / "table.md").write_text(table(records))
    draw(records)


def table(records: Sequence[Record]) -> str:
    """A line for each kind of fault."""
    lines = ["| fault | methods | runs | on two ranks | by the command | promise | kept |", "|---" * 7 + "|"]
    for kind in dict.fromkeys(record["kind"] for record in _in_order(records)):
        of = [record for record in records if record["kind"] == kind]
        done = [record for record in of if record["ok"] is not None]
        kept = f"{sum(record['ok'] for record in done)} of {len(done)}" if done else f"skipped: {of[0]['skipped']}"
        methods, two = len({record["method"] for record in of}), sum(record["ranks"] == 2 for record in of)
        commands = sum(record["how"] == "command" for record in of)
        lines.append(f"| {kind} | {methods} | {len(of)} | {two} | {commands} | {of[0]['promise']} | {kept} |")
    done = [record for record in records if record["ok"] is not None]
    two, commands = sum(r["ranks"] == 2 for r in records), sum(r["how"] == "command" for r in records)
    methods = len({record["method"] for record in records})
    kept = f"{sum(record['ok'] for record in done)} of {len(done)}"
    lines.append(f"| **all** | {methods} | {len(records)} | {two} | {commands} | | {kept} |")
    return "\n".join(lines) + "\n"


def _in_order(records: Sequence[Record]) -> list[Record]:
    """As the kinds are written down."""
    from experiments.faults.kinds import KINDS

    return sorted(records, key=lambda record: list(KINDS).index(record["kind"]))


def draw(records: Sequence[Record]) -> None:
    """Methods over kinds: green where promises were kept, red where one was not."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import ListedColormap

    records = [record for record in _in_order(records) if record["ok"] is not None]
    kinds = list(dict.fromkeys(record["kind"] for record in records))
    methods = sorted({record["method"] for record in records})
    shown = [[float("nan")] * len(methods) for _ in kinds]
    counts = [[0] * len(methods) for _ in kinds]
    for record in records:
        i, j = kinds.index(record["kind"]), methods.index(record["method"])
        counts[i][j] += 1
        shown[i][j] = min(float(record["ok"]), shown[i][j] if counts[i][j] > 1 else 1.0)
    figure, axis = plt.subplots(figsize=(11, 12), layout="constrained", dpi=100)
    axis.imshow(shown, cmap=ListedColormap(["#c8324b", "#8fc7a4"]), vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(counts):
        for j, n in enumerate(row):
            if n:
                axis.text(j, i, str(n), ha="center", va="center", fontsize=8)
    axis.set_xticks(range(len(methods)), [m.removeprefix("hybrids/") for m in methods], rotation=60, ha="right")
    axis.set_yticks(range(len(kinds)), kinds, fontsize=8)
    axis.spines[:].set_visible(False)
    axis.set_title("faults per kind and method; green where every promise was kept", loc="left", fontsize=10)
    figure.savefig(HERE / "matrix.png")
    plt.close(figure)
