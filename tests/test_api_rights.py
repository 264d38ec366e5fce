"""Who may call what: the table of docs/security.md, tried for every route, key and access mode."""

# Rows of the tables are lines of a page, which may be longer than those of code.
# ruff: noqa: E501

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, jsonify
from flask.testing import FlaskClient

from horde_proxy.app.factory import composition_of
from horde_proxy.ledger import ClientKey
from horde_proxy.pictures import Raster
from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.support import CLIENT_KEY, Scripted, World, known

PAGE = Path(__file__).parent.parent / "docs" / "security.md"

# Each route with and without /v1. "yes": it answers. "own": it answers with what is the key's own.
ROUTES = """
| | open: this machine | open: elsewhere | keys: none | keys: wrong | keys: client | keys: other models only | keys: admin | passthrough: none | passthrough: elsewhere | passthrough: key |
|---|---|---|---|---|---|---|---|---|---|---|
| POST /chat/completions | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /completions | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /responses/ID/cancel | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /messages | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /messages/count_tokens | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| GET /api/hello | yes | yes | yes | yes | yes | yes | yes | yes | yes | yes |
| POST /messages/batches | 400 | 400 | 401 | 401 | 400 | 400 | 400 | 400 | 400 | 400 |
| GET /messages/batches | own | own | 401 | 401 | own | own | own | own | own | own |
| GET /messages/batches/ID | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /messages/batches/ID/cancel | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| DELETE /messages/batches/ID | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| GET /messages/batches/ID/results | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /responses | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| GET /responses/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| DELETE /responses/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /responses/ID/input_items | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /responses/input_tokens | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /responses/compact | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /conversations | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /conversations/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /conversations/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| DELETE /conversations/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /conversations/ID/items | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /conversations/ID/items | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /conversations/ID/items/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| DELETE /conversations/ID/items/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /chat/completions | own | own | 401 | 401 | own | own | own | own | own | own |
| GET /chat/completions/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /chat/completions/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| DELETE /chat/completions/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /chat/completions/ID/messages | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /images/generations | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /images/edits | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /images/variations | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| GET /files/images/NAME | 404 | 404 | 404 | 404 | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /embeddings | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| a proxied path, e.g. POST /rerank | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| a proxied path, e.g. GET /vector_stores | yes | yes | 401 | 401 | yes | 403 | yes | yes | yes | yes |
| POST /files | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /files | own | own | 401 | 401 | own | own | own | own | own | own |
| GET /files/ID | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| GET /files/ID/content | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| DELETE /files/ID | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /batches | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| GET /batches | own | own | 401 | 401 | own | own | own | own | own | own |
| GET /batches/ID | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /batches/ID/cancel | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| GET /models | yes | yes | 401 | 401 | yes | own | yes | yes | yes | yes |
| GET /models/NAME | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| GET /opencode.json | yes | yes | 401 | 401 | yes | own | yes | yes | yes | yes |
| GET /endpoints | yes | yes | 401 | 401 | yes | own | yes | yes | yes | yes |
| GET /endpoints/history | yes | yes | 401 | 401 | own | own | yes | yes | 403 | yes |
| GET /usage | yes | yes | 401 | 401 | own | own | yes | own | own | own |
| GET /generation | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /openapi.json | yes | yes | yes | yes | yes | yes | yes | yes | yes | yes |
| GET /inspections | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /inspections/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| DELETE /inspections | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /horde/account | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /horde/requests | own | own | 401 | 401 | own | own | yes | own | own | own |
| GET /horde/models | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /horde/models/NAME | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /horde/history | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /horde/history/models | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /horde/statistics | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /horde/deletion-risk | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /horde/audit | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| POST /horde/webhook/SECRET | 404 | 404 | 404 | 404 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /api/version | yes | yes | yes | yes | yes | yes | yes | yes | yes | yes |
| GET /api/tags | yes | yes | 401 | 401 | yes | own | yes | yes | yes | yes |
| GET /api/ps | yes | yes | 401 | 401 | yes | own | yes | yes | yes | yes |
| POST /api/show | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /api/chat | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /api/generate | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /api/embed | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /api/embeddings | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /api/pull | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /api/push | 403 | 403 | 401 | 401 | 403 | 403 | 403 | 403 | 403 | 403 |
| POST /api/create | 403 | 403 | 401 | 401 | 403 | 403 | 403 | 403 | 403 | 403 |
| POST /api/copy | 403 | 403 | 401 | 401 | 403 | 403 | 403 | 403 | 403 | 403 |
| POST /api/blobs/DIGEST | 403 | 403 | 401 | 401 | 403 | 403 | 403 | 403 | 403 | 403 |
| DELETE /api/delete | 403 | 403 | 401 | 401 | 403 | 403 | 403 | 403 | 403 | 403 |
| GET /health/live | yes | yes | yes | yes | yes | yes | yes | yes | yes | yes |
| GET /health/ready | yes | yes | yes | yes | yes | yes | yes | yes | yes | yes |
| GET /health/probe | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /metrics | yes | 403 | 401 | 401 | 403 | 403 | yes | yes | 403 | yes |
| GET / | yes | yes | yes | 401 | own | own | yes | yes | yes | yes |
| GET /page/live | yes | yes | 401 | 401 | own | own | yes | yes | yes | yes |
| GET /page/state.json | yes | yes | 401 | 401 | own | own | yes | yes | yes | yes |
| GET /page/events | yes | yes | 401 | 401 | own | own | yes | 403 | 403 | 403 |
| GET /page/static/NAME | yes | yes | yes | yes | yes | yes | yes | yes | yes | yes |
| GET /page/first-run | yes | 403 | 401 | 401 | 403 | 403 | yes | yes | 403 | yes |
| POST /page/first-run/ACTION | 404 | 403 | 401 | 401 | 403 | 403 | 404 | 404 | 403 | 404 |
| POST /page/first-run/code | 403 | 403 | 403 | 403 | 403 | 403 | 403 | 403 | 403 | 403 |
| POST /page/first-run/finish | 403 | 403 | 401 | 401 | 403 | 403 | 403 | 403 | 403 | 403 |
| POST /page/login | yes | yes | 400 | 400 | 400 | 400 | 400 | yes | yes | yes |
| POST /page/logout | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /page/inspector | yes | yes | 401 | 401 | yes | yes | yes | yes | yes | yes |
| GET /page/inspector/ | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /page/inspector/ID | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /page/admin | yes | 403 | 401 | 401 | 403 | 403 | yes | yes | 403 | yes |
| GET /page/admin/ | yes | 403 | 401 | 401 | 403 | 403 | yes | yes | 403 | yes |
| GET /page/admin/NAME | yes | 403 | 401 | 401 | 403 | 403 | yes | yes | 403 | yes |
| POST /page/admin/NAME | 404 | 403 | 401 | 401 | 403 | 403 | 404 | 404 | 403 | 404 |
| POST /page/chat | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /page/background/ID/cancel | 404 | 404 | 401 | 401 | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /page/images/generations | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| POST /page/images/edits | yes | yes | 401 | 401 | yes | 404 | yes | yes | yes | yes |
| an unknown path, e.g. GET /nothing | 404 | 404 | 404 | 404 | 404 | 404 | 404 | 404 | 404 | 404 |
| OPTIONS of any path | yes | yes | yes | yes | yes | yes | yes | yes | yes | yes |
"""

