"""Alchemy of the private horde: its behaviour, and recorded answers of a real AI-Horde replayed."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from horde_proxy.pictures import Raster
from tests.test_private_horde import ALICE, ANONYMOUS, OWNER, refused
from tests.test_private_horde_contract import sentence_of, unlike
from tests.test_private_horde_images import PICTURE, Studio
from tests.test_private_horde_webhooks import URL, Receiver

CAPTURES = Path(__file__).parent / "data" / "captures" / "alchemy"
ALCHEMIST = "<alchemist-owner-apikey>"
SOURCE = base64.b64encode(PICTURE).decode("ascii")
ASK = "/api/v2/interrogate/async"
STATUS = "/api/v2/interrogate/status/"
POP = "/api/v2/interrogate/pop"
SUBMIT = "/api/v2/interrogate/submit"
FORMS = ("caption", "nsfw", "interrogation", "describe")
ALL = [*FORMS, "RealESRGAN_x4plus", "strip_background"]
UPSCALER = "RealESRGAN_x4plus"


class Laboratory(Studio):
    """A world with an alchemist, and what its clients ask for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.horde.add_account(ALCHEMIST, "alchemist", trusted=True)

    def ask(self, *forms: str, key: str = ALICE, **fields: Any) -> str:
        response = self.try_ask(*forms, key=key, **fields)
        assert response.status_code == 202, response.json
        return str(response.get_json()["id"])

    def try_ask(self, *forms: str, key: str = ALICE, **fields: Any) -> TestResponse:
        body = {"source_image": SOURCE, "forms": [{"name": form} for form in forms], **fields}
        return self.post(ASK, key, body)

    def distil(self, amount: int = 1, **offer: Any) -> list[Any]:
        """Pop forms."""
        body = {"name": "alch-worker", "forms": ALL, "amount": amount, **offer}
        response = self.post(POP, ALCHEMIST, body)
        assert response.status_code == 200, response.json
        return list(response.get_json()["forms"] or [])

    def try_result(self, form: Any, state: str = "ok", **result: Any) -> TestResponse:
        body = {"id": form["id"], "result": result, "state": state}
        return self.post(SUBMIT, ALCHEMIST, body)

    def result(self, form: Any, **result: Any) -> float:
        response = self.try_result(form, **result)
        assert response.status_code == 200, response.json
        return float(response.get_json()["reward"])

    def state(self, request_id: str) -> Any:
        response = self.client.get(STATUS + request_id)
        assert response.status_code == 200, response.json
        return response.json

    def states(self, request_id: str) -> tuple[str, list[str]]:
        status = self.state(request_id)
        return status["state"], [form["state"] for form in status["forms"]]


@pytest.fixture
def lab() -> Laboratory:
    return Laboratory()


def test_forms_go_to_an_alchemist_and_their_results_to_the_client(lab: Laboratory) -> None:
    request_id = lab.ask("caption", "nsfw")
    assert lab.states(request_id) == ("waiting", ["waiting", "waiting"])
    caption, nsfw = lab.distil(2)
    assert (caption["form"], nsfw["form"]) == ("caption", "nsfw")
    assert Raster.read(lab.follow(caption["source_image"]).data).size == (64, 64)
    assert lab.states(request_id) == ("processing", ["processing", "processing"])
    assert lab.result(caption, caption="a green square", more="x") == 1.0
    assert lab.states(request_id) == ("processing", ["done", "processing"])
    lab.result(nsfw, nsfw=False)
    assert lab.state(request_id) == {
        "state": "done",
        "forms": [
            {"form": "caption", "state": "done", "result": {"caption": "a green square"}},
            {"form": "nsfw", "state": "done", "result": {"nsfw": False}},
        ],
    }


def test_a_post_processed_picture_is_behind_a_link(lab: Laboratory) -> None:
    request_id = lab.ask(UPSCALER)
    [form] = lab.distil()
    assert refused(lab.try_result(form, **{UPSCALER: "R2"})) == (400, "BadRequest")
    large = Raster.plain(256, 256, (1, 2, 3)).encoded("png")
    assert lab.follow(form["r2_upload"], "PUT", large).status_code == 200
    assert lab.result(form, **{UPSCALER: "R2"}) == 3.0
    [done] = lab.state(request_id)["forms"]
    assert Raster.read(lab.follow(done["result"][UPSCALER]).data).size == (256, 256)


