"""The text kind of job: OpenAI's parameters as the horde's, and when a status is final."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.errors import InvalidRequest
from horde_proxy.prompts.fit import Fitted
from horde_proxy.prompts.formats import FORMATS
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.upstreams.horde.text import (
    is_censored,
    is_final,
    stop_sequence,
    to_payload,
    to_sampling,
)


def test_a_payload_has_all_required_fields_and_turns_mangling_off() -> None:
    request = GenerationRequest("m", (), n=2, stop=("END",), sampling={"temperature": 0.7})
    fitted = Fitted("PROMPT", 10, 200, 512, 0)
    payload = to_payload(
        request, ["some/model"], FORMATS["plain"], fitted, {"slow_workers": True}, 2
    )
    assert payload == {
        "prompt": "PROMPT",
        "params": {
            "n": 2,
            "max_length": 200,
            "max_context_length": 512,
            "stop_sequence": ["END", "\nUser:"],
            "temperature": 0.7,
            "frmtrmspch": False,
            "frmttriminc": False,
            "frmtrmblln": False,
            "singleline": False,
            "use_default_badwordsids": False,
        },
        "models": ["some/model"],
        "slow_workers": True,
    }


@pytest.mark.parametrize(
    ("given", "params", "warned"),
    [
        ({}, {}, []),
        ({"temperature": 0}, {"temperature": 0.01, "top_k": 1}, []),
        ({"temperature": 0, "top_k": 50}, {"temperature": 0.01, "top_k": 1}, []),
        ({"temperature": 5}, {"temperature": 5}, []),
        ({"top_p": 0}, {"top_p": 0.001}, []),
        ({"top_k": 1000}, {"top_k": 200}, ["top_k"]),
        ({"min_p": 0.1, "tfs": 0.9, "top_a": 0.2}, {"min_p": 0.1, "tfs": 0.9, "top_a": 0.2}, []),
        ({"rep_pen": 0.5}, {"rep_pen": 1}, ["rep_pen"]),
        ({"frequency_penalty": 0, "presence_penalty": 0.0}, {}, []),
        ({"frequency_penalty": 1}, {"rep_pen": 1.1}, ["frequency_penalty"]),
        (
            {"presence_penalty": 2, "frequency_penalty": 1},
            {"rep_pen": 1.2},
            ["frequency_penalty", "presence_penalty"],
        ),
        ({"frequency_penalty": -1}, {}, ["frequency_penalty"]),
        ({"frequency_penalty": 1, "rep_pen": 1.05}, {"rep_pen": 1.05}, ["frequency_penalty"]),
        (
            {"dynatemp_range": 9, "smoothing_factor": 0.3},
            {"dynatemp_range": 5, "smoothing_factor": 0.3},
            ["dynatemp_range"],
        ),
    ],
)
def test_sampling_is_brought_into_the_hordes_ranges(
    given: dict[str, Any], params: dict[str, Any], warned: list[str]
) -> None:
    found, changed = to_sampling(given)
    assert found == pytest.approx(params)
    assert changed == warned


def test_a_complete_sampler_order_is_passed_on() -> None:
    order = [6, 0, 1, 3, 4, 2, 5]
    assert to_sampling({"sampler_order": order}) == ({"sampler_order": order}, [])


def test_an_incomplete_sampler_order_is_refused() -> None:
    with pytest.raises(InvalidRequest) as raised:
        to_sampling({"sampler_order": [0, 1, 2]})
    assert raised.value.param == "sampler_order"


def test_stops_are_sent_once() -> None:
    assert stop_sequence(["</s>", "x"], FORMATS["mistral-v3"]) == ["</s>", "x", "[INST]"]


@pytest.mark.parametrize(
    ("stops", "sent"),
    [
        (["x" * 2001], []),
        (["x" * 2001, "END"], ["END"]),
        (["x" * 1500, "y" * 1500, "END"], ["x" * 1500, "END"]),
        ([str(number) for number in range(130)], [str(number) for number in range(126)]),
    ],
)
def test_of_too_many_stops_the_horde_gets_those_that_it_takes(
    stops: list[str], sent: list[str]
) -> None:
    assert stop_sequence(stops, FORMATS["chatml"]) == [*sent, "<|im_end|>", "<|im_start|>"]


@pytest.mark.parametrize(
    ("status", "n", "final"),
    [
        ({"done": False, "finished": 0, "processing": 1}, 1, False),
        ({"done": True, "finished": 1, "processing": 0}, 1, True),
        (
            {"done": True, "faulted": False, "finished": 0, "processing": 1, "restarted": 2},
            1,
            False,
        ),
        ({"done": True, "finished": 1, "processing": 1, "restarted": 2}, 2, False),
        ({"done": True, "finished": 1, "processing": 0}, 2, True),
        ({"done": True, "faulted": True, "finished": 0, "waiting": 1}, 1, True),
        ({"done": False, "finished": 2, "processing": 0}, 2, True),
        ({}, 1, False),
    ],
)
def test_a_status_is_final_only_when_nothing_more_can_come(
    status: dict[str, Any], n: int, final: bool
) -> None:
    assert is_final(status, n) == final


@pytest.mark.parametrize(
    ("generation", "censored"),
    [
        ({"state": "ok", "gen_metadata": []}, False),
        ({"state": "csam"}, True),
        ({"state": "censored"}, True),
        ({"state": "ok", "gen_metadata": [{"type": "censorship", "value": "csam"}]}, True),
        ({"state": "ok", "gen_metadata": None}, False),
    ],
)
def test_a_censored_generation_is_recognised(generation: dict[str, Any], censored: bool) -> None:
    assert is_censored(generation) == censored
