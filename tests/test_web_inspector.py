"""The pages of the inspector: one's own requests word for word, and nobody else's."""

from __future__ import annotations

from flask.testing import FlaskClient

from tests.support import Scripted, World, known
from tests.test_api_inspections import ANN, BOB, ask, watched

HOSTILE = "<script>alert(1)</script>"


def page(http: FlaskClient, path: str = "", key: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = http.get(f"/page/inspector/{path}", headers=headers)
    return answer.status_code, answer.text


def test_the_list_leads_to_a_request_with_its_prompt_and_raw_text() -> None:
    http = watched().http()
    request_id = ask(http)
    status, listed = page(http)
    assert status == 200
    assert f'href="{request_id}"' in listed
    assert "1 attempt" in listed
    status, shown = page(http, request_id)
    assert status == 200
    for words in ("Where is the key?", "Under the mat.", "Prompt as it was sent", "Raw text 1"):
        assert words in shown
    # An answer without warnings has no line for them.
    assert "<dt>Status</dt><dd>200</dd>" in shown
    assert "<dt>Warnings</dt>" not in shown
    assert "<dd></dd>" not in shown


def test_what_a_model_writes_is_text_on_the_page() -> None:
    world = World().configure(server={"inspect": 2})
    world.employ(Scripted(HOSTILE))
    http = world.http()
    _, shown = page(http, ask(http))
    assert HOSTILE not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown


def test_a_proxy_that_keeps_nothing_says_what_turns_it_on(world: World) -> None:
    status, shown = page(world.http())
    assert (status, "server.inspect" in shown) == (404, True)


def test_another_key_s_request_is_not_there_and_no_key_is_asked_for_one() -> None:
    http = watched(**known(ann=ANN, bob=BOB)).http()
    request_id = ask(http, ANN)
    assert page(http, request_id, ANN)[0] == 200
    assert page(http, request_id, BOB)[0] == 404
    status, shown = page(http)
    assert (status, 'name="key"' in shown) == (401, True)


def test_its_pages_run_no_script_and_are_not_stored() -> None:
    answer = watched().http().get("/page/inspector/")
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_path_without_a_slash_leads_there() -> None:
    answer = watched().http().get("/page/inspector")
    assert (answer.status_code, answer.headers["Location"]) == (308, "inspector/")
