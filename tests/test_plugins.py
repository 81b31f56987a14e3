"""A package that others write is installed by pip, listed with its name, checked and trained with."""

import subprocess
import sys

import pytest

from sslkit.commands import stub
from tests.conftest import ROOT, RUN, command
from tests.test_stub import run


@pytest.mark.slow
def test_an_installed_matcher_is_listed_and_used_by_a_gin_file(tmp_path):
    stub.write("matcher", "SecondBest", tmp_path / "second_best")
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, str(tmp_path / "second_best")], check=True, timeout=300)

    listed = run(command("list", "matchers"), tmp_path, site)
    assert "matchers.SecondBest  [sslkit-second-best]" in listed
    assert "matchers.Cycle\n" in listed

    example = str(tmp_path / "second_best" / "example.gin")
    assert run(command("check", example), tmp_path, site) == f"{example}: fine\n"
    assert "matcher: SecondBest" in run(command("describe", example), tmp_path, site)

    bindings = (*RUN, "train.pictures = False", "train.evaluations = None")
    words = command("launch", "--gin", example, "--steps", "2", "--out", str(tmp_path / "run"), bindings=bindings)
    assert "step 2/2" in run(words, tmp_path, site)


@pytest.mark.slow
def test_a_plugin_that_cannot_be_imported_is_named_and_left_out(tmp_path):
    info = tmp_path / "site" / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sslkit.components]\nbroken = no_such_module\n")
    done = subprocess.run(
        command("check", "gin/cribo.gin"),
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "the plugin broken (no_such_module) could not be loaded" in done.stderr
