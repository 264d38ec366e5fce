"""Ollama's embeddings and OpenAI's: one body out of the other, one answer out of the other. Pure.

/api/embed        {"model", "input": text or texts, "dimensions"?}  {"model", "embeddings"}
/api/embeddings   {"model", "prompt": text}, the older one          {"embedding"}
/v1/embeddings    {"model", "input", "dimensions"?}                 {"data": [{"embedding"}]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from horde_proxy.errors import UpstreamFailed
from horde_proxy.protocol.ollama.requests import model_of
from horde_proxy.protocol.sampled_body import MOST_ELEMENTS
from horde_proxy.protocol.usage import counts_of
from horde_proxy.protocol.validation import invalid_type, missing_parameter

Vectors = list[list[float]]


def embed_body(document: Any) -> dict[str, Any]:
    """OpenAI's body for that of /api/embed. Raises InvalidRequest.

    `input` is a list of texts; without any, there is nothing to send.
    """
    given = document.get("input") if isinstance(document, dict) else None
    texts = [given] if isinstance(given, str) and given else given or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise invalid_type("input", "a string or an array of strings", given)
    if len(texts) > MOST_ELEMENTS:
        raise invalid_type("input", f"at most {MOST_ELEMENTS} texts", given)
    return _body(document, texts)


def older_embed_body(document: Any) -> dict[str, Any]:
    """OpenAI's body for that of /api/embeddings. Raises InvalidRequest."""
    prompt = document.get("prompt") if isinstance(document, dict) else None
    if prompt is not None and not isinstance(prompt, str):
        raise invalid_type("prompt", "a string", prompt)
    return _body(document, [prompt] if prompt else [])


def embed_answer(model: str, vectors: Vectors, usage: Any, seconds: float) -> dict[str, Any]:
    """The answer of /api/embed; `seconds` is the time that it took."""
    prompt, _, total = counts_of(usage if isinstance(usage, dict) else {})
    return {
        "model": model,
        "embeddings": vectors,
        "total_duration": max(round(seconds * 1_000_000_000), 1),
        "load_duration": 1,
        "prompt_eval_count": prompt or total,
    }


def older_embed_answer(vectors: Vectors) -> dict[str, Any]:
    """The answer of /api/embeddings: one vector, or none for an empty prompt."""
    return {"embedding": vectors[0] if vectors else []}


def vectors_in(answer: Any, count: int) -> Vectors:
    """The vectors of OpenAI's answer in the order of the texts. Raises UpstreamFailed."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or len(data) != count:
        raise UpstreamFailed("The endpoint did not send an embedding for each text.")
    entries = [entry if isinstance(entry, dict) else {} for entry in data]
    order = sorted(range(count), key=lambda position: _index(entries[position], position))
    vectors = [entries[position].get("embedding") for position in order]
    if not all(map(_is_vector, vectors)):
        raise UpstreamFailed("The endpoint sent embeddings that are no lists of numbers.")
    return vectors  # type: ignore[return-value]


def _index(entry: Mapping[str, Any], position: int) -> int:
    index = entry.get("index")
    return index if isinstance(index, int) else position


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in value
    )


def _body(document: Any, texts: Sequence[str]) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise missing_parameter("model")
    # Some servers answer in base64 where nothing is said.
    body = {"model": model_of(document), "input": list(texts), "encoding_format": "float"}
    dimensions = document.get("dimensions")
    if dimensions is None:
        return body
    if not isinstance(dimensions, int) or isinstance(dimensions, bool):
        raise invalid_type("dimensions", "an integer", dimensions)
    return {**body, "dimensions": dimensions} if dimensions > 0 else body
