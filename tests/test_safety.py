"""What a checkpoint, a gin file, a run directory or a data set of somebody else cannot do."""

import importlib
import json
import os
import pickle
import re
import shlex
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import EpsImagePlugin, Image

from sslkit import checkpoint, config, log, preflight, provenance, status
from sslkit.backbones import Timm, weights
from sslkit.cli import main
from sslkit.commands import sweep
from sslkit.config import source, tree
from sslkit.datasets import ImageFolder, Segmentation
from sslkit.datasets.image_folder import UnreadableImagesError, read_rgb
from sslkit.errors import CheckpointError, ConfigError
from sslkit.heads import Projector
from sslkit.launch import processes
from sslkit.launch.job import alone_in
from sslkit.launch.options import Asked, on_images
from sslkit.links import refuse_links
from sslkit.memories.history import History
from sslkit.monitors import pictures, style
from sslkit.shown import visible
from tests.conftest import ROOT
from tests.short_runs import SHORT


def run(*words):
    """All that a command prints on a terminal, and its exit code."""
    done = CliRunner().invoke(main, list(map(str, words)), color=True)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output, done.exit_code


@pytest.fixture
def marker(tmp_path):
    """A file that attacks would make."""
    return tmp_path / "marker"


# pickles


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.command = f"touch {shlex.quote(str(marker))}"

    def __reduce__(self):
        return os.system, (self.command,)


def old_save(what, path):
    torch.save(what, path, _use_new_zipfile_serialization=False)


def plain_pickle(what, path):
    path.write_bytes(pickle.dumps(what, protocol=2))


SAVES = {"zip": torch.save, "before torch 1.6": old_save, "plain pickle": plain_pickle}


