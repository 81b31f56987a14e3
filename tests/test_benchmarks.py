"""The benchmarks run at a small size; each ends with an error if the forms it compares do not agree."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent

QUICK = ("--rounds", "1", "--seconds", "0", "--threads", "1")


def benchmark(name, *options):
    return subprocess.run(
        [sys.executable, f"experiments/benchmarks/{name}.py", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options, lines",
    [
        ("clustering", (*QUICK, "--batch", "3", "--grid", "6", "--dim", "16", "--clusters", "5", "--growth"), 3 * 2),
        ("memory", (*QUICK, "--images", "70", "--per-image", "6", "--batch", "5", "--dim", "16", "--growth"), 3 * 3),
        ("history", (*QUICK, "--images", "1100", "--window", "5", "--neighbours", "4"), 2),
        (
            "positions",
            (*QUICK, "--images", "4", "--dim", "12", "--hidden", "16", "--out", "4", "--prototypes", "64"),
            6,
        ),
        ("local_global", (*QUICK, "--model", "resnet18", "--batch", "2", "--side", "64", "--rows", "3"), 3),
        ("search", (*QUICK, "--images", "800", "--batch", "8", "--dim", "16", "--lists", "8", "--probe", "2"), 4),
    ],
)
def test_the_forms_agree_at_every_size(name, options, lines):
    done = benchmark(name, *options)
    assert done.returncode == 0, done.stderr
    assert sum(line.startswith("| ") for line in done.stdout.splitlines()) == 1 + lines


def test_the_views_lie_where_the_resampled_maps_say():
    done = benchmark("views", "--n-images", "2", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"forms: (.*) px", done.stdout)[1]) < 2.0


@pytest.mark.slow
def test_what_is_saved_behind_the_training_is_the_state_of_its_step():
    done = benchmark("saving", *QUICK, "--gib", "0.01", "--every", "2", "--batch", "4")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\| behind the training \|", done.stdout, re.MULTILINE)) == 2


def test_a_wrong_row_is_counted():
    measure = runpy.run_path(str(ROOT / "experiments/benchmarks/measure.py"), run_name="measure")
    right, wrong = np.zeros((4, 2)), np.array([[0.0, 0], [1, 1], [0, 1], [0, 0]])
    assert measure["differences"]({"rows": right}, {"rows": right}) == []
    assert measure["differences"]({"rows": right}, {"rows": wrong}) == ["rows differ in 2 of 4 rows"]