# The private horde, whose keys are not the proxy's. The header is `apikey`.
HORDE_ROUTES = """
| | no key | an unknown key, or a client's of the proxy | anonymous, mode open | anonymous, other modes | a member's key | the owner's key |
|---|---|---|---|---|---|---|
| POST /generate/text/async | 400 | 401 | yes | 401 | yes | yes |
| GET /generate/text/status/ID | yes | yes | yes | yes | yes | yes |
| DELETE /generate/text/status/ID | yes | yes | yes | yes | yes | yes |
| POST /generate/text/pop | 400 | 401 | 403 | 401 | yes | yes |
| POST /generate/text/submit | 400 | 401 | 404 | 401 | 404 | 404 |
| POST /generate/async | 400 | 401 | yes | 401 | yes | yes |
| GET /generate/check/ID | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /generate/status/ID | 404 | 404 | 404 | 404 | 404 | 404 |
| DELETE /generate/status/ID | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /generate/pop | 400 | 401 | 403 | 401 | yes | yes |
| POST /generate/submit | 400 | 401 | 404 | 401 | 404 | 404 |
| GET /pictures/ID | 403 | 403 | 403 | 403 | 403 | 403 |
| PUT /pictures/ID | 403 | 403 | 403 | 403 | 403 | 403 |
| POST /interrogate/async | 400 | 401 | yes | 401 | yes | yes |
| GET /interrogate/status/ID | 404 | 404 | 404 | 404 | 404 | 404 |
| DELETE /interrogate/status/ID | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /interrogate/pop | 400 | 401 | 403 | 401 | yes | yes |
| POST /interrogate/submit | 400 | 401 | 404 | 401 | 404 | 404 |
| GET /status/models | yes | yes | yes | yes | yes | yes |
| GET /status/models/NAME | yes | yes | yes | yes | yes | yes |
| GET /status/performance | yes | yes | yes | yes | yes | yes |
| GET /status/heartbeat | yes | yes | yes | yes | yes | yes |
| GET /status/modes | yes | yes | yes | yes | yes | yes |
| GET /status/news | yes | yes | yes | yes | yes | yes |
| GET /workers | yes | yes | yes | yes | yes | yes |
| GET /workers/ID | yes | yes | yes | yes | yes | yes |
| PUT /workers/ID | 400 | 401 | 403 | 401 | 403 | yes |
| GET /workers/name/NAME | yes | yes | yes | yes | yes | yes |
| GET /find_user | 401 | 404 | yes | 404 | yes | yes |
| GET /stats/text/models | yes | yes | yes | yes | yes | yes |
| GET /stats/text/totals | yes | yes | yes | yes | yes | yes |
| GET /stats/img/models | yes | yes | yes | yes | yes | yes |
| GET /stats/img/totals | yes | yes | yes | yes | yes | yes |
| GET /users | yes | yes | yes | yes | yes | yes |
| GET /users/ID | yes | 401 | yes | 401 | yes | yes |
| PUT /users/ID | 400 | 401 | 403 | 401 | 403 | yes |
| GET /users/ID/keys | 400 | 401 | 403 | 401 | 403 | yes |
| POST /users/ID/keys | 400 | 401 | 403 | 401 | 403 | yes |
| DELETE /users/ID/keys/FINGERPRINT | 400 | 401 | 403 | 401 | 403 | yes |
| POST /kudos/transfer | 400 | 401 | 400 | 401 | yes | yes |
| POST /kudos/award | 400 | 401 | 403 | 401 | 403 | yes |
| PUT /sharedkeys | 400 | 401 | 403 | 401 | yes | yes |
| GET /sharedkeys/ID | yes | yes | yes | yes | yes | yes |
| PATCH /sharedkeys/ID | 400 | 401 | 403 | 401 | 403 | yes |
| DELETE /sharedkeys/ID | 400 | 401 | 403 | 401 | 403 | yes |
| POST /register | yes | yes | yes | yes | yes | yes |
| GET /invitations | 400 | 401 | 403 | 401 | 403 | yes |
| POST /invitations | 400 | 401 | 403 | 401 | 403 | yes |
| DELETE /invitations/ID | 400 | 401 | 403 | 401 | 403 | yes |
| DELETE /users/ID | 400 | 401 | 403 | 401 | 403 | yes |
| GET /teams | yes | yes | yes | yes | yes | yes |
| POST /teams | 400 | 401 | 403 | 401 | 403 | yes |
| GET /teams/ID | yes | yes | yes | yes | yes | yes |
| PATCH /teams/ID | 400 | 401 | 403 | 401 | 403 | yes |
| DELETE /teams/ID | 400 | 401 | 403 | 401 | 403 | yes |
| GET /workers/messages | 400 | 401 | yes | 401 | yes | yes |
| POST /workers/messages | 400 | 401 | 403 | 401 | 403 | yes |
| GET /workers/messages/ID | yes | yes | yes | yes | yes | yes |
| DELETE /workers/messages/ID | 400 | 401 | 403 | 401 | 403 | yes |
| GET /filters | 400 | 401 | 403 | 401 | 403 | yes |
| POST /filters | 400 | 401 | 403 | 401 | 403 | yes |
| PUT /filters | 400 | 401 | 403 | 401 | 403 | yes |
| GET /filters/regex | 400 | 401 | 403 | 401 | 403 | yes |
| GET /filters/ID | 400 | 401 | 403 | 401 | 403 | yes |
| PATCH /filters/ID | 400 | 401 | 403 | 401 | 403 | yes |
| DELETE /filters/ID | 400 | 401 | 403 | 401 | 403 | yes |
| PUT /status/modes | 400 | 401 | 403 | 401 | 403 | yes |
| POST /status/news | 400 | 401 | 403 | 401 | 403 | yes |
| DELETE /status/news/ID | 400 | 401 | 403 | 401 | 403 | yes |
| GET /operations/ipaddr | 400 | 401 | 403 | 401 | 403 | yes |
| POST /operations/ipaddr | 400 | 401 | 403 | 401 | 403 | yes |
| DELETE /operations/ipaddr | 400 | 401 | 403 | 401 | 403 | yes |
| GET /operations/ipaddr/ADDRESS | 400 | 401 | 403 | 401 | 403 | yes |
| PUT /operations/block_worker_ipaddr/ID | 400 | 401 | 403 | 401 | 403 | yes |
| DELETE /operations/block_worker_ipaddr/ID | 400 | 401 | 403 | 401 | 403 | yes |
| GET /documents/terms | yes | yes | yes | yes | yes | yes |
| GET /documents/privacy | yes | yes | yes | yes | yes | yes |
| GET /documents/sponsors | yes | yes | yes | yes | yes | yes |
| GET /styles/text | yes | yes | yes | yes | yes | yes |
| GET /styles/image | yes | yes | yes | yes | yes | yes |
| GET /collections | yes | yes | yes | yes | yes | yes |
| GET /styles/text/NAME | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /styles/image/NAME | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /styles/text_by_name/NAME | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /styles/image_by_name/NAME | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /collections/NAME | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /collection_by_name/NAME | 404 | 404 | 404 | 404 | 404 | 404 |
| GET /status/capabilities | yes | yes | yes | yes | yes | yes |
| GET /generate/text/stream/ID | 404 | 404 | 404 | 404 | 404 | 404 |
| POST /generate/text/progress | 400 | 401 | 404 | 401 | 404 | 404 |
| DELETE /workers/ID | 400 | 401 | 403 | 401 | 403 | yes |
| an unknown path, e.g. GET /nothing | 404 | 404 | 404 | 404 | 404 | 404 |
"""

