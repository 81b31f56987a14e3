"""What is asked of Slurm: from gin files and options to the file that sbatch gets."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from sslkit import checkpoint, config
from sslkit.cli import main
from sslkit.errors import ConfigError
from sslkit.launch import cluster, options
from sslkit.launch.job import Job, ready, refuse_another_run
from sslkit.launch.submission import Submission
from sslkit.slurm import Slurm, minutes
from tests.watched import small

needs_srun = pytest.mark.skipif(shutil.which("srun") is None, reason="submitit asks for srun on the PATH")
ON_SLURM = ("Slurm.partition = 'gpu'", "Slurm.nodes = 2", "Slurm.gpus = 4", "Slurm.time = '12:00:00'")


@pytest.mark.parametrize(
    "text, expected",
    [
        (90, 90),
        ("90", 90),
        ("90:30", 91),
        ("12:00:00", 720),
        ("0:01:01", 2),
        ("1-00:00:00", 1440),
        ("2-12", 3600),
        ("1-02:30", 1590),
        ("0-0:1", 1),
    ],
)
def test_times_are_read_as_slurm_writes_them_and_rounded_up_to_minutes(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["1x", "", "12:", "1:2:3:4", "1-", "-5", "a-1", "1.5"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="write minutes, 'hours:minutes:seconds', or 'days-hours'"):
        minutes(text)


def test_less_than_a_minute_is_refused():
    with pytest.raises(ValueError, match="less than a minute"):
        minutes("0:30")


def test_a_signal_that_would_come_before_the_start_is_refused():
    with pytest.raises(ValueError, match=r"time=2 is not longer than signal_s=120"):
        Slurm(time=2)
    assert Slurm(time=3).signal_s == 120


@pytest.mark.parametrize("name, value", [("nodes", 0), ("gpus", -1), ("cpus", 0), ("memory_gb", 0.0), ("tasks", 0)])
def test_numbers_out_of_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        Slurm(**{name: value})


def test_an_option_that_has_a_parameter_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"write Slurm\.time instead of the option 'time'"):
        Slurm(options={"time": 5})


def test_there_is_a_rank_for_each_accelerator_unless_said_otherwise():
    assert (Slurm().n_ranks, Slurm(gpus=4, nodes=2).n_ranks, Slurm(gpus=4, nodes=2, tasks=1).n_ranks) == (1, 8, 2)


def submission(run, *bindings):
    return Submission([run], [config.load(["gin/cribo.gin"], list(bindings))], run / "slurm", [], run, [])


def test_a_gin_file_without_slurm_asks_for_the_defaults(tmp_path):
    assert submission(tmp_path).resources == Slurm()
    assert submission(tmp_path, "Slurm.gpus = 1").resources == Slurm(gpus=1)


@pytest.mark.parametrize(
    "line, wrong",
    [
        ("Slurm.node = 2", "Slurm has no parameter 'node'; did you mean 'nodes'?"),
        ("Slurm.nodes = 0", "Slurm.nodes = 0 is not allowed: it must be at least 1"),
        ("Slurm.cpus = 'many'", "Slurm.cpus = 'many' does not fit its type"),
        ("Slurm.setup = 'module load cuda'", "does not fit its type, Sequence[str]"),
    ],
)
def test_a_wrong_binding_is_named_by_file_and_line_by_whoever_reads_the_file(line, wrong, tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text(f"include 'gin/cribo.gin'\n{line}\n")
    with pytest.raises(ConfigError, match=rf"{file}:2: .*{re.escape(wrong)}"):
        ready([str(file)], [])


@pytest.mark.parametrize("line", ["Slurm.time = '1x'", "Slurm.time = 1", "Slurm.options = {'nodes': 3}"])
def test_what_does_not_fit_together_is_named_by_file_and_line(line, tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text(f"include 'gin/cribo.gin'\n{line}\n")
    with pytest.raises(ConfigError, match=rf"{file}:2: {re.escape(line)}"):
        ready([str(file)], [])


@pytest.mark.parametrize("line", ["Slurm.setup = ['touch x']", "Slurm.options = {'reservation': 'r'}"])
def test_lines_for_a_shell_are_typed_or_trusted(line, tmp_path):
    file = tmp_path / "theirs.gin"
    file.write_text(f"include 'gin/cribo.gin'\n{line}\n")
    theirs = Submission([tmp_path], [config.load([str(file)])], tmp_path / "slurm", [], tmp_path, [])
    with pytest.raises(ConfigError, match=rf"{file}:2: {re.escape(line)} becomes lines .* only with --trust-files"):
        _ = theirs.resources
    assert replace(theirs, trusts_files=True).resources == submission(tmp_path, line).resources != Slurm()


@pytest.mark.parametrize("name", ["partition", "account", "qos", "constraint"])
def test_a_value_with_a_line_end_is_refused(name):
    with pytest.raises(ValueError, match="has a character that cannot stand in a line for sbatch"):
        Slurm(**{name: "a\ntouch x"})


@pytest.mark.parametrize("options", [{"output": "/x"}, {"export-file": "/x"}, {"wrap": "x"}, {"a\nb": 1}, {"a b": 1}])
def test_an_option_that_writes_elsewhere_or_is_none_is_refused(options):
    with pytest.raises(ValueError, match="is no option of sbatch, or one that the run sets"):
        Slurm(options=options)
    with pytest.raises(ValueError, match="cannot stand in a line"):
        Slurm(options={"comment": "a\ntouch x"})


def test_options_are_bindings_that_know_which_option_they_are_from():
    assert options.resources(nodes=2, gpus=None, time="12:00:00", memory_gb=3.5, setup=("a", "b")) == [
        "Slurm.nodes = 2  # --nodes 2",
        "Slurm.time = '12:00:00'  # --time 12:00:00",
        "Slurm.memory_gb = 3.5  # --memory-gb 3.5",
        "Slurm.setup = ('a', 'b')  # --setup ('a', 'b')",
    ]
    assert options.resources(gpus=0) == ["Slurm.gpus = 0  # --gpus 0"]


def directives(script):
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))


@needs_srun
def test_the_file_for_sbatch_has_what_was_asked_for(tmp_path):
    run = tmp_path / "mine"
    more = ("Slurm.memory_gb = 1.5", "Slurm.setup = ['module load cuda']", "Slurm.options = {'reservation': 'r'}")
    script = submission(run, *ON_SLURM, *more, "Slurm.cpus = 3", "Slurm.signal_s = 300").script
    expected = {
        "partition": "gpu",
        "nodes": "2",
        "gpus-per-node": "4",
        "ntasks-per-node": "4",
        "cpus-per-task": "3",
        "mem": "1536M",
        "time": "720",
        "signal": "USR2@300",
        "reservation": "r",
        "requeue": "",
        "open-mode": "append",
        "job-name": "mine",
    }
    found = directives(script)
    assert {name: found.get(name) for name in expected} == expected
    lines = script.splitlines()
    assert lines.index("module load cuda") < lines.index("export PYTHONSAFEPATH=1")
    (snapshot,) = re.findall(r"^export PYTHONPATH=(\S+)\"", script, re.MULTILINE)
    assert snapshot.startswith(f"{run / 'code' / 'snapshot_'}")
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert f" --cpus-per-task=3 --kill-on-bad-exit=1 --wait=300 {sys.executable} -m sslkit.launch.held " in srun


@needs_srun
def test_the_name_of_a_run_makes_no_line_of_its_own(tmp_path):
    assert directives(submission(tmp_path / "a b\ntouch x").script)["job-name"] == "a-b-touch-x"


@needs_srun
def test_the_file_for_sbatch_leaves_to_slurm_what_nobody_asked_for(tmp_path):
    found = directives(submission(tmp_path).script)
    assert not {"partition", "account", "qos", "constraint", "mem", "gpus-per-node", "array"} & found.keys()


@needs_srun
def test_a_sweep_is_an_array_of_which_so_many_run_at_the_same_time(tmp_path):
    settings = [config.load(["gin/cribo.gin"], [f"train.seed = {n}", "Slurm.array_limit = 2"]) for n in range(3)]
    runs = [tmp_path / f"seed={n}" for n in range(3)]
    script = Submission(runs, settings, tmp_path / "slurm", ["train.seed = 0, 1, 2"], tmp_path, []).script
    assert directives(script)["array"] == "0-2%2"
    assert directives(script)["job-name"] == tmp_path.name


@pytest.mark.slow
def test_what_is_asked_of_slurm_is_no_part_of_a_run(tmp_path):
    """Neither a run here nor going on with it asks where it is to run."""
    bindings, run = [*small("train.n_steps = 1", "train.n_workers = 0")], tmp_path / "run"
    Job(["gin/cribo.gin"], [*bindings, *ON_SLURM], str(run), [])()
    assert checkpoint.steps(run) == [1]
    assert "Slurm" not in (run / "operative.gin").read_text()
    assert "Slurm.nodes = 2" in (run / "config.gin").read_text()
    for others in ([], ["Slurm.partition = 'cpu'"], [*ON_SLURM, "Slurm.account = 'me'"]):
        refuse_another_run(run, ready(["gin/cribo.gin"], [*bindings, *others]), 1)


@pytest.mark.parametrize(
    "words, wrong",
    [
        (("--nodes", "2"), "--nodes 2 is for jobs of Slurm: add --slurm, or leave it out"),
        (("--slurm", "--processes", "2"), "--processes is for this machine"),
    ],
)
def test_options_of_two_ways_to_run_are_not_mixed(words, wrong):
    done = CliRunner().invoke(main, ["launch", "--gin", "gin/cribo.gin", *words])
    assert done.exit_code == 2
    assert wrong in done.output


@pytest.mark.parametrize(
    "words", [("--processes", "2"), ("--slurm",), ("--dry-run",), ("--sweep", "train.seed = 0, 1")]
)
def test_what_starts_in_one_process_is_refused_on_ranks_of_others(words, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["launch", "--gin", "gin/cribo.gin", *words])
    assert done.exit_code == 2
    assert "start in one process: leave torchrun out" in done.output


def test_a_machine_without_slurm_says_so(monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    done = CliRunner().invoke(main, ["launch", "--gin", "gin/cribo.gin", "--slurm"])
    assert done.exit_code == 2
    assert "there is no sbatch on this machine" in done.output


@pytest.mark.parametrize(
    "line, jobs",
    [
        ("52", ["52"]),
        ("52_1", ["52_1"]),
        ("52_[0-2%1]", ["52_0", "52_1", "52_2"]),
        ("52_[0,3-4]", ["52_0", "52_3", "52_4"]),
        ("52_[0-4:2%1]", ["52_0", "52_2", "52_4"]),
        ("52_[7,9,...]", ["52_7", "52_9"]),
    ],
)
def test_jobs_of_an_array_that_wait_share_a_line(line, jobs):
    assert cluster._parts(line) == jobs


def test_less_than_a_megabyte_is_one(tmp_path):
    assert Slurm(memory_gb=0.0001).parameters("x", tmp_path)["mem"] == "1M"  # none would be all for Slurm
