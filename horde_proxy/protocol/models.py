"""An entry of GET /v1/models: the facts of a model, read from it and written into it. Pure.

OpenAI's entry has four fields: id, object, created, owned_by. Each server adds fields of its own.
`facts_in` reads the fields of all known servers into ModelFacts. `entry_fields` writes ModelFacts
into the fields that clients read: those of OpenRouter, vLLM, llama.cpp and Ollama. `with_facts`
completes an entry of another server with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

from horde_proxy.aihorde import model_traits
from horde_proxy.aihorde.names import quantisation_of
from horde_proxy.numbers import finite

_MOST_TOKENS = 1e9
"""A larger context is no context: tokenizers without a limit tell 1e30."""

_LONGEST_TEXT = 100
"""Characters of a quantisation's name."""

Path = tuple[str, ...]
"""The keys that lead to a value in nested objects."""

# Where servers tell the context (tokens) that they serve. The first one counts: the most exact
# comes first, and what is only a model's largest possible context comes last.
_CONTEXT: tuple[Path, ...] = (
    ("loaded_context_length",),  # LM Studio, /api/v0/models
    ("meta", "n_ctx"),  # llama.cpp
    ("max_model_len",),  # vLLM, SGLang
    ("parameters", "max_seq_len"),  # TabbyAPI
    ("context_length",),  # OpenRouter, Together, Cohere, Moonshot, this proxy
    ("context_window",),  # Groq, Vercel
    ("context_size",),  # Novita
    ("metadata", "context_length"),  # DeepInfra
    ("limits", "max_context_length"),
    ("capabilities", "limits", "max_context_window_tokens"),  # GitHub Copilot
    ("max_context_length",),  # Mistral, LM Studio
    ("limits", "max_input_tokens"),  # GitHub Models
    ("max_input_tokens",),  # Anthropic, LiteLLM
    ("inputTokenLimit",),  # Google
    ("top_provider", "context_length"),
)
_TRAINED: tuple[Path, ...] = (("meta", "n_ctx_train"), ("max_position_embeddings",))
_OUTPUT: tuple[Path, ...] = (
    ("max_output_tokens",),  # Requesty, LiteLLM, this proxy
    ("max_completion_tokens",),  # Groq
    ("top_provider", "max_completion_tokens"),  # OpenRouter
    ("max_output_length",),  # Chutes
    ("limits", "max_output_tokens"),  # GitHub Models
    ("capabilities", "limits", "max_output_tokens"),  # GitHub Copilot
    ("metadata", "max_tokens"),  # DeepInfra
    ("outputTokenLimit",),  # Google
    ("max_tokens",),  # Anthropic, Vercel
)
_NUMBERS = (*_CONTEXT, *_TRAINED, *_OUTPUT)

# Open WebUI spreads an entry into an object of its own, whose fields these are: one of another type
# breaks its list (`tags` of llama.cpp), or hides the model.
_OF_OPEN_WEBUI = frozenset(
    {
        "info",
        "tags",
        "pipeline",
        "provider",
        "preset",
        "arena",
        "actions",
        "filters",
        "connection_type",
        "urlIdx",
        "openai",
    }
)

# The `type` of an entry at Together, LM Studio and GitHub, as output modalities.
_TYPES: Mapping[str, str] = {
    "chat": "text",
    "language": "text",
    "code": "text",
    "llm": "text",
    "vlm": "text",
    "embedding": "embeddings",
    "embeddings": "embeddings",
    "rerank": "rerank",
    "reranker": "rerank",
    "moderation": "moderation",
    "image": "image",
    "video": "video",
    "audio": "speech",
    "tts": "speech",
    "transcribe": "transcription",
    "transcription": "transcription",
    "stt": "transcription",
}
# The same ability in the words of several servers, in lower case: Ollama and llama.cpp have lists
# of them, Mistral an object of booleans, LM Studio "tool_use", Chutes `supported_features`.
_TOOLS = frozenset(
    {"tools", "tool_use", "tool_call", "tool_calls", "tool_choice", "function_calling"}
)
_REASONING = frozenset({"reasoning", "thinking", "include_reasoning", "reasoning_effort"})
_VISION = frozenset({"vision", "image", "image_input", "image_in", "multimodal"})
_CHAT = frozenset({"completion", "chat", "completion_chat", "chat_completion", "completions"})
_EMBEDDING = frozenset({"embedding", "embeddings", "embed"})