SERVER = "http://server.invalid"
OWNER = "owner-key-of-a-private-horde"
WRONG = "wrong-key-0123456789"
FAR = "203.0.113.9"
CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16}
# What a request needs beside its path to be answered where it may be.
BODIES: Mapping[str, dict[str, Any]] = {
    "POST /chat/completions": {"json": CHAT},
    "POST /messages": {"json": CHAT},
    "POST /messages/count_tokens": {"json": CHAT},
    "POST /responses": {"json": {"model": "test/model", "input": "Hi"}},
    "POST /responses/input_tokens": {"json": {"model": "test/model", "input": "Hi"}},
    "POST /responses/compact": {"json": {"model": "test/model", "input": "Hi"}},
    "POST /conversations": {"json": {}},
    "POST /conversations/ID": {"json": {}},
    "POST /conversations/ID/items": {"json": {"items": [{"role": "user", "content": "Hi"}]}},
    "POST /chat/completions/ID": {"json": {}},
    "POST /completions": {"json": {"model": "test/model", "prompt": "Hi", "max_tokens": 16}},
    "POST /embeddings": {"json": {"model": "served", "input": "Hi"}},
    "POST /rerank": {"json": {"model": "served", "query": "Hi"}},
    "POST /api/show": {"json": {"model": "test/model"}},
    "POST /api/chat": {"json": {**CHAT, "stream": False}},
    "POST /api/generate": {"json": {"model": "test/model", "prompt": "Hi", "stream": False}},
    "POST /api/embed": {"json": {"model": "served", "input": []}},
    "POST /api/embeddings": {"json": {"model": "served", "prompt": ""}},
    "POST /api/pull": {"json": {"model": "test/model"}},
    "POST /images/generations": {"json": {"model": "served", "prompt": "Hi"}},
    "POST /images/edits": {"json": {"model": "served", "prompt": "Hi"}},
    "POST /images/variations": {"json": {"model": "served"}},
    "POST /files": {
        "data": (
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
            b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\r\n--x--\r\n'
        ),
        "content_type": "multipart/form-data; boundary=x",
    },
    "POST /batches": {"json": {"input_file_id": "file-x", "endpoint": "/v1/chat/completions"}},
    "POST /horde/webhook/SECRET": {"json": {"id": "x"}},
    "GET /health/probe": {"query_string": {"seconds": 0.5, "interval": 0.5}},
    "GET /generation": {"query_string": {"id": "chatcmpl-of-nobody"}},
    "GET /": {"headers": {"Accept": "text/html"}},
    "POST /page/chat": {"json": CHAT},
    "POST /page/images/generations": {"json": {"model": "served", "prompt": "Hi"}},
    "POST /page/images/edits": {"json": {"model": "served", "prompt": "Hi"}},
}
NAMES = {
    "/models/NAME": "/models/test/model",
    "/horde/models/NAME": "/horde/models/test/model",
    "/page/static/NAME": "/page/static/page.js",
    "/page/admin/NAME": "/page/admin/keys",
    "OPTIONS of any path": "/v1/chat/completions",
}
KEYS = {"client": "client", "other models only": "limited", "admin": "admin"}

