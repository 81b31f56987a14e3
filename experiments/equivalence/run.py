"""Every shipped method on two ranks against one, and with two batches a step against one of twice the size.

    python -m experiments.equivalence.run

Writes table.md beside itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from experiments.equivalence.compare import Course, cases, course, every, losses_apart, weights_apart
from tests.ranks import on_ranks

HERE = Path(__file__).parent
HEAD = (
    "method",
    "two ranks: losses",
    "weights",
    "what keeps ranks apart",
    "two batches: losses",
    "weights",
    "what keeps batches apart",
)


def table(alone: dict[str, Course], ranks: dict[str, Course], batches: dict[str, Course]) -> str:
    """A line for each method: how far it ends from itself, and what it names."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|--:|--:|---|--:|--:|---|"]
    for name, one in alone.items():
        cells = [f"`{name.partition(', ')[0]}`" + "".join(name.partition(", ")[1:])]
        for other, named in ((ranks[name], one.rank_local), (batches[name], one.batch_scoped)):
            cells += [f"{apart(other, one):.0e}".replace("0e+00", "0") for apart in (losses_apart, weights_apart)]
            cells.append(", ".join(f"`{each}`" for each in named) or "nothing")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ranks = on_ranks(every, folder)[0]
    alone = every()
    batches = {case.name: course(case, accumulate=2) for case in tqdm(cases(), desc="methods")}
    made = table(alone, ranks, batches)
    (HERE / "table.md").write_text(made)
    print(made)


if __name__ == "__main__":
    main()
