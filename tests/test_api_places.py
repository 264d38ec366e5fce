"""Requests that are bound to places, by every front and every way out of the house."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.app.factory import composition_of
from horde_proxy.ledger import ClientKey
from tests.places_world import TEXT, PlacesWorld
from tests.scripted_images import MODEL
from tests.support import known
from tests.test_api_batches import Proxy
from tests.test_api_files import bearer, upload
from tests.test_api_own_functions import FOX, Images

SECRET = "The safe is behind the painting."
CHAT = "/v1/chat/completions"
HOME = {"X-Places": "home"}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": SECRET}]},
    "/v1/completions": {"prompt": SECRET},
    "/v1/responses": {"input": SECRET},
    "/v1/messages": {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": SECRET}]},
    "/v1/responses/input_tokens": {"input": SECRET},
    "/v1/responses/compact": {"input": SECRET},
    "/api/chat": {"messages": [{"role": "user", "content": SECRET}]},
    "/api/generate": {"prompt": SECRET},
    "/v1/embeddings": {"model": "embedder", "input": SECRET},
    "/api/embed": {"model": "embedder", "input": SECRET},
    "/v1/images/generations": {"model": "painter", "prompt": SECRET},
    "/v1/rerank": {"query": SECRET},
}
WHOLE = (
    "/v1/messages/count_tokens",
    "/v1/responses/input_tokens",
    "/v1/responses/compact",
    "/v1/embeddings",
    "/api/embed",
    "/v1/images/generations",
    "/v1/rerank",
)


@pytest.fixture
def world() -> PlacesWorld:
    return PlacesWorld()


def body_of(path: str, **fields: Any) -> dict[str, Any]:
    whole = {} if path in WHOLE else {"stream": False}
    return {"model": "test/model", **whole, **BODIES[path], **fields}


def post(world: PlacesWorld, path: str = CHAT, key: str = "", **options: Any) -> Any:
    headers = {**options.pop("headers", {}), **bearer(key)}
    body = body_of(path, **options)
    return world.http().post(path, json=body, headers=headers, buffered=True)


def error_of(response: Any) -> Any:
    return response.json["error"]


@pytest.mark.parametrize("path", BODIES)
def test_without_a_binding_the_first_endpoint_answers(world: PlacesWorld, path: str) -> None:
    assert post(world, path).status_code == 200
    assert SECRET.encode() in world.provider.bodies
    assert world.box.sent == []


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("by", ["header", "field", "key", "alias"])
def test_every_front_keeps_what_is_bound_at_home(world: PlacesWorld, path: str, by: str) -> None:
    headers: dict[str, str] = {}
    fields: dict[str, Any] = {}
    key = ""
    if by == "header":
        headers = HOME
    elif by == "field":
        fields = {"places": ["home"]}
    elif by == "key":
        key = "key-of-ann-longer"
        world.configure(**known(ann=ClientKey("", places=("home",))))
    else:
        model = body_of(path)["model"]
        world.configure(aliases={"diary": {"model": model, "places": ["home"]}})
        fields = {"model": "diary"}
    response = post(world, path, key, headers=headers, **fields)
    assert (response.status_code, world.outside) == (200, [])
    assert SECRET.encode() in world.box.bodies


def test_what_binds_is_not_passed_on(world: PlacesWorld) -> None:
    response = post(world, headers={"X-Places": "Home, private"}, places="home", seed=7)
    assert response.json["choices"][0]["message"]["content"] == TEXT
    [sent] = world.box.sent
    assert json.loads(sent.body) == {
        "model": "test/model",
        "stream": False,
        "messages": [{"role": "user", "content": SECRET}],
        "seed": 7,
    }
    assert "x-places" not in {name.lower() for name in sent.headers}


@pytest.mark.parametrize(
    ("header", "field"),
    [("hoem", None), ("", None), ("home;private", None), (None, "nowhere"), (None, []),
     (None, None), (None, {"home": True}), (None, [1])],
)  # fmt: skip
def test_an_unknown_place_is_an_error_and_never_everywhere(
    world: PlacesWorld, header: str | None, field: Any
) -> None:
    if header is not None:
        response = post(world, headers={"X-Places": header})
    else:
        response = post(world, places=field)
    assert response.status_code == 400
    assert error_of(response)["param"] == ("places" if header is None else "X-Places")
    assert "home, private, crowd, paid" in error_of(response)["message"]
    assert (world.outside, world.box.sent) == ([], [])


def test_a_refusal_names_the_binding_and_what_would_answer(world: PlacesWorld) -> None:
    world.configure(**known(ann=ClientKey("", places=("home",))))
    response = post(world, key="key-of-ann-longer", model="provider-only")
    assert response.status_code == 403
    assert error_of(response) == {
        "message": "The key `ann` allows only `home`; `provider-only` would be answered by "
        "provider (paid) only. Models that may answer: test/model, embedder, painter.",
        "type": "invalid_request_error",
        "param": None,
        "code": "places_excluded",
    }


def test_bindings_without_a_common_place_are_refused(world: PlacesWorld) -> None:
    world.configure(**known(ann=ClientKey("", places=("home",))))
    response = post(world, key="key-of-ann-longer", headers={"X-Places": "paid"})
    assert (response.status_code, error_of(response)["code"]) == (403, "places_excluded")
    assert "no place is in all of them" in error_of(response)["message"]
    assert (world.outside, world.box.sent) == ([], [])


def test_lists_show_what_may_be_reached(world: PlacesWorld) -> None:
    http: Any = world.http()
    listed = http.get("/v1/models", headers=HOME).json["data"]
    assert [model["id"] for model in listed] == ["test/model", "embedder", "painter", "home-only"]
    assert {tuple(model["endpoints"]) for model in listed} == {("box",)}
    [endpoint] = http.get("/v1/endpoints", headers=HOME).json["data"]
    assert (endpoint["name"], endpoint["place"]) == ("box", "home")
    everywhere = http.get("/v1/endpoints").json["data"]
    assert [entry["place"] for entry in everywhere] == ["paid", "crowd", "home"]
    assert http.get("/v1/models/provider-only", headers=HOME).status_code == 404
    assert [model["name"] for model in http.get("/api/tags", headers=HOME).json["models"]] == [
        "test/model:latest",
        "embedder:latest",
        "painter:latest",
        "home-only:latest",
    ]


def test_a_named_endpoint_elsewhere_is_refused(world: PlacesWorld) -> None:
    for name in ("provider", "horde"):
        response = post(world, headers={**HOME, "X-Endpoint": name})
        assert (response.status_code, error_of(response)["code"]) == (403, "places_excluded")
    assert world.outside == []


@pytest.mark.parametrize("field", ["models", "fallbacks"])
def test_further_models_of_a_request_stay_at_home(world: PlacesWorld, field: str) -> None:
    world.box.failure = {"status": 500}
    further: dict[str, Any] = {field: ["provider-only", "test/model"]}
    response = post(world, headers=HOME, **further)
    assert response.status_code == 500
    assert world.outside == []


def test_an_alias_among_the_further_models_binds_all_of_them(world: PlacesWorld) -> None:
    world.configure(aliases={"diary": {"model": "home-only", "places": ["home"]}})
    response = post(world, model="test/model", models=["diary"])
    assert (response.headers["X-Endpoint"], world.outside) == ("box", [])


def test_a_server_at_home_gets_one_model_only(world: PlacesWorld) -> None:
    """LiteLLM at home would go on to a provider by itself."""
    http: Any = world.http()
    body = '{"model": "test/model", "query": "x", "fallbacks": ["gpt-5"]}'
    twice = '{"model": "test/model", "query": "x", "model": "gpt-oss:120b-cloud"}'
    for content in (body, twice.replace('"gpt-oss', '"test/model", "Model": "gpt-oss')):
        response = http.post(
            "/v1/rerank", data=content, content_type="application/json", headers=HOME
        )
        assert response.status_code == 403
    assert (world.outside, world.box.sent) == ([], [])


def test_the_stand_in_for_an_embedding_is_at_home_as_well(world: PlacesWorld) -> None:
    world.configure(
        routing={"default_embedding": "provider-only"},
        aliases={"mine": {"model": "gone", "places": ["home"]}},
    )
    for path in ("/v1/embeddings", "/api/embed"):
        assert post(world, path, model="text-embedding-3-small").status_code == 200
        assert len(world.outside) == 1
        assert post(world, path, headers=HOME, model="text-embedding-3-small").status_code == 403
        assert post(world, path, model="mine").status_code == 403
        assert len(world.outside) == 1
        world.provider.sent.clear()


def test_a_form_is_bound_by_the_header_alone(world: PlacesWorld) -> None:
    http: Any = world.http()
    form = {"model": "painter", "prompt": SECRET, "places": "home"}
    refused = http.post(
        "/v1/audio/transcriptions", data=form, content_type="multipart/form-data", buffered=True
    )
    assert (refused.status_code, error_of(refused)["param"]) == (400, "places")
    for name in ("places[]", "places[0]", "Places"):
        form = {"model": "painter", name: "home"}
        response = http.post(
            "/v1/images/edits", data=form, content_type="multipart/form-data", buffered=True
        )
        assert response.status_code == 400
    assert (world.outside, world.box.sent) == ([], [])
    form = {"model": "painter", "prompt": SECRET}
    http.post(
        "/v1/audio/transcriptions",
        data=form,
        headers=HOME,
        content_type="multipart/form-data",
        buffered=True,
    )
    assert SECRET.encode() in world.box.bodies
    assert world.outside == []


def test_json_by_another_name_is_bound_as_well(world: PlacesWorld) -> None:
    """curl's -d calls it a form."""
    content = json.dumps(body_of("/v1/rerank", places=["home"]))
    kind = "application/x-www-form-urlencoded"
    response = world.http().post("/v1/rerank", data=content, content_type=kind, buffered=True)
    assert (response.status_code, world.outside) == (200, [])
    assert b"places" not in world.box.bodies


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/json", "multipart/form-data"])
@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/embeddings", "/v1/what/ever"])
def test_json_of_any_type_is_bound(world: PlacesWorld, path: str, kind: str) -> None:
    """llama.cpp and Ollama read JSON of whatever type, also after a byte order mark."""
    for mark in ("", "\ufeff"):
        content = mark + json.dumps({"model": "embedder", "input": SECRET, "places": ["home"]})
        response = world.http().post(path, data=content, content_type=kind, buffered=True)
        assert (response.status_code, world.outside) == (200, [])
        assert SECRET.encode() in world.box.sent[-1].body
        assert b"places" not in world.box.sent[-1].body


