"""Packages for new components: written, tested by their own tests, installed and trained with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile

import pytest

from sslkit.commands import stub
from sslkit.errors import ConfigError
from sslkit.registry import ROLES
from tests.conftest import ROOT, RUN, command

SHORT = (*RUN, "train.pictures = False", "train.evaluations = None")
LACKS = {"dataset": "scenes/", "masking": "across/"}  # what the example of a role has none of


def run(words, folder, *path):
    """What a command says, run in a folder with these on Python's path."""
    places = os.pathsep.join(map(str, (*path, ROOT)))
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(folder):
    """Where the package of a folder lies once it is built and unpacked, as pip would."""
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"], folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
@pytest.mark.parametrize("role", stub.ONE_OF)
def test_a_new_component_passes_the_tests_that_come_with_it(role, tmp_path):
    stub.write(role, "SoftVoronoi", tmp_path)
    said = run([sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider"], tmp_path, tmp_path)
    assert "passed" in said


@pytest.mark.slow
@pytest.mark.parametrize("role", [role for role in stub.ONE_OF if role != "evaluation"])
def test_once_it_is_installed_its_example_trains(role, tmp_path):
    stub.write(role, "SoftVoronoi", tmp_path / "new")
    short = tuple(binding for binding in SHORT if not (role in LACKS and binding.startswith(LACKS[role])))
    words = command("launch", "--gin", "example.gin", "--out", str(tmp_path / "run"), "--steps", "2", bindings=short)
    assert "step 2/2" in run(words, tmp_path / "new", installed(tmp_path / "new"))
    assert f"{stub.ONE_OF[role]}.SoftVoronoi" in (tmp_path / "run" / "config.gin").read_text()


@pytest.mark.slow
def test_once_it_is_installed_a_protocol_evaluates_a_run(tmp_path):
    stub.write("evaluation", "SoftVoronoi", tmp_path / "new")
    run(command("launch", "--gin", "gin/cribo.gin", "--out", "run", "--steps", "2", bindings=SHORT), tmp_path)
    words = command("evaluate", "../run", "--protocol", "example.gin", bindings=("evaluate.SoftVoronoi.n_images = 4",))
    answer = json.loads(run(words, tmp_path / "new", installed(tmp_path / "new")).splitlines()[-1])
    assert answer["n_images"] == 4


def test_every_role_has_a_stub():
    assert tuple(stub.ONE_OF.values()) == ROLES


@pytest.mark.parametrize("role", stub.ONE_OF)
def test_a_role_may_be_written_in_singular_or_as_in_the_registry(role, tmp_path):
    one, many = (stub.write(word, "SoftVoronoi", tmp_path / word) for word in (role, stub.ONE_OF[role]))
    assert [path.name for path in one] == [
        "pyproject.toml",
        "soft_voronoi.py",
        "test_soft_voronoi.py",
        "example.gin",
        "README.md",
    ]
    assert [path.read_text() for path in one] == [path.read_text() for path in many]
    assert not any("$" in path.read_text() for path in one)


def test_the_package_offers_its_module_to_sslkit(tmp_path):
    project = tomllib.loads(stub.write("loss", "SoftVoronoi", tmp_path)[0].read_text())["project"]
    assert project["name"] == "sslkit-soft-voronoi"
    assert project["entry-points"] == {"sslkit.components": {"soft_voronoi": "soft_voronoi"}}


@pytest.mark.parametrize(
    "role, name, message",
    [
        ("clusterr", "SoftVoronoi", "no role 'clusterr'; did you mean 'clusterer'.; the roles are augmenter, "),
        ("clusterer", "soft_voronoi", "name='soft_voronoi' is not the name of a class; 'SoftVoronoi' would be"),
        ("clusterer", "soft voronoi 2", "'SoftVoronoi2' would be"),
        ("clusterer", "2ndOrder", "'NdOrder' would be"),
        ("clusterer", "", "'SoftVoronoi' would be"),
        ("clusterer", "None", "name='None' is not the name of a class"),
        ("clusterer", "Sinkhorn", "clusterers.Sinkhorn is already taken by sslkit.clusterers.sinkhorn; .* Grid,"),
        ("clusterer", "Tensor", "name='Tensor' would hide something that the new module uses"),
        ("aligner", "ValueError", "name='ValueError' would hide something"),
        ("matcher", "Queue", "name='Queue' makes a module 'queue', which Python knows as something else"),
        ("matcher", "Lambda", "name='Lambda' makes a module 'lambda'"),
        ("matcher", "Torch", "name='Torch' makes a module 'torch'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(role, name, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        stub.write(role, name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_named_like_the_module_takes_no_name(tmp_path, monkeypatch):
    (tmp_path / "soft_voronoi").mkdir()
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m sslkit` does with the folder it is called in
    assert stub.write("clusterer", "SoftVoronoi", tmp_path / "soft_voronoi")


def test_a_name_may_be_taken_in_another_role(tmp_path):
    assert stub.write("loss", "Sinkhorn", tmp_path)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "notes").write_text("mine")
    for place in (tmp_path, tmp_path / "notes"):
        with pytest.raises(ConfigError, match=f"{place} is there already and is not an empty folder"):
            stub.write("clusterer", "SoftVoronoi", place)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
