"""A job runs the code that it was submitted with, whatever becomes of the files in between."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from sslkit import provenance
from sslkit.errors import ConfigError
from sslkit.launch import snapshot
from tests.conftest import ROOT

SAY = (
    "import json, sslkit; from sslkit import provenance; print(json.dumps([sslkit.__file__, provenance.code_state()]))"
)


@pytest.fixture
def tree(tmp_path):
    """A working tree that a test may edit: the package, its gin files, and what marks a checkout."""
    copied = tmp_path / "tree"
    for name in ("sslkit", "gin"):
        shutil.copytree(ROOT / name, copied / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copied)
    return copied


def python(path, code, cwd, *words):
    """What code prints where `path` stands first for imports, as in a job."""
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


TAKE = (
    "import sys; from pathlib import Path; from sslkit.launch import snapshot; print(snapshot.take(Path(sys.argv[1])))"
)


def test_code_is_copied_once_and_named_by_its_content(tmp_path):
    taken = snapshot.take(tmp_path)
    assert taken == snapshot.path(tmp_path)
    assert {path.name for path in taken.iterdir()} == {"sslkit", "gin", "pyproject.toml", "snapshot.json"}
    assert (taken / "gin" / "cribo.gin").read_text() == (ROOT / "gin" / "cribo.gin").read_text()
    assert not list(taken.rglob("__pycache__"))
    before = os.stat(taken / "sslkit" / "cli.py")
    assert snapshot.take(tmp_path) == taken
    assert os.stat(taken / "sslkit" / "cli.py").st_ino == before.st_ino
    assert [path.name for path in tmp_path.iterdir()] == [taken.name]


@pytest.mark.parametrize("file", ["sslkit/cli.py", "torch.py", "sslkit/more/json.py", "gin/.hidden"])
def test_a_copy_that_is_not_what_its_name_says_is_refused(file, tmp_path):
    planted = snapshot.take(tmp_path) / file
    planted.parent.mkdir(exist_ok=True)
    planted.write_text("raise SystemExit('planted')")
    with pytest.raises(ConfigError, match=r"snapshot_\w+ is not the code that was copied there"):
        snapshot.take(tmp_path)


def test_what_python_compiled_in_a_copy_is_made_anew(tmp_path):
    compiled = snapshot.take(tmp_path) / "sslkit" / "__pycache__"
    compiled.mkdir()
    (compiled / "cli.cpython-311.pyc").write_bytes(b"planted")
    snapshot.take(tmp_path)
    assert not compiled.exists()


def test_a_copy_that_was_cut_short_is_made_anew(tmp_path):
    torn = tmp_path / f"{snapshot.path(tmp_path).name}.partial"
    (torn / "sslkit").mkdir(parents=True)
    assert (snapshot.take(tmp_path) / "sslkit" / "cli.py").is_file()
    assert not torn.exists()


def test_a_snapshot_keeps_the_provenance_of_its_submission(tmp_path):
    taken = snapshot.take(tmp_path)
    assert json.loads((taken / provenance.SNAPSHOT).read_text()) == provenance.code_state()


def test_code_that_is_not_the_snapshot_is_refused_with_both_places(tmp_path):
    with pytest.raises(ConfigError, match=rf"the code in {tmp_path}, but Python imports sslkit from {ROOT}"):
        snapshot.refuse_other_code(tmp_path)
    snapshot.refuse_other_code(ROOT)


@pytest.mark.slow
def test_the_copy_is_imported_although_the_working_tree_has_changed(tree, tmp_path):
    (tree / "sslkit" / "marked.py").write_text("SAID = 'as submitted'\n")
    first = python(tree, TAKE, tree, tmp_path / "code")
    (tree / "sslkit" / "marked.py").write_text("SAID = 'edited since'\n")
    (tree / "gin" / "cribo.gin").write_text("broken = (\n")
    code = "from sslkit import marked, provenance; print(marked.SAID, provenance.PACKAGE)"
    assert (
        python(first, code, tree) == f"as submitted {first}/sslkit"
    )  # from inside the tree, whose folder does not count
    second = python(tree, TAKE, tree, tmp_path / "code")
    assert second != first
    assert python(second, code, tree) == f"edited since {second}/sslkit"


@pytest.mark.slow
def test_a_run_of_a_snapshot_records_the_commit_it_was_submitted_from(tree, tmp_path):
    def git(*words):
        by = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        return subprocess.run(["git", *by, *words], cwd=tree, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "the state of then")
    (tree / "sslkit" / "marked.py").write_text("SAID = 'not committed'\n")
    taken = python(tree, TAKE, tree, tmp_path / "code")
    commit = git("rev-parse", "HEAD")
    git("add", ".")
    git("commit", "--quiet", "-m", "the state of now")
    place, state = json.loads(python(taken, SAY, tree))
    assert place == f"{taken}/sslkit/__init__.py"
    assert state["commit"] == commit != git("rev-parse", "HEAD")
    assert "new file sslkit/marked.py" in state["difference"]
    assert "not committed" in state["difference"]