def test_an_alchemist_gets_only_forms_that_it_offers(lab: Laboratory) -> None:
    request_id = lab.ask("describe", "caption")
    [caption] = lab.distil(5, forms=["caption"])
    assert caption["form"] == "caption"
    assert lab.states(request_id) == ("processing", ["waiting", "processing"])
    assert lab.take()["id"] is None
    assert lab.pop() == []


def test_a_form_whose_payload_was_sent_has_it(lab: Laboratory) -> None:
    forms = [{"name": "caption", "payload": {"a": 1}}]
    lab.post(ASK, ALICE, {"source_image": SOURCE, "forms": forms})
    assert lab.distil()[0]["payload"] == {"a": 1}


def test_a_large_picture_goes_to_alchemists_that_take_so_many_tiles(lab: Laboratory) -> None:
    large = base64.b64encode(Raster.plain(1024, 513, (1, 2, 3)).encoded("png")).decode("ascii")
    lab.ask("caption", source_image=large)
    body = {"name": "small", "forms": ["caption"], "max_tiles": 3}
    answer = lab.post(POP, ALCHEMIST, body).get_json()
    assert answer == {"forms": None, "skipped": {"tiles": 1}}
    assert len(lab.distil(max_tiles=4)) == 1


def test_a_form_that_fails_three_times_is_faulted(lab: Laboratory) -> None:
    request_id = lab.ask("caption")
    for _ in range(3):
        assert lab.states(request_id) == ("waiting", ["waiting"])
        [form] = lab.distil()
        lab.try_result(form, state="faulted")
    assert lab.states(request_id) == ("faulted", ["faulted"])


def test_a_late_form_goes_to_another_alchemist(lab: Laboratory) -> None:
    request_id = lab.ask("caption")
    [form] = lab.distil()
    lab.now += 179
    assert lab.states(request_id) == ("processing", ["processing"])
    lab.now += 2
    assert refused(lab.try_result(form, caption="x")) == (400, "AbortedGen")
    [again] = lab.distil(name="second")
    lab.result(again, caption="y")
    assert lab.state(request_id)["forms"][0]["result"] == {"caption": "y"}


def test_a_cancelled_request_keeps_its_results(lab: Laboratory) -> None:
    request_id = lab.ask("caption", "nsfw", "describe")
    caption, nsfw = lab.distil(2)
    lab.result(caption, caption="x")
    cancelled = lab.client.delete(STATUS + request_id).get_json()
    assert [form["state"] for form in cancelled["forms"]] == ["done", "cancelled", "cancelled"]
    assert cancelled == lab.state(request_id)
    assert cancelled["state"] == "partial"
    # The worker did the work.
    assert lab.result(nsfw, nsfw=False) == 1.0
    assert lab.state(request_id) == cancelled
    assert lab.distil(5) == []


def test_a_request_expires_twenty_minutes_after_its_last_result(lab: Laboratory) -> None:
    request_id = lab.ask("caption", UPSCALER)
    caption, upscaled = lab.distil(2)
    lab.now += 100
    lab.result(caption, caption="x")
    lab.follow(upscaled["r2_upload"], "PUT", PICTURE)
    lab.result(upscaled, **{UPSCALER: "R2"})
    lab.now += 1199
    status = lab.state(request_id)
    assert status["state"] == "done"
    link = status["forms"][1]["result"][UPSCALER]
    assert lab.follow(link).status_code == 200
    lab.now += 2
    assert lab.client.get(STATUS + request_id).status_code == 404
    assert lab.follow(link).status_code == 404


def test_alchemy_is_paid_by_who_wanted_it_with_one_tax(lab: Laboratory) -> None:
    before = lab.user()["kudos"]
    lab.ask("caption", "interrogation")
    caption, interrogation = lab.distil(2)
    assert lab.result(caption, caption="x") == 1.0
    assert lab.result(interrogation, interrogation={"tags": []}) == 3.0
    # The forms, a tax, and one more for slow workers.
    assert lab.user()["kudos"] == before - 6
    assert lab.user(ALCHEMIST)["kudos"] == 4.0
    assert lab.user()["records"]["request"]["interrogation"] == 2
    assert lab.user(ALCHEMIST)["records"]["fulfillment"]["interrogation"] == 2


