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
    assert str(settings.argument("train", "batch_size").origin.place) == "gin/base/small.gin:40"


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


def test_the_difference_of_two_texts_is_what_differs():
    texts = [config.load(["gin/cribo.gin"], [f"train.seed = {seed}"]).operative for seed in (1, 2)]
    assert config.difference(*texts) == ["-train.seed = 1", "+train.seed = 2"]


def test_a_run_needs_something_to_train():
    said = refusal("DATA = '.'", files=["gin/protocols/camvid_dense_nn.gin"])
    assert "binds nothing of `train`" in said


def test_components_built_in_python_ignore_gin_files():
    config.load(["gin/cribo.gin"], ["memories.Queue.n_images = 12"])
    assert Queue(5).n_images == 5
