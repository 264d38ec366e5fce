"""What model servers tell of their models beyond GET /v1/models, in APIs of their own. No I/O.

A server is recognised by the `owned_by` of its entries. Each kind of server is a function here and
a line in _KINDS. It asks through a callable, makes few calls, and what it cannot learn is unknown.
The worker uses this too, so nothing here may know the proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from horde_proxy.protocol.models import (
    ModelFacts,
    as_mapping,
    count,
    facts_in,
    facts_of_name,
    remote_host_in,
    short_text,
    tokens,
)

Ask = Callable[[str, Mapping[str, Any] | None], Any]
"""The JSON at a path below the server's root ("/props"): a GET, or a POST of a body. None where
there is none, whatever the reason: status, time-out, no JSON."""

Entries = Sequence[Mapping[str, Any]]

MOST_SHOWS = 30
"""New models that one round asks Ollama for. A server at home answers each in milliseconds; of a
larger collection the next round asks for more."""
_MOST_PROPS = 8
"""Models of llama.cpp's router that one round asks for: only loaded ones, which are few."""

_OPENAIS_PARAMETERS = (
    "max_tokens",
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
    "response_format",
    "structured_outputs",
)
_SAMPLERS = ("top_k", "min_p", "logit_bias", "logprobs", "top_logprobs")
_TOOLS = ("tools", "tool_choice")


class ShownModels:
    """What Ollama's /api/show said, by name and digest, so that nothing is asked for twice.

    One thread at a time uses it: a list is loaded by one.
    """

    def __init__(self) -> None:
        self._facts: dict[str, ModelFacts] = {}

    def of(self, ask: Ask, models: Entries) -> dict[str, ModelFacts]:
        """The facts of those of the models in /api/tags that are known or could be asked for."""
        present = {_version(model): str(model["name"]) for model in models}
        self._facts = {version: self._facts[version] for version in present.keys() & self._facts}
        missing = [version for version in present if version not in self._facts]
        for version in missing[:MOST_SHOWS]:
            shown = ask("/api/show", {"model": present[version]})
            # A server that fails once is not kept busy with the rest.
            if not isinstance(shown, Mapping):
                break
            self._facts[version] = facts_shown(shown)
        return {
            str(model["name"]): self._facts[_version(model)]
            for model in models
            if _version(model) in self._facts
        }


@dataclass(frozen=True)
class ServerKind:
    """One kind of server. `owners`: the `owned_by` of its entries. `parameters`: what it reads."""

    name: str
    owners: frozenset[str]
    ask: Callable[[Ask, Entries, ShownModels], Mapping[str, ModelFacts]]
    parameters: tuple[str, ...] = (*_OPENAIS_PARAMETERS, *_SAMPLERS)


def native_facts(ask: Ask, entries: Entries, shown: ShownModels) -> dict[str, ModelFacts]:
    """The facts of each entry by id: what the entry says, then the server's own API, then the name.

    An unknown kind of server is not asked.
    """
    kind = kind_of(entries)
    native = kind.ask(ask, entries, shown) if kind else {}
    facts = {}
    for entry in entries:
        model = entry["id"]
        known = facts_in(entry).updated_by(native.get(model, ModelFacts()))
        known = known.completed_by(facts_of_name(model))
        facts[model] = _of_kind(known, kind) if kind else known
    return facts


def kind_of(entries: Entries) -> ServerKind | None:
    """The kind of the server that listed the entries; None if it is not recognised."""
    owners = {_owner(entry) for entry in entries}
    return next((kind for kind in _KINDS if kind.owners & owners), None)


def facts_shown(shown: Mapping[str, Any]) -> ModelFacts:
    """What Ollama's POST /api/show says of a model.

    `model_info` has the context that the model was trained for. What is served is the `num_ctx` of
    the model file; without one it is a default of the server, which it does not tell.
    """
    info = as_mapping(shown.get("model_info"))
    parameters = _parameters(shown.get("parameters"))
    details = as_mapping(shown.get("details"))
    trained = info.get(f"{info.get('general.architecture')}.context_length")
    facts = facts_in({"capabilities": shown.get("capabilities")})
    return replace(
        facts,
        context=tokens(parameters.get("num_ctx")),
        trained_context=tokens(trained) or _any_context(info),
        max_output=tokens(parameters.get("num_predict")),
        quantization=short_text(details.get("quantization_level")),
        parameter_count=count(info.get("general.parameter_count")),
    )


def facts_in_props(props: Mapping[str, Any]) -> ModelFacts:
    """What llama.cpp's GET /props says: the context of a slot, which one request may fill."""
    settings = as_mapping(props.get("default_generation_settings"))
    modalities = as_mapping(props.get("modalities"))
    parameters = as_mapping(settings.get("params"))
    template = props.get("chat_template")
    template = template if isinstance(template, str) else ""
    inputs = [
        word for word, key in (("image", "vision"), ("audio", "audio")) if modalities.get(key)
    ]
    return ModelFacts(
        context=tokens(settings.get("n_ctx")) or tokens(props.get("n_ctx")),
        # -1 is no limit.
        max_output=tokens(parameters.get("n_predict")) or tokens(settings.get("n_predict")),
        inputs=("text", *inputs) if modalities else (),
        tools=_tools_of(template, as_mapping(props.get("chat_template_caps"))),
        reasoning=True if "<think>" in template or "enable_thinking" in template else None,
        slots=count(props.get("total_slots")),
    )