def test_a_bound_body_of_another_type_names_no_second_model(world: PlacesWorld) -> None:
    content = json.dumps({"model": "embedder", "Model": "copy:cloud", "input": SECRET})
    kind = "application/octet-stream"
    http: Any = world.http()
    refused = http.post("/v1/rerank", data=content, content_type=kind, headers=HOME, buffered=True)
    assert (refused.status_code, world.outside, world.box.sent) == (403, [], [])
    assert "names several models" in error_of(refused)["message"]


@pytest.mark.parametrize("bound", ["header", "field"])
def test_bound_json_that_is_too_large_to_be_read_is_refused(world: PlacesWorld, bound: str) -> None:
    field = {"Places": ["home"]} if bound == "field" else {}
    content = json.dumps({"model": "embedder", "input": [1] * 250_001, **field})
    headers = HOME if bound == "header" else {}
    http: Any = world.http()
    kind = "text/plain"
    refused = http.post(
        "/v1/rerank", data=content, content_type=kind, headers=headers, buffered=True
    )
    assert (refused.status_code, world.outside, world.box.sent) == (413, [], [])
    assert "it has more than 250,000 values" in error_of(refused)["message"]
    free = content.replace('"Places"', '"other"')
    response = http.post("/v1/rerank", data=free, content_type=kind, buffered=True)
    assert (response.status_code, len(world.outside)) == (200, 1)


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/what/ever", "/api/chat"])
def test_all_fields_of_the_name_bind(world: PlacesWorld, path: str) -> None:
    """The last of two fields must not lift the first one, and "Places" is no mistake to pass on."""
    body = json.dumps({"model": "test/model", "input": SECRET, "messages": [], "stream": False})
    http: Any = world.http()
    twice = body.replace("{", '{"places": ["home", "private"], ', 1)[:-1] + ', "places": ["paid"]}'
    refused = http.post(path, data=twice, content_type="application/json", buffered=True)
    assert (refused.status_code, world.outside) == (403, [])
    wrong = body.replace("{", '{"PLACES": ["house"], ', 1)
    refused = http.post(path, data=wrong, content_type="application/json", buffered=True)
    assert (refused.status_code, world.outside, world.box.sent) == (400, [], [])


