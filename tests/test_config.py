"""A wrong configuration is refused with its line and what would be right; a right one builds what it says."""

import pytest

from sslkit import config, preflight
from sslkit.errors import ConfigError
from sslkit.launch.job import prepare

GIN = sorted(str(p.relative_to(config.search_path())) for p in (config.search_path() / "gin").glob("*.gin"))
RECIPES = sorted(str(p.relative_to(config.search_path())) for p in (config.search_path() / "gin/recipes").glob("*.gin"))
ON_SCENES = ["train.data = @datasets.Scenes()"]


def refusal(*bindings, files=("gin/cribo.gin",), prepared=False):
    """The message with which a configuration is refused."""
    with pytest.raises(ConfigError) as refused:
        settings = config.load(list(files), list(bindings))
        if prepared:
            prepare(settings)
    return str(refused.value)


@pytest.mark.parametrize("file", GIN)
def test_every_method_file_builds_and_uses_all_it_says(file):
    assert prepare(config.load([file]))["method"].terms


@pytest.mark.parametrize("file", RECIPES)
def test_every_recipe_parses_and_takes_a_step_on_meta_tensors(file):
    settings = config.load([file], ON_SCENES)
    preflight.required(settings)
    preflight.one_step(settings)


@pytest.mark.parametrize("file", RECIPES)
def test_a_recipe_without_data_says_what_is_missing(file):
    assert "train.data is not set" in refusal(files=[file], prepared=True)


@pytest.mark.parametrize(
    "binding, message",
    [
        ("clusterers.Sinkhorn.n_cluster = 4", "Sinkhorn has no parameter 'n_cluster'; did you mean 'n_clusters'?"),
        (
            "clusterers.Sinkhron.n_clusters = 4",
            "clusterers.Sinkhron does not exist; did you mean 'clusterers.Sinkhorn'?",
        ),
        ("Method.clusterer = @clusterers.KMean()", "did you mean 'clusterers.KMeans'?"),
        ("Method.clusterer = @losses.Distillation()", "does not fit its type"),
        (
            "clusterers.Sinkhorn.n_clusters = 'four'",
            "clusterers.Sinkhorn.n_clusters = 'four' does not fit its type, int",
        ),
        ("clusterers.Sinkhorn.cost_scale = 'images'", "does not fit its type, Literal['image', 'batch']"),
        ("train.batch_size = 1.5", "train.batch_size = 1.5 does not fit its type, int"),
        ("Method.terms = %CRIBO_TERM", "uses %CRIBO_TERM, which is not defined; did you mean 'CRIBO_TERMS'?"),
        ("clusterers.Sinkhorn.n_clusters = [1, 2", "not a gin binding"),
    ],
)
def test_a_wrong_binding_is_refused_with_what_would_be_right(binding, message):
    said = refusal(binding)
    assert message in said
    assert binding.split(" = ")[0].split(".")[-1] in said


