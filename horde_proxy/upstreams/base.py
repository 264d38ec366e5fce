"""What a kind of upstream is to the rest of the proxy: a stream of Accepted, Waiting and chunks.

`stream(request, route)` yields Accepted first, once the upstream has taken the request; until
then nothing has been sent to the client, and a ProxyError keeps its real status. Closing the
generator cancels what still runs. Chunks are OpenAI's; the last one carries the usage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from horde_proxy.errors import ProxyError
from horde_proxy.protocol.chat import ChatRequest
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.upstreams.proxying import ProxyRequest, ProxyResponse


class Spent(NamedTuple):
    """What an answer has cost by now; `kudos` are the horde's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    kudos: float = 0.0


@dataclass(frozen=True)
class Accepted:
    """The upstream has the request; `headers` are for the client's response.

    `spent` tells the cost of what was generated, for answers that end without their usage;
    `is_paid`: it was counted already, for who sent the same request and left.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    upstream: str | None = None
    spent: Callable[[], Spent] = field(default=Spent, compare=False)
    is_paid: bool = False


@dataclass(frozen=True)
class Waiting:
    """Nothing new yet: what is known meanwhile. Comes at least once a second.

    `state` is "held back" (at our own gate), "queued" or "generating"; `seconds` are expected
    until there is something new.
    """

    state: str
    queue_position: int | None = None
    seconds: int | None = None


StreamItem = Accepted | Waiting | Chunk


class Upstream(Protocol):
    """A configured service that answers chats. `kind` is its name in horde_proxy.upstreams.kinds.

    `offers_any`: it lists no models, so any may be tried. `cooldown_errors` are those that put
    the whole upstream into cooldown; others concern one request only.
    """

    name: str
    kind: str
    url: str
    offers_any: bool
    cooldown_errors: tuple[type[ProxyError], ...]

    def models(self) -> Sequence[dict[str, Any]]:
        """OpenAI's model objects of all models on offer now."""

    def refresh(self) -> None:
        """Have the models listed anew, for whoever asks next."""

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        """Those of the models that may share one request with the first, which is among them."""

    def stream(self, request: ChatRequest, route: Route) -> Iterator[StreamItem]:
        """The answer; see the module's docstring."""


@dataclass(frozen=True)
class Route:
    """An upstream and the names it has for the models, any of which may answer; first is best."""

    upstream: Upstream
    models: tuple[str, ...]

    @property
    def model(self) -> str:
        return self.models[0]


@runtime_checkable
class Proxies(Protocol):
    """An upstream that also takes requests, and gives answers, as they are."""

    def relay(self, call: ProxyRequest, model: str | None) -> ProxyResponse:
        """The answer to a call, `model` being its name there. Raises a ProxyError for none."""