def test_a_call_without_a_model_goes_to_servers_at_home(world: PlacesWorld) -> None:
    http: Any = world.http()
    assert http.post("/v1/what/ever", json={"q": SECRET}, headers=HOME).status_code == 200
    refused = http.post("/v1/what/ever", json={"q": SECRET, "places": ["private"]})
    assert error_of(refused)["code"] == "places_excluded"
    assert (
        "this request would be answered by provider (paid), box (home) only"
        in (error_of(refused)["message"])
    )
    assert world.outside == []


def test_files_go_to_servers_at_home(world: PlacesWorld) -> None:
    response = world.http().post(
        "/v1/files",
        data={"purpose": "user_data", "file": (BytesIO(b"x"), "a.txt")},
        headers=HOME,
        content_type="multipart/form-data",
        buffered=True,
    )
    assert (response.status_code, world.outside) == (200, [])
    assert len(world.box.sent) == 1


def test_a_picture_of_a_chat_is_made_within_its_binding(
    world: PlacesWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": json.loads(FOX)}
    call["function"]["arguments"] = '{"prompt": "' + SECRET + '"}'
    monkeypatch.setattr(
        "tests.places_world.CHUNKS", ({"role": "assistant"}, {"tool_calls": [call]})
    )
    world.runtime = replace(world.runtime, pictures_folder=lambda: tmp_path)
    images = Images(world)
    tools = [{"type": "image_generation"}]
    # Any horde makes the pictures for a server of texts.
    post(
        world,
        "/v1/responses",
        headers={"X-Places": "home, crowd", "X-Endpoint": "box"},
        tools=tools,
    )
    assert len(images.submits) == 1
    for bound in ({"headers": HOME}, {"places": ["home"]}):
        response = post(world, "/v1/responses", tools=tools, **bound)
        assert response.status_code == 200
        assert response.headers["X-Horde-Warnings"] == (
            "tools: type 'image_generation' left out, no image model is available"
        )
    assert len(images.submits) == 1
    assert world.provider.sent == []


def test_the_default_image_model_elsewhere_is_refused(world: PlacesWorld) -> None:
    Images(world)
    response = post(world, "/v1/images/generations", headers=HOME, model="")
    assert response.status_code == 403
    assert f"`{MODEL}` would be answered by horde (crowd)" in error_of(response)["message"]
    assert world.outside == []


def line(custom_id: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body_of(CHAT, **body)}


def test_the_lines_of_a_bound_batch_stay_at_home(world: PlacesWorld) -> None:
    proxy: Any = Proxy(world)
    content = "\n".join(json.dumps(line(name)) for name in "ab").encode()
    file = upload(proxy.http, content).json["id"]
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    batch = proxy.http.post("/v1/batches", json=body, headers=HOME).json
    # Another process runs the lines, with what is stored of the batch.
    again = Proxy(world)
    again.work()
    done = again.get(f"/batches/{batch['id']}")
    assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert (len(world.box.sent), world.outside) == (2, [])


def test_each_line_of_a_batch_is_bound_by_its_own_field_and_alias(world: PlacesWorld) -> None:
    world.configure(aliases={"diary": {"model": "test/model", "places": ["home"]}})
    proxy = Proxy(world)
    lines = line("a", places=["home"]), line("b", model="diary"), line("c"), line("d", places="x")
    batch = proxy.create(*lines)
    proxy.work()
    batch = proxy.get(f"/batches/{batch['id']}")
    assert batch["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    errors = proxy.results(batch["error_file_id"])
    assert errors["d"]["response"]["status_code"] == 400
    assert (len(world.box.sent), len(world.outside)) == (2, 1)
    assert b"places" not in world.box.bodies


def test_a_message_batch_is_bound_as_a_whole_and_by_request(world: PlacesWorld) -> None:
    params = {"model": "test/model", **BODIES["/v1/messages"]}
    requests = [{"custom_id": "a", "params": params}]
    proxy: Any = Proxy(world)
    whole = proxy.http.post("/v1/messages/batches", json={"requests": requests}, headers=HOME)
    assert whole.status_code == 200
    proxy.work()
    requests = [{"custom_id": "a", "params": {**params, "places": ["home"]}}]
    proxy.http.post("/v1/messages/batches", json={"requests": requests})
    proxy.work()
    assert world.outside == []
    assert [call.path for call in world.box.sent if call.path == CHAT] == [CHAT, CHAT]


@pytest.mark.parametrize("bound", [{"places": ["home"]}, {"model": "diary"}])
def test_a_batch_with_bound_lines_is_not_passed_on_to_a_server(
    world: PlacesWorld, bound: dict[str, Any]
) -> None:
    world.configure(aliases={"diary": {"model": "test/model", "places": ["home"]}})
    http: Any = world.http()
    there = {"X-Endpoint": "provider"}

    def send(*lines: dict[str, Any]) -> Any:
        content = "\n".join(map(json.dumps, lines)).encode()
        form = {"purpose": "batch", "file": (BytesIO(content), "in.jsonl")}
        kind = "multipart/form-data"
        return http.post("/v1/files", data=form, headers=there, content_type=kind, buffered=True)

    assert send(line("a"), line("b")).json["path"] == "files"
    assert len(world.outside) == 1
    assert send(line("a"), line("b", **bound)).json["object"] == "file"
    params = {"model": "test/model", **BODIES["/v1/messages"]}
    requests = [{"custom_id": "a", "params": {**params, **bound}}]
    batch = http.post("/v1/messages/batches", json={"requests": requests}, headers=there)
    assert batch.json["type"] == "message_batch"
    assert len(world.outside) == 1


@pytest.mark.parametrize("by", ["header", "field", "key", "alias"])
def test_a_response_in_the_background_stays_at_home_after_a_restart(
    world: PlacesWorld, by: str
) -> None:
    settings: dict[str, Any] = {}
    headers: dict[str, str] = {}
    fields: dict[str, Any] = {}
    key = ""
    if by == "header":
        headers = HOME
    elif by == "field":
        fields = {"places": ["home"]}
    elif by == "key":
        settings = known(ann=ClientKey("", places=("home",)))
        key = "key-of-ann-longer"
    else:
        settings = {"aliases": {"diary": {"model": "test/model", "places": ["home"]}}}
        fields = {"model": "diary"}
    world.configure(**settings)
    response = post(world, "/v1/responses", key, headers=headers, background=True, **fields)
    assert response.status_code == 200
    # The settings bind nothing any more, but the job that began is bound.
    if by == "key":
        world.configure(**known(ann=ClientKey("")))
    elif by == "alias":
        world.configure(aliases={"diary": "test/model"})
    app = world.app()
    assert composition_of(app).jobs.step() == 1
    url = f"/v1/responses/{response.json['id']}"
    stored: Any = app.test_client().get(url, headers=bearer(key)).json
    assert stored["status"] == "completed"
    assert SECRET.encode() in world.box.bodies
    assert world.outside == []


def test_a_job_that_its_key_may_no_longer_send_anywhere_fails(world: PlacesWorld) -> None:
    world.configure(**known(ann=ClientKey("", places=("home",))))
    key = "key-of-ann-longer"
    response = post(world, "/v1/responses", key, background=True)
    world.configure(**known(ann=ClientKey("", places=("paid",))))
    app = world.app()
    composition_of(app).jobs.step()
    url = f"/v1/responses/{response.json['id']}"
    stored: Any = app.test_client().get(url, headers=bearer(key)).json
    assert stored["status"] == "failed"
    assert "no place is in all of them" in stored["error"]["message"]
    assert (world.outside, world.box.sent) == ([], [])


def test_a_visitor_of_the_page_is_bound_by_the_key(world: PlacesWorld) -> None:
    world.configure(**known(ann=ClientKey("", places=("home",))))
    http: Any = world.http()
    state = http.get("/page/state.json", headers=bearer("key-of-ann-longer")).json
    assert "provider" not in json.dumps(state["endpoints"])
    assert "box" in json.dumps(state["endpoints"])


def test_an_answer_that_began_elsewhere_does_not_go_on_there_once_its_key_is_bound(
    world: PlacesWorld,
) -> None:
    """A restart between: the journal names the horde, which is no candidate any more."""
    world.configure(**known(ann=ClientKey("")))
    key = "key-of-ann-longer"
    fields = {"background": True, "model": "test/model"}
    response = post(world, "/v1/responses", key, headers={"X-Endpoint": "horde"}, **fields)
    app = world.app()
    # The process is stopped once the horde has the request.
    jobs = composition_of(app).jobs
    world.clock.every_sleep.insert(0, jobs.hand_over)
    jobs.step()
    begun = [call for call in world.crowd.sent if call.path.endswith("/generate/text/async")]
    assert len(begun) == 1
    world.clock.every_sleep.remove(jobs.hand_over)
    world.configure(**known(ann=ClientKey("", places=("home",))))
    world.crowd.sent.clear()
    again = world.app()
    composition_of(again).jobs.step()
    url = f"/v1/responses/{response.json['id']}"
    stored: Any = again.test_client().get(url, headers=bearer(key)).json
    # It was to go to the horde alone.
    assert (stored["status"], world.outside) == ("failed", [])
    assert "The key `ann` allows only `home`" in stored["error"]["message"]


@pytest.mark.parametrize("by", ["previous", "conversation", "item"])
def test_what_continues_a_bound_response_is_bound_as_it_was(world: PlacesWorld, by: str) -> None:
    http: Any = world.http()
    path, more = "/v1/responses", {}
    conversation = http.post("/v1/conversations", json={}).json["id"]
    if by == "conversation":
        more = {"conversation": conversation}
    first = http.post(path, json=body_of(path, places=["home", "private"], **more)).json
    assert first["places"] == ["home", "private"]
    item: Any = {"type": "item_reference", "id": first["output"][0]["id"]}
    ways: dict[str, dict[str, Any]] = {
        "previous": {"previous_response_id": first["id"], "input": "And?"},
        "conversation": {"conversation": conversation, "input": "And?"},
        "item": {"input": [item, {"role": "user", "content": "And?"}]},
    }
    again = {"model": "test/model", **ways[by]}
    for _ in range(2):
        answer = http.post(path, json=again)
        assert answer.status_code == 200, answer.json
        assert answer.json["places"] == ["home", "private"]
    refused = http.post(path, json=again, headers={"X-Places": "paid"})
    assert error_of(refused)["code"] == "places_excluded"
    assert (
        "what this request continues allows only `home` or `private`"
        in (error_of(refused)["message"])
    )
    assert world.outside == []
    assert "places" not in http.post(path, json=body_of(path)).json


@pytest.mark.parametrize("by", ["deleted", "reference", "added reference", "items", "added items"])
def test_a_conversation_keeps_the_binding_of_what_is_in_it(world: PlacesWorld, by: str) -> None:
    http: Any = world.http()
    conversation = http.post("/v1/conversations", json={}).json["id"]
    body = body_of("/v1/responses", conversation=conversation)
    first = http.post("/v1/responses", json=body, headers=HOME).json
    if by == "deleted":
        assert http.delete(f"/v1/responses/{first['id']}").status_code == 200
    else:
        is_reference = by.endswith("reference")
        item = {"type": "item_reference", "id": first["output"][0]["id"]}
        items = {"items": [item if is_reference else {"role": "user", "content": SECRET}]}
        headers = {} if is_reference else HOME
        begun = {} if by.startswith("added") else items
        made = http.post("/v1/conversations", json=begun, headers=headers)
        conversation = made.json["id"]
        if by.startswith("added"):
            path = f"/v1/conversations/{conversation}/items"
            assert http.post(path, json=items, headers=headers).status_code == 200
    again = {"model": "test/model", "input": "And?", "conversation": conversation}
    for _ in range(2):
        answer = http.post("/v1/responses", json=again)
        assert (answer.status_code, answer.json["places"]) == (200, ["home"])
    assert world.outside == []


def test_what_is_bound_elsewhere_is_not_added_to_a_bound_conversation(world: PlacesWorld) -> None:
    http: Any = world.http()
    items = {"items": [{"role": "user", "content": SECRET}]}
    made = http.post("/v1/conversations", json=items, headers=HOME).json["id"]
    path = f"/v1/conversations/{made}/items"
    refused = http.post(path, json=items, headers={"X-Places": "paid"})
    assert error_of(refused)["code"] == "places_excluded"
    assert len(http.get(path).json["data"]) == 1


def test_a_stored_answer_at_a_server_elsewhere_is_not_asked_for(world: PlacesWorld) -> None:
    app = world.app()
    store = composition_of(app).store.proxied
    assert store is not None
    store.note("anybody", "resp_1", "provider")
    store.note("anybody", "resp_2", "box")
    http: Any = app.test_client()
    for call in (http.get, http.delete):
        response = call("/v1/responses/resp_1", headers=HOME)
        assert (response.status_code, error_of(response)["code"]) == (403, "places_excluded")
    continued = body_of("/v1/responses", previous_response_id="resp_1")
    response = http.post("/v1/responses", json=continued, headers=HOME)
    assert (response.status_code, error_of(response)["code"]) == (403, "places_excluded")
    assert world.outside == []
    http.delete("/v1/responses/resp_2", headers=HOME)
    assert [call.method for call in world.box.sent if call.path.endswith("resp_2")] == ["DELETE"]


def test_a_retry_shares_the_answer_of_the_same_binding_only(
    world: PlacesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one request began at the crowd is no answer to the same body that is bound home."""
    app = world.app()
    keys = []
    join = composition_of(app).live.in_flight.join

    def noted(key: str, *rest: Any) -> Any:
        keys.append(key)
        return join(key, *rest)

    monkeypatch.setattr(composition_of(app).live.in_flight, "join", noted)
    http: Any = app.test_client()
    for headers in ({}, {}, HOME, {"X-Places": "home, paid"}):
        http.post("/api/chat", json=body_of("/api/chat"), headers=headers, buffered=True)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_the_describing_of_pictures_stays_within_the_horde_that_answers(
    world: PlacesWorld,
) -> None:
    picture = {"type": "image_url", "image_url": {"url": "http://attacker.invalid/x.png"}}
    content = [{"type": "text", "text": SECRET}, picture]
    messages = [{"role": "user", "content": content}]
    response = post(world, CHAT, headers=HOME, messages=messages)
    assert (response.status_code, world.outside) == (200, [])