def test_a_message_names_file_and_line(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text("include 'gin/cribo.gin'\n\nclusterers.Sinkhorn.n_cluster = 4\n")
    assert refusal(files=[str(file)]).startswith(f"{file}:3: ")


def test_all_problems_are_reported_at_once():
    said = refusal("train.batch_sise = 3", "Method.momentun = 0.9", "clusterers.Sinkhorn.hard = 'yes'")
    assert [name in said for name in ("batch_size", "momentum", "clusterers.Sinkhorn.hard")] == [True] * 3


def test_a_missing_file_is_named_with_the_nearest_one():
    said = refusal(files=["gin/crib.gin"])
    assert "there is no file 'gin/crib.gin'" in said
    assert "did you mean 'gin/cribo.gin'?" in said


def test_a_missing_include_is_named_with_its_line(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text("# mine\ninclude 'gin/base/crybo.gin'\n")
    said = refusal(files=[str(file)])
    assert said.startswith(f"{file}:2: there is no file 'gin/base/crybo.gin'; did you mean 'gin/base/cribo.gin'?")


def test_a_file_that_includes_itself_is_refused(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text(f"include '{file}'\n")
    assert "includes itself" in refusal(files=[str(file)])


def test_a_parameter_set_twice_in_one_file_is_refused(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text("train.batch_size = 3\ntrain.batch_size = 4\n")
    assert f"{file}:2: train.batch_size is set twice in this file, first in line 1" in refusal(files=[str(file)])


def test_a_binding_that_nothing_uses_is_refused():
    said = refusal("acros/losses.Distillation.teacher_temperature = 0.07", "matchers.Nearest", prepared=False)
    assert "not a gin binding" in said
    said = refusal("acros/losses.Distillation.teacher_temperature = 0.07", prepared=True)
    assert "acros/losses.Distillation.teacher_temperature is set but nothing uses it" in said


@pytest.mark.parametrize(
    "misspelt", ["secnd/Term.weight = 0.1", "acros/losses.Distillation.teacher_temperature = 0.09", "CRIBO_TERM = {}"]
)
def test_restating_the_terms_excuses_no_misspelt_scope_or_macro(tmp_path, misspelt):
    file = tmp_path / "hybrid.gin"
    file.write_text(f"include 'gin/cribo.gin'\nMethod.terms = {{'image': @image/Term()}}\n{misspelt}\n")
    said = refusal(files=[str(file)], prepared=True)
    assert said == f"{file}:3: {misspelt.split(' = ')[0]} is set but nothing uses it"


def test_settings_of_replaced_parts_fall_away_with_them(tmp_path):
    file = tmp_path / "hybrid.gin"
    file.write_text(
        "include 'gin/cribo.gin'\nMethod.clusterer = @clusterers.Grid()\n"
        "clusterers.Grid.rows = 2\nclusterers.Grid.columns = 2\n"
    )
    assert prepare(config.load([str(file)]))["method"].clusterer.n_clusters == 4


def test_a_macro_of_the_wrong_type_is_refused():
    assert "train.batch_size = %B does not fit its type, int" in refusal("B = 2.5", "train.batch_size = %B")


@pytest.mark.parametrize(
    "wrong",
    [
        "losses.Distillation.student_temperature = 0.0",
        "clusterers.Sinkhorn.sharpness = -20.0",
        "Method.momentum = 2.0",
        "two/augmenters.Crop.source = 1",
    ],
)
def test_values_out_of_range_are_refused_with_their_binding(wrong):
    said = refusal(wrong, prepared=True)
    assert f"{wrong.split(' = ')[0].split('.')[-1]}=" in said
    assert wrong in said


def test_more_clusters_than_tokens_is_found_before_data_is_read():
    said = refusal("clusterers.Sinkhorn.n_clusters = 4096", prepared=True)
    assert "n_clusters=4096, but an image has only" in said
    assert "clusterers.Sinkhorn.n_clusters = 4096" in said.splitlines()[-1]


def test_a_head_that_no_network_has_is_found_before_data_is_read():
    said = refusal("image/Term.head = 'imag'", prepared=True)
    assert "head='imag' is not an output of the method's heads; they have: image, region" in said


def test_a_search_that_the_method_lacks_is_found_before_data_is_read():
    said = refusal("aligners.RegionAcrossImages.search = 'things'", prepared=True)
    assert "search='things' is not a search of the method; it has: objects" in said


def test_a_component_that_refuses_its_value_is_named_with_the_binding():
    said = refusal("memories.Queue.n_images = 0", prepared=True)
    assert "n_images=0: at least 1 is needed" in said
    assert "memories.Queue.n_images = 0" in said


def test_merge_joins_the_terms_of_a_base_with_new_ones(tmp_path):
    file = tmp_path / "hybrid.gin"
    file.write_text(
        "include 'gin/cribo.gin'\n"
        "Method.terms = @merge()\n"
        "merge.parts = [%CRIBO_TERMS, {'second': @second/Term()}]\n"
        "second/Term.aligner = @aligners.ImageAcrossViews()\n"
        "second/Term.head = 'image'\n"
    )
    assert list(prepare(config.load([str(file)]))["method"].terms) == ["image", "region", "across", "second"]


def test_merge_refuses_two_terms_of_one_name():
    said = refusal("Method.terms = @merge()", "merge.parts = [%CRIBO_TERMS, %CRIBO_TERMS]", prepared=True)
    assert "two parts have the key 'image'" in said


def test_the_joined_text_runs_alone(tmp_path):
    joined = tmp_path / "config.gin"
    joined.write_text(config.load(["gin/cribo.gin"], ["train.batch_size = 7"]).text)
    alone = config.load([str(joined)])
    assert config.value(alone, "train", "batch_size", None) == 7


def test_the_joined_text_of_a_hybrid_runs_alone(tmp_path):
    hybrid, joined = tmp_path / "hybrid.gin", tmp_path / "config.gin"
    hybrid.write_text(
        "include 'gin/cribo.gin'\nMethod.clusterer = @clusterers.Grid()\n"
        "clusterers.Grid.rows = 2\nclusterers.Grid.columns = 2\n"
    )
    settings = config.load([str(hybrid)])
    prepare(settings)
    joined.write_text(config.refuse_unused(settings).text)
    assert "Sinkhorn" not in joined.read_text()
    assert prepare(config.load([str(joined)]))["method"].clusterer.n_clusters == 4


def test_macros_that_name_one_another_are_refused():
    assert refusal("A = %B", "B = %A", "train.batch_size = %A", "train.log_every = 7", prepared=True)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "binary.gin"
    file.write_bytes(b"\xff\xfe\x00")
    assert f"{file} cannot be read as text" in refusal(files=[str(file)])


def test_components_built_in_python_ignore_gin():
    from sslkit.memories import Queue

    config.load(["gin/cribo.gin"], ["memories.Queue.n_images = 12"])
    assert Queue(5).n_images == 5