# "8192", and "32768 " with a space.
_DIGITS = re.compile(r"\s*[0-9]{1,12}\s*")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known of a model; None and () mean unknown.

    `context` is what the server serves, `trained_context` what the model was trained for, both in
    tokens. `inputs` and `outputs` are OpenRouter's modalities: text, image, audio; as outputs also
    embeddings, rerank, transcription, speech, moderation. `size` is in bytes. `is_free`: no call
    costs money. `is_loaded`: the server has the model in memory now. `slots`: so many requests
    for the model run at a time at the server, which lets others wait. `remote_host`: the URL of
    another server that runs the model for this one.
    """

    context: int | None = None
    trained_context: int | None = None
    max_output: int | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    tools: bool | None = None
    reasoning: bool | None = None
    supported_parameters: tuple[str, ...] = ()
    quantization: str | None = None
    parameter_count: int | None = None
    size: int | None = None
    is_free: bool | None = None
    is_loaded: bool | None = None
    slots: int | None = None
    remote_host: str | None = None

    @property
    def length(self) -> int | None:
        """The context that a client may count on: what is served, else what was trained."""
        return self.context or self.trained_context

    @property
    def writes_text(self) -> bool:
        """Whether the model may answer chats; True as well where nothing is known."""
        return not self.outputs or "text" in self.outputs

    def completed_by(self, other: ModelFacts) -> ModelFacts:
        """These facts, with the other's where nothing is known here."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return ModelFacts(
            **{
                name: getattr(other, name) if value in (None, ()) else value
                for name, value in values.items()
            }
        )

    def updated_by(self, learned: ModelFacts) -> ModelFacts:
        """These facts of an entry, completed by what the server's own API told.

        The entry goes first: it may have been read later. Only what is loaded changes more often
        than entries are read.
        """
        facts = self.completed_by(learned)
        return facts if learned.is_loaded is None else replace(facts, is_loaded=learned.is_loaded)


def tokens(value: object) -> int | None:
    """A number of tokens: 8192, 8192.0 or "8192"; None for all else, also 0, true, -1 and 1e30."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    return int(finite(value, _MOST_TOKENS) or 0) or None


def count(value: object) -> int | None:
    """A number of things or bytes that a server tells; None for all else, also 0 and true."""
    return int(finite(value) or 0) or None


def short_text(value: object) -> str | None:
    """A word or two that a server tells; None for all else, such as a control character."""
    text = _text(value)
    return text if text and len(text) <= _LONGEST_TEXT and text.isprintable() else None


def as_mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object; an empty one for all else, so that foreign objects can be walked into."""
    return value if isinstance(value, Mapping) else {}


def facts_in(entry: Mapping[str, Any]) -> ModelFacts:
    """What an entry says, in whatever server's fields."""
    words = _words(entry)
    outputs = _outputs(entry, words)
    meta = as_mapping(entry.get("meta"))
    return ModelFacts(
        context=_first(entry, _CONTEXT) or _context_argument(entry),
        trained_context=_first(entry, _TRAINED),
        max_output=_first(entry, _OUTPUT),
        inputs=_inputs(entry, words),
        outputs=outputs,
        tools=_ability(entry, words, _TOOLS),
        reasoning=_ability(entry, words, _REASONING),
        supported_parameters=tuple(_strings(entry.get("supported_parameters"))),
        quantization=short_text(entry.get("quantization")),
        parameter_count=count(meta.get("n_params")),
        size=count(meta.get("size")),
        is_loaded=_is_loaded(entry),
        remote_host=remote_host_in(entry),
    )


