"""What the horde sends is read, and what is bad in it spoils nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.stats.records import (
    HordeModelStatsResponse,
    HordeModelStatus,
    HordeWorker,
    read_stats,
    read_statuses,
    read_workers,
)

CAPTURES = Path(__file__).parent / "data" / "captures"


def recorded(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())["response"]["body"]


def status(**fields: Any) -> HordeModelStatus:
    return read_statuses([{"name": "a", **fields}]).value[0]


def worker(**fields: Any) -> HordeWorker:
    return read_workers([{"id": "w", **fields}]).value[0]


# Recorded answers


def test_the_recorded_text_status_is_read() -> None:
    read = read_statuses(recorded("get_status_models__type-text"))
    assert read.left_out == 0
    assert [record.model_dump() for record in read.value] == [
        {
            "name": "koboldcpp/FakeLlama-8B-Instruct",
            "count": 1,
            "performance": 327.2,
            "queued": 0.0,
            "jobs": 0.0,
            "eta": 0,
            "type": "text",
        },
        {
            "name": "koboldcpp/Llama-3.1-SuperNova-Lite",
            "count": 1,
            "performance": 684.5,
            "queued": 0.0,
            "jobs": 0.0,
            "eta": 0,
            "type": "text",
        },
    ]


def test_a_status_of_only_two_fields_is_read() -> None:
    read = read_statuses(recorded("xfields_status_models"))
    assert [(record.name, record.count, record.queued) for record in read.value] == [
        ("koboldcpp/Llama-3.1-SuperNova-Lite", 1, None),
        ("koboldcpp/FakeLlama-8B-Instruct", 1, None),
    ]


def test_the_recorded_uses_are_read() -> None:
    read = read_stats(recorded("get_stats_text_models"))
    uses = {"koboldcpp/FakeLlama-8B-Instruct": 24, "koboldcpp/Llama-3.1-SuperNova-Lite": 13}
    assert read == (HordeModelStatsResponse(day=uses, month=uses, total=dict.fromkeys(uses, 0)), 0)
    assert read_stats(recorded("get_stats_img_models")) == (HordeModelStatsResponse(), 0)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("get_workers__type-text", ["fake-text-0", "manual-text-1"]),
        ("get_workers__type-image", ["fake-image-0"]),
        ("get_workers__type-interrogation", ["fake-alchemy-0"]),
        ("get_workers", ["manual-text-1", "manual-text-2"]),
    ],
)
def test_the_recorded_workers_are_read(name: str, ids: list[str]) -> None:
    read = read_workers(recorded(name))
    assert ([record.name for record in read.value], read.left_out) == (ids, 0)


def test_a_recorded_image_worker_keeps_what_it_can_do() -> None:
    image = read_workers(recorded("get_workers__type-image")).value[0]
    assert (image.models, image.max_pixels, image.post_processing) == (
        ("stable_diffusion",),
        4194304,
        True,
    )


# Lenience


def test_a_queue_with_a_fraction_is_read() -> None:
    result = status(queued=1234.56, jobs=2.5, eta=7.9, count=3.0)
    assert (result.queued, result.jobs, result.eta, result.count) == (1234.56, 2.5, 7, 3)


def test_null_is_absent_and_unknown_fields_are_ignored() -> None:
    assert status(count=None, eta=None, queued=None, new={"x": 1}) == HordeModelStatus(name="a")
    assert worker(
        team=None,
        kudos_details=None,
        models=None,
        threads=None,
        online=None,
        bridge_agent=None,
        owner="x#1",
        paused=True,
        messages=[],
    ) == HordeWorker(id="w")


def test_a_worker_of_an_id_alone_has_defaults() -> None:
    result = worker()
    assert (result.online, result.threads, result.models, result.nsfw) == (True, 1, (), None)


def test_what_cannot_be_a_models_name_is_left_out() -> None:
    assert worker(models=["a", None, 3, "", "b\n", "\ud800", "c"]).models == ("a", "c")


def test_a_speed_that_is_a_number_becomes_words() -> None:
    assert worker(performance=9.5).performance == "9.5"


@pytest.mark.parametrize(
    "bad",
    [
        None,
        3,
        "a",
        [],
        {},
        {"name": None},
        {"name": ""},
        {"name": 7},
        {"name": "a\nb"},
        {"name": "\ud800"},
        {"name": "a", "queued": "many"},
        {"name": "a", "queued": float("nan")},
        {"name": "a", "eta": float("inf")},
        {"name": "a", "count": -1},
        {"name": "a", "jobs": 1e300},
        {"name": "a", "count": []},
    ],
)
def test_a_bad_status_is_left_out_and_counted(bad: Any) -> None:
    read = read_statuses([{"name": "x"}, bad, {"name": "y"}])
    assert ([record.name for record in read.value], read.left_out) == (["x", "y"], 1)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "w",
        {},
        {"id": None},
        {"id": ""},
        {"id": "v", "models": "a"},
        {"id": "v", "team": 3},
        {"id": "v", "uptime": "long"},
        {"id": "v", "online": "perhaps"},
        {"id": "v", "kudos_rewards": float("nan")},
    ],
)
def test_a_bad_worker_is_left_out_and_counted(bad: Any) -> None:
    read = read_workers([{"id": "x"}, bad, {"id": "y"}])
    assert ([record.id for record in read.value], read.left_out) == (["x", "y"], 1)


@pytest.mark.parametrize("document", [None, {"message": "down"}, "<html>", 3])
def test_an_answer_that_is_not_a_list_is_one_bad_element(document: Any) -> None:
    assert read_statuses(document) == ([], 1)
    assert read_workers(document) == ([], 1)


@pytest.mark.parametrize(
    ("document", "day", "left_out"),
    [
        ({"day": {"a": 1, "b": None, "c": "x", "": 3, "d": -1}}, {"a": 1}, 4),
        ({"day": {"a": 2.9, "b": float("nan"), "c": float("inf")}}, {"a": 2}, 2),
        ({"day": None, "month": {}}, {}, 0),
        ({"day": [1, 2]}, {}, 1),
        ({"other": 3}, {}, 0),
        (None, {}, 1),
        ([], {}, 1),
    ],
)
def test_bad_uses_are_left_out_and_counted(
    document: Any, day: dict[str, int], left_out: int
) -> None:
    assert read_stats(document) == (HordeModelStatsResponse(day=day), left_out)


def test_records_that_are_read_already_are_returned_unchanged() -> None:
    statuses, workers = [HordeModelStatus(name="a")], [HordeWorker(id="w")]
    assert read_statuses(statuses).value[0] is statuses[0]
    assert read_workers(workers).value[0] is workers[0]
    stats = HordeModelStatsResponse()
    assert read_stats(stats).value is stats


@pytest.mark.parametrize("by_alias", [True, False])
def test_a_worker_survives_a_cache_with_all_its_fields(by_alias: bool) -> None:
    result = read_workers(recorded("get_workers__type-image")).value[0]
    stored = json.dumps(result.model_dump(by_alias=by_alias))
    assert read_workers([json.loads(stored)]) == ([result], 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "name", "models", "day", "total", "count", "team", "eta", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_without_an_error(document: Any) -> None:
    for reader in (read_statuses, read_workers):
        read = reader(document)
        count = len(document) if isinstance(document, list) else 1
        assert len(read.value) + read.left_out == count
    read_stats(document)