def test_ten_times_as_many_forms_as_images_may_wait(lab: Laboratory) -> None:
    lab.horde.add_account("poor-key", "poor", concurrency=1)
    lab.ask(*["caption"] * 10, key="poor-key")
    assert refused(lab.try_ask("caption", key="poor-key")) == (429, "TooManyPrompts")


def test_alchemists_and_their_load_are_listed(lab: Laboratory) -> None:
    request_id = lab.ask("caption", "nsfw")
    [form] = lab.distil()
    lab.now += 2
    lab.result(form, caption="x")
    performance = lab.performance()
    assert performance["interrogator_count"] == 1
    assert performance["queued_forms"] == 1.0
    [worker] = lab.get("workers?type=interrogation").get_json()
    assert (worker["forms"], worker["performance"]) == (ALL, "2.0 seconds per form")
    assert "models" not in worker
    assert lab.user()["active_generations"] == {"interrogation": [request_id]}


@pytest.mark.parametrize("result", [{}, {"nsfw": True}, {"caption": "x" * 100_001}])
def test_a_result_that_is_none_of_its_form_is_refused(
    lab: Laboratory, result: dict[str, Any]
) -> None:
    lab.ask("caption")
    [form] = lab.distil()
    assert refused(lab.try_result(form, **result)) == (400, "BadRequest")
    lab.result(form, caption="x")


def test_a_webhook_is_called_for_each_form(lab: Laboratory) -> None:
    receiver = Receiver(lab)
    request_id = lab.ask("caption", UPSCALER, webhook=URL)
    caption, upscaled = lab.distil(2)
    lab.result(caption, caption="x")
    lab.follow(upscaled["r2_upload"], "PUT", PICTURE)
    lab.result(upscaled, **{UPSCALER: "R2"})
    first, second = (json.loads(content) for _, content, _ in receiver.calls)
    assert first == {
        "form": "caption",
        "state": "done",
        "result": {"caption": "x"},
        "id": caption["id"],
        "request": request_id,
        "kudos": 1.0,
    }
    assert lab.follow(second["result"][UPSCALER]).status_code == 200


def test_the_queue_says_why_a_form_waits(lab: Laboratory) -> None:
    lab.distil(forms=["nsfw"])
    lab.ask("caption")
    [entry] = lab.horde.queue(ALICE)["requests"]
    assert (entry["size"], entry["has_worker"]) == ("caption of an image", False)
    assert entry["reasons"] == ["alch-worker serves none of its `models`."]


# Captures


def load(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())


def asked(lab: Laboratory) -> str:
    lab.distil()
    return lab.ask(*FORMS)


def popped(amount: int = 2) -> Callable[[Laboratory], str]:
    def setup(lab: Laboratory) -> str:
        request_id = asked(lab)
        lab.distil(amount)
        return request_id

    return setup


def half_done(lab: Laboratory) -> str:
    request_id = asked(lab)
    caption, nsfw = lab.distil(2)
    lab.result(caption, caption="a blue square")
    lab.result(nsfw, nsfw=False)
    return request_id


def half_cancelled(lab: Laboratory) -> str:
    request_id = half_done(lab)
    lab.client.delete(STATUS + request_id)
    return request_id


def after_fault(lab: Laboratory) -> str:
    request_id = half_done(lab)
    lab.try_result(lab.distil()[0], state="faulted")
    return request_id


def with_upscaled(lab: Laboratory) -> str:
    lab.distil()
    request_id = lab.ask(UPSCALER, "strip_background")
    [form] = lab.distil()
    lab.follow(form["r2_upload"], "PUT", PICTURE)
    lab.result(form, **{UPSCALER: "R2"})
    return request_id


def form_of(name: str, is_done: bool = False) -> Callable[[Laboratory], str]:
    def setup(lab: Laboratory) -> str:
        lab.ask(name)
        [form] = lab.distil()
        if "r2_upload" in form:
            lab.follow(form["r2_upload"], "PUT", PICTURE)
        if is_done:
            lab.result(form, **{name: "x"})
        return str(form["id"])

    return setup


