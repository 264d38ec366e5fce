"""What a horde forbids this proxy for a time: nothing is submitted there before the end."""

from __future__ import annotations

import html
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from horde_proxy.aihorde import penalties as facts
from horde_proxy.caching.notes import FolderNotes
from horde_proxy.commands import check
from horde_proxy.errors import ContentPolicyViolation
from horde_proxy.upstreams.base import Caller, Route
from horde_proxy.upstreams.horde.penalties import Penalized, Penalties
from tests.support import HORDE_URL, Cable, Clock, Scripted, World
from tests.test_upstreams_hung_workers import chat

CAPTURES = Path(__file__).parent / "data" / "captures_operations"
CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}
TIMEOUT = json.loads((CAPTURES / "generate_text_timeout_ip.json").read_text())["response"]
SENTENCE = (
    "The horde has put this proxy's address in time-out (TimeoutIP), until 1970-01-01 01:16:33 UTC."
)
CORRUPT = {"status": 400, "body": {"message": "words", "rc": "CorruptPrompt"}}


class AIHorde(Cable):
    """The world's horde as one of AI-Horde's software, which refuses submits with `refusal`."""

    def __init__(self, adapter: BaseAdapter) -> None:
        super().__init__(adapter)
        self.refusal: dict[str, Any] | None = None

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        response = super().send(request, *args, **options)
        response.headers.pop("Horde-Extensions", None)
        is_submit = request.path_url.endswith("/generate/text/async")
        if self.refusal and is_submit:
            response.status_code = self.refusal["status"]
            body = BytesIO(json.dumps(self.refusal["body"]).encode())
            response.raw = HTTPResponse(body, preload_content=False)
        return response

    @property
    def submits(self) -> int:
        return self.calls.count("POST generate/text/async")


def refusing(world: World, refusal: dict[str, Any]) -> AIHorde:
    """The world's horde, from now on with this refusal."""
    world.employ(Scripted("Hello."))
    horde = AIHorde(world.session.get_adapter(HORDE_URL))
    world.session.mount(HORDE_URL, horde)
    horde.refusal = refusal
    return horde


def later(world: World, seconds: float) -> None:
    """Let so many seconds pass, at the end of which the worker checks in."""
    world.clock.seconds += seconds - 1
    world.clock.sleep(1)


@pytest.mark.parametrize(
    ("name", "seconds"), [("generate_text_timeout_ip", 3593), ("generate_text_timeout_cidr", 3591)]
)
def test_a_captured_time_out_says_how_long_it_lasts(name: str, seconds: int) -> None:
    message = json.loads((CAPTURES / f"{name}.json").read_text())["response"]["body"]["message"]
    assert facts.timeout_seconds(message) == seconds
    # What is not told is taken for the first one that AI-Horde gives.
    assert facts.timeout_seconds("Other words.") == 180


def test_nothing_is_submitted_before_a_time_out_ends(world: World) -> None:
    horde = refusing(world, TIMEOUT)
    http = world.http()
    for _ in range(3):
        response = http.post("/v1/chat/completions", json=CHAT)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "3593")
        assert response.headers["x-should-retry"] == "false"
        assert response.get_json()["error"] == {
            "message": f"{SENTENCE} Wait, or use another model.",
            "type": "server_error",
            "param": None,
            "code": "horde_penalty",
        }
    assert horde.submits == 1
    horde.refusal = None
    later(world, 3592)
    assert http.post("/v1/chat/completions", json=CHAT).headers["Retry-After"] == "1"
    assert horde.submits == 1
    later(world, 1)
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_a_restart_does_not_forget_it(world: World) -> None:
    horde = refusing(world, TIMEOUT)
    world.http().post("/v1/chat/completions", json=CHAT)
    later(world, 593)
    response = world.http().post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "3000")
    assert horde.submits == 1


def test_another_horde_is_not_concerned(world: World) -> None:
    horde = refusing(world, TIMEOUT)
    world.http().post("/v1/chat/completions", json=CHAT)
    horde.refusal = None
    world.configure(horde={"url": "http://other.invalid"})
    world.session.mount("http://other.invalid", horde)
    assert world.http().post("/v1/chat/completions", json=CHAT).status_code == 200


def test_a_fallback_answers_meanwhile(world: World) -> None:
    refusing(world, TIMEOUT)
    world.configure(
        private_horde={"enabled": True, "api_key": "private-key", "database": "memory"},
        endpoints=[{"type": "horde", "priority": -1}],
    )
    app = world.app()
    http = app.test_client()
    offer = {
        "name": "own",
        "models": ["test/model"],
        "bridge_agent": "AI Horde Worker:1:x",
        "max_length": 512,
        "max_context_length": 8192,
    }

    def step() -> None:
        headers = {"apikey": "private-key"}
        job = http.post("/api/v2/generate/text/pop", json=offer, headers=headers).get_json()
        if job["id"]:
            answer = {"id": job["id"], "generation": "From home.", "state": "ok", "seed": 1}
            http.post("/api/v2/generate/text/submit", json=answer, headers=headers)

    step()
    world.clock.every_sleep.append(step)
    response = http.post("/v1/chat/completions", json=CHAT)
    assert response.get_json()["choices"][0]["message"]["content"] == "From home."
    assert response.headers["X-Endpoint"] == "private"