Table = dict[str, dict[str, str]]


def parsed(text: str) -> Table:
    """The cells by row and column."""
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()
    ]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


TABLE, HORDE_TABLE = parsed(ROUTES), parsed(HORDE_ROUTES)


def named(row: str) -> tuple[str, str]:
    """(method, path) of a row such as "GET /models", or "..., e.g. GET /vector_stores"."""
    if row.startswith("OPTIONS"):
        return "OPTIONS", row
    method, path = row.rpartition("e.g. ")[2].split()
    return method, path


def ruled(rule: str) -> str:
    """A rule as the tables write it: "/models/<path:name>" is "/models/NAME"."""
    parts = rule.removeprefix("/v1").split("/")
    return "/".join(
        # "<worker_id>" is "ID".
        part.strip("<>").rpartition(":")[2].rpartition("_")[2].upper()
        if part.startswith("<")
        else part
        for part in parts
    )


def rows_of(app: Flask, prefix: str = "") -> Iterator[tuple[str, str]]:
    """("GET", "/models/NAME") for each method of each rule."""
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, ruled(rule.rule.removeprefix(prefix))


class Server:
    """A server behind the proxy, with two models."""

    def __init__(self) -> None:
        self.app = Flask("server")
        models = [{"id": "served"}, {"id": "other/one", "context_length": 32768}]
        self.app.add_url_rule("/v1/models", "models", lambda: jsonify(data=models))
        self.app.add_url_rule(
            "/v1/<path:path>",
            "all",
            lambda path: jsonify(ok=True),
            methods=["GET", "POST", "DELETE"],
        )


