"""The benchmarks run at a small size; each ends with an error if the forms it compares do not agree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

QUICK = ("--rounds", "1", "--seconds", "0", "--threads", "1")
SMALL = {
    "clustering": (*QUICK, "--batch", "3", "--grid", "6", "--dim", "16", "--clusters", "5"),
    "memory": (*QUICK, "--images", "70", "--per-image", "6", "--batch", "5", "--dim", "16", "--growth"),
    "views": ("--n-images", "2", "--repeats", "1"),
}


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
@pytest.mark.parametrize("name", SMALL)
def test_the_forms_agree_and_a_table_is_printed(name):
    done = benchmark(name, *SMALL[name])
    assert done.returncode == 0, done.stderr
    assert "torch" in done.stdout
    if name != "views":
        assert done.stdout.count("\n| ") == (2 + 1 if name == "clustering" else 3 * 3 + 1)