def remote_host_in(entry: Mapping[str, Any]) -> str | None:
    """The `remote_host` of an entry of Ollama's. What cannot be read is one as well: "unknown"."""
    value = entry.get("remote_host")
    return short_text(value) or ("unknown" if value else None)


def facts_of(entry: Mapping[str, Any]) -> ModelFacts:
    """What an entry and its model's name say; the entry goes before."""
    return facts_in(entry).completed_by(facts_of_name(str(entry.get("id") or "")))


def writes_text(entry: Mapping[str, Any]) -> bool:
    """Whether the model of an entry may answer chats: facts_of(entry).writes_text, but cheaper."""
    outputs = _outputs(entry, _words(entry))
    if outputs:
        return "text" in outputs
    return model_traits.output_of(str(entry.get("id") or "")) is None


def makes_images(entry: Mapping[str, Any]) -> bool:
    """Whether the model of an entry is known to make pictures."""
    outputs = _outputs(entry, _words(entry))
    if outputs:
        return "image" in outputs
    return model_traits.output_of(str(entry.get("id") or "")) == "image"


def may_make_images(entry: Mapping[str, Any]) -> bool:
    """Whether a model may make pictures: also where nothing says what it makes."""
    if _outputs(entry, _words(entry)):
        return makes_images(entry)
    return model_traits.output_of(str(entry.get("id") or "")) in (None, "image")


def is_available(entry: Mapping[str, Any]) -> bool:
    """Whether the model can be used: False where a horde's settings leave out all its workers."""
    return as_mapping(entry.get("horde")).get("available") is not False


def facts_of_name(model: str) -> ModelFacts:
    """What the name alone says: that a model only embeds, sees or thinks; how it is quantised."""
    output = model_traits.output_of(model)
    return ModelFacts(
        inputs=("text", "image") if model_traits.sees(model) else (),
        outputs=(output,) if output else (),
        reasoning=model_traits.thinks(model) or None,
        quantization=quantisation_of(model),
    )


def with_facts(entry: Mapping[str, Any], facts: ModelFacts) -> dict[str, Any]:
    """The entry with the facts in the fields that clients read.

    A field that the entry has already stays if its type is right: what a server tells is completed,
    not contradicted.
    """
    legal, ours = _legal(entry), entry_fields(facts)
    # Each server has other fields for prices ("input", "hourly"), which ours would contradict.
    if as_mapping(legal.get("pricing")):
        ours.pop("pricing", None)
    return _completed(legal, ours)


