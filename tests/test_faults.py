"""Runs that are killed, stopped, starved and lied to end with the weights of the run that nothing disturbed."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def test_a_dozen_faults_of_different_kinds_break_no_promise(tmp_path):
    words = [sys.executable, "-m", "experiments.faults.run", "--slice", "12", "--runs", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    broken = {record["key"]: record["wrong"] for record in records if record["ok"] is False}
    assert not broken
    assert done.returncode == 0, done.stderr[-3000:]
    assert len({record["kind"] for record in records}) == 12
    assert len({record["method"] for record in records}) >= 6
    assert {record["ranks"] for record in records if record["ok"]} == {1, 2}
