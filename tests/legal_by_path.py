"""What a legal answer is in each API that the proxy speaks, by its path."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tests import legal_messages, legal_responses
from tests.legal_answers import check_chunks


def check_chat_stream(text: str, body: Mapping[str, Any]) -> None:
    """Raises for a stream of chat completions that OpenAI would not send."""
    *events, end = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    assert end == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    # An empty chunk keeps the stream alive.
    chunks = [chunk for chunk in chunks if not _is_keep_alive(chunk)]
    if (body.get("stream_options") or {}).get("include_usage"):
        check_chunks([{name: chunk[name] for name in chunk if name != "horde"} for chunk in chunks])


def _is_keep_alive(chunk: Any) -> bool:
    return [choice["delta"] for choice in chunk["choices"]] == [{}] and not any(
        choice["finish_reason"] for choice in chunk["choices"]
    )


def check_response_stream(text: str, body: Mapping[str, Any]) -> None:
    """Raises for events of a response that OpenAI would not send, and for a failure."""
    final = legal_responses.check_stream(legal_responses.parsed(text))
    assert final["status"] in ("completed", "incomplete")


def check_message_stream(text: str, body: Mapping[str, Any]) -> None:
    """Raises for events of a message that Anthropic would not send, and for an error."""
    message = legal_messages.checked_stream(text)
    assert message is not None
    assert message["usage"]["input_tokens"] > 0 and message["usage"]["output_tokens"] > 0
    kinds = {block["type"] for block in message["content"]}
    assert ("tool_use" in kinds) == (message["stop_reason"] == "tool_use")


def check_ollama_stream(text: str, body: Mapping[str, Any]) -> None:
    """Raises for lines that Ollama would not send: the last one, and only it, is `done`."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert text.endswith("\n") and "" not in text.splitlines()
    *others, last = lines
    assert all(line["done"] is False for line in others)
    check_ollama(last)
    assert all("response" in line or line["message"]["role"] == "assistant" for line in lines)


def check_ollama(answer: Any) -> None:
    """Raises for an answer without the counts that Ollama's clients read."""
    assert (answer["done"], answer["done_reason"]) in ((True, "stop"), (True, "length"))
    for name in ("total_duration", "prompt_eval_count", "eval_count", "eval_duration"):
        assert isinstance(answer[name], int) and answer[name] > 0


_STREAMS: Mapping[str, Callable[[str, Mapping[str, Any]], None]] = {
    "/v1/chat/completions": check_chat_stream,
    "/v1/responses": check_response_stream,
    "/v1/messages": check_message_stream,
    "/api/chat": check_ollama_stream,
    "/api/generate": check_ollama_stream,
}
_WHOLES: Mapping[str, Callable[[Any], None]] = {
    "/v1/responses": legal_responses.check_response,
    "/v1/messages": legal_messages.check_message,
    "/api/chat": check_ollama,
    "/api/generate": check_ollama,
}


def check_answer(path: str, body: Any, text: str) -> None:
    """Raises for an answer that its API would not give, streamed or whole, as the body asks."""
    # Ollama streams unless a request says otherwise.
    if path in _STREAMS and body.get("stream", path.startswith("/api/")):
        _STREAMS[path](text, body)
    elif path in _WHOLES:
        _WHOLES[path](json.loads(text))