def app_of(mode: str | None) -> Flask:
    """A proxy in this access mode, None where none is set, in front of a horde and a server."""
    world = World(endpoints=[{"type": "horde"}, {"type": "openai", "url": SERVER}])
    world.session.mount(SERVER, WSGIAdapter(Server().app))
    if mode == "keys":
        world.configure(
            **known(
                client=ClientKey("client"),
                limited=ClientKey("limited", models=("other/*",)),
                admin=ClientKey("admin", admin=True),
            )
        )
    elif mode is not None:
        world.configure(access={"mode": mode})
    world.employ(Scripted("Hello."))
    return world.app()


def headers_of(who: str) -> dict[str, str]:
    key = {"wrong": WRONG, "key": CLIENT_KEY}.get(who)
    if who in KEYS:
        key = f"key-of-{KEYS[who]}-longer"
    return {"Authorization": f"Bearer {key}"} if key else {}


def outcome(http: FlaskClient, row: str, prefix: str, who: str) -> int:
    method, path = named(row)
    options = {**BODIES.get(f"{method} {path}", {})}
    options["headers"] = {**options.get("headers", {}), **headers_of(who)}
    if who == "elsewhere":
        options["environ_base"] = {"REMOTE_ADDR": FAR}
    response = http.open(prefix + NAMES.get(path, path), method=method, **options)
    response.close()
    return response.status_code


def word(status: int, expected: str) -> str:
    """The cell that a status stands for: "yes" or "own" for every answer that is no error."""
    return expected if status < 400 and not expected.isdigit() else str(status)