def _tools_of(template: str, capabilities: Mapping[str, Any]) -> bool | None:
    """Whether llama.cpp calls tools: False where it says that its template cannot.

    Then it leaves the tools out without a word. Its versions before those of 2026, which do not say
    it, describe the tools themselves (common/chat.cpp, "generic").
    """
    if "tools" in template:
        return True
    can = [capabilities.get(name) for name in ("supports_tools", "supports_tool_calls")]
    return False if can == [False, False] else None


def _of_kind(facts: ModelFacts, kind: ServerKind) -> ModelFacts:
    """The facts of a server that runs language models: what is not said otherwise writes text."""
    facts = facts.completed_by(ModelFacts(outputs=("text",)))
    if not facts.writes_text:
        return facts
    tools = _TOOLS if facts.tools else ()
    return facts.completed_by(ModelFacts(supported_parameters=(*kind.parameters, *tools)))


def _ask_ollama(ask: Ask, entries: Entries, shown: ShownModels) -> dict[str, ModelFacts]:
    """Ollama: /api/tags for digests and sizes, /api/ps for what is loaded, /api/show for each.

    A `remote_host` in /api/tags, as "https://ollama.com:443", runs the model: a prompt goes there.
    """
    listed = [
        model for model in _objects(ask("/api/tags", None), "models") if _is_name(model.get("name"))
    ] or [{"name": entry["id"]} for entry in entries]  # servers that only imitate /api/show
    loaded = ask("/api/ps", None)
    running = {
        str(model.get("name")): tokens(model.get("context_length"))
        for model in _objects(loaded, "models")
    }
    details = shown.of(ask, listed)
    return {
        name: replace(
            facts,
            # A model file's num_ctx is what OpenAI's route uses; /api/ps may be another client's.
            context=facts.context or running.get(name),
            size=count(model.get("size")),
            is_loaded=name in running if isinstance(loaded, Mapping) else None,
            remote_host=remote_host_in(model),
        )
        for model in listed
        for name in [str(model["name"])]
        for facts in [details.get(name, ModelFacts())]
    }


def _ask_llama_cpp(ask: Ask, entries: Entries, shown: ShownModels) -> dict[str, ModelFacts]:
    """llama.cpp: /props; its router has one for each model, and must not load one for it.

    The entries may be a minute old. What the router has loaded changes with each request for
    another model, so its list is read again.
    """
    if not any("status" in entry for entry in entries):
        props = as_mapping(ask("/props", None))
        facts = facts_in_props(props)
        # `--sleep-idle-seconds` unloads the model until the next request.
        is_loaded = props.get("is_sleeping") is not True if props else None
        return {entry["id"]: replace(facts, is_loaded=is_loaded) for entry in entries}
    now = {str(entry.get("id")): entry for entry in _objects(ask("/v1/models", None), "data")}
    states = {entry["id"]: facts_in(now.get(entry["id"], entry)).is_loaded for entry in entries}
    loaded = [model for model, is_loaded in states.items() if is_loaded]
    answers = {
        model: ask(f"/props?model={quote(model, safe='')}&autoload=false", None)
        for model in loaded[:_MOST_PROPS]
    }
    return {
        model: replace(facts_in_props(as_mapping(answers.get(model))), is_loaded=is_loaded)
        for model, is_loaded in states.items()
    }


def _ask_llama_swap(ask: Ask, entries: Entries, shown: ShownModels) -> dict[str, ModelFacts]:
    """llama-swap: /running has the models whose servers run; one is ready once it is loaded.

    Those servers are not asked for more: that would count as a use, and no model would be unloaded.
    """
    answer = ask("/running", None)
    if not isinstance(answer, Mapping):
        return {}
    ready = {
        model.get("model")
        for model in _objects(answer, "running")
        if model.get("state", "ready") == "ready"
    }
    return {entry["id"]: ModelFacts(is_loaded=entry["id"] in ready) for entry in entries}


def _ask_lm_studio(ask: Ask, entries: Entries, shown: ShownModels) -> dict[str, ModelFacts]:
    """LM Studio: /api/v0/models has type, state, quantisation, largest and loaded context."""
    facts = {}
    for model in _objects(ask("/api/v0/models", None), "data"):
        if _is_name(model.get("id")):
            # The largest context is the model's. What is served is known once it is loaded.
            served = tokens(model.get("loaded_context_length"))
            largest = tokens(model.get("max_context_length"))
            known = facts_in(model)
            facts[model["id"]] = replace(known, context=served, trained_context=largest)
    return facts