@pytest.fixture
def hostile_run(tmp_path, marker):
    """Fills a run directory that has every file of a run, and a payload for a checkpoint."""

    def fill(save):
        run_dir = tmp_path / "hostile"
        provenance.write(run_dir, config.load(["gin/cribo.gin"], [*SHORT, "train.n_steps = 20"]), [])
        checkpoint.folder(run_dir).mkdir()
        save({"method": Payload(marker), "identity": {"n_images": 16}}, run_dir / "checkpoints" / "step_00000012.pt")
        return run_dir

    return fill


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_the_payload_of_these_tests_does_its_work(save, tmp_path, marker):
    save({"method": Payload(marker)}, tmp_path / "payload.pt")
    if save is plain_pickle:
        pickle.loads((tmp_path / "payload.pt").read_bytes())
    else:
        torch.load(tmp_path / "payload.pt", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_checkpoint_executes_nothing(save, hostile_run, marker):
    with pytest.raises(CheckpointError, match="can be read"):
        checkpoint.latest(hostile_run(save))
    assert not marker.exists()


@pytest.mark.parametrize("command", ["evaluate", "picture", "export", "launch"])
def test_no_command_executes_what_a_checkpoint_holds(command, hostile_run, marker, tmp_path):
    run_dir = hostile_run(torch.save)
    words = {
        "evaluate": [run_dir, "--protocol", "gin/protocols/objects_linear.gin"],
        "picture": [run_dir],
        "export": [run_dir, "--to", "timm", "--out", tmp_path / "exported"],
        "launch": ["--gin", run_dir / "config.gin", "--out", run_dir],
    }
    said, code = run(command, *words[command])
    assert code == 1 and "can be read" in said
    assert not marker.exists()
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("content", [b"\x80\x02.", b"\x80\x02N0.", b"a", b"", b"\x80\x02}q\x00h\x05s.", b"(lp0\n."])
def test_a_pickle_that_is_wrong_in_any_way_is_passed_over(content, tmp_path, caplog):
    checkpoint.save(tmp_path, 3, {"n": 1})
    (tmp_path / "checkpoints" / "step_00000012.pt").write_bytes(content)
    assert checkpoint.latest(tmp_path)[0] == 3
    with pytest.raises(CheckpointError, match=r"step_00000012.pt cannot be read"):
        checkpoint.of_step(tmp_path, 12)


def test_nobody_is_told_to_run_what_a_checkpoint_holds(hostile_run, caplog):
    run_dir = hostile_run(torch.save)
    with pytest.raises(CheckpointError):
        checkpoint.latest(run_dir)
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values") as said:
        checkpoint.of_step(run_dir, 12)
    assert "weights_only" not in caplog.text + str(said.value)


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_weights_in_the_authors_layout_execute_nothing(save, tmp_path, marker):
    save({"teacher": Payload(marker)}, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=r"theirs.pth cannot be read: .*(only|more than) tensors and plain values"):
        weights.read_authors(tmp_path / "theirs.pth")
    assert not marker.exists()


@pytest.mark.parametrize("file", [[1], {"teacher": 3}, {"teacher": {"x": 3}}, {"student": {}}, torch.ones(2)])
def test_weights_that_are_none_are_named(file, tmp_path):
    torch.save(file, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=r"theirs.pth (has no 'teacher'|is no state dict)"):
        weights.read_authors(tmp_path / "theirs.pth")


def history_of(path, content):
    """A history whose first epoch is that file."""
    history = History(window=1)
    history.keep_in(path)
    path.mkdir()
    history.path(0).write_bytes(content)
    return history


def test_the_history_of_neighbours_executes_nothing(tmp_path, marker):
    np.save(tmp_path / "payload.npy", np.array([[Payload(marker)]]), allow_pickle=True)
    history = history_of(tmp_path / "neighbours", (tmp_path / "payload.npy").read_bytes())
    with pytest.raises(CheckpointError, match=r"epoch_000000.npy cannot be read \(.*Python objects"):
        history.before(1, shape=(1, 1))
    assert not marker.exists()


def test_the_header_of_a_history_is_not_evaluated(tmp_path, marker):
    header = f"__import__('os').system('touch {marker}')\n".encode()
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    history = history_of(tmp_path / "neighbours", start + header + bytes(64))
    with pytest.raises(CheckpointError, match=r"epoch_000000.npy cannot be read"):
        history.before(1, shape=(1, 1))
    assert not marker.exists()


# gin files: no code


def problems_of(text, tmp_path, *, builds=True):
    """All that is wrong with a file, as `check` finds it; with `builds` its method has been built."""
    (tmp_path / "hostile.gin").write_text(text)
    settings, problems = config.examine([str(tmp_path / "hostile.gin")])
    return [*problems, *(preflight.contradictions(settings) if builds else ())]


@pytest.fixture
def hostile_module(tmp_path, monkeypatch, marker):
    """A module that can be imported, and makes the marker when it is."""
    (tmp_path / "hostile_module.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Hostile: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "hostile_module"
    sys.modules.pop("hostile_module", None)


def test_the_module_of_these_tests_does_its_work(hostile_module, marker):
    importlib.import_module(hostile_module)
    assert marker.exists()


@pytest.mark.parametrize(
    "line, said",
    [
        ("import hostile_module", "a gin file imports nothing here; plugins are entry points"),
        ("import hostile_module as losses", "a gin file imports nothing here; plugins are entry points"),
        ("from hostile_module import Hostile", "a gin file imports nothing here; plugins are entry points"),
        (
            "Method.clusterer = @hostile_module.Hostile()",
            "names @hostile_module.Hostile, which does not exist",
        ),
        ("Method.clusterer = @os.system()", "names @os.system, which does not exist"),
        ("Method.clusterer = @builtins.exec()", "names @builtins.exec, which does not exist"),
        ("train.__globals__ = 1", "train has no parameter '__globals__'"),
        ("Method.__init__ = @Method()", "Method has no parameter '__init__'"),
        ("image/Term.head = f'{__import__(\"hostile_module\")}'", "not a gin binding"),
        ("train.seed = __import__('hostile_module')", "not a gin binding"),
        ("train.run_dir = '/tmp'", "train.run_dir is given by sslkit itself"),
    ],
)
def test_a_gin_file_executes_nothing(line, said, hostile_module, marker, tmp_path):
    found = problems_of(f"include 'gin/cribo.gin'\n{line}\n", tmp_path)
    assert any(str(p.place) == f"{tmp_path}/hostile.gin:2" and said in p.wrong + f"; {p.hint}" for p in found)
    assert not marker.exists()
    assert hostile_module not in sys.modules


@pytest.mark.parametrize("name", ["local-dir:{}", "hf-hub:somebody/something", "hf_hub:somebody/something", "{}"])
def test_a_backbone_is_an_architecture_and_no_place_of_weights(name, tmp_path, marker):
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 0}')
    torch.save(Payload(marker), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is not a model of timm"):
        Timm(name.format(tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "option, value",
    [
        ("checkpoint_path", "{}"),
        ("pretrained", True),
        ("pretrained_cfg", {"file": "{}"}),
        ("pretrained_cfg_overlay", {"file": "{}", "custom_load": True}),
        ("cache_dir", "{}"),
    ],
)
def test_options_of_timm_read_fetch_and_write_nothing(option, value, tmp_path, marker):
    torch.save(Payload(marker), tmp_path / "payload.pt")
    path = str(tmp_path / "payload.pt")
    given = {k: path if v == "{}" else v for k, v in value.items()} if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=f"'{option}' does not belong there: load weights with sslkit"):
        Timm("resnet18", options={option: path if given == "{}" else given})
    assert not marker.exists()


# gin files: what they read


def test_an_include_may_lie_anywhere_but_is_a_gin_file(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "seed.gin").write_text("train.seed = 5\n")
    for path in (tmp_path / "elsewhere" / "seed.gin", tmp_path / "elsewhere" / ".." / "elsewhere" / "seed.gin"):
        (tmp_path / "mine.gin").write_text(f"include 'gin/cribo.gin'\ninclude '{path}'\n")
        assert config.load([str(tmp_path / "mine.gin")]).argument("train", "seed").value == 5


@pytest.mark.parametrize("name", ["id_rsa", ".env", "link.gin", "../secrets/id_rsa"])
def test_lines_of_other_files_are_not_shown(name, tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for file in ("id_rsa", ".env"):
        (secrets / file).write_text("SECRET\n")
    (secrets / "link.gin").symlink_to(secrets / "id_rsa")
    (found,) = problems_of(f"include '{secrets}/{name}'\n", tmp_path)
    assert str(found) == (
        f"{tmp_path}/hostile.gin:1: '{secrets}/{name}' is no gin file; an include names a file that ends in .gin"
    )


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "fifo.gin", "loop.gin", "folder.gin", "a" * 5000, "\\0"])
def test_what_is_no_file_is_not_opened(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.gin")
    os.symlink("pool.gin", "loop.gin")
    os.symlink("loop.gin", "pool.gin")
    os.mkdir("folder.gin")
    (found,) = problems_of(f"include '{path}'\n", tmp_path)
    assert str(found).startswith(f"{tmp_path}/hostile.gin:1: there is no file '")


def test_a_file_without_end_is_not_read(tmp_path):
    (tmp_path / "endless.gin").symlink_to("/dev/zero")
    (found,) = problems_of(f"include '{tmp_path}/endless.gin'\n", tmp_path)
    assert "there is no file" in str(found)


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "huge.gin", "w") as file:
        file.truncate(2**40)
    (found,) = problems_of(f"include '{tmp_path}/huge.gin'\n", tmp_path)
    assert str(found) == (
        f"{tmp_path}/hostile.gin:1: {tmp_path}/huge.gin has 1,099,511,627,776 bytes, and all files together more than "
        f"{source.LARGEST:,}; a configuration is shorter"
    )


# gin files: what grows without end


def doubling(line, n=40):
    """Lines of which each names the next one twice."""
    return "\n".join(line.format(here=f"x{i}", there=f"x{i + 1}") for i in range(n))


def test_includes_that_double_are_cut_off(tmp_path):
    for i in range(40):
        (tmp_path / f"x{i}.gin").write_text(f"include '{tmp_path}/x{i + 1}.gin'\n" * 2)
    (tmp_path / "x40.gin").write_text("train.seed = 1\n")
    (found,) = problems_of(f"include 'gin/cribo.gin'\ninclude '{tmp_path}/x0.gin'\n", tmp_path)
    assert str(found).endswith(f"more than {source.MOST} files are read; include each of them once")


def test_a_chain_of_includes_is_cut_off(tmp_path):
    for i in range(3000):
        (tmp_path / f"x{i}.gin").write_text(f"include '{tmp_path}/x{i + 1}.gin'\n")
    (found,) = problems_of(f"include 'gin/cribo.gin'\ninclude '{tmp_path}/x0.gin'\n", tmp_path)
    assert f"more than {source.MOST} files are read" in str(found)


def test_macros_that_double_are_refused(tmp_path):
    lines = doubling("{here} = [%{there}, %{there}]")
    found = problems_of(f"include 'gin/cribo.gin'\n{lines}\nx40 = 1\nbackbones.Timm.options = {{'a': %x0}}\n", tmp_path)
    said = f"hostile.gin:2: x0 comes to more than {tree.MOST:,} values once its macros are written out"
    assert any(said in str(p) for p in found)


def test_objects_that_double_are_refused(tmp_path):
    lines = doubling("{here}/schedules.Product.factors = [@{there}/schedules.Product(), @{there}/schedules.Product()]")
    end = "x40/schedules.Product.factors = [1.0, 1.0]\nTerm.weight = @x0/schedules.Product()\n"
    found = problems_of(f"include 'gin/cribo.gin'\n{lines}\n{end}", tmp_path)
    assert any(f"are more than {tree.MOST:,}; an object is built at each of its uses" in str(p) for p in found)


@pytest.mark.parametrize(
    "value, said",
    [
        ("[" * 60 + "]" * 60, "brackets are nested more than 50 deep"),
        ("[" * 40_000, "brackets are nested more than 50 deep"),
        ("{1: " * 2000 + "1" + "}" * 2000, "brackets are nested more than 50 deep"),
        ("0x" + "f" * 20_000, "a whole number has more than 2048 bits"),
        ("-0x" + "f" * 20_000, "a whole number has more than 2048 bits"),
        ("9" * 20_000, "not a gin binding"),
    ],
    ids=["deep", "deeper", "dicts", "hexadecimal", "negative", "decimal"],
)
def test_values_that_cannot_be_handled_are_refused_in_their_line(value, said, tmp_path):
    found = problems_of(f"include 'gin/cribo.gin'\nbackbones.Timm.options = {{'a': {value}}}\n", tmp_path)
    assert any(str(p).startswith(f"{tmp_path}/hostile.gin:2: not a gin binding") and said in str(p) for p in found)


def test_a_product_beyond_every_float_is_refused(tmp_path):
    factors = ", ".join(["1" + "0" * 300] * 20)
    text = f"include 'gin/cribo.gin'\nTerm.weight = @product()\nproduct.factors = [{factors}]\n"
    (found,) = {str(p) for p in problems_of(text, tmp_path)}
    assert "hostile.gin:3: product.factors = [1000" in found and found.endswith("a number beyond every float comes out")


# names


NAMES = ["../../x", "a/b", "/x", "..", ".x", "a\nb", "a\x1b[31m", "a\0", "-x", "", "$(x)", "<b>"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "line",
    [
        "Method.terms = {NAME: @image/Term()}",
        "Method.searches = {NAME: @objects/Search()}",
        "heads.Prototypes.outputs = {'image': 8, 'region': 8, NAME: 8}",
        "train.evaluations = {NAME: @evaluate.DenseRetrieval()}",
    ],
)
def test_a_name_that_is_no_plain_one_is_refused_before_a_file_bears_it(line, name, tmp_path):
    builds = line.startswith("train")
    found = problems_of(f"include 'gin/cribo.gin'\n{line.replace('NAME', repr(name))}\n", tmp_path, builds=builds)
    said = [str(p) for p in found if str(p).startswith(f"{tmp_path}/hostile.gin:2: ")]
    assert any("names of letters, digits" in s or "must be of letters, digits" in s for s in said)


def test_names_are_refused_in_python_too():
    with pytest.raises(ValueError, match=r"outputs=.*names of letters, digits.*which '../x' is not"):
        Projector({"../x": 8})


@pytest.mark.parametrize("value", ["'../../x'", "'/etc/x'", "'..'", "'a/../../b'", "@a/../X()"])
def test_a_swept_value_makes_no_way_out_of_the_sweep(value, tmp_path):
    try:
        points = sweep.points([sweep.axis(f"train.device = {value}, 'cpu'")])
    except ConfigError:
        return
    for point in points:
        assert (tmp_path / point.folder).resolve().parent == tmp_path


@pytest.mark.parametrize("file", ["...gin", "..gin", "a/...gin"])
def test_the_name_of_a_gin_file_makes_no_way_out_of_runs(file, tmp_path):
    asked = Asked([file], [], None, None, [])
    with pytest.raises(ConfigError, match="has no name that a run could have: give --out"):
        _ = asked.run_dir


def test_the_name_of_a_folder_of_data_makes_no_binding(tmp_path):
    folder = tmp_path / "a\ntrain.n_steps = 7"
    folder.mkdir()
    added = on_images(folder, [])
    assert not any("\n" in binding for binding in added)
    assert config.load(["gin/cribo.gin"], added).argument("train", "n_steps").value != 7


@pytest.mark.parametrize("name", ["../Evil", "/tmp/Evil", "Evil/../../X", "Evil\n", "Evil;x", "..", "$(x)"])
def test_a_new_component_has_the_name_of_a_class_and_lies_where_it_is_asked_for(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said, code = run("new", "clusterer", name)
    assert code == 2 and "is not the name of a class" in said
    assert not any(tmp_path.iterdir())


# what is shown

OBEYED = "\x1b]0;title\x07\x1b[31mred\x1b[0m\u202e"  # a title, a colour, and letters from right to left
STRANGE = f"""\
# {OBEYED} <img src=x onerror=alert(1)> [click](javascript:alert(1))
include 'gin/cribo.gin'
backbones.Timm.options = {{'layers': (1, 1, 1, 1), 'channels': (8, 8, 8, 8), 'act_layer': '{OBEYED}`<b>`'}}
"""


def is_obeyed(text):
    """Whether a terminal would do something else with it than show it."""
    return not all(c.isprintable() or c in "\n\t" for c in text)


@pytest.mark.parametrize("command", ["check", "describe", "describe --markdown", "launch --dry-run --gin"])
@pytest.mark.parametrize("text", [STRANGE, STRANGE + f"{OBEYED}\n", STRANGE + f"include '{OBEYED}'\n"])
def test_no_command_lets_a_file_talk_to_the_terminal(command, text, tmp_path):
    path = tmp_path / f"{OBEYED.replace('/', '')}.gin"
    path.write_text(text)
    said, _ = run(*command.split(), path)
    assert r"\x1b[31mred" in said and not is_obeyed(said)


def test_other_settings_of_a_strange_run_are_shown_and_not_obeyed(hostile_run):
    run_dir = hostile_run(torch.save)
    kept = run_dir / "operative.gin"
    kept.write_text(kept.read_text() + f"x.y = 1 {OBEYED}\n")
    said, code = run("launch", "--gin", run_dir / "config.gin", "--out", run_dir)
    assert code == 2 and r"-x.y = 1 \x1b]0;title" in said and not is_obeyed(said)


def test_markdown_of_a_strange_file_holds_no_tag_and_no_link(tmp_path):
    (tmp_path / "strange.gin").write_text(STRANGE.replace("'act_layer': '", "'act_layer': '<u>` "))
    text = run("describe", "--markdown", tmp_path / "strange.gin")[0]
    assert "&lt;img src=x onerror=alert(1)> [click]\\(javascript:alert(1))" in text
    outside = "".join(re.split(r"(`+).*?(?<!`)\1(?!`)", text)[::2])
    assert "<" not in outside and "<u>" in text


def test_a_table_of_runs_holds_no_tag_no_link_and_no_row_of_theirs(tmp_path):
    grid = sweep.points([sweep.axis("a.b = 1, '<b>|`'")])
    name = f"x|<img src=y onerror=alert(1)>\n| [z](javascript:a) {OBEYED}"
    for point in grid:
        (tmp_path / point.folder).mkdir()
        (tmp_path / point.folder / "results.json").write_text(json.dumps({name: 0.5, "dense/miou": 1}))
    sweep.write_report(tmp_path, grid)
    text = (tmp_path / "sweep.md").read_text()
    head, _, *rows = text.splitlines()
    theirs = r"x\|&lt;img src=y onerror=alert(1)> \| [z]\(javascript:a) " + visible(OBEYED).replace("\\", r"\\")
    assert head == f"| a.b | {theirs} | dense/miou | runs |"
    assert rows == ["| 1 | 0.5 | 1 | 1 of 1 |", r"| '&lt;b>\|\`' | 0.5 | 1 | 1 of 1 |"]
    assert not is_obeyed(text)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' + "9" * 10_000 + "}", '{"a": 1' + "0" * 400 + "}", "\0", "null"]
)
def test_strange_results_are_none(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    assert sweep.results_of(tmp_path) == {}


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"packages": [1]}]', '[{"packages": 3}]', "[1]", '"x"', "\0"])
def test_a_strange_record_of_starts_does_no_harm(text, tmp_path):
    (tmp_path / "environment.json").write_text(text)
    assert provenance.code_has_changed(tmp_path) != ""


def test_strange_names_of_curves_are_drawn_as_they_are(tmp_path):
    names = [r"loss/$\frac{$", "$\\undefined$/x", "loss/<b>", "x" * 100 + "/y"]
    lines = [{"step": 1, **dict.fromkeys(names, 1.0)}, [1], 3, {"step": "x", "a/b": 1}, {"step": 10**400, "a/b": 1}]
    lines.append({"step": 2, "c/d": 10**400, "e/f": [1], "g/h": "x"})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert set(pictures._read_curves(tmp_path / "metrics.jsonl")) == {"loss", "$\\undefined$", "x" * 100}
    pictures.curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").format == "PNG"


def test_a_log_and_a_status_do_not_talk_to_the_terminal(tmp_path):
    (tmp_path / "log.txt").write_text(f"{OBEYED}\n")
    (tmp_path / "status.json").write_text(json.dumps({"state": "failed", "message": OBEYED, "n_steps": OBEYED}))
    for command in ("runs", "logs"):
        said, code = run(command, tmp_path)
        assert code == 0 and r"\x1b[31mred" in said and not is_obeyed(said)


def test_a_folder_named_to_talk_to_the_terminal_does_not(tmp_path):
    said, code = run("logs", tmp_path / OBEYED)
    assert code == 2 and r"\x1b[31mred" in said and not is_obeyed(said)


STRANGE_STATUS = {"state": "running", "images_per_s": [], "left_s": "x", "time": {}, "step": None, "n_steps": {}}


@pytest.mark.parametrize("job", [[], {"job": 3}, {"job": "-u root"}, {"job": "3; touch x"}, {"job": {"a": 1}}])
def test_a_strange_status_and_a_strange_job_are_shown(job, tmp_path):
    (tmp_path / "status.json").write_text(json.dumps(STRANGE_STATUS))
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job.json").write_text(json.dumps(job))
    assert status.job_of(tmp_path) is None
    assert run("runs", tmp_path)[1] == 0


# what is waited for


@pytest.mark.parametrize(
    "pipe", ["status.json", "log.txt", "slurm/job.json", ".lock", "evaluations.json", "metrics.jsonl"]
)
def test_no_pipe_in_a_run_directory_is_waited_for(pipe, tmp_path):
    (tmp_path / "operative.gin").write_text("")
    (tmp_path / "slurm").mkdir()
    os.mkfifo(tmp_path / pipe)
    assert run("runs", tmp_path)[1] == 0
    assert log.read(tmp_path / "metrics.jsonl") == []
    run("logs", tmp_path)


def test_a_pipe_among_the_checkpoints_is_none(tmp_path):
    checkpoint.save(tmp_path, 3, {"n": 1})
    os.mkfifo(tmp_path / "checkpoints" / "step_00000012.pt")
    assert checkpoint.steps(tmp_path) == [3]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_plain_file_is_refused(make, tmp_path):
    make(tmp_path / ".lock")
    with pytest.raises(ConfigError, match=r"cannot be used: .*\.lock"), alone_in(tmp_path):
        pass


# what is written


@pytest.fixture
def victim(tmp_path):
    """A folder that no run may touch, with a file in it."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "step_00000001.pt").write_text("precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["step_00000001.pt"]
    assert (folder / "step_00000001.pt").read_text() == "precious"


LINKS = {  # of a run directory, to the victim's folder or its file
    "pictures": "",
    "pictures/features.png": "step_00000001.pt",
    "checkpoints": "",
    "checkpoints/step_00000012.pt": "step_00000001.pt",
    "neighbours": "",
    "tensorboard": "",
    "config.gin.partial": "step_00000001.pt",
    "metrics.partial": "step_00000001.pt",
    "results.json": "gone",
    "a/b/c/d": "",
    ".lock": "step_00000001.pt",
    "slurm": "",
}


def plant(folder, link, target):
    """A link, in place of what is there."""
    path = folder / link
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("link", LINKS)
def test_no_picture_is_drawn_through_a_link_out_of_the_run(link, hostile_run, victim):
    run_dir = hostile_run(torch.save)
    plant(run_dir, link, victim / LINKS[link])
    said, code = run("picture", run_dir)
    assert code == 2
    assert f"{run_dir / link} is a link to {victim / LINKS[link]}".rstrip("/") in said
    assert "remove it; to keep a run elsewhere, let the whole folder be a link" in said


@pytest.mark.parametrize("link", LINKS)
def test_no_run_writes_through_a_link_out_of_its_directory(link, hostile_run, victim):
    run_dir = hostile_run(torch.save)
    settings = config.load([str(run_dir / "config.gin")])
    plant(run_dir, link, os.path.relpath(victim / LINKS[link], (run_dir / link).parent))
    with pytest.raises(ConfigError, match=f"{link} is a link to {victim}"):
        provenance.write(run_dir, settings, [])


def test_a_launch_does_not_follow_a_link_to_the_checkpoints_of_another(hostile_run, victim):
    run_dir = hostile_run(torch.save)
    plant(run_dir, "checkpoints", victim)
    said, code = run("launch", "--gin", run_dir / "config.gin", "--out", run_dir)
    assert code == 2 and f"{run_dir}/checkpoints is a link to {victim}" in said


@pytest.mark.parametrize("link", weights.FILES)
def test_no_export_is_written_through_a_link(link, victim, tmp_path):
    plant(tmp_path / "exported", link, victim / "step_00000001.pt")
    weights.export_timm(Timm("resnet18", options={"layers": (1, 1, 1, 1)}), tmp_path / "exported", image_size=64)
    assert not (tmp_path / "exported" / link).is_symlink()


@pytest.mark.parametrize("link", ["sweep.md", "sweep.png"])
def test_no_table_and_no_plot_is_written_through_a_link(link, victim, tmp_path):
    plant(tmp_path / "grid", link, victim / "step_00000001.pt")
    sweep.write_report(tmp_path / "grid", sweep.points([sweep.axis("a.b = 1, 2")]))
    assert not (tmp_path / "grid" / link).is_symlink()


def test_links_that_stay_inside_and_a_folder_that_is_one_are_no_harm(tmp_path):
    (tmp_path / "disk" / "checkpoints").mkdir(parents=True)
    (tmp_path / "disk" / "latest").symlink_to("checkpoints")
    (tmp_path / "run").symlink_to("disk")
    refuse_links(tmp_path / "run")
    refuse_links(tmp_path / "not there yet")
    (tmp_path / "disk" / "out").symlink_to("..")
    with pytest.raises(ConfigError, match="run/out is a link to"):
        refuse_links(tmp_path / "run")


def test_a_picture_takes_the_place_of_a_link_and_is_not_drawn_through_it(tmp_path, victim):
    plant(tmp_path / "pictures", "said.png", victim / "step_00000001.pt")
    style.message(tmp_path / "pictures" / "said.png", "title", "reason")
    assert not (tmp_path / "pictures" / "said.png").is_symlink()


# images


@pytest.fixture
def ghostscript(tmp_path, monkeypatch, marker):
    """A program of the name that Pillow calls for PostScript; it makes the marker."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(marker))}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)


POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def test_the_program_of_these_tests_does_its_work(tmp_path, ghostscript, marker):
    (tmp_path / "a.png").write_text(POSTSCRIPT)
    with pytest.raises(OSError), Image.open(tmp_path / "a.png") as image:
        image.load()
    assert marker.exists()


def test_an_image_starts_no_program(tmp_path, ghostscript, marker):
    (tmp_path / "images").mkdir()
    for suffix in (".png", ".jpg", ".tif"):
        (tmp_path / "images" / f"a{suffix}").write_text(POSTSCRIPT)
    with pytest.raises(UnreadableImagesError):
        ImageFolder(tmp_path / "images")[0]
    assert not marker.exists()


def test_a_mask_starts_no_program(tmp_path, ghostscript, marker):
    for kind in ("images", "labels"):
        (tmp_path / kind / "val").mkdir(parents=True)
    Image.new("RGB", (10, 10)).save(tmp_path / "images" / "val" / "a.png")
    (tmp_path / "labels" / "val" / "a.png").write_text(POSTSCRIPT)
    with pytest.raises(ValueError, match=r"cannot read .*labels/val/a.png"):
        Segmentation(tmp_path, split="val")[0]
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP"])
def test_images_of_the_usual_kinds_are_read_whatever_their_name(kind, tmp_path):
    Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / "a.jpg", format=kind)
    assert read_rgb(tmp_path / "a.jpg").size == (8, 6)


# modules of the folder that one is in


@pytest.mark.slow
def test_the_runs_of_a_sweep_and_ranks_import_nothing_from_the_folder_that_one_is_in(tmp_path, monkeypatch, marker):
    (tmp_path / "click.py").write_text(f"open({str(marker)!r}, 'w').close()\nraise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    words = ("--gin", "gin/cribo.gin", "--set", "train.seed = 'none'", "--out", str(tmp_path / "run"))
    command = [*processes.python_module("sslkit.launch"), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "train.seed = 'none' does not fit" in done.stderr
    assert not marker.exists()
    command.remove("-P")
    subprocess.run(command, env=environment, capture_output=True, timeout=300)
    assert marker.exists()  # so the folder is what -P keeps out