@pytest.mark.parametrize("column", list(TABLE["GET /models"]))
def test_everybody_may_do_what_the_table_says(column: str) -> None:
    mode, _, who = column.partition(": ")
    app = app_of(mode)
    http = app.test_client()
    with_v1 = {ruled(rule.rule) for rule in app.url_map.iter_rules() if "/v1/" in rule.rule}
    tried = {}
    for row, cells in TABLE.items():
        prefixes = ["", "/v1"] if named(row)[1] in with_v1 else [""]
        for prefix in prefixes:
            status = outcome(http, row, prefix, who)
            tried[prefix, row] = word(status, cells[column])
    assert tried == {(prefix, row): TABLE[row][column] for prefix, row in tried}


def test_without_a_mode_this_machine_may_do_as_in_mode_open() -> None:
    http = app_of(None).test_client()
    tried = {row: outcome(http, row, "", "this machine") for row in TABLE}
    expected = {row: cells["open: this machine"] for row, cells in TABLE.items()}
    assert {row: word(status, expected[row]) for row, status in tried.items()} == expected


def test_every_route_of_the_proxy_has_a_row() -> None:
    rows = {named(row) for row in TABLE}
    assert [row for row in rows_of(app_of("keys")) if row not in rows] == []


def test_a_session_of_the_page_has_the_rights_of_its_key() -> None:
    app = app_of("keys")
    tried = {}
    for column in ("keys: client", "keys: other models only", "keys: admin"):
        for row, cells in TABLE.items():
            method, path = named(row)
            if not path.startswith("/page/") or path in ("/page/login", "/page/logout"):
                continue
            http = app.test_client()
            token = log_in(http, headers_of(column.partition(": ")[2])["Authorization"][7:])
            options: dict[str, Any] = {**BODIES.get(row, {}), "headers": {"X-Page-Token": token}}
            response = http.open(NAMES.get(path, path), method=method, **options)
            response.close()
            tried[row, column] = word(response.status_code, cells[column])
    assert tried == {(row, column): TABLE[row][column] for row, column in tried}


def log_in(http: FlaskClient, key: str) -> str:
    """The token of a new session."""
    form = http.get("/", headers={"Accept": "text/html"}).text
    token = form.partition('name="token" value="')[2].partition('"')[0]
    assert http.post("/page/login", data={"key": key, "token": token}).status_code == 303
    state = http.get("/page/state.json").json
    return str(state and state["token"])


def test_without_its_secret_the_body_of_a_push_is_not_read() -> None:
    http = app_of("open").test_client()
    response = http.post("/horde/webhook/guess", data=b"[" * 1000)
    assert (response.status_code, (response.json or {})["error"]["message"]) == (
        404,
        "No request waits for this result.",
    )


def test_own_means_what_the_key_itself_did() -> None:
    http = app_of("keys").test_client()
    for who in ("client", "admin"):
        response = http.post("/v1/chat/completions", json=CHAT, headers=headers_of(who))
        response.close()
        assert response.status_code == 200

    def users(who: str) -> set[str]:
        usage: Any = http.get("/v1/usage", headers=headers_of(who)).json
        return {entry["key"] for entry in usage["data"]}

    assert (users("client"), users("other models only")) == ({"client"}, set())
    assert users("admin") == {"client", "admin"}
    models: Any = http.get("/v1/models", headers=headers_of("other models only")).json
    endpoints: Any = http.get("/v1/endpoints", headers=headers_of("other models only")).json
    assert [model["id"] for model in models["data"]] == ["other/one"]
    assert [endpoint["models"] for endpoint in endpoints["data"]] == [[], ["other/one"]]


# The private horde


def private_of(mode: str) -> tuple[Flask, FlaskClient, dict[str, str]]:
    """(the private horde's app, a client of the proxy, paths with a real request and worker)."""
    world = World(
        private_horde={"enabled": True, "api_key": OWNER},
        **(known(client=ClientKey("client")) if mode == "keys" else {"access": {"mode": mode}}),
    )
    app = world.app()
    private = composition_of(app).private
    assert private is not None
    http = app.test_client()
    owner = {"apikey": OWNER}
    pop = {"name": "worker-1", "models": ["test/model"], "max_length": 80}
    away = {"REMOTE_ADDR": ADDRESS}
    http.post("/api/v2/generate/text/pop", json=pop, headers=owner, environ_overrides=away)
    [worker] = http.get("/api/v2/workers").json or []
    submit = {"prompt": "Hi", "models": ["test/model"], "params": {"max_length": 16}}
    answer = http.post("/api/v2/generate/text/async", json=submit, headers=owner)
    ids = {"request": (answer.json or {})["id"], "worker": worker["id"]}
    return private.app, http, {**ids, **members_of(http, owner)}