def entry_fields(facts: ModelFacts) -> dict[str, Any]:
    """The facts in the fields of OpenRouter, vLLM, llama.cpp and Ollama, without the unknown."""
    values = {
        "context_length": facts.length,  # OpenRouter
        "max_model_len": facts.context,  # vLLM
        "max_output_tokens": facts.max_output,  # LiteLLM
        "max_completion_tokens": facts.max_output,  # Groq
        "architecture": _architecture(facts),
        "pricing": {"prompt": "0", "completion": "0"} if facts.is_free else None,
        "top_provider": _top_provider(facts),
        "supported_parameters": list(facts.supported_parameters) or None,
        "capabilities": _capabilities(facts) or None,
        "reasoning": facts.reasoning,
        "loaded": facts.is_loaded,
        "quantization": facts.quantization,  # LM Studio
        "remote_host": facts.remote_host,  # Ollama
        "meta": _meta(facts) or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _architecture(facts: ModelFacts) -> dict[str, Any] | None:
    """OpenRouter's `architecture`. "Other" is its word for a tokenizer that it does not know."""
    if not facts.outputs:
        return None
    inputs = facts.inputs or ("text",)
    return {
        "modality": f"{'+'.join(inputs)}->{'+'.join(facts.outputs)}",
        "input_modalities": list(inputs),
        "output_modalities": list(facts.outputs),
        "tokenizer": "Other",
    }


def _top_provider(facts: ModelFacts) -> dict[str, Any] | None:
    """OpenRouter's limits of the one who serves the model; null there means no limit."""
    if not facts.length:
        return None
    return {
        "context_length": facts.length,
        "max_completion_tokens": facts.max_output,
        "is_moderated": False,
    }


def _meta(facts: ModelFacts) -> dict[str, Any]:
    """llama.cpp's `meta`, as far as it is known."""
    values = {
        "n_ctx_train": facts.trained_context,
        "n_ctx": facts.context,
        "n_params": facts.parameter_count,
        "size": facts.size,
    }
    return {name: value for name, value in values.items() if value is not None}


def _capabilities(facts: ModelFacts) -> list[str]:
    """Ollama's words for what a model can do; none where it is not known what it writes."""
    if not facts.outputs:
        return []
    words = {
        "completion": "text" in facts.outputs,
        "embedding": "embeddings" in facts.outputs,
        "image": "image" in facts.outputs,
        "tools": facts.tools,
        "thinking": facts.reasoning and "text" in facts.outputs,
        "vision": "image" in facts.inputs,
        "audio": "audio" in facts.inputs,
    }
    return [word for word, is_so in words.items() if is_so]


def _completed(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Their fields, with ours where one is missing, empty or of another type."""
    result = dict(theirs)
    for name, value in ours.items():
        present = result.get(name)
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            result[name] = _completed(present, value)
        elif not _is_usable(present, value):
            result[name] = value
    return result


def _is_usable(present: Any, ours: Any) -> bool:
    """Whether the value of a server can stay where we would write ours."""
    if present is None or present in ("", [], {}):
        return False
    # Abilities are a list at Ollama and an object at Mistral: clients of both take theirs.
    if isinstance(present, list | Mapping) and isinstance(ours, list):
        return True
    # `reasoning` is an object with the efforts at OpenRouter.
    if isinstance(ours, bool):
        return isinstance(present, bool | Mapping)
    return type(present) is type(ours) or (ours is None)


def _legal(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry without what breaks clients; its numbers of tokens are numbers, or gone."""
    legal = {name: value for name, value in entry.items() if name not in _OF_OPEN_WEBUI}
    if not _text(legal.get("name")):
        legal.pop("name", None)
    for path in _NUMBERS:
        _tidy_number(legal, path)
    return legal


def _tidy_number(entry: dict[str, Any], path: Path) -> None:
    """Make the value at a path a number, or remove it; objects on the way are copied."""
    *parents, last = path
    for key in parents:
        if not isinstance(entry.get(key), Mapping):
            return
        entry[key] = dict(entry[key])
        entry = entry[key]
    # null is OpenRouter's word for no limit, and llama.cpp's for a model that is not loaded.
    if entry.get(last) is None:
        return
    number = tokens(entry[last])
    if number is None:
        del entry[last]
    else:
        entry[last] = number


def _first(entry: Mapping[str, Any], paths: Iterable[Path]) -> int | None:
    """The first usable number of tokens at one of the paths."""
    return next(filter(None, (tokens(_value_at(entry, path)) for path in paths)), None)


def _value_at(entry: Any, path: Path) -> Any:
    for key in path:
        entry = as_mapping(entry).get(key)
    return entry


def _context_argument(entry: Mapping[str, Any]) -> int | None:
    """The context in the arguments with which llama.cpp's router starts a model: `-c 8192`."""
    arguments = _value_at(entry, ("status", "args"))
    if not isinstance(arguments, list):
        return None
    values = (tokens(value) for name, value in pairwise(arguments) if name in ("-c", "--ctx-size"))
    return next(values, None)


def _inputs(entry: Mapping[str, Any], words: frozenset[str]) -> tuple[str, ...]:
    told = [
        *_strings(_value_at(entry, ("architecture", "input_modalities"))),
        *_strings(entry.get("input_modalities")),
        *_strings(_value_at(entry, ("modalities", "input"))),
        *_sides(entry)[0],
    ]
    if not told and (words & _VISION or entry.get("type") == "vlm"):
        return ("text", "image")
    if not told and "completion" in words:  # Ollama's list, which is complete
        return ("text",)
    return tuple(dict.fromkeys(word.casefold() for word in told))


def _outputs(entry: Mapping[str, Any], words: frozenset[str]) -> tuple[str, ...]:
    told = [
        *_strings(_value_at(entry, ("architecture", "output_modalities"))),
        *_strings(entry.get("output_modalities")),
        *_strings(_value_at(entry, ("modalities", "output"))),
        *_sides(entry)[1],
    ]
    kind = _text(entry.get("type")) or _text(_value_at(entry, ("capabilities", "type"))) or ""
    if not told and kind.casefold() in _TYPES:
        return (_TYPES[kind.casefold()],)
    if not told and words & (_CHAT | _TOOLS | _REASONING):
        return ("text",)
    if not told and words & _EMBEDDING:
        return ("embeddings",)
    return tuple(dict.fromkeys(word.casefold() for word in told))


def _sides(entry: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(inputs, outputs) of OpenRouter's older "text+image->text"."""
    left, arrow, right = (_text(_value_at(entry, ("architecture", "modality"))) or "").partition(
        "->"
    )
    return (left.split("+"), right.split("+")) if arrow and left and right else ([], [])


def _words(entry: Mapping[str, Any]) -> frozenset[str]:
    """What the entry says that the model can do, in lower case, with "_" in each gap."""
    return frozenset(word.casefold().replace("-", "_").strip() for word in _told_words(entry))


def _told_words(entry: Mapping[str, Any]) -> Iterator[str]:
    for value in (
        entry.get("capabilities"),
        _value_at(entry, ("capabilities", "supports")),  # GitHub Copilot
        entry.get("features"),
        entry.get("supported_features"),  # Chutes
        _value_at(entry, ("metadata", "tags")),  # DeepInfra
    ):
        yield from _strings(value)
        for name, is_so in as_mapping(value).items():
            # Anthropic: {"image_input": {"supported": true}}.
            if is_so is True or as_mapping(is_so).get("supported") is True:
                yield str(name)
    # "supports_tools", "supports_image_in" (Moonshot) and the like.
    for name, value in entry.items():
        if name.startswith("supports_") and value is True:
            yield name.removeprefix("supports_")


def _ability(
    entry: Mapping[str, Any], words: frozenset[str], ability: frozenset[str]
) -> bool | None:
    """Whether the model has an ability; None where the entry says nothing of it."""
    parameters = {name.casefold() for name in _strings(entry.get("supported_parameters"))}
    told = [entry.get(name) for name in ability] + [
        value
        for name, value in as_mapping(entry.get("capabilities")).items()
        if str(name).casefold() in ability
    ]
    if (words | parameters) & ability or any(value is True for value in told):
        return True
    if isinstance(entry.get("reasoning"), Mapping) and "reasoning" in ability:
        return True
    # A list with "completion" is Ollama's, and complete; so is OpenRouter's list of parameters.
    is_complete = "completion" in words or bool(parameters)
    return False if is_complete or any(value is False for value in told) else None


def _is_loaded(entry: Mapping[str, Any]) -> bool | None:
    """Whether the server has the model in memory: LM Studio's `state`, llama.cpp's `status`.

    `loaded` is what this proxy writes.
    """
    if isinstance(entry.get("loaded"), bool):
        return bool(entry["loaded"])
    state = _text(entry.get("state")) or _text(_value_at(entry, ("status", "value")))
    if state in ("loaded", "not-loaded", "unloaded", "loading", "sleeping"):
        return state == "loaded"
    return None


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
