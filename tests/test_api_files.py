"""/files over HTTP: forms in, bytes out, each client's alone; servers' own files as before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from flask import Flask, jsonify, request
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.ledger import ClientKey
from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.support import CLIENT_KEY, OWNER_KEY, World, known

SERVER = "http://server.invalid"


def upload(
    http: FlaskClient,
    content: bytes = b"{}\n",
    key: str = "",
    fields: Mapping[str, Any] | None = None,
) -> Any:
    texts = {"purpose": "batch", **(fields or {})}
    parts = [f'"{name}"\r\n\r\n{text}'.encode() for name, text in texts.items()]
    if "file" not in texts:
        # Node's SDK sends the file before the other fields.
        parts.insert(0, b'"file"; filename="in.jsonl"\r\n\r\n' + content)
    head = b"--x\r\nContent-Disposition: form-data; name="
    return http.post(
        "/v1/files",
        data=b"".join(head + part + b"\r\n" for part in parts) + b"--x--\r\n",
        content_type="multipart/form-data; boundary=x",
        headers=bearer(key),
        # Closes the response, and with it the upload's temporary file.
        buffered=True,
    )


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


@pytest.fixture
def http(world: World) -> FlaskClient:
    return world.http()


def test_a_file_is_uploaded_listed_fetched_and_deleted(http: FlaskClient) -> None:
    content = b"\0\xff" * 600_000
    file = upload(http, content).json
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": 1_200_000,
        "created_at": 1000,
        "expires_at": 1000 + 30 * 86_400,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert file["id"].startswith("file-")
    assert http.get(f"/files/{file['id']}").json == file
    fetched = http.get(f"/v1/files/{file['id']}/content")
    assert (fetched.data, fetched.content_type) == (content, "application/octet-stream")
    assert fetched.content_length == 1_200_000
    assert http.get("/v1/files").json == {
        "object": "list",
        "data": [file],
        "first_id": file["id"],
        "last_id": file["id"],
        "has_more": False,
    }
    deleted = {"id": file["id"], "object": "file", "deleted": True}
    assert http.delete(f"/v1/files/{file['id']}").json == deleted
    gone = http.get(f"/v1/files/{file['id']}")
    assert (gone.status_code, gone.json) == (
        404,
        {
            "error": {
                "message": f"No such File object: {file['id']}",
                "type": "invalid_request_error",
                "param": "id",
                "code": None,
            }
        },
    )


def test_brackets_in_the_names_of_a_form_are_objects(http: FlaskClient) -> None:
    fields = {
        "purpose": "user_data",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
    }
    assert upload(http, fields=fields).json["expires_at"] == 1000 + 3600


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": ""}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"expires_after[seconds]": "3600"}, "expires_after"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "1"}, "expires_after"),
        ({"file": "a text"}, "file"),
    ],
)
def test_a_wrong_form_is_refused(http: FlaskClient, fields: dict[str, str], param: str) -> None:
    refused = upload(http, fields=fields)
    assert (refused.status_code, refused.json["error"]["param"]) == (400, param)


def test_another_body_than_a_form_is_refused(http: FlaskClient) -> None:
    for options in ({"json": {"purpose": "batch"}}, {"data": b"x"}, {}):
        refused = http.post("/v1/files", buffered=True, **options)
        assert refused.status_code == 400
        assert "multipart/form-data" in refused.get_json()["error"]["message"]


def test_two_files_in_a_form_are_refused(http: FlaskClient) -> None:
    again = b'x\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="b"\r\n\r\ny'
    assert upload(http, again).json["error"]["param"] == "file"


_PARTS = (
    b"--x\r\n",
    b"--x--\r\n",
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
    b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch',
    b'Content-Disposition: form-data; name="expires_after[seconds]"\r\n\r\n3600',
    b"Content-Disposition: \xff",
    b"\r\n",
    b"{}",
)


@given(data=st.data())
def test_any_form_is_a_file_or_a_refusal(data: st.DataObject) -> None:
    http = World().http()
    for content in data.draw(st.lists(st.lists(st.sampled_from(_PARTS)), max_size=20)):
        response = http.post(
            "/v1/files",
            data=b"".join(content),
            content_type="multipart/form-data; boundary=x",
            buffered=True,
        )
        assert response.status_code in (200, 400)


def test_an_upload_is_bounded(world: World) -> None:
    http = world.configure(server={"max_upload": 2_000_000}).http()
    assert upload(http, b"x" * 2_000_000).status_code == 413


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "order=x"])
def test_a_wrong_query_is_refused(http: FlaskClient, query: str) -> None:
    assert http.get(f"/v1/files?{query}").status_code == 400


def test_pages_follow_each_other(http: FlaskClient, world: World) -> None:
    ids = []
    for _ in range(3):
        world.clock.seconds += 1
        ids.append(upload(http).json["id"])
    first = http.get("/v1/files?limit=2").get_json()
    assert [file["id"] for file in first["data"]] == [ids[2], ids[1]]
    assert first["has_more"] is True
    rest = http.get(f"/v1/files?limit=2&after={first['last_id']}").get_json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    oldest = http.get("/v1/files?order=asc&purpose=batch").get_json()
    assert [file["id"] for file in oldest["data"]] == ids
    assert http.get("/v1/files?purpose=vision").get_json()["data"] == []


def test_keys_do_not_see_each_others_files(world: World) -> None:
    http = world.configure(**known(ann=ClientKey("ann"), ben=ClientKey("ben"))).http()
    ann, ben = "key-of-ann-longer", "key-of-ben-longer"
    assert upload(http).status_code == 401
    file_id = upload(http, key=ann).json["id"]
    for path in ("", "/content"):
        url = f"/v1/files/{file_id}{path}"
        assert http.get(url, headers=bearer(ann)).status_code == 200
        theirs, unknown = http.get(url, headers=bearer(ben)), http.get("/v1/files/no" + path)
        assert theirs.status_code == 404
        unknown = http.get(f"/v1/files/file-x{path}", headers=bearer(ben))
        assert theirs.get_json() == {
            "error": {
                **unknown.get_json()["error"],
                "message": f"No such File object: {file_id}",
            }
        }
    assert http.delete(f"/v1/files/{file_id}", headers=bearer(ben)).status_code == 404
    assert http.get("/v1/files", headers=bearer(ben)).get_json()["data"] == []
    assert len(http.get("/v1/files", headers=bearer(ann)).get_json()["data"]) == 1


def test_in_passthrough_an_owner_is_a_horde_key(world: World) -> None:
    http = world.configure(access={"mode": "passthrough"}).http()
    file_id = upload(http, key=CLIENT_KEY).json["id"]
    url = f"/v1/files/{file_id}"
    assert http.get(url, headers=bearer(CLIENT_KEY)).status_code == 200
    assert http.get(url, headers=bearer(OWNER_KEY)).status_code == 404
    assert http.get(url).status_code == 404


def test_with_days_of_zero_nothing_is_kept(world: World) -> None:
    http = world.configure(store={"days": 0}).http()
    for refused in (upload(http), http.get("/v1/files"), http.get("/v1/files/file-1")):
        assert refused.status_code == 404
        assert refused.get_json()["error"]["code"] == "unsupported_endpoint"
        assert "store.days" in refused.get_json()["error"]["message"]


class FileServer:
    """A server with files of its own, or without any."""

    def __init__(self, *, has_files: bool) -> None:
        self.calls: list[str] = []
        self.app = Flask("server")
        self.app.add_url_rule("/v1/models", "models", lambda: jsonify(data=[{"id": "served"}]))
        if has_files:
            methods = ["GET", "POST", "DELETE"]
            self.app.add_url_rule("/v1/files", "files", self.answer, methods=methods)
            self.app.add_url_rule("/v1/files/<path:rest>", "file", self.answer, methods=methods)

    def answer(self, rest: str = "") -> Any:
        self.calls.append(f"{request.method} /files/{rest}".rstrip("/"))
        if rest == "file-unknown":
            return jsonify(error="the server's own words"), 404
        return jsonify(server=True, bytes=len(request.get_data()))


def beside_horde(world: World, server: FileServer, **settings: Any) -> FlaskClient:
    world.configure(endpoints=[{"type": "horde"}, {"type": "openai", "url": SERVER}], **settings)
    world.session.mount(SERVER, WSGIAdapter(server.app))
    return world.http()


def alone(world: World, server: FileServer) -> FlaskClient:
    world.configure(endpoints=[{"type": "openai", "url": SERVER}])
    world.session.mount(SERVER, WSGIAdapter(server.app))
    return world.http()


def test_without_a_horde_a_servers_files_are_used_as_before(world: World) -> None:
    server = FileServer(has_files=True)
    http = alone(world, server)
    assert upload(http).json["server"] is True
    assert http.get("/v1/files").get_json()["server"] is True
    assert http.get("/v1/files/file-x/content").get_json()["server"] is True
    assert http.delete("/v1/files/file-x").get_json()["server"] is True
    unknown = http.get("/v1/files/file-unknown")
    assert (unknown.status_code, unknown.get_json()) == (404, {"error": "the server's own words"})
    assert server.calls[:2] == ["POST /files", "GET /files"]


def test_a_server_without_files_leaves_them_to_the_proxy(world: World) -> None:
    http = alone(world, FileServer(has_files=False))
    file = upload(http, b"mine").json
    assert file["bytes"] == 4
    assert http.get("/v1/files").get_json()["data"] == [file]
    assert http.get(f"/v1/files/{file['id']}/content").data == b"mine"


def test_a_server_that_has_no_files_is_not_sent_each_of_them(world: World) -> None:
    server, calls = FileServer(has_files=False), []

    def refuse() -> tuple[str, int]:
        calls.append(len(request.get_data()))
        return "", 404

    server.app.add_url_rule("/v1/files", "files", refuse, methods=["POST"])
    http = alone(world, server)
    for _ in range(3):
        assert upload(http).json["object"] == "file"
    assert len(calls) == 1


def test_beside_a_horde_inputs_of_batches_are_kept_here(world: World) -> None:
    server = FileServer(has_files=True)
    http = beside_horde(world, server)
    file = upload(http).json
    assert file["object"] == "file"
    assert upload(http, fields={"purpose": "assistants"}).json["server"] is True
    assert http.get("/v1/files").get_json()["data"] == [file]
    assert http.get("/v1/files/file-of-server").get_json()["server"] is True
    named = http.get("/v1/files", headers={"X-Endpoint": "server.invalid"})
    assert named.get_json()["server"] is True
    assert server.calls == ["POST /files", "GET /files/file-of-server", "GET /files"]


def test_a_key_for_some_models_does_not_reach_a_servers_files(world: World) -> None:
    limited = known(ann=ClientKey("ann", models=("served",)))
    server = FileServer(has_files=True)
    http = beside_horde(world, server, **limited)
    key = "key-of-ann-longer"
    assert http.get("/v1/files/file-of-server", headers=bearer(key)).status_code == 404
    assert upload(http, key=key, fields={"purpose": "assistants"}).json["object"] == "file"
    assert server.calls == []
