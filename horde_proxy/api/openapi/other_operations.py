"""The routes of Anthropic's and Ollama's APIs, and those that only this proxy has."""

from __future__ import annotations

from horde_proxy.api.openapi.operation import Api, RouteEntry
from horde_proxy.protocol.messages.request import MessagesBody

_NDJSON = "application/x-ndjson"
_HELLO = [{"role": "user", "content": "Hello"}]
_NAMED = {"model?": "string", "name?": "string"}
_MESSAGES_PAGE = {
    "data": ["MessageBatch"],
    "has_more": "boolean",
    "first_id": "string|null",
    "last_id": "string|null",
}
_OLLAMA_CHAT = {"model?": "string", "messages?": "any", "stream?": "any"}
_OLLAMA_TEXT = {"model?": "string", "prompt?": "any", "stream?": "any"}

ANTHROPIC = Api(
    "Anthropic",
    "Anthropic's API. Endpoints that speak it are proxied.",
    "AnthropicError",
    (
        RouteEntry("POST /messages", "Answer a message", "Message", MessagesBody,
                  ("MessageEvent", "AnthropicError"),
                  example={"model": "auto", "max_tokens": 100, "messages": _HELLO}),
        RouteEntry("POST /messages/count_tokens", "Count the tokens of messages",
                  {"input_tokens": "integer"}, MessagesBody),
        RouteEntry("POST /messages/batches", "Begin a batch of messages", "MessageBatch",
                  {"requests": [{"custom_id": "string", "params": "object"}]}),
        RouteEntry("GET /messages/batches", "The batches of messages", _MESSAGES_PAGE,
                  query=("limit:integer", "after_id:string", "before_id:string")),
        RouteEntry("GET /messages/batches/{batch_id}", "A batch of messages", "MessageBatch"),
        RouteEntry("POST /messages/batches/{batch_id}/cancel", "Cancel a batch of messages",
                  "MessageBatch"),
        RouteEntry("DELETE /messages/batches/{batch_id}", "Delete a batch of messages",
                  {"id": "string", "type": "'message_batch_deleted'"}),
        RouteEntry("GET /messages/batches/{batch_id}/results", "The answers of a batch, one a line",
                  media="application/x-jsonl"),
        RouteEntry("GET /api/hello", "What Claude Code tries first", media="text/plain",
                  rights="anybody"),
    ),
)  # fmt: skip

_READ_ONLY = "Refused: models are those of the endpoints"
OLLAMA = Api(
    "Ollama",
    "Ollama's API, at the root of the server.",
    "OllamaError",
    (
        RouteEntry("GET /api/version", "The version of Ollama that this API is of",
                  {"version": "string"}, rights="anybody"),
        RouteEntry("GET /api/tags", "The models", "OllamaModels"),
        RouteEntry("GET /api/ps", "The models, as if they were loaded", "OllamaModels"),
        RouteEntry("POST /api/show", "A model",
                  {"details": "object", "model_info": "object", "capabilities": ["string"]},
                  _NAMED),
        RouteEntry("POST /api/chat", "Answer a chat", "OllamaChat", _OLLAMA_CHAT,
                  ("OllamaChat", "OllamaError"), _NDJSON,
                  example={"model": "auto", "messages": _HELLO, "stream": False}),
        RouteEntry("POST /api/generate", "Continue a prompt", "OllamaText", _OLLAMA_TEXT,
                  ("OllamaText", "OllamaError"), _NDJSON),
        RouteEntry("POST /api/embed", "Embed texts", "OllamaEmbeddings", _NAMED),
        RouteEntry("POST /api/embeddings", "Embed a text, the older way", {"embedding": ["number"]},
                  _NAMED),
        RouteEntry("POST /api/pull", "Say that a model is there", {"status": "string"}, _NAMED,
                  ({"status": "string"}, "OllamaError"), _NDJSON),
        *(
            RouteEntry(call, _READ_ONLY, status=403, others={403: "OllamaError"})
            for call in (
                "POST /api/push",
                "POST /api/create",
                "POST /api/copy",
                "POST /api/blobs/{digest}",
                "DELETE /api/delete",
            )
        ),
    ),
    at_root=True,
)  # fmt: skip

