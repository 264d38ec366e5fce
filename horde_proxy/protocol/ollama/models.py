"""Writes models as Ollama lists them: for /api/tags, /api/show and /api/ps. Pure.

They are made of the entries of GET /v1/models. No field is null or missing: one null makes Zed and
VS Code lose the whole list. Times come in as texts, "2026-11-29T21:30:00.000000Z".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from horde_proxy.aihorde.names import family, parameters_of, quantisation_of
from horde_proxy.protocol.models import ModelFacts, facts_of

OLLAMA_VERSION = "0.21.0"
"""Ollama's version with this API. VS Code needs 0.6.4 at least, and Open WebUI three numbers."""
_DEFAULT_CONTEXT = 4096
"""Tokens, where nothing is known: Ollama's own default."""
_BYTES_A_PARAMETER = 0.6
"""Of weights with 4.8 bits each, as in Q4_K_M, the most usual quantisation."""
_EMBEDDING_LENGTH = 4096
"""The width of a model of 8B; clients only print it."""
LOADED_SECONDS = 300.0
"""For how long Ollama keeps a model in memory by default."""
_NOT_IN_ARCHITECTURE = re.compile(r"[^a-z0-9]+")
"""Characters that keys of model_info lack: "gemma 3" is "gemma3" in "gemma3.context_length"."""
# litellm looks for the word "tools" in a template, and Continue for .Suffix.
_TEMPLATE = (
    "{{ if .System }}{{ .System }}\n{{ end }}{{ if .Tools }}tools: {{ .Tools }}\n{{ end }}"
    "{{ .Prompt }}\n{{ .Response }}"
)
_INSERTING = "{{ if .Suffix }}{{ .Prompt }}{{ .Suffix }}{{ else }}" + _TEMPLATE + "{{ end }}"


def tagged(name: str) -> str:
    """The name as Ollama lists it: with the tag ":latest" if it has none.

    Home Assistant and others take what follows the colon for a model's version.
    """
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def listed_model(
    entry: Mapping[str, Any], modified_at: str, *, describes_pictures: bool
) -> dict[str, Any]:
    """An entry of /api/tags. `describes_pictures`: a horde's models get pictures in words."""
    name, facts = tagged(entry["id"]), facts_of(entry)
    return {
        "name": name,
        "model": name,
        "modified_at": modified_at,
        "size": _size(entry, facts),
        "digest": hashlib.sha256(entry["id"].encode("utf-8", "replace")).hexdigest(),
        "details": _details(entry, facts),
        "capabilities": capabilities(entry, describes_pictures=describes_pictures),
    }


def shown_model(
    entry: Mapping[str, Any], modified_at: str, *, describes_pictures: bool, inserts: bool
) -> dict[str, Any]:
    """The answer of /api/show. `inserts`: the model can fill a gap in a text."""
    facts, architecture = facts_of(entry), _architecture(entry)
    context = facts.length or _DEFAULT_CONTEXT
    words = capabilities(entry, describes_pictures=describes_pictures)
    # Continue reads lines of a name and a value.
    parameters = f"num_ctx                        {context}"
    return {
        "license": "",
        "modelfile": f"FROM {tagged(entry['id'])}\nPARAMETER num_ctx {context}\n",
        "parameters": parameters,
        "template": _INSERTING if inserts else _TEMPLATE,
        "details": _details(entry, facts),
        "model_info": {
            "general.architecture": architecture,
            "general.basename": str(entry["id"]),
            "general.file_type": 15,  # llama.cpp's number of Q4_K_M
            "general.parameter_count": _parameters(entry, facts),
            f"{architecture}.context_length": context,
            f"{architecture}.embedding_length": _EMBEDDING_LENGTH,
        },
        "capabilities": [*words, "insert"] if inserts else words,
        "modified_at": modified_at,
    }


def running_model(entry: Mapping[str, Any], expires_at: str) -> dict[str, Any]:
    """An entry of /api/ps, for a model that is in memory somewhere, at least until then."""
    listed, facts = listed_model(entry, "", describes_pictures=False), facts_of(entry)
    return {
        **{name: listed[name] for name in ("name", "model", "size", "digest", "details")},
        "expires_at": expires_at,
        "size_vram": listed["size"],
        "context_length": facts.length or _DEFAULT_CONTEXT,
    }


def is_running(entry: Mapping[str, Any]) -> bool:
    """Whether a model is in memory: at a worker of a horde, or as its server says."""
    return "horde" in entry or facts_of(entry).is_loaded is True


def capabilities(entry: Mapping[str, Any], *, describes_pictures: bool) -> list[str]:
    """Ollama's words for what a model can do.

    Each model that writes takes tools, unless its server says no: the prompt explains them. VS Code
    hides models without.
    """
    facts = facts_of(entry)
    if not facts.writes_text:
        return ["embedding"] if "embeddings" in facts.outputs else []
    sees = "image" in facts.inputs or (describes_pictures and "horde" in entry)
    abilities = {
        "tools": facts.tools is not False,
        "vision": sees,
        "thinking": facts.reasoning is True,
    }
    return ["completion", *(word for word, is_so in abilities.items() if is_so)]


def _details(entry: Mapping[str, Any], facts: ModelFacts) -> dict[str, Any]:
    architecture, parameters = _architecture(entry), _parameters(entry, facts)
    quantisation = facts.quantization or quantisation_of(str(entry["id"]))
    return {
        "parent_model": "",
        "format": "gguf",
        "family": architecture,
        "families": [architecture],
        "parameter_size": _parameter_size(parameters),
        "quantization_level": quantisation or "unknown",
        "context_length": facts.length or _DEFAULT_CONTEXT,
        "embedding_length": _EMBEDDING_LENGTH,
    }


def _architecture(entry: Mapping[str, Any]) -> str:
    """The family in small letters: "qwen3" of "ollama/qwen3:8b" and of "koboldcpp/Qwen3-8B"."""
    plain = str(entry["id"]).rpartition("/")[2].partition(":")[0]
    return _NOT_IN_ARCHITECTURE.sub("", family(plain).casefold()) or "llama"


def _parameters(entry: Mapping[str, Any], facts: ModelFacts) -> int:
    """The number of parameters; 0 where neither the server nor the name tells it."""
    return facts.parameter_count or parameters_of(str(entry["id"])) or 0


def _parameter_size(parameters: int) -> str:
    """The number as Ollama writes it: "8.2B" or "135M"."""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.0f}M" if parameters else "unknown"


def _size(entry: Mapping[str, Any], facts: ModelFacts) -> int:
    """Bytes of the weights. Not 0, which Zed and others print as it is."""
    return facts.size or max(int(_parameters(entry, facts) * _BYTES_A_PARAMETER), 1)
