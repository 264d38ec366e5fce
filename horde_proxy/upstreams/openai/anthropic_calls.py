"""How calls of Anthropic's API differ from OpenAI's: where the key stands, and a version. Pure.

Anthropic's own server reads its key in x-api-key and demands a version. Others that serve
/v1/messages (vLLM, llama.cpp, Ollama, LM Studio, LiteLLM, OpenRouter) read a Bearer token, some of
them x-api-key only, and none of them looks at the version.
"""

from __future__ import annotations

from collections.abc import Mapping

from requests.structures import CaseInsensitiveDict

_HOST = "api.anthropic.com"
_VERSION = "2023-06-01"
"""The oldest version of Anthropic's API, which each client sends unless it needs a newer one."""


def is_anthropics(path: str, host: str) -> bool:
    """Whether a call of this path, which follows /v1/, is one of Anthropic's API at this host."""
    route = path.partition("?")[0].partition("/")[0]
    return route == "messages" or (route in ("models", "files", "complete") and host == _HOST)


def with_anthropic_key(
    headers: CaseInsensitiveDict[str], own: Mapping[str, str], host: str
) -> CaseInsensitiveDict[str]:
    """The headers of a call with the upstream's key where Anthropic's servers look for it.

    `own` are the upstream's own headers. One that is configured as x-api-key stays.
    """
    scheme, _, key = CaseInsensitiveDict(own).get("Authorization", "").partition(" ")
    if scheme == "Bearer" and key:
        headers.setdefault("x-api-key", key)
        if host == _HOST:
            # It takes a Bearer token for a login of its own website, and refuses the call.
            del headers["Authorization"]
    headers.setdefault("anthropic-version", _VERSION)
    return headers
