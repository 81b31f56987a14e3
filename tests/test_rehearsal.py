"""A run before the run says what the whole will take, and leaves no trace."""

import re

import pytest

from sslkit import config
from sslkit.commands import rehearsal
from sslkit.errors import ConfigError
from tests.conftest import TINY


def test_a_rehearsal_describes_steps_and_estimates_with_every_term_on():
    said = rehearsal.rehearse(["gin/cribo.gin"], [*TINY[:-1], "across/Term.start_fraction = 0.875"])
    assert "loss = 1.0 image + 1.0 region + 1.0 across (from 0.875 of the run)" in said
    losses = dict(
        re.findall(
            r"(image|region|across) (\d+\.\d+)", said.partition("loss image")[0] + said[said.index("one batch") :]
        )
    )
    assert float(losses["across"]) > 0
    assert re.search(r"a step takes [\d.]+ s", said)
    assert re.search(r"400 steps of 8 images \(6 an epoch\): about", said)


def test_a_rehearsal_takes_its_steps_where_most_terms_count():
    """The region term fades out before the end, the term across images begins after the start."""
    fades = ["region/Term.weight = @fade/schedules.Linear()", "fade/schedules.Linear.start = 1.0"]
    fades += ["fade/schedules.Linear.end = 0.0", "fade/schedules.Linear.fraction = 0.5"]
    said = rehearsal.rehearse(["gin/cribo.gin"], [*TINY[:-1], *fades])
    (found,) = re.findall(r"as in step (\d+): loss image [\d.]+, region ([\d.]+), across ([\d.]+)", said)
    assert 6 <= int(found[0]) < 200
    assert float(found[1]) > 0 and float(found[2]) > 0


def test_a_rehearsal_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rehearsal.rehearse(["gin/dino.gin"], list(TINY[:-1]))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_configuration_is_refused_before_anything_is_built():
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        rehearsal.rehearse(["gin/cribo.gin"], ["train.batch_sise = 3"])


def test_a_rehearsed_configuration_is_the_one_that_would_run():
    settings = config.load(["gin/cribo.gin"], list(TINY))
    assert "n_clusters = 12" in rehearsal.rehearse(["gin/cribo.gin"], list(TINY))
    assert settings.argument("train", "batch_size").value == 8