def members_of(http: FlaskClient, owner: dict[str, str]) -> dict[str, str]:
    """The key of a member, the number and a key of another, an invitation, a shared key."""
    invite = {"uses": 3, "kudos": 10}
    invitation: Any = http.post("/api/v2/invitations", json=invite, headers=owner).json
    token = invitation["invitation"]
    member, other = (
        http.post("/api/v2/register", json={"username": name, "invitation": token}).json or {}
        for name in ("member", "other")
    )
    keys = f"/api/v2/users/{other['id']}/keys"
    [key] = http.get(keys, headers=owner).json or []
    shared: Any = http.put("/api/v2/sharedkeys", json={}, headers=owner).json
    return {
        **moderated(http, owner),
        "member": member["api_key"],
        "user": str(other["id"]),
        "username": other["username"],
        "fingerprint": key["fingerprint"],
        "token": token,
        "invitation": str(invitation["id"]),
        "shared key": shared["id"],
    }


def moderated(http: FlaskClient, owner: dict[str, str]) -> dict[str, str]:
    """The id of a team, a message to a worker, a filter and a piece of news."""
    [worker] = http.get("/api/v2/workers").json or []
    message = {"worker_id": worker["id"], "message": "hi", "expiry": 5}
    words = {"regex": "bad", "filter_type": 10, "description": "x"}
    answers = {
        "teams": http.post("/api/v2/teams", json={"name": "team"}, headers=owner),
        "workers/messages": http.post("/api/v2/workers/messages", json=message, headers=owner),
        "filters": http.put("/api/v2/filters", json=words, headers=owner),
        "status/news": http.post("/api/v2/status/news", json=NEWS, headers=owner),
    }
    return {room: str((answer.json or {})["id"]) for room, answer in answers.items()}


NEWS = {"title": "t", "newspiece": "n"}
ADDRESS = "203.0.113.9"
PICTURE = base64.b64encode(Raster.plain(64, 64, (1, 2, 3)).encoded("png")).decode("ascii")
HORDE_BODIES: Mapping[str, dict[str, Any]] = {
    "POST /generate/text/async": {"prompt": "Hi", "models": ["test/model"]},
    "POST /generate/async": {"prompt": "Hi", "nsfw": False},
    "POST /interrogate/async": {"source_image": PICTURE, "forms": [{"name": "caption"}]},
    "POST /interrogate/submit": {"id": "0" * 36, "result": {"caption": "x"}},
    "POST /generate/submit": {"id": "0" * 36, "generation": "R2", "seed": 1},
    "POST /generate/text/submit": {"id": "0" * 36, "generation": "Hi"},
    "PUT /workers/ID": {"maintenance": False},
    "PUT /users/ID": {"contact": "x@example.invalid"},
    "POST /users/ID/keys": {},
    "PUT /sharedkeys": {},
    "PATCH /sharedkeys/ID": {"name": "x"},
    "POST /invitations": {},
    "POST /teams": {"name": "other"},
    "PATCH /teams/ID": {"name": "new"},
    "POST /filters": {"prompt": "x"},
    "PUT /filters": {"regex": "worse", "filter_type": 11, "description": "x"},
    "PATCH /filters/ID": {"description": "y"},
    "PUT /status/modes": {"invite_only_mode": False},
    "POST /status/news": NEWS,
    "POST /operations/ipaddr": {"ipaddr": ADDRESS, "hours": 1},
    "DELETE /operations/ipaddr": {"ipaddr": ADDRESS},
    "PUT /operations/block_worker_ipaddr/ID": {"days": 1},
    "POST /generate/text/progress": {"id": "0" * 36, "text": "x"},
}
COLUMNS = {
    "no key": ("open", None),
    "an unknown key, or a client's of the proxy": ("keys", "key-of-client-longer"),
    "anonymous, mode open": ("open", "0000000000"),
    "anonymous, other modes": ("keys", "0000000000"),
    "a member's key": ("keys", "member"),
    "the owner's key": ("passthrough", OWNER),
}