def _ask_tabby(ask: Ask, entries: Entries, shown: ShownModels) -> dict[str, ModelFacts]:
    """TabbyAPI: /v1/model is the loaded one; the list has every folder with a model."""
    model = ask("/v1/model", None)
    if not isinstance(model, Mapping) or not _is_name(model.get("id")):
        return {}
    facts = facts_in(model)
    sees = as_mapping(model.get("parameters")).get("use_vision") is True
    inputs = ("text", "image") if sees else ()
    batch = count(as_mapping(model.get("parameters")).get("max_batch_size"))
    loaded = replace(facts, is_loaded=True, slots=batch).completed_by(ModelFacts(inputs=inputs))
    return {
        entry["id"]: loaded if entry["id"] == model["id"] else ModelFacts(is_loaded=False)
        for entry in entries
    }


def _ask_kobold(ask: Ask, entries: Entries, shown: ShownModels) -> dict[str, ModelFacts]:
    """KoboldCpp: the context with which it was started, and whether it has a projector."""
    context = as_mapping(ask("/api/extra/true_max_context_length", None)).get("value")
    sees = as_mapping(ask("/api/extra/version", None)).get("vision") is True
    facts = ModelFacts(
        context=tokens(context), inputs=("text", "image") if sees else (), is_loaded=True
    )
    return {entry["id"]: facts for entry in entries}


def _ask_vllm(ask: Ask, entries: Entries, shown: ShownModels) -> dict[str, ModelFacts]:
    """vLLM and SGLang: their entries tell all but slots. A LoRA adapter has its base's context.

    Only SGLang tells its slots: vLLM's metrics do not have its `max_num_seqs`, and its /server_info
    is there in development only.
    """
    by_id = {entry["id"]: facts_in(entry) for entry in entries}
    is_sglang = any(_owner(entry) == "sglang" for entry in entries)
    slots = _sglang_slots(ask("/server_info", None)) if is_sglang else None
    return {
        entry["id"]: ModelFacts(
            context=by_id.get(str(entry.get("parent")), ModelFacts()).context,
            # Of base and adapters, all in memory, the base is the one that is meant.
            is_loaded=None if entry.get("parent") else True,
            slots=slots,
        )
        for entry in entries
    }


def _sglang_slots(info: Any) -> int | None:
    """The requests that SGLang computes at a time: those of each of its data-parallel parts."""
    parts = _objects(info, "internal_states")
    return (
        sum(count(part.get("effective_max_running_requests_per_dp")) or 0 for part in parts) or None
    )


_KINDS: tuple[ServerKind, ...] = (
    ServerKind("KoboldCpp", frozenset({"koboldcpp"}), _ask_kobold),
    ServerKind("Ollama", frozenset({"library", "ollama"}), _ask_ollama, _OPENAIS_PARAMETERS),
    ServerKind("llama.cpp", frozenset({"llamacpp", "llama.cpp"}), _ask_llama_cpp),
    ServerKind("llama-swap", frozenset({"llama-swap"}), _ask_llama_swap),
    ServerKind("LM Studio", frozenset({"organization_owner"}), _ask_lm_studio),
    ServerKind("TabbyAPI", frozenset({"tabbyapi"}), _ask_tabby),
    ServerKind("vLLM", frozenset({"vllm", "sglang"}), _ask_vllm),
)


def _owner(entry: Mapping[str, Any]) -> str:
    """The entry's `owned_by`, in lower case; "library" for whatever is Ollama's.

    Ollama writes the namespace of a name there: "library" of "llama3.2:1b", but "bartowski" of
    "hf.co/bartowski/Llama-3.2-1B-GGUF:Q4_K_M". The tag tells it from others with owners.
    """
    owner, name = str(entry.get("owned_by")).casefold(), str(entry["id"]).casefold()
    is_ollamas = f"{owner}/" in name and ":" in name.rpartition("/")[2]
    return "library" if is_ollamas else owner


def _version(model: Mapping[str, Any]) -> str:
    """Name and digest: another one when the model was pulled again."""
    return f"{model['name']} {model.get('digest') or ''}"


def _parameters(text: Any) -> dict[str, str]:
    """The lines of a model file's parameters: "num_ctx                        8192"."""
    lines = text.splitlines() if isinstance(text, str) else []
    return dict(_name_and_value(line) for line in lines)


def _name_and_value(line: str) -> tuple[str, str]:
    name, _, value = line.strip().partition(" ")
    return name, value.strip()


def _any_context(info: Mapping[str, Any]) -> int | None:
    """The context of an architecture that is not named: of "qwen3.context_length"."""
    values = (tokens(value) for name, value in info.items() if name.endswith(".context_length"))
    return next(filter(None, values), None)


def _objects(document: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """The objects in the list at a key."""
    values = as_mapping(document).get(key)
    yield from (
        (value for value in values if isinstance(value, Mapping))
        if isinstance(values, list)
        else ()
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
