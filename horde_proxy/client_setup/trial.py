"""One short request in a client's own API, and the text of its answer. Pure."""

from __future__ import annotations

from typing import Any

from horde_proxy.client_setup.contract import Api
from horde_proxy.protocol.models import as_mapping

_QUESTION = "Say hello in one word."
_TOKENS = 64
"""Tokens of the answer: enough for a greeting, and cheap on a horde."""


def request(api: Api, model_id: str) -> tuple[str, dict[str, Any]]:
    """The path below the proxy's root, and the body."""
    messages = [{"role": "user", "content": _QUESTION}]
    match api:
        case "chat":
            body = {"messages": messages, "max_tokens": _TOKENS}
            path = "/v1/chat/completions"
        case "responses":
            body = {"input": messages, "max_output_tokens": _TOKENS, "store": False}
            path = "/v1/responses"
        case "messages":
            body = {"messages": messages, "max_tokens": _TOKENS}
            path = "/v1/messages"
        case "ollama":
            options = {"num_predict": _TOKENS}
            body = {"messages": messages, "stream": False, "options": options}
            path = "/api/chat"
    return path, {"model": model_id, **body}


def answer_text(api: Api, answer: Any) -> str:
    """The text of an answer; "" where it has none, as of a model that only thought."""
    answer = as_mapping(answer)
    match api:
        case "chat":
            message = as_mapping(_first(answer.get("choices"))).get("message")
            parts = [as_mapping(message).get("content")]
        case "responses":
            items = [as_mapping(item) for item in answer.get("output") or ()]
            parts = [text for item in items for text in _texts(item.get("content"))]
        case "messages":
            parts = _texts(answer.get("content"))
        case "ollama":
            parts = [as_mapping(answer.get("message")).get("content")]
    return "".join(part for part in parts if isinstance(part, str)).strip()


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) and values else None


def _texts(parts: Any) -> list[Any]:
    """The texts of content parts; those of thoughts have another key."""
    return [as_mapping(part).get("text") for part in parts] if isinstance(parts, list) else []
