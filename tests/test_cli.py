"""What the commands print, and with which code they end."""

import json
import resource
import subprocess
import sys

import pytest
from click.testing import CliRunner

from sslkit import config
from sslkit.cli import main
from tests.conftest import ROOT

SIX_MISTAKES = """\
include 'gin/cribo.gin'
clusterers.Sinkhorn.n_cluster = 4
train.batch_size = 'many'
acros/losses.Distillation.teacher_temperature = 0.07
Method.clusterer = @clusterers.KMean()
image/Term.head = 'imag'
augmenters.Crop.interpolation = 'cubic'
"""


def run(*words):
    """What a command prints and its exit code, in this process."""
    done = CliRunner().invoke(main, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output, done.exit_code


@pytest.mark.parametrize("file", config.shipped())
def test_every_shipped_file_is_clean(file):
    said, code = run("check", file)
    assert code == 0, said
    assert said.startswith(f"{file}: fine")


@pytest.mark.slow
def test_a_check_takes_little_more_than_what_it_imports():
    imports = processor_seconds("-c", "import torch, torchvision, timm")
    assert processor_seconds("-m", "sslkit", "check", "gin/cribo.gin") < 4 * imports


def processor_seconds(*words):
    """What Python with these words takes of a processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, timeout=200)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_six_different_mistakes_are_all_reported(tmp_path):
    file = tmp_path / "six.gin"
    file.write_text(SIX_MISTAKES)
    said, code = run("check", str(file))
    assert code == 2
    *problems, summary = [line for line in said.splitlines() if line.startswith(str(file))]
    assert summary == f"{file}: 6 problems"
    assert [line.removeprefix(f"{file}:")[0] for line in problems] == list("234567")


def test_problems_come_as_records_for_tools(tmp_path):
    file = tmp_path / "six.gin"
    file.write_text(SIX_MISTAKES)
    said, code = run("check", "--json", str(file), "gin/cribo.gin")
    assert code == 2
    records = json.loads(said)
    assert len(records) == 6
    first = next(record for record in records if record["line"] == 2)
    assert first["file"] == str(file)
    assert first["binding"] == "clusterers.Sinkhorn.n_cluster"
    assert "did you mean 'n_clusters'?" in first["hint"]


def test_a_value_that_is_left_open_without_saying_so_is_a_problem(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text("include 'gin/base/cribo.gin'\ninclude 'gin/base/scenes.gin'\n")
    said, code = run("check", str(file))
    assert code == 2
    assert "train.optimizer is not set; add `train.optimizer = ...`" in said


def test_what_a_part_or_a_recipe_leaves_open_is_named():
    assert "leaves open train.method, train.data, train.augmenter" in run("check", "gin/base/small.gin")[0]
    assert "leaves open train.data" in run("check", "gin/recipes/cribo_in1k_vits16.gin")[0]


def test_check_takes_the_folder_that_launch_would_be_given(tmp_path):
    said, code = run("check", "gin/recipes/cribo_in1k_vits16.gin", "--data", str(tmp_path / "nowhere"))
    assert code == 2
    assert "there is no such folder" in said


def test_describe_shows_every_value_that_is_set_with_its_place():
    said, code = run("describe", "gin/cribo.gin", "--set", "train.batch_size = 16")
    assert code == 0
    assert "loss = 1.0 image + 1.0 region + 1.0 across" in said
    rows = [line.split() for line in said.splitlines()]
    assert any(row[-3:] == ["=", "16", "--set"] for row in rows)
    assert any("n_clusters" in row and row[-1].startswith("gin/cribo.gin:") for row in rows)
    assert "by default: n_rounds 5" in said
    assert "memory of search 'objects'" in said


@pytest.mark.parametrize("file", config.shipped())
def test_every_shipped_file_can_be_described(file):
    for words in ((), ("--markdown",)):
        said, code = run("describe", file, *words)
        assert code == 0, said


def test_describe_leaves_nothing_out():
    settings = config.load(["gin/cribo.gin"])
    said = run("describe", "gin/cribo.gin")[0]
    for node in settings.tree.nodes():
        for name, argument in node.arguments.items():
            assert name in said
            if argument.origin and isinstance(argument.value, (int, float)):
                assert f"{name} = {argument.value!r}" in said


def test_describe_says_whose_prototypes_an_output_layer_shares(tmp_path):
    picture = tmp_path / "flow.svg"
    said, code = run("describe", "gin/ibot.gin", "--picture", str(picture))
    assert code == 0
    assert "head = 'patch' of Prototypes, the prototypes of 'image'" in said
    assert "Prototypes: as image" in picture.read_text()


def test_describe_draws_the_flow_of_data(tmp_path):
    picture = tmp_path / "flow.svg"
    assert run("describe", "gin/cribo.gin", "--picture", str(picture))[1] == 0
    assert picture.read_text().startswith("<svg")


def test_list_shows_types_ranges_defaults_and_sources():
    said, code = run("list", "clusterers")
    assert code == 0
    row = next(line for line in said.splitlines() if "n_rounds" in line and "= 5" in line)
    assert "int" in row
    assert "at least 1" in row
    assert "Source: CrOC (arXiv:2303.13245)" in said


def test_list_without_a_role_shows_all_of_them():
    said = run("list")[0]
    for part in ("clusterers:", "Sinkhorn", "helpers:", "merge", "Method", "train"):
        assert part in said


def test_list_knows_single_things_and_answers_unknown_ones_with_the_nearest():
    assert "matchers.Cycle" in run("list", "Cycle")[0]
    said, code = run("list", "clusterer")
    assert code == 2
    assert "did you mean 'clusterers'?" in said


@pytest.mark.parametrize(
    "command", ["check", "describe", "list", "new", "launch", "runs", "logs", "cancel", "evaluate", "picture", "export"]
)
def test_every_command_explains_its_options(command):
    said, code = run(command, "--help")
    assert code == 0
    assert "Options:" in said


def test_launch_needs_a_file_or_a_run():
    said, code = run("launch")
    assert code == 2
    assert "give a gin file (--gin FILE) or a run to repeat (--from RUN)" in said


def test_options_and_bindings_of_one_value_contradict_each_other():
    said, code = run("launch", "--gin", "gin/cribo.gin", "--steps", "5", "--set", "train.n_steps = 6", "--dry-run")
    assert code == 2
    assert "--set: train.n_steps is set twice, also by --steps 5; give it once" in said


def test_the_classic_spellings_of_gin_users_are_understood():
    said, code = run("launch", "--gin_file", "gin/cribo.gin", "--gin_bindings", "train.batch_sise = 6", "--dry-run")
    assert code == 2
    assert "did you mean 'batch_size'?" in said


def test_help_of_the_module_bears_its_own_name():
    said = subprocess.run(
        [sys.executable, "-m", "sslkit.launch", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert said.startswith("Usage: python -m sslkit.launch [OPTIONS]")
