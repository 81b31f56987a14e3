"""Grids of runs: their values, their directories, and the table and plot that they end in."""

import re
import signal

import pytest
from PIL import Image

from sslkit import checkpoint
from sslkit.commands import sweep
from sslkit.errors import ConfigError
from sslkit.launch.options import Asked
from tests.conftest import TINY
from tests.watched import launch, start, until_it_steps

ON_SCENES = (*TINY, "train.pictures = False")


def test_an_axis_takes_numbers_tuples_words_and_objects():
    assert sweep.axis("a/B.c = 1, 2.5").values == ("1", "2.5")
    assert sweep.axis("Crop.scale = (0.1, 1.0), (0.2, 1.0)").values == ("(0.1, 1.0)", "(0.2, 1.0)")
    assert sweep.axis("Method.clusterer = @clusterers.Grid(), @clusterers.KMeans()").values == (
        "@clusterers.Grid()",
        "@clusterers.KMeans()",
    )


@pytest.mark.parametrize("text", ["a.b", "a.b =", "a.b = 1, 2 c.d = 3", "= 1, 2", "a.b = [1"])
def test_what_is_no_axis_is_refused(text):
    with pytest.raises(ConfigError, match="give a parameter and its values"):
        sweep.axis(text)


def test_a_value_that_stands_twice_is_refused():
    with pytest.raises(ConfigError, match="a value stands there twice"):
        sweep.axis("a.b = 1, 2, 1")


def test_several_axes_make_a_grid_with_a_directory_for_each_point():
    grid = sweep.points([sweep.axis("a.b = 1, 2"), sweep.axis("c.d = 'x', 'y', 'z'")])
    assert [point.folder for point in grid] == ["b=1_d=x", "b=1_d=y", "b=1_d=z", "b=2_d=x", "b=2_d=y", "b=2_d=z"]
    assert grid[4].bindings == ["a.b = 2  # --sweep", "c.d = 'y'  # --sweep"]


def test_one_parameter_in_two_axes_is_refused():
    with pytest.raises(ConfigError, match=r"a.b twice"):
        sweep.points([sweep.axis("a.b = 1, 2"), sweep.axis("a.b = 3, 4")])


def test_parameters_of_one_name_are_told_apart_by_their_scopes():
    grid = sweep.points([sweep.axis("one/Crop.blur_p = 0.1, 0.9"), sweep.axis("two/Crop.blur_p = 0.1, 0.9")])
    assert grid[1].folder == "one-Crop.blur_p=0.1_two-Crop.blur_p=0.9"


def test_a_long_name_is_cut_without_being_confused_with_another():
    long = ", ".join(f"'{'x' * 200}{n}'" for n in range(3))
    folders = [point.folder for point in sweep.points([sweep.axis(f"a.b = {long}")])]
    assert len(set(folders)) == 3
    assert max(map(len, folders)) < 120


def test_torn_or_strange_results_are_none(tmp_path):
    for text in ("", "{", "[1]", "3", '{"loss/total": null}'):
        (tmp_path / "results.json").write_text(text)
        assert sweep.results_of(tmp_path) == {}


def test_points_that_would_share_a_directory_are_refused():
    with pytest.raises(ConfigError, match="would share a run directory"):
        sweep.points([sweep.axis("a.b = 'x y', 'x:y'")])


def test_the_table_has_mean_and_deviation_over_seeds(tmp_path):
    grid = sweep.points([sweep.axis("a.b = 1, 2"), sweep.axis("train.seed = 0, 1")])
    for point, miou in zip(grid, (0.2, 0.4, 0.5, 0.5), strict=True):
        (tmp_path / point.folder).mkdir()
        (tmp_path / point.folder / "results.json").write_text(f'{{"dense/miou": {miou}}}')
    sweep.write_report(tmp_path, grid)
    assert (tmp_path / "sweep.md").read_text().splitlines() == [
        "| a.b | dense/miou | runs |",
        "|---|---|---|",
        "| 1 | 0.3 ± 0.14 | 2 of 2 |",
        "| 2 | 0.5 ± 0 | 2 of 2 |",
    ]


def test_a_point_that_did_not_finish_is_shown_as_that(tmp_path):
    grid = sweep.points([sweep.axis("a.b = 1, 2")])
    sweep.write_report(tmp_path, grid)
    assert "| 1 | 0 of 1 |" in (tmp_path / "sweep.md").read_text()


@pytest.mark.slow
def test_three_by_three_runs_on_scenes_end_in_one_table_and_one_plot(tmp_path, sslkit):
    words = ("launch", "--gin", "gin/cribo.gin", "--steps", "2", "--out", str(tmp_path / "grid"))
    axes = ("clusterers.Sinkhorn.n_clusters = 4, 8, 12", "clusterers.Sinkhorn.positional_weight = 0.0, 1.0, 2.0")
    swept = (*words, *(word for text in axes for word in ("--sweep", text)))
    done = sslkit(*swept, bindings=ON_SCENES)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\| (4|8|12) \| (0.0|1.0|2.0) \| .* \| 1 of 1 \|$", done.stdout, re.MULTILINE)) == 9
    assert Image.open(tmp_path / "grid" / "sweep.png").size[0] > 400
    again = sslkit(*swept, bindings=ON_SCENES)
    assert again.stdout.count("finished before") == 9


@pytest.mark.slow
def test_a_wrong_point_is_found_before_the_first_one_starts(tmp_path, sslkit):
    words = ("launch", "--gin", "gin/cribo.gin", "--steps", "2", "--out", str(tmp_path / "grid"))
    done = sslkit(*words, "--sweep", "clusterers.Sinkhorn.n_clusters = 4, 4096", bindings=ON_SCENES)
    assert done.returncode == 2
    assert "the point n_clusters=4096: --sweep: clusterers.Sinkhorn.n_clusters = 4096: " in done.stderr
    assert not (tmp_path / "grid").exists()


def test_a_swept_value_without_effect_is_refused(tmp_path):
    (tmp_path / "mine.gin").write_text("include 'gin/dino.gin'\nimage/losses.Distillation.student_temperature = 0.2\n")
    asked = Asked([str(tmp_path / "mine.gin")], [], tmp_path / "grid", None, [])
    with pytest.raises(ConfigError, match="nothing uses it; image/losses"):
        sweep.sweep(asked, ["losses.Distillation.student_temperature = 0.1, 0.3"])


@pytest.mark.slow
def test_a_point_that_fails_does_not_keep_the_others_from_running(tmp_path, sslkit):
    words = ("launch", "--gin", "gin/cribo.gin", "--steps", "3", "--out", str(tmp_path / "grid"))
    done = sslkit(*words, "--sweep", "Optimizer.lr = 1e30, 0.001", bindings=ON_SCENES)
    assert done.returncode == 1
    assert "lr=0.001 failed" not in done.stderr
    assert "lr=1e+30 failed with code 1" in done.stderr
    assert "| 0.001 |" in done.stdout
    assert "1 of 2 failed" in done.stdout


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_lets_its_run_save_and_goes_no_further(tmp_path):
    out = tmp_path / "grid"
    process = start([*launch(out, "--steps", "5000"), "--sweep", "Optimizer.clip = 1.0, 2.0"])
    until_it_steps(process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "clip=1.0 was stopped; the same command goes on there" in errors
    (step,) = re.findall(r"stopped by SIGTERM after step (\d+), which is saved", errors)
    assert checkpoint.steps(out / "clip=1.0") == [int(step)]
    assert not (out / "clip=2.0").exists()