_SPAN = ("days:integer", "hours:integer", "step:string", "type:string")
_STATISTICS = (
    "type:string",
    "include_workers:boolean",
    "include_backend_variations:boolean",
    "group:boolean",
    "min_worker_count:integer",
    "sort_desc:boolean",
    "limit:integer",
    "offset:integer",
)
_SETTINGS = {"loaded_at": "integer", "problem": "string|null", "local_only": "boolean"}
OWN = Api(
    "Proxy",
    "What only this proxy has: its endpoints, usage, the horde's statistics and history.",
    "Error",
    (
        RouteEntry("GET /openapi.json", "This document",
                  {"openapi": "string", "info": "object", "paths": "object"}, rights="anybody",
                  has_etag=True),
        RouteEntry("GET /endpoints", "The endpoints and their state",
                  {"object": "'list'", "data": ["Endpoint"], "settings": _SETTINGS}),
        RouteEntry("GET /endpoints/history", "What endpoints did in the past", "object",
                  query=(*_SPAN, "endpoint:string", "model:string")),
        RouteEntry("GET /usage", "Requests, tokens and kudos by day, one's own or for admins all",
                  {"object": "'list'", "from": "string", "to": "string", "allowance?": "object",
                   "data": ["UsageRow"]}, query=("days:integer",)),
        RouteEntry("GET /generation", "What an answer took and cost, by its id", {"data": "object"},
                  query=("id:string",)),
        RouteEntry("GET /inspections", "One's own last requests (`server.inspect`)",
                  {"object": "'list'", "data": ["object"]}),
        RouteEntry("GET /inspections/{request_id}", "What a request sent and got, word for word",
                  "object"),
        RouteEntry("DELETE /inspections", "Forget one's own requests", {"deleted": "integer"}),
        RouteEntry("GET /horde/account", "The account at the horde", "HordeAccount",
                  query=("endpoint:string",)),
        RouteEntry("GET /horde/requests", "Requests that run or wait, one's own or for admins all",
                  {"object": "'list'", "data": ["object"]}),
        RouteEntry("GET /horde/models", "The horde's models with their statistics", "object",
                  query=_STATISTICS, has_etag=True),
        RouteEntry("GET /horde/models/{name}", "A model's statistics", "object",
                  query=_STATISTICS, has_etag=True),
        RouteEntry("GET /horde/statistics", "The horde's statistics", "object",
                  query=_STATISTICS, has_etag=True),
        RouteEntry("GET /horde/deletion-risk", "Models that may soon be deleted", "object",
                  query=_STATISTICS, has_etag=True),
        RouteEntry("GET /horde/audit", "What is wrong in the horde's list of models", "object",
                  query=_STATISTICS, has_etag=True),
        RouteEntry("GET /horde/history", "The horde's past", "object",
                  query=(*_SPAN, "model:string")),
        RouteEntry("GET /horde/history/models", "The past of the horde's models", "object",
                  query=(*_SPAN, "limit:integer", "offset:integer")),
    ),
)  # fmt: skip

OPERATION = Api(
    "Operation",
    "For monitoring, reverse proxies and hordes, at the root of the server.",
    "Error",
    (
        RouteEntry("GET /health/live", "The process answers", {"status": "'ok'"}, rights="anybody"),
        RouteEntry("GET /health/ready", "Some model is available", "Readiness", rights="anybody",
                  others={503: "Readiness"}),
        RouteEntry("GET /health/probe", "An event now and then, to try a reverse proxy",
                  events=({"seconds": "number"}, "Error"),
                  query=("seconds:number", "interval:number")),
        RouteEntry("GET /metrics", "Metrics for Prometheus", media="text/plain", rights="operator"),
        RouteEntry("POST /horde/webhook/{secret}", "A result that a horde pushes", status=204,
                  body="object", rights="anybody"),
    ),
    at_root=True,
)  # fmt: skip
