"""The chat kind of job: a chat as the body of a submit, and a chat's result read.

It is the horde's extension `chat`, see docs/private-horde.md: workers whose server knows the
model's own template get the messages, and write a transcript (aihorde/transcript.py) instead of a
text. Pure: no I/O, no clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from horde_proxy.aihorde import transcript
from horde_proxy.aihorde.transcript import BadTranscript, ChatResult
from horde_proxy.prompts.diet import Diet
from horde_proxy.prompts.fit import Fitted, is_begun
from horde_proxy.prompts.formats import Format, neutralise, with_neutral_stops
from horde_proxy.prompts.json_schema.slimming import FULL, Detail, shortened, slimmed
from horde_proxy.protocol.generation_request import GenerationRequest, Message, Tool
from horde_proxy.protocol.openai_body import chat_fields
from horde_proxy.upstreams.horde.chat_tags import neutral_message, neutral_tool
from horde_proxy.upstreams.horde.text import STREAMED_TEXT, TEXT

_IMPOSSIBLE_PATIENCE = 10.0
"""Seconds; a private horde's is_possible is exact, and without such a worker a text is quicker."""
_TOO_LONG = "context_length_exceeded"
"""What a worker writes into the metadata of a result where the chat had no room at its server."""

# {"delta": {"content": "It "}}, but not {"logprobs": {"content": [...]}}, nor, in the arguments of
# a call, "{\"content\": \"...".
_WORDS = re.compile(r'"(?:reasoning_)?content"\s*:\s*"[^"]')


def has_words(text: str) -> bool:
    """Whether a transcript has content or reasoning, which are sent before a job's end."""
    # It is not read: this is called at each look at a call that grows for minutes.
    return _WORDS.search(text) is not None


CHAT_JOB = replace(
    TEXT,
    name="chat",
    impossible_patience=_IMPOSSIBLE_PATIENCE,
    has_words=has_words,
    # Its server refused it, three times, and would again: a text is the answer instead. A horde
    # puts a worker with too many faults into maintenance.
    retries_faults=False,
)
STREAMED_CHAT_JOB = replace(CHAT_JOB, stream_path=STREAMED_TEXT.stream_path)
"""The same, read as it grows."""


def to_payload(
    request: GenerationRequest,
    models: Sequence[str],
    format: Format,
    fitted: Fitted,
    diet: Diet,
    options: Mapping[str, Any],
    n: int,
) -> dict[str, Any]:
    """The body of a submit. `options` are its fields about workers.

    Tags of chat formats are broken up in all texts that a template may show a model; of markers of
    plain text, such as "USER:", those of `format`.
    """
    messages = [neutral_message(_client_message(msg), format) for msg in fitted.messages]
    # A first message that only had the tools is none of the client's.
    messages = [msg for msg in messages if msg.text or msg.role != "system"]
    detail = FULL
    if request.tools and fitted.messages:
        detail = diet.detail_of(fitted.messages[0])
    shown = replace(
        request,
        messages=tuple(messages),
        tools=tuple(neutral_tool(_with_detail(tool, detail)) for tool in request.tools),
        tool_choice=neutralise(request.tool_choice),
        stop=with_neutral_stops(request.stop, format),
    )
    fields = chat_fields(shown)
    if messages and is_begun(messages[-1]):
        fields["continue"] = True
    return {
        "chat": fields,
        "params": {
            "n": n,
            "max_length": fitted.max_length,
            "max_context_length": fitted.max_context_length,
        },
        "models": list(models),
        **options,
    }


def _client_message(message: Message) -> Message:
    """A message without what this proxy added: tools have a field of their own."""
    return replace(message, suffix="") if message.suffix else message


def _with_detail(tool: Tool, detail: Detail) -> Tool:
    """The tool as the diet leaves it; the whole one where there is room for it."""
    if detail == FULL:
        return tool
    description = shortened(tool.description, detail.longest_tool)
    return replace(tool, description=description, parameters=slimmed(tool.parameters, detail))


def chat_result(result: Mapping[str, Any]) -> ChatResult:
    """What the model wrote, in one of the results of a final status."""
    chat = result.get("chat")
    chat = chat if isinstance(chat, dict) else {}
    message = chat.get("message")
    message = message if isinstance(message, dict) else {"content": result.get("text")}
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        numbered = [
            {**call, "index": index}
            for index, call in enumerate(calls[: transcript.MOST_CALLS])
            if isinstance(call, dict)
        ]
        message = {**message, "tool_calls": numbered}
    # As one line of a transcript it is checked like all others.
    line = {**chat, "delta": message}
    if chat.get("finish_reason") not in transcript.FINISH_REASONS:
        line["finish_reason"] = None
    try:
        return transcript.fold(transcript.read(json.dumps(line) + "\n"))
    except BadTranscript:
        return ChatResult()


def is_too_long(result: Mapping[str, Any]) -> bool:
    """Whether the worker's server had no room for the chat."""
    metadata = result.get("gen_metadata")
    return any(
        isinstance(entry, dict) and entry.get("ref") == _TOO_LONG
        for entry in (metadata if isinstance(metadata, list) else [])
    )