def test_health_the_endpoints_and_the_page_say_so(world: World) -> None:
    refusing(world, TIMEOUT)
    http = world.http()
    http.post("/v1/chat/completions", json=CHAT)
    penalty = {
        "code": "TimeoutIP",
        "until": 4593,
        "seconds_left": 3593,
        "kinds": [],
        "message": SENTENCE,
    }
    ready = http.get("/health/ready")
    assert (ready.status_code, ready.get_json()) == (
        200,
        {"status": "ok", "models": 1, "penalties": {"horde": [penalty]}},
    )
    [state] = http.get("/v1/endpoints").get_json()["data"]
    assert (state["state"], state["last_error"], state["penalties"]) == (
        "down",
        SENTENCE,
        [penalty],
    )
    page = http.get("/", headers={"Accept": "text/html"}).get_data(as_text=True)
    assert "TimeoutIP, 59 min 53 s left" in page
    assert "address in time-out (TimeoutIP), until 1970-01-01 01:16:33 UTC." in html.unescape(page)
    # As before, once it is over.
    later(world, 3593)
    assert "penalties" not in http.get("/health/ready").get_json()
    [state] = http.get("/v1/endpoints").get_json()["data"]
    assert (state["state"], "penalties" in state) == ("up", False)


def test_check_says_so(world: World) -> None:
    refusing(world, TIMEOUT)
    world.http().post("/v1/chat/completions", json=CHAT)
    [finding] = check.check_penalties(world.config(), world.runtime)
    assert finding.what == f"penalty at http://horde.invalid/api/v2: {SENTENCE}"
    assert finding.fix == (
        "nothing is submitted there before that; if it is a mistake, write to the horde's "
        "moderators"
    )


def test_after_a_refused_prompt_the_address_is_under_suspicion_as_long_as_the_horde_counts(
    world: World,
) -> None:
    horde = refusing(world, CORRUPT)
    upstream = world.upstream()
    route = Route(upstream, ("test/model",))
    waits = []
    for _ in range(3):
        with pytest.raises(ContentPolicyViolation):
            list(upstream.stream(chat(), route, Caller()))
        with pytest.raises(Penalized) as refused:
            list(upstream.stream(chat(), route, Caller()))
        waits.append(refused.value.retry_after)
        later(world, refused.value.retry_after or 0)
    # (2 s + 1) times three minutes, after s strikes within a day.
    assert (waits, horde.submits) == ([180, 540, 900], 3)
    assert "(CorruptPrompt), until " in str(refused.value)
    later(world, 86_400)
    with pytest.raises(ContentPolicyViolation):
        list(upstream.stream(chat(), route, Caller()))
    assert upstream.penalties()[0]["seconds_left"] == 180


def test_a_horde_of_this_software_counts_no_strikes(world: World) -> None:
    horde = refusing(world, CORRUPT)
    world.session.mount(HORDE_URL, _WithExtensions(horde))
    upstream = world.upstream()
    for _ in range(2):
        with pytest.raises(ContentPolicyViolation):
            list(upstream.stream(chat(), Route(upstream, ("test/model",)), Caller()))
    assert upstream.penalties() == []


class _WithExtensions(Cable):
    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        response = super().send(request, *args, **options)
        response.headers["Horde-Extensions"] = ""
        return response


def test_an_unsafe_address_keeps_out_pictures_of_that_account_only() -> None:
    clock = Clock()
    penalties = Penalties(now=clock)
    penalties.note_unsafe("UntrustedUnsafeIP", "alchemy", "a-key")
    for kind in ("image", "alchemy"):
        with pytest.raises(Penalized) as refused:
            penalties.check(kind, "a-key")
        penalties.check(kind, "key-of-a-trusted-account")
    penalties.check("text", "a-key")
    assert (refused.value.retry_after, str(refused.value)) == (
        900,
        "The horde takes nothing of this kind from this proxy's address, which it holds for a "
        "VPN's (UntrustedUnsafeIP), until 1970-01-01 00:31:40 UTC. Wait, or use another model.",
    )


def test_pictures_and_texts_of_an_account_are_kept_out_beside_one_another() -> None:
    penalties = Penalties(now=Clock())
    for kind in ("text", "image"):
        penalties.note_unsafe("UnsafeIP", kind, "a-key")
    for kind in ("text", "image", "alchemy"):
        with pytest.raises(Penalized):
            penalties.check(kind, "a-key")


def test_processes_of_one_host_share_them_and_old_files_go(tmp_path: Path) -> None:
    clock = Clock()
    first, second = (Penalties(FolderNotes(tmp_path, now=clock), now=clock) for _ in range(2))
    first.note_timeout(60)
    with pytest.raises(Penalized):
        second.check("text", "any")
    # No key, and no digest of a whole key, is in the file.
    first.note_unsafe("UntrustedUnsafeIP", "image", "a-secret-key")
    assert all("a-secret-key" not in path.read_text() for path in tmp_path.iterdir())
    (tmp_path / "damaged.json").write_text("{")
    clock.seconds += 901
    second.check("text", "any")
    second.check("image", "a-secret-key")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.json"]


def test_a_folder_that_cannot_be_written_loses_nothing_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    penalties = Penalties(FolderNotes(tmp_path / "file" / "folder"), now=Clock())
    penalties.note_timeout(60)
    with pytest.raises(Penalized):
        penalties.check("text", "any")
