"""What ranks decide together: one that cannot go on takes the others along, and nobody waits for an answer for ever."""

from __future__ import annotations

import pytest

from sslkit import distributed
from sslkit.errors import CheckpointError, ConfigError, Refused
from tests.ranks import on_ranks

pytestmark = pytest.mark.slow


def fails(error):
    raise error


def outcome(call):
    """What a call returns, or the kind of its error and the code that a process would end with."""
    try:
        return call()
    except Refused as refused:
        return "Refused", refused.code
    except Exception as error:
        return type(error).__name__


def work():
    rank, on = distributed.rank(), {}
    on["found by rank 0"] = distributed.on_main(lambda: "found")
    on["wrong"] = outcome(lambda: distributed.on_main(lambda: fails(ConfigError("no"))))
    on["failed"] = outcome(lambda: distributed.on_main(lambda: fails(OSError("no"))))
    on["alone"] = distributed.on_main(lambda: (distributed.world_size(), distributed.on_main(lambda: "within")))
    on["with others again"] = distributed.world_size()
    on["each"] = distributed.together(lambda: rank)
    on["one cannot"] = outcome(
        lambda: distributed.together(lambda: fails(CheckpointError("no")) if rank == 1 else rank)
    )
    on["value"] = distributed.of_main({"step": rank})
    return on


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(work, tmp_path_factory.mktemp("ranks"))


def test_only_rank_0_has_what_it_finds_alone(ranks):
    assert [rank["found by rank 0"] for rank in ranks] == ["found", None]


def test_what_rank_0_refuses_the_others_leave_with_its_code(ranks):
    assert [rank["wrong"] for rank in ranks] == ["ConfigError", ("Refused", 2)]
    assert [rank["failed"] for rank in ranks] == ["OSError", ("Refused", 1)]


def test_while_rank_0_is_alone_it_has_no_others_to_wait_for(ranks):
    assert [rank["alone"] for rank in ranks] == [(1, "within"), None]
    assert [rank["with others again"] for rank in ranks] == [2, 2]


def test_what_one_rank_cannot_do_none_goes_on_from(ranks):
    assert [rank["each"] for rank in ranks] == [0, 1]
    assert [rank["one cannot"] for rank in ranks] == [("Refused", 1), "CheckpointError"]


def test_a_value_of_rank_0_is_that_of_all(ranks):
    assert [rank["value"] for rank in ranks] == [{"step": 0}] * 2