def nothing(lab: Laboratory) -> None:
    """No alchemist is online."""


SETUPS: dict[str, Callable[[Laboratory], Any]] = {
    **{path.stem: nothing for path in CAPTURES.glob("*.json")},
    "interrogate_delete": half_done,
    "interrogate_pop_amount_2": asked,
    "interrogate_pop_no_such_forms": lambda lab: lab.ask("caption") and None,
    "interrogate_pop_postprocessor": lambda lab: lab.ask(UPSCALER) and None,
    "interrogate_status_after_fault": after_fault,
    "interrogate_status_cancelled": half_cancelled,
    "interrogate_status_no_forms": lambda lab: lab.ask(),
    "interrogate_status_partial": half_done,
    "interrogate_status_postprocessor": with_upscaled,
    "interrogate_status_same_form_twice": lambda lab: lab.ask("caption", "caption"),
    "interrogate_status_two_processing": popped(),
    "interrogate_status_waiting_four": asked,
    "interrogate_submit_again": form_of("caption", is_done=True),
    "interrogate_submit_caption": form_of("caption"),
    "interrogate_submit_faulted": form_of("caption"),
    "interrogate_submit_nsfw": form_of("nsfw"),
    "interrogate_submit_postprocessor": form_of(UPSCALER),
}


def replay(lab: Laboratory, name: str) -> TestResponse:
    real_id = SETUPS[name](lab)
    request = load(name)["request"]
    path, body = request["path"], request.get("body")
    if real_id is not None and not path.endswith("/pop"):
        path = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", real_id, path)
        if path.endswith("/submit"):
            body = {**body, "id": real_id}
    data = None if body is None else json.dumps(body)
    return lab.client.open(path, method=request["method"], data=data, headers=request["headers"])


@pytest.mark.parametrize("name", sorted(SETUPS))
def test_the_answer_is_that_of_the_real_horde(lab: Laboratory, name: str) -> None:
    expected = load(name)["response"]
    actual = replay(lab, name)
    assert actual.status_code == expected["status"], actual.json
    assert unlike(expected["body"], actual.get_json()) == []
    limit = expected["headers"]["X-Ratelimit-Limit"]
    assert actual.headers["X-Ratelimit-Limit"] == limit


@pytest.mark.parametrize("name", [name for name in sorted(SETUPS) if "err_" in name])
def test_a_refusal_says_what_the_real_horde_says(lab: Laboratory, name: str) -> None:
    expected = load(name)["response"]["body"]
    actual = replay(lab, name).get_json()
    assert actual.get("rc") == expected.get("rc")
    # The names of forms come in any order, and the key is described in other words.
    errors, known = actual.get("errors") or {}, expected.get("errors") or {}
    assert list(errors) == list(known)
    if "form" not in name and "no_key" not in name:
        assert errors == known
    if "message" in expected:
        assert actual["message"] == sentence_of(expected)


@pytest.mark.parametrize("name", [name for name in sorted(SETUPS) if "status_" in name])
def test_the_states_are_those_of_the_real_horde(lab: Laboratory, name: str) -> None:
    expected = load(name)["response"]["body"]
    if "forms" not in expected:
        return
    actual = replay(lab, name).get_json()

    def states(body: Any) -> list[tuple[str, str]]:
        return sorted((form["form"], form["state"]) for form in body["forms"])

    assert (actual["state"], states(actual)) == (expected["state"], states(expected))


@pytest.mark.parametrize("name", [name for name in sorted(SETUPS) if "_submit_" in name])
def test_a_form_earns_what_it_earns_at_the_real_horde(lab: Laboratory, name: str) -> None:
    expected = load(name)["response"]["body"]
    if "reward" in expected:
        assert replay(lab, name).get_json() == expected


def test_anonymous_may_ask_and_not_work(lab: Laboratory) -> None:
    lab.ask("caption", key=ANONYMOUS)
    body = {"name": "w", "forms": ["caption"]}
    assert refused(lab.post(POP, ANONYMOUS, body)) == (403, "AnonForbiddenWorker")
    assert lab.post(POP, OWNER, body).status_code == 200
