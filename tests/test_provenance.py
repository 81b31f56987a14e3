"""A run keeps all that it takes to understand it and to repeat it."""

import json

from sslkit import config, provenance


def test_a_start_is_recorded_with_command_seed_versions_and_code(tmp_path):
    settings = config.load(["gin/cribo.gin"], ["train.seed = 7"])
    provenance.write(tmp_path, settings, ["sslkit", "launch", "--gin", "gin/cribo.gin", "--seed", "7"])
    (start,) = provenance.starts_of(tmp_path)
    assert start["command"][:2] == ["sslkit", "launch"]
    assert start["seed"] == 7
    assert {"torch", "timm", "gin-config"} <= start["packages"].keys()
    assert start["processors"] >= 1
    assert "commit" in start


def test_every_start_of_a_run_is_kept(tmp_path):
    settings = config.load(["gin/cribo.gin"])
    for _ in range(2):
        provenance.write(tmp_path, settings, ["sslkit"])
    assert len(provenance.starts_of(tmp_path)) == 2


def test_what_is_kept_runs_again_alone_as_the_same_experiment(tmp_path):
    given = ["train.batch_size = 7", "clusterers.Sinkhorn.n_clusters = 5"]
    settings = config.load(["gin/cribo.gin"], given)
    provenance.write(tmp_path, settings, [])
    for name in ("config.gin", "operative.gin"):
        text = (tmp_path / name).read_text()
        assert "include" not in text
        assert config.load([str(tmp_path / name)]).operative == settings.operative


def test_other_code_than_that_of_a_run_is_named(tmp_path):
    provenance.write(tmp_path, config.load(["gin/cribo.gin"]), [])
    assert provenance.code_has_changed(tmp_path) == ""
    starts = provenance.starts_of(tmp_path)
    starts[-1]["packages"]["torch"] = "0.1"
    starts[-1]["code"] = "another"
    (tmp_path / "environment.json").write_text(json.dumps(starts))
    assert provenance.code_has_changed(tmp_path) == "not the same as in that run: code, torch"


def test_a_record_torn_by_a_kill_does_not_stop_the_next_start(tmp_path):
    (tmp_path / "environment.json").write_text('[{"time": "2026')
    provenance.write(tmp_path, config.load(["gin/cribo.gin"]), [])
    assert len(provenance.starts_of(tmp_path)) == 1
