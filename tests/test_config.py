"""A right configuration builds what it says; a wrong one is refused with every problem at once."""

import pytest

from sslkit import config
from sslkit.errors import ConfigError
from sslkit.launch.job import ready
from sslkit.memories import Queue

METHODS = [file for file in config.shipped() if file.count("/") == 1]
RECIPES = [file for file in config.shipped() if file.startswith("gin/recipes/")]
HYBRID = """
include 'gin/cribo.gin'
Method.clusterer = @clusterers.Grid()
clusterers.Grid.rows = 2
clusterers.Grid.columns = 2
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.gin"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def refusal(*bindings, files=("gin/cribo.gin",)):
    """The message with which a run is refused."""
    with pytest.raises(ConfigError) as refused:
        ready(list(files), list(bindings))
    return str(refused.value)


@pytest.mark.parametrize("file", METHODS)
def test_every_method_file_is_ready_and_builds(file):
    assert ready([file], []).part("train", "method").terms


@pytest.mark.parametrize("file", RECIPES)
def test_every_recipe_lacks_its_data_alone(file):
    assert ready([file], ["train.data = @datasets.Scenes()"]).has("train")
    assert refusal(files=[file]).endswith("train.data is not set; give --data DIR")


def test_the_entries_of_a_file_are_known_before_anything_is_built():
    settings = config.load(["gin/cribo.gin"])
    assert settings.has("train")
    assert not settings.has("evaluation")
    assert settings.argument("train", "batch_size").value == 32
    assert str(settings.argument("train", "batch_size").origin.place) == "gin/base/small.gin:31"


def test_the_command_line_holds_over_files_and_the_later_file_over_the_earlier(write):
    later = write("train.batch_size = 5\ntrain.seed = 5\n")
    settings = config.load(["gin/cribo.gin", later], ["train.seed = 7"])
    assert [settings.argument("train", name).value for name in ("batch_size", "seed")] == [5, 7]


def test_loading_refuses_what_examining_reports():
    settings, problems = config.examine(["gin/cribo.gin"], ["train.batch_sise = 3"])
    assert [problem.binding for problem in problems] == ["train.batch_sise"]
    assert settings.argument("train", "batch_size").value == 32
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        config.load(["gin/cribo.gin"], ["train.batch_sise = 3"])


def test_all_problems_are_reported_at_once():
    said = refusal("train.batch_sise = 3", "Method.momentun = 0.9", "image/Term.head = 'imag'", "across/Term.loss = 3")
    assert [word in said for word in ("batch_size", "momentum", "imag", "across/Term.loss")] == [True] * 4


def test_a_message_is_followed_by_the_bindings_it_speaks_of():
    settings = config.load(["gin/cribo.gin"], ["memories.Queue.n_images = 12"])
    assert settings.places("n_images=12 is not enough") == "\n  --set: memories.Queue.n_images = 12"
    assert settings.places("nothing in particular") == ""


def test_settings_of_replaced_parts_fall_away_with_them(write):
    assert ready([write(HYBRID)], []).part("train", "method").clusterer.n_clusters == 4


@pytest.mark.parametrize(
    "misspelt", ["secnd/Term.weight = 0.1", "acros/losses.Distillation.teacher_temperature = 0.09", "CRIBO_TERM = {}"]
)
def test_restating_the_terms_excuses_no_misspelt_scope_or_macro(write, misspelt):
    file = write(f"include 'gin/cribo.gin'\nMethod.terms = {{'image': @image/Term()}}\n{misspelt}\n")
    assert refusal(files=[file]).startswith(f"{file}:3: {misspelt.split(' = ')[0]} is set but nothing uses it")


def test_merge_joins_the_terms_of_a_base_with_new_ones(write):
    file = write(
        "include 'gin/cribo.gin'\n"
        "Method.terms = @merge()\n"
        "merge.parts = [%CRIBO_TERMS, {'second': @second/Term()}]\n"
        "second/Term.aligner = @aligners.ImageAcrossViews()\n"
        "second/Term.head = 'image'\n"
    )
    assert list(ready([file], []).part("train", "method").terms) == ["image", "region", "across", "second"]


def test_a_singleton_is_one_object_in_every_place(write):
    file = write(
        "include 'gin/cribo.gin'\n"
        "evaluate.DenseRetrieval.train = @both/singleton()\n"
        "evaluate.DenseRetrieval.val = @both/singleton()\n"
        "both/singleton.constructor = @val/datasets.Scenes\n"
    )
    settings = config.load([file])
    described = settings.argument("train", "evaluations").value["dense"].arguments
    assert described["train"].value is described["val"].value
    protocol = settings.part("train", "evaluations")["dense"]
    assert protocol.train.samples is protocol.val.samples


@pytest.mark.parametrize("text", ["include 'gin/cribo.gin'\n", HYBRID])
@pytest.mark.parametrize("kind", ["text", "operative"])
def test_the_joined_texts_run_alone(write, text, kind):
    settings = config.load([write(text)], ["train.batch_size = 7"])
    alone = config.load([write(getattr(settings, kind), "alone.gin")])
    assert alone.operative == settings.operative
    assert alone.argument("train", "batch_size").value == 7
    assert ("Sinkhorn" in getattr(alone, kind)) == ("Grid" not in text)


def difference(before, *now):
    """What `now` has otherwise than a run that began with `before`: what matters, and what does not."""
    return config.difference(
        config.load(["gin/cribo.gin"], before).operative, config.load(["gin/cribo.gin"], list(now))
    )


def test_a_run_does_not_go_on_with_settings_that_change_its_results():
    assert difference(["train.seed = 1"], "train.seed = 2") == (["-train.seed = 1", "+train.seed = 2"], [])
    assert difference([], "clusterers.Sinkhorn.n_clusters = 5")[0][1] == "+clusterers.Sinkhorn.n_clusters = 5"


def test_a_run_goes_on_with_another_way_of_watching_and_loading():
    matters, does_not = difference(
        [], "train.n_workers = 3", "train.log_every = 7", "evaluate.DenseRetrieval.n_val = 5"
    )
    assert matters == []
    assert "+train.n_workers = 3" in does_not
    assert "+evaluate.DenseRetrieval.n_val = 5" in does_not


def test_a_run_goes_on_where_its_data_have_moved_to(tmp_path):
    given = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        given.append(["train.data = @datasets.ImageFolder()", f"datasets.ImageFolder.root = '{tmp_path / name}'"])
    assert difference(given[0], *given[1])[0] == []


def test_a_run_goes_on_with_a_version_that_knows_more_parameters():
    before = config.load(["gin/cribo.gin"]).operative.replace("Method.static_shapes = False\n", "")
    assert config.difference(before, config.load(["gin/cribo.gin"])) == ([], [])
    assert config.difference(before, config.load(["gin/dino.gin"]))[0]


def test_a_setting_behind_what_replaced_its_part_is_no_idle_one(tmp_path):
    replaced = "include 'gin/cribo.gin'\nMethod.clusterer = @clusterers.KMeans()\nclusterers.KMeans.n_clusters = 8\n"
    (tmp_path / "fine.gin").write_text(replaced)
    assert config.load([str(tmp_path / "fine.gin")])
    (tmp_path / "late.gin").write_text(replaced + "clusterers.Sinkhorn.n_clusters = 64\n")
    said = refusal(files=[str(tmp_path / "late.gin")])
    assert "late.gin:4: clusterers.Sinkhorn.n_clusters is set but nothing uses it" in said
    said = refusal("clusterers.Sinkhorn.n_clusters = 64", files=[str(tmp_path / "fine.gin")])
    assert "--set: clusterers.Sinkhorn.n_clusters is set but nothing uses it" in said


def test_a_setting_of_the_command_line_that_never_gets_through_is_refused(tmp_path):
    (tmp_path / "mine.gin").write_text("include 'gin/dino.gin'\nimage/losses.Distillation.student_temperature = 0.2\n")
    said = refusal("losses.Distillation.student_temperature = 0.3", files=[str(tmp_path / "mine.gin")])
    assert "nothing uses it; image/losses.Distillation.student_temperature of" in said
    assert "mine.gin:2 holds instead" in said


def test_files_that_include_the_same_one_can_be_joined(tmp_path):
    for name in ("image", "region"):
        (tmp_path / f"{name}.gin").write_text(f"include 'gin/cribo.gin'\n{name}/Term.weight = 0.5\n")
    both = config.load([str(tmp_path / "image.gin"), str(tmp_path / "region.gin")])
    terms = both.part("train", "method").terms
    assert [float(terms[name].weight) for name in ("image", "region", "across")] == [0.5, 0.5, 1.0]


def test_a_separator_of_lines_that_gin_does_not_know_shifts_nothing(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text("include 'gin/cribo.gin'\n# one\u2028two\ntrain.seed = 3\n")
    kept = config.load([str(file)])
    again = tmp_path / "config.gin"
    again.write_text(kept.text)
    assert config.load([str(again)]).operative == kept.operative
    assert kept.argument("train", "seed").origin.place.line == 3


def test_an_include_below_what_it_would_undo_is_refused(tmp_path):
    (tmp_path / "mine.gin").write_text("train.batch_size = 16\ninclude 'gin/cribo.gin'\n")
    said = refusal(files=[str(tmp_path / "mine.gin")])
    assert f"{tmp_path / 'mine.gin'}:2: 'gin/cribo.gin' would undo train.batch_size = 16 of line 1" in said


def test_folders_are_kept_by_their_whole_path(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["train.data = @datasets.ImageFolder()", "datasets.ImageFolder.root = 'images'"]
    settings = config.load(["gin/cribo.gin"], given)
    for text in (settings.text, settings.operative):
        assert f"datasets.ImageFolder.root = '{tmp_path / 'images'}'" in text


def test_a_path_is_no_data_set():
    said = refusal("train.data = '/some/images'")
    assert "train.data = '/some/images' does not fit its type, Images" in said


def test_a_single_file_may_be_given_as_it_is():
    assert config.load("gin/cribo.gin").operative == config.load(["gin/cribo.gin"]).operative


def test_a_term_may_not_bear_the_name_of_the_sum():
    assert "'total' is what the log calls their sum" in refusal("Method.terms = {'total': @image/Term()}")


def test_chains_that_are_too_deep_are_a_problem_and_no_traceback():
    chain = [f"A{n + 1} = %A{n}" for n in range(2000)]
    assert "nested too deeply" in refusal("A0 = 3", *chain, "train.seed = %A2000")


def test_schedules_are_judged_at_the_batch_size_and_the_epochs_of_the_run():
    scaled = (
        "Method.momentum = @m/schedules.Scaled()",
        "m/schedules.Scaled.value = 0.9",
        "m/schedules.Scaled.per = 32",
    )
    assert ready(["gin/cribo.gin"], [*scaled, "train.batch_size = 32"])
    assert "Method.momentum is 1.8 at step 0" in refusal(*scaled, "train.batch_size = 64")
    peak = ("Method.momentum = @m/schedules.Piecewise()", "m/schedules.Piecewise.values = {0: 0.9, 1: 1.5, 2: 0.9}")
    assert "is 1.5 at step 93" in refusal(*peak, "train.n_steps = 40000")


def test_a_run_needs_something_to_train():
    said = refusal("DATA = '.'", files=["gin/protocols/camvid_dense_nn.gin"])
    assert "binds nothing of `train`" in said


def test_components_built_in_python_ignore_gin_files():
    config.load(["gin/cribo.gin"], ["memories.Queue.n_images = 12"])
    assert Queue(5).n_images == 5