@pytest.mark.parametrize("column", list(COLUMNS))
def test_the_private_horde_does_what_the_table_says(column: str) -> None:
    mode, key = COLUMNS[column]
    _, http, ids = private_of(mode)
    key = ids["member"] if key == "member" else key
    kudos = {"username": ids["username"], "amount": 1}
    bodies = {
        **HORDE_BODIES,
        # Each owner's workers have names of their own.
        "POST /generate/text/pop": {"name": f"of {key}", "models": ["test/model"]},
        "POST /generate/pop": {"name": f"painter of {key}", "models": ["stable_diffusion"]},
        "POST /interrogate/pop": {"name": f"alchemist of {key}"},
        "POST /workers/messages": {"worker_id": ids["worker"], "message": "x", "expiry": 5},
        "POST /kudos/transfer": kudos,
        "POST /kudos/award": kudos,
        "POST /register": {"username": "third", "invitation": ids["token"]},
    }
    tried = {}
    for row in HORDE_TABLE:
        method, path = named(row)
        path = path.replace("/status/ID", f"/status/{ids['request']}")
        for room in ("teams", "workers/messages", "filters", "status/news"):
            path = path.replace(f"/{room}/ID", f"/{room}/{ids[room]}")
        path = path.replace("/stream/ID", f"/stream/{'0' * 36}").replace("ADDRESS", ADDRESS)
        path = path.replace("_ipaddr/ID", f"_ipaddr/{ids['worker']}")
        for room in ("worker", "user", "invitation"):
            path = path.replace(f"/{room}s/ID", f"/{room}s/{ids[room]}")
        path = path.replace("/sharedkeys/ID", f"/sharedkeys/{ids['shared key']}")
        path = path.replace("FINGERPRINT", ids["fingerprint"])
        path = path.replace("/name/NAME", "/name/worker-1").replace("NAME", "test%252Fmodel")
        headers = {"apikey": key} if key else {}
        response = http.open(f"/api/v2{path}", method=method, json=bodies.get(row), headers=headers)
        tried[row] = word(response.status_code, HORDE_TABLE[row][column])
    assert tried == {row: cells[column] for row, cells in HORDE_TABLE.items()}


def test_every_route_of_the_private_horde_has_a_row_or_is_refused() -> None:
    app, http, ids = private_of("open")
    rows = {named(row) for row in HORDE_TABLE}
    unlisted = [row for row in rows_of(app, "/api/v2") if row not in rows]
    answers = {
        row: http.open(f"/api/v2{row[1]}", method=row[0], json={}).status_code for row in unlisted
    }
    # 405: the method is not one of the route's. 404: no route, as "", "/" and "/REST" are.
    unknown = ("", "/", "/REST")
    assert {status for row, status in answers.items() if row[1] not in unknown} == {405}
    assert {status for row, status in answers.items() if row[1] in unknown} == {404}
    assert ids


def test_a_worker_is_changed_by_its_owner_only() -> None:
    """The table's 403 for a stranger's PUT is about a worker that is somebody else's."""
    _, http, ids = private_of("open")
    path = f"/api/v2/workers/{ids['worker']}"
    change = {"maintenance": True}
    anonymous = http.put(path, json=change, headers={"apikey": "0000000000"})
    assert (anonymous.status_code, (anonymous.json or {})["rc"]) == (403, "NotOwner")
    assert (http.get(path).json or {})["maintenance_mode"] is False


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "text/plain", ""])
def test_what_a_server_answers_runs_no_scripts_at_the_pages_address(kind: str) -> None:
    world = World(access={"mode": "open"}, endpoints=[{"type": "openai", "url": SERVER}])
    server = Server()
    server.app.add_url_rule(
        "/v1/files/x/content",
        "file",
        lambda: Response(
            "<script>1</script>",
            headers={"Content-Type": kind, "Content-Security-Policy": "default-src *"},
        ),
    )
    world.session.mount(SERVER, WSGIAdapter(server.app))
    headers = world.http().get("/v1/files/x/content").headers
    assert headers.getlist("Content-Security-Policy") == ["default-src *", "sandbox"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_has_these_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert ROUTES.strip() in page
    assert HORDE_ROUTES.strip() in page
