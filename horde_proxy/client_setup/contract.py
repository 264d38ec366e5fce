"""What a client of the registry says of itself, and what it is told of the proxy.

It must not know any client by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from horde_proxy.opencode import LONGEST_ANSWER, Model
from horde_proxy.protocol.models import facts_of

Api = Literal["chat", "responses", "messages", "ollama"]
"""The API that a client speaks: OpenAI's chat completions or Responses, Anthropic's, Ollama's."""

KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable that clients read their key from; the commands read it as well."""
NO_KEY = "none"
"""What a client sends that insists on a key. It counts as no key here."""


class RefusedFile(ValueError):
    """A file cannot be changed without risk for what it has; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class ProxyForClient:
    """The proxy as a client is to use it.

    `root` is its URL without /v1. `models` are the entries of GET /v1/models that suit the client,
    `model` the one to begin with; `is_chosen` says that the user named it. With `has_key`, the
    variable KEY_VARIABLE holds a key.
    """

    root: str
    models: Sequence[Model]
    model: Model
    is_chosen: bool = False
    has_key: bool = False

    @property
    def base_url(self) -> str:
        """The URL for clients of OpenAI's API."""
        return f"{self.root}/v1"

    @property
    def model_id(self) -> str:
        """The name of the model to begin with."""
        return str(self.model["id"])

    @property
    def suitable(self) -> list[Model]:
        """The model to begin with, and then the others."""
        others = [model for model in self.models if model["id"] != self.model_id]
        return [self.model, *others]


@dataclass(frozen=True, kw_only=True)
class ConfiguredClient:
    """A client of the registry.

    `paths` are places of its configuration: the first counts whose variable is set ("$NAME/file"),
    or which has none ("~/file"). `configured` gives the file's new text; it raises RefusedFile or
    JsoncError. A client without these two keeps its settings where no other program may write, and
    `steps` says all that a person has to do there. Else `steps` says how to start the client, whose
    file is the second argument. `least_context` is in tokens: what it needs to work; None means
    what opencode needs.
    """

    name: str
    title: str
    api: Api
    steps: Callable[[ProxyForClient, str], str]
    paths: tuple[str, ...] = ()
    configured: Callable[[str, ProxyForClient], str] | None = None
    least_context: int | None = 0


def context_of(model: Model) -> int | None:
    """The context of a model in tokens; None if the server does not say."""
    return facts_of(model).length


def answer_of(model: Model) -> int | None:
    """The tokens to keep free for an answer: at most a quarter of a known context."""
    facts = facts_of(model)
    if facts.length is None:
        return facts.max_output
    return min(LONGEST_ANSWER, facts.length // 4, facts.max_output or LONGEST_ANSWER)


def sees_images(model: Model) -> bool:
    """Whether the model is known to read pictures."""
    return "image" in facts_of(model).inputs


def calls_tools(model: Model) -> bool:
    """Whether the model may call tools; True as well where nothing is known."""
    return facts_of(model).tools is not False
